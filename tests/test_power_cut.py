"""The power is cut after each system call that the state directory is written with: the next start finds nothing wrong.

A real process writes; strace tells what it did; every folder that a disk may hold after a cut (tests/power.py) is laid out and
started from.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent._commands_kept import KeptSettings
from edge_agent.models._threads import Choice, keep_choice, kept_choice
from edge_agent.state import State
from tests.conftest import needs
from tests.power import Disk, calls

WRITER = """
import pathlib, sys
from edge_agent._commands_kept import KeptSettings
from edge_agent.models._threads import Choice, keep_choice
from edge_agent.state import State
folder = pathlib.Path(sys.argv[1]) / "lib" / "edge-agent"
def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n"); sys.stdout.flush()
state = State(folder); state.open()
say("device", state.device_id())
for camera in ("front", "yard", "front"):
    say("given", camera, state.reserve(camera).stop)
kept = KeptSettings(folder); kept.read_or_set_aside()
kept.change(["front"], paused=True)
say("paused", True)
kept.change(["front"], paused=False)
say("paused", False)
keep_choice(folder, "k", Choice(1, False, "measured", 1, 1), "r")
say("end")
"""
TRACED = "open,openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"


def lay_out(found: dict[str, bytes | None], before: Path, after: Path) -> None:
    """In a folder of its own."""
    for path in sorted(found):
        target = after / Path(path).relative_to(before)
        content = found[path]
        if content is None:
            target.mkdir(mode=0o700)
        else:
            target.write_bytes(content)


def start_from(folder: Path, said: dict[str, str]) -> None:
    """As the agent does, held against what the one before had said to the world."""
    state = State(folder / "lib" / "edge-agent")
    state.open()
    try:
        assert not [path for path in state.directory.iterdir() if path.name.endswith(".part")], "what was left is cleared away"
        if "device" in said:
            assert state.device_id() == said["device"]
        for camera in ("front", "yard"):
            assert state.reserve(camera).start >= int(said.get(f"given {camera}", 0)), "a number was used twice"
        kept = KeptSettings(state.directory)
        paused = "front" in kept.read().cameras
        if (last := said.get("paused")) is not None and said.get("at") == "paused":
            assert str(paused) == last
        choice, _ = kept_choice(state.directory, "k")
        assert choice in {None, Choice(1, False, "measured", 1, 1)}
        keep_choice(state.directory, "k", Choice(2, False, "measured", 1, 1), "r")
        assert kept_choice(state.directory, "k")[0] == Choice(2, False, "measured", 1, 1)
    finally:
        state.close()


def test_after_a_power_cut_at_any_write_the_agent_starts_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strace = needs("strace", "strace")
    disk_folder, traces = tmp_path / "disk", tmp_path / "traces"
    disk_folder.mkdir()
    traces.mkdir()
    command = [strace, "-ff", "-ttt", "-y", "-xx", "-s", "100000", "-e", f"trace=?{TRACED.replace(',', ',?')}", "-o", str(traces / "t")]
    done = subprocess.run(
        [*command, sys.executable, "-c", WRITER, str(disk_folder)], capture_output=True, text=True, check=False, timeout=60
    )
    if "ptrace" in done.stderr and done.returncode != 0:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stderr
    written = calls(sorted(traces.iterdir()), disk_folder)
    assert sum(call.name == "rename" for call in written) == 7
    assert sum(call.name == "said" for call in written) == 7
    monkeypatch.setattr("os.fsync", lambda _: None)  # of the starts that are tried, hundreds of which would only wear this disk
    disk, said, cuts = Disk(str(disk_folder)), dict[str, str](), 0
    for call in written:
        if call.name == "said":
            *key, value = call.data.decode().split()
            said[" ".join(key)] = value
            said["at"] = key[0] if key else ""
        else:
            said["at"] = ""
            disk.apply(call)
        for found in disk.after_cut():
            again = tmp_path / "again"
            again.mkdir()
            lay_out(found, disk_folder, again)
            start_from(again, said)
            shutil.rmtree(again)
            cuts += 1
    assert cuts > 150
