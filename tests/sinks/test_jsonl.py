"""JSON Lines on a real disk: every line whole, files bounded, a disk that is full waited for."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config_delivery import JsonlSettings
from edge_agent.errors import Rejected, SinkUnavailable
from edge_agent.events import STATUS_ONLINE, Kind, Message
from edge_agent.sinks.jsonl import JsonlContext, JsonlSink
from tests.conftest import needs

T0 = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


def message(number: int, size: int = 10) -> Message:
    return Message(Kind.DETECTIONS, "c", json.dumps({"seq": number, "text": "x" * size}).encode())


def sink(path: Path, clock: Clock | None = None, **settings: Any) -> JsonlSink:
    made = JsonlSink(JsonlContext("dev", path), JsonlSettings(**settings), clock or Clock())
    made.connect()
    return made


def lines(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def numbers(*paths: Path) -> list[int]:
    return [line["payload"]["seq"] for line in lines(*paths)]


def test_a_line_says_what_a_topic_would(tmp_path: Path) -> None:
    made = sink(tmp_path / "new" / "folder" / "e.jsonl")
    assert made.write([STATUS_ONLINE, message(1), Message(Kind.DETECTIONS, "ü\n", b"\x81\xa1a\x01")]) == [None] * 3
    made.close()
    first, second, packed = lines(tmp_path / "new" / "folder" / "e.jsonl")
    assert first == {"written_at": "2023-11-14T22:13:20.000Z", "kind": "status", "device": "dev", "camera": None, "payload": "online"}
    assert (second["kind"], second["camera"], second["payload"]["seq"]) == ("detections", "c", 1)
    assert (packed["camera"], packed["payload"]) == ("ü\n", {"a": 1})  # MessagePack becomes JSON


def test_a_damaged_payload_is_refused_and_harms_no_other(tmp_path: Path) -> None:
    made = sink(tmp_path / "e.jsonl")
    outcomes = made.write([message(1), Message(Kind.DETECTIONS, "c", b'{"a":'), Message(Kind.DETECTIONS, "c", b"\xc1"), message(2)])
    assert [isinstance(each, Rejected) for each in outcomes] == [False, True, True, False]
    assert numbers(tmp_path / "e.jsonl") == [1, 2]
    made.close()


def test_state_can_be_left_out(tmp_path: Path) -> None:
    made = sink(tmp_path / "e.jsonl", state=False)
    assert made.write([STATUS_ONLINE, message(1)]) == [None, None]
    made.write([STATUS_ONLINE])
    made.close()
    assert numbers(tmp_path / "e.jsonl") == [1]


def test_by_size_the_oldest_file_goes_and_nothing_else_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    made = sink(path, max_bytes=4096, files=3)
    for number in range(60):
        made.write([message(number, 300)])
    made.close()
    found = sorted(tmp_path.iterdir())
    assert [each.name for each in found] == ["e.jsonl", "e.jsonl.1", "e.jsonl.2"]
    assert all(each.stat().st_size <= 4096 for each in found)
    kept = numbers(found[2], found[1], found[0])
    assert kept == list(range(kept[0], 60))
    assert len(kept) > 20


def test_one_file_alone_begins_anew_and_fewer_files_than_before_are_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    for files in (4, 1):
        made = sink(path, max_bytes=4096, files=files)
        for number in range(60):
            made.write([message(number, 300)])
        made.close()
    assert [each.name for each in tmp_path.iterdir()] == ["e.jsonl"] or not list(tmp_path.glob("e.jsonl.[4-9]"))
    assert path.stat().st_size <= 4096


def test_by_age_also_over_a_restart_and_a_clock_that_steps_back(tmp_path: Path) -> None:
    path, clock = tmp_path / "e.jsonl", Clock()
    made = sink(path, clock, max_age_s=100)
    made.write([message(1)])
    clock.now += 60
    made.close()
    made = sink(path, clock, max_age_s=100)
    made.write([message(2)])
    clock.now -= 3600
    made.write([message(3)])
    clock.now += 3600 + 41
    made.write([message(4)])
    made.close()
    assert numbers(tmp_path / "e.jsonl.1") == [1, 2, 3]
    assert numbers(path) == [4]


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_a_line_that_a_power_cut_left_torn_is_taken_back(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "e.jsonl"
    made = sink(path)
    made.write([message(1), message(2, 200_000)])  # longer than what is read at once
    made.close()
    path.write_bytes(path.read_bytes()[:-cut])
    made = sink(path)
    made.write([message(3)])
    made.close()
    assert numbers(path) == [1, 3]


@contextlib.contextmanager
def full_at(size: int) -> Iterator[None]:
    """Files of this process grow no further: what a full disk does, a write that takes a part and then fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written_in_part_is_taken_back_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    made = sink(path)
    made.write([message(1)])
    with full_at(path.stat().st_size + 50), pytest.raises(SinkUnavailable) as caught:
        made.write([message(2), message(3)])
    assert caught.value.confirmed == 0
    assert numbers(path) == [1]
    made.close()
    made.connect()
    assert made.write([message(2), message(3)]) == [None, None]
    made.close()
    assert numbers(path) == [1, 2, 3]


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    needs("unshare", "util-linux")
    script = (
        "import sys; from tests.sinks.test_jsonl import *\n"
        "made = sink(Path(sys.argv[1]) / 'e.jsonl')\n"
        "written = 0\n"
        "try:\n"
        "    while True: made.write([message(written, 5000)]); written += 1\n"
        "except SinkUnavailable as error: print(error)\n"
        "assert numbers(Path(sys.argv[1]) / 'e.jsonl') == list(range(written)) and written > 3\n"
    )
    command = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sh", str(tmp_path), sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip("may not mount here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("e.jsonl: the disk is full")


