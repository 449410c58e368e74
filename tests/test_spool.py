"""The spool: order, bounds, what is kept on disk and when, and what comes back after a restart or a fault."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent._spool_disk import Disk
from edge_agent._spool_store import Store
from edge_agent._spool_view import rows
from edge_agent.errors import AlreadyRunning
from edge_agent.events import Kind, Message
from edge_agent.spool import Spool, SpoolLimits

LIMITS = SpoolLimits(100, 1 << 20, drain_per_s=1e9)


class Clock:
    """Time by hand."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


def event(number: int, size: int = 0, camera: str = "front") -> Message:
    return Message(Kind.DETECTIONS, camera, b'{"n":%d}' % number + b" " * size)


def numbers(messages: list[Message]) -> list[int]:
    return [int(m.payload[5 : m.payload.index(b"}")]) for m in messages]


def opened(
    path: Path, *, always: bool = False, limits: SpoolLimits = LIMITS, clock: Callable[[], float] = time.monotonic, **given: Any
) -> Spool:
    spool = Spool(limits, Disk(Store(path / "mqtt.db", **given), always=always), clock=clock)
    spool.open()
    return spool


def drained(spool: Spool, most: int = 7) -> list[int]:
    found: list[int] = []
    while taken := spool.take(most):
        found += numbers(taken)
        spool.settle(len(taken))
    return found


def balanced(spool: Spool, delivered: int) -> bool:
    counts = spool.counts
    return counts.accepted + counts.recovered == delivered + counts.dropped.sum + spool.queued[0] + counts.kept


def test_healthy_delivery_writes_nothing(tmp_path: Path) -> None:
    clock = Clock()
    spool = opened(tmp_path, clock=clock)
    before = (tmp_path / "mqtt.db-wal").stat().st_size
    for number in range(200):
        spool.put(event(number))
        clock.now += 0.03
        spool.maintain()
        assert drained(spool) == [number]
    assert (tmp_path / "mqtt.db-wal").stat().st_size == before
    assert spool.on_disk == 0


def test_what_is_not_acknowledged_within_the_interval_is_on_disk(tmp_path: Path) -> None:
    clock = Clock()
    spool = opened(tmp_path, clock=clock)
    spool.put(event(1))
    assert numbers(spool.take(1)) == [1]
    spool.put(event(2))
    spool.maintain()
    assert spool.on_disk == 0
    clock.now += 1.0
    spool.maintain()
    assert spool.on_disk == 2
    spool.disk.store.close()  # type: ignore[union-attr]  # as kill -9 leaves it
    after = opened(tmp_path)
    assert drained(after) == [1, 2]
    assert after.counts.recovered == 2


