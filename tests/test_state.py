"""What survives a restart: numbers that never repeat, one agent per folder, and damage that is said instead of guessed over."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.errors import AlreadyRunning, ExitCode, StateError
from edge_agent.state import DISK_FAULTS, MAX_SEQ, RESERVED, UNWRITTEN, State, default_directory
from tests.conftest import CommandLine


@contextmanager
def opened(directory: Path) -> Iterator[State]:
    state = State(directory)
    state.open()
    try:
        yield state
    finally:
        state.close()


class Restarts(RuleBasedStateMachine):
    """Any order of starts, ends, crashes in the middle of a write, and reservations."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.directory = Path(self.folder.name) / "state"
        self.state: State | None = None
        self.given: dict[str, list[range]] = {}

    @precondition(lambda self: self.state is None)
    @rule()
    def start(self) -> None:
        self.state = State(self.directory)
        self.state.open()

    @precondition(lambda self: self.state is not None)
    @rule(camera=st.sampled_from(["front", "back", "yard.2"]))
    def reserve(self, camera: str) -> None:
        assert self.state is not None
        self.given.setdefault(camera, []).append(self.state.reserve(camera))

    @precondition(lambda self: self.state is not None)
    @rule()
    def end(self) -> None:
        assert self.state is not None
        self.state.close()
        self.state = None

    @precondition(lambda self: self.state is not None)
    @rule(half=st.sampled_from(["", "{", '{"front": 0', '{"front": 0}']))
    def killed_between_write_and_rename(self, half: str) -> None:
        assert self.state is not None
        (self.directory / f"sequences.json{len(os.listdir(self.directory))}tmp").write_text(half)
        self.state.close()  # as the kernel does with the descriptors of the dead
        self.state = None

    @invariant()
    def no_number_was_given_twice(self) -> None:
        for ranges in self.given.values():
            for earlier, later in itertools.pairwise(ranges):
                assert earlier.stop <= later.start
                assert len(later) == RESERVED

    def teardown(self) -> None:
        if self.state is not None:
            self.state.close()
        self.folder.cleanup()


TestRestarts = Restarts.TestCase
TestRestarts.settings = settings(deadline=None, max_examples=30, stateful_step_count=15)


def test_a_process_killed_at_any_moment_of_a_write_repeats_no_number(tmp_path: Path) -> None:
    """A real kill: the child dies inside the system call that the write has come to, at each of them in turn."""
    child = (
        "import os, sys, pathlib\n"
        "from edge_agent.state import State\n"
        "state = State(pathlib.Path(sys.argv[1])); state.open()\n"
        "events = iter(range(int(sys.argv[2])))\n"
        "def die(event, arguments):\n"
        "    if event in {'open', 'os.rename', 'os.remove'} and str(sys.argv[1]) in str(arguments) and next(events, None) is None:\n"
        "        os._exit(9)\n"
        "sys.addaudithook(die)\n"
        "print(state.reserve('front').start, flush=True)\n"
    )
    printed: list[int] = []
    for after in range(4):
        done = subprocess.run(
            [sys.executable, "-c", child, str(tmp_path), str(after)], capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode in {0, 9}, done.stderr
        printed += [int(line) for line in done.stdout.split()]
    with opened(tmp_path) as state:
        printed.append(state.reserve("front").start)
    assert done.returncode == 0, "the last child was to live"
    assert len(printed) == len(set(printed)) >= 2
    assert printed == sorted(printed)


def test_each_camera_has_its_own_numbers(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        assert state.reserve("a") == range(RESERVED)
        assert state.reserve("b") == range(RESERVED)
        assert state.reserve("a") == range(RESERVED, 2 * RESERVED)
    with opened(tmp_path) as state:
        assert state.reserve("b") == range(RESERVED, 2 * RESERVED)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b'{"a": -1}', b'{"a": 1.5}', b'{"a": true}', b'{"a": "1"}', b"\xff\xfe", b"\0" * 64, b"[" * 100_000,
        b'{"a": %d}' % MAX_SEQ,
    ],
    ids=range(11),
)  # fmt: skip
def test_damaged_numbers_are_refused_with_what_to_do_and_the_lock_is_let_go(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sequences.json").write_bytes(content)
    state = State(tmp_path)
    with pytest.raises(StateError, match="sequence numbers could repeat") as caught:
        state.open()
    assert caught.value.exit_code is ExitCode.CONFIG
    assert str(tmp_path / "sequences.json") in str(caught.value)
    assert "emove it if consumers may see numbers again" in str(caught.value)
    assert "\n" not in str(caught.value)
    (tmp_path / "sequences.json").unlink()
    with opened(tmp_path) as mended:
        assert mended.reserve("a").start == 0


def test_the_second_agent_is_told_who_the_first_is(tmp_path: Path) -> None:
    with opened(tmp_path):
        second = State(tmp_path)
        with pytest.raises(AlreadyRunning, match=rf"process {os.getpid()}\b") as caught:
            second.open()
        assert caught.value.exit_code is ExitCode.TEMPFAIL
        assert str(tmp_path) in str(caught.value)
    second.open()
    second.close()


def test_the_lock_ends_with_its_process_and_not_with_its_file(tmp_path: Path) -> None:
    child = f"import pathlib, os; from edge_agent.state import State; State(pathlib.Path({str(tmp_path)!r})).open(); os._exit(9)"
    subprocess.run([sys.executable, "-c", child], check=False, timeout=30)
    assert (tmp_path / "lock").exists()
    with opened(tmp_path):
        assert (tmp_path / "lock").read_text().strip() == str(os.getpid())


def test_only_its_user_may_look_into_a_new_folder(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    with opened(directory) as state:
        state.reserve("front")
        state.device_id()
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in directory.iterdir())


@pytest.mark.parametrize("parent", ["file", "/proc"])
def test_a_folder_that_cannot_be_made_says_what_to_set(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_text("")
    state = State(tmp_path / parent / "state")
    with pytest.raises(StateError, match=r"cannot be used: .*state_dir") as caught:
        state.open()
    assert not isinstance(caught.value, AlreadyRunning)


def test_a_folder_that_vanishes_fails_the_reservation_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with opened(directory) as state:
        first = state.reserve("a")
        (directory / "lock").unlink()
        (directory / "sequences.json").unlink()
        directory.rmdir()
        with pytest.raises(StateError):
            state.reserve("a")
        directory.mkdir()
        assert state.reserve("a").start >= first.stop
        assert [file.name for file in directory.iterdir()] == ["sequences.json"]


def test_a_device_id_is_made_once_and_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        made = state.device_id()
        assert made.startswith("edge-")
        assert state.device_id() == made
    with opened(tmp_path) as state:
        assert state.device_id() == made


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 16, b"\xff", b"a/b\n", b"a\nb", b"+"])
def test_a_damaged_device_id_is_made_anew_and_never_becomes_a_topic(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "device_id").write_bytes(content)
    with opened(tmp_path) as state:
        assert state.device_id().startswith("edge-")
        assert state.device_id() == (tmp_path / "device_id").read_text().strip()