def test_two_agents_on_one_file_are_told(tmp_path: Path) -> None:
    made = sink(tmp_path / "e.jsonl")
    with pytest.raises(SinkUnavailable, match="another process writes to it"):
        sink(tmp_path / "e.jsonl")
    made.close()
    sink(tmp_path / "e.jsonl").close()


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    made = sink(path)
    made.write([message(1)])
    path.rename(tmp_path / "moved")
    made.write([message(2)])
    path.unlink()
    made.write([message(3)])
    made.close()
    assert numbers(tmp_path / "moved") == [1]
    assert numbers(path) == [3]


def test_what_is_no_file_or_has_no_place_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "pipe", "is no file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe" / "e", "Not a directory|exists"),
    ):
        with pytest.raises(SinkUnavailable, match=said):
            sink(path)


@pytest.mark.parametrize(("how", "syncs"), [("never", 0), ("interval", 2), ("always", 6)])
def test_fsync_as_often_as_said(tmp_path: Path, how: str, syncs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = os.fdatasync

    def counting(file: int) -> None:
        calls.append(file)
        real(file)

    monkeypatch.setattr(os, "fdatasync", counting)
    clock = Clock()
    made = sink(tmp_path / "e.jsonl", clock, fsync=how, fsync_interval_s=10)
    for _ in range(6):
        made.write([message(1)])
        clock.now += 3
    assert len(calls) == syncs
    made.close()


def test_readers_never_see_half_a_line_while_it_is_written(tmp_path: Path) -> None:
    path, done = tmp_path / "e.jsonl", threading.Event()
    made = sink(path, max_bytes=1 << 20)
    broken: list[bytes] = []

    def follow() -> None:
        while not done.is_set():
            whole = path.read_bytes().rpartition(b"\n")[0]
            for line in whole.splitlines():
                try:
                    json.loads(line)
                except ValueError:
                    broken.append(line)

    reader = threading.Thread(target=follow)
    reader.start()
    for number in range(200):
        made.write([message(number, 2000)])
    done.set()
    reader.join()
    made.close()
    assert broken == []