def test_more_than_memory_holds_goes_through_the_disk_in_order(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(1000):
        spool.put(event(number))
        if number % 40 == 0:
            spool.maintain()
    assert spool.queued[0] == 1000
    assert len(spool._queue.memory) <= 100
    assert drained(spool) == list(range(1000))
    assert balanced(spool, 1000)


def test_what_failed_goes_back_before_what_is_on_disk_only(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(50):
        spool.put(event(number))
    assert numbers(spool.take(20)) == list(range(20))
    for number in range(50, 300):
        spool.put(event(number))
        spool.maintain()
    spool.settle(5)
    assert drained(spool) == list(range(5, 300))
    assert balanced(spool, 300)


def test_a_clean_end_keeps_what_waits(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(30):
        spool.put(event(number))
    spool.take(3)
    assert spool.close() == 0
    assert spool.counts.kept == 30
    after = opened(tmp_path)
    after.put(event(30))
    assert drained(after) == list(range(31))
    assert balanced(after, 31)


def test_what_is_acknowledged_does_not_come_again(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(30):
        spool.put(event(number))
    spool.maintain(everything=True)
    spool.take(10)
    spool.settle(10)
    spool.close()
    assert drained(opened(tmp_path)) == list(range(10, 30))


def test_always_sends_nothing_before_it_is_on_disk_and_returns_after(tmp_path: Path) -> None:
    spool = opened(tmp_path, always=True)
    putting = threading.Thread(target=spool.put, args=[event(1)], daemon=True)
    putting.start()
    spool.wait_for_work(5)
    assert spool.take(5) == []
    assert putting.is_alive()
    spool.maintain()
    putting.join(5)
    assert not putting.is_alive()
    assert numbers(spool.take(5)) == [1]


def test_two_agents_do_not_share_a_spool(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(AlreadyRunning, match="another edge-agent"):
        opened(tmp_path)
    first.close()
    opened(tmp_path).close()


def test_the_disk_is_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    limits = SpoolLimits(50, 1 << 20, max_bytes=200_000, drain_per_s=1e9)
    spool = opened(tmp_path, limits=limits)
    for number in range(1000):
        spool.put(event(number, 1000))
        if number % 20 == 0:
            spool.maintain(everything=True)
    spool.maintain(everything=True)
    assert spool.disk is not None
    assert spool.disk.store.used_bytes <= 260_000
    dropped = spool.counts.dropped["spool_full"]
    assert dropped > 500
    assert drained(spool) == list(range(dropped, 1000))
    assert balanced(spool, 1000 - dropped)


def test_age_is_bounded(tmp_path: Path) -> None:
    clock = Clock()
    spool = opened(tmp_path, limits=SpoolLimits(5, 1 << 20, max_age_s=100, drain_per_s=1e9), clock=clock)
    for number in range(20):
        spool.put(event(number))
        spool.maintain(everything=True)
    clock.now += 101
    spool.maintain()
    assert spool.counts.dropped["too_old"] == 20
    spool.put(event(20))
    assert drained(spool) == [20]


class Faulty(sqlite3.Connection):
    """SQLite on a disk that fails on demand."""

    error: sqlite3.Error | None = None

    def executemany(self, *given: Any) -> sqlite3.Cursor:
        if Faulty.error is not None:
            raise Faulty.error
        return super().executemany(*given)


def test_a_full_disk_turns_to_memory_and_back(tmp_path: Path) -> None:
    clock = Clock()

    def connect(path: Path, **given: Any) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=Faulty, **given)

    spool = opened(tmp_path, clock=clock, connect=connect)
    Faulty.error = sqlite3.OperationalError("database or disk is full")
    try:
        for number in range(30):
            spool.put(event(number))
        spool.maintain(everything=True)
        assert spool.health().mode == "memory"
        assert spool.disk is not None
        assert "full" in str(spool.disk.error)
        assert numbers(spool.take(5)) == list(range(5))
        spool.settle(5)
        spool.maintain()  # not due yet
        assert spool.on_disk == 0
    finally:
        Faulty.error = None
    clock.now += 6
    spool.maintain()
    assert spool.health().mode == "interval"
    assert spool.on_disk == 25
    spool.close()
    assert drained(opened(tmp_path)) == list(range(5, 30))


def test_a_file_taken_away_is_made_anew(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(60):
        spool.put(event(number))
    spool.maintain(everything=True)
    for file in tmp_path.glob("mqtt.db*"):
        file.unlink()
    spool.put(event(60))
    spool.maintain(everything=True)
    spool.close()
    assert drained(opened(tmp_path)) == list(range(61))


def test_a_flipped_payload_is_dropped_and_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(10):
        spool.put(event(number, 40))
    spool.close()
    with sqlite3.connect(tmp_path / "mqtt.db") as raw:
        raw.execute("UPDATE events SET payload = ? WHERE position = 5", (b'{"n":999}',))
    raw.close()
    after = opened(tmp_path)
    assert after.counts.dropped["damaged"] == 1
    assert drained(after) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_a_corrupt_middle_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(100):
        spool.put(event(number, 1000))
    spool.close()
    file = tmp_path / "mqtt.db"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8192] = os.urandom(8192)
    file.write_bytes(data)
    after = opened(tmp_path)
    assert after.disk is not None
    lost = after.counts.dropped["damaged"]
    assert 0 < lost < 20
    found = drained(after)
    assert len(found) == 100 - lost
    assert found == sorted(found)
    assert balanced(after, len(found))


def test_a_file_that_is_no_database_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "mqtt.db").write_bytes(os.urandom(5000))
    spool = opened(tmp_path)
    assert spool.disk is not None
    assert spool.disk.quarantined == 1
    spool.put(event(1))
    spool.close()
    assert drained(opened(tmp_path)) == [1]
    assert len(list(tmp_path.glob("*.quarantine-*.db"))) == 1


def test_a_folder_that_cannot_be_made_means_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spool = Spool(LIMITS, Disk(Store(tmp_path / "file" / "mqtt.db")))
    spool.open()
    assert spool.health().mode == "memory"
    spool.put(event(1))
    spool.maintain()
    assert drained(spool) == [1]


WRITER = """
import sys
from pathlib import Path
from edge_agent._spool_disk import Disk
from edge_agent._spool_store import Store
from edge_agent._spool_view import rows
from edge_agent.events import Kind, Message
from edge_agent.publisher import Publisher
from edge_agent.spool import Spool, SpoolLimits
from tests.test_publisher import AT_ONCE, ScriptedSink
sink = ScriptedSink()
sink.is_reachable = False
spool = Spool(SpoolLimits(1000, 1 << 20), Disk(Store(Path(sys.argv[1]) / "mqtt.db"), always=sys.argv[2] == "always", interval_s=0.5))
publisher = Publisher(sink, spool, AT_ONCE)
publisher.start()
import time
for number in range(1 << 30):
    publisher.publish(Message(Kind.DETECTIONS, "front", b'{"n":%d}' % number))
    print(number, time.monotonic(), flush=True)
    if sys.argv[2] != "always":
        time.sleep(0.002)
"""


@pytest.mark.parametrize("durability", ["interval", "always"])
def test_kill_9_loses_no_more_than_the_window(tmp_path: Path, durability: str) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), durability], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(600)]
    os.kill(writer.pid, signal.SIGKILL)
    killed = time.monotonic()
    lines += writer.stdout.read().splitlines()
    writer.stdout.close()
    writer.wait()
    promised = [int(line.split()[0]) for line in lines if len(line.split()) == 2]
    if durability == "interval":
        promised = [int(n) for n, at in (line.split() for line in lines) if float(at) < killed - 0.5]
    found = drained(opened(tmp_path, limits=SpoolLimits(1000, 1 << 20, drain_per_s=1e9)))
    assert found[: len(promised)] == promised
    assert len(promised) > 300 if durability == "interval" else len(promised) >= 600