def test_the_folder_is_systemds_then_the_users() -> None:
    assert default_directory({"STATE_DIRECTORY": "/var/lib/edge-agent:/var/lib/other", "HOME": "/h"}) == Path("/var/lib/edge-agent")
    assert default_directory({"XDG_STATE_HOME": "/x", "HOME": "/h"}) == Path("/x/edge-agent")
    assert default_directory({"HOME": "/h"}) == Path("/h/.local/state/edge-agent")


def test_a_user_without_a_home_is_told_what_to_set() -> None:
    with pytest.raises(StateError, match="state_dir"):
        default_directory({"HOME": "~nobody-of-this-name"})


def failing(number: int) -> Callable[[Path, str], None]:
    def write(path: Path, _text: str) -> None:
        raise OSError(number, os.strerror(number), str(path))

    return write


@pytest.mark.parametrize("number", sorted(DISK_FAULTS))
def test_on_a_disk_that_takes_nothing_numbers_are_drawn_that_no_counter_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with opened(tmp_path) as state:
        before = state.reserve("a")
        monkeypatch.setattr("edge_agent.state.write_whole", failing(number))
        drawn = [state.reserve("a") for _ in range(5)]
        told = [state.error]
        monkeypatch.undo()
        after = state.reserve("a")
        told.append(state.error)
    assert told == [f"{tmp_path} cannot be used: {os.strerror(number)}", None]
    ranges = sorted([before, *drawn, after], key=lambda each: each.start)
    assert ranges[0] == before
    assert ranges[1] == after
    assert all(each.start >= UNWRITTEN and each.stop <= MAX_SEQ for each in drawn)
    assert all(one.stop <= other.start for one, other in itertools.pairwise(ranges))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own, of one megabyte. Skips where this user may not mount one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "edge-agent-test", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("first_run", [True, False])
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_the_daemon_starts_on_a_disk_that_is_full_or_read_only(edge_agent: CommandLine, fault: str, first_run: bool) -> None:
    (edge_agent.folder / "agent.toml").write_text(
        '[device]\nid = "dev"\nstate_dir = "disk/state"\n[mqtt]\nenabled = false\n[sinks.jsonl]\npath = "events.jsonl"\n'
        '[[cameras]]\nid = "a"\nsource = "synthetic"\n'
    )
    with small_disk(edge_agent.folder / "disk") as disk:
        (disk / "state").mkdir()
        if not first_run:
            assert edge_agent.run("run", "-c", "agent.toml", "--seconds", "4").returncode == 0
        if fault == "full":
            with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        before = len((edge_agent.folder / "events.jsonl").read_text().splitlines()) if not first_run else 0
        done = edge_agent.run("run", "-c", "agent.toml", "--seconds", "4")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "nothing can be kept across a restart" in done.stderr
    lines = (edge_agent.folder / "events.jsonl").read_text().splitlines()[before:]
    seqs = [json.loads(line)["payload"]["seq"] for line in lines if '"kind":"detections"' in line]
    assert seqs
    assert min(seqs) >= UNWRITTEN