def test_its_files_are_for_this_user_only(tmp_path: Path) -> None:
    """Also where they were made by a version that left that to the folder, and whatever the umask is."""
    (tmp_path / "mqtt.db").touch(0o644)
    before = os.umask(0)
    try:
        spool = opened(tmp_path)
        spool.put(event(1))
        spool.maintain(everything=True)
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        assert modes == dict.fromkeys(("mqtt.db", "mqtt.db-wal", "mqtt.db-shm", "mqtt.lock"), 0o600)
        spool.close()
        (tmp_path / "mqtt.db").write_bytes(os.urandom(5000))
        opened(tmp_path).close()
        assert all(not file.stat().st_mode & 0o077 for file in tmp_path.iterdir())
    finally:
        os.umask(before)


def test_what_was_saved_of_a_damaged_file_and_what_is_in_memory_is_written_again(tmp_path: Path) -> None:
    """On disk means on disk: also what stood in the file that was lost, and is still in memory."""
    spool = opened(tmp_path)
    for number in range(60):
        spool.put(event(number, 100))
    spool.maintain(everything=True)
    assert spool.on_disk == 60
    for file in tmp_path.glob("mqtt.db*"):
        file.unlink()
    spool.maintain(everything=True)
    assert spool.on_disk == 60
    spool.disk.store.close()  # type: ignore[union-attr]  # as kill -9 leaves it
    assert drained(opened(tmp_path)) == list(range(60))


def test_a_look_at_the_file_does_not_keep_its_log_from_being_emptied(tmp_path: Path) -> None:
    """``edge-agent spool export``, piped to somebody who takes his time."""
    spool = opened(tmp_path, limits=SpoolLimits(5000, 1 << 24, drain_per_s=1e9))
    for number in range(1200):
        spool.put(event(number))
    spool.maintain(everything=True)
    looking = rows(tmp_path / "mqtt.db")
    assert next(looking) is not None
    for number in range(1200, 3000):
        spool.put(event(number, 2000))
        if number % 100 == 99:
            spool.maintain(everything=True)
    assert (tmp_path / "mqtt.db-wal").stat().st_size < 3 << 20
    assert sum(row is not None for row in looking) == 2999
    spool.close()


def test_a_file_that_cannot_be_saved_at_once_is_saved_later(tmp_path: Path) -> None:
    """The disk fails while a damaged file is being saved: nothing of it is given up, by this process or by the next."""
    clock = Clock()

    def connect(path: Path, **given: Any) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=Faulty, **given)

    spool = opened(tmp_path, limits=SpoolLimits(20, 1 << 20, drain_per_s=1e9), clock=clock, connect=connect)
    for number in range(60):
        spool.put(event(number))
        spool.maintain(everything=True)
    spool.put(event(60))
    Faulty.error = sqlite3.DatabaseError("database disk image is malformed")
    try:
        spool.maintain(everything=True)
        assert (spool.health().mode, spool.queued[0]) == ("memory", 61)
        copy = tmp_path / "next"
        copy.mkdir()
        for file in tmp_path.glob("mqtt.db*"):
            (copy / file.name).write_bytes(file.read_bytes())
    finally:
        Faulty.error = None
    assert drained(opened(copy)) == list(range(60))
    clock.now += 6
    spool.maintain(everything=True)
    clock.now += 1
    assert drained(spool) == list(range(61))
    assert spool.counts.dropped == {}
    spool.close()
