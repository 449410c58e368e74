"""The spool's bounds, and what it costs to hold them: writes in a long outage, age, events larger than all else."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from edge_agent._spool_disk import Disk
from edge_agent._spool_rows import Row
from edge_agent._spool_store import Store
from edge_agent.events import Kind, Message
from edge_agent.spool import Spool, SpoolLimits
from tests.test_spool import LIMITS, Clock, balanced, drained, event, numbers, opened


class Counting(sqlite3.Connection):
    """SQLite that tells how many lots were written."""

    lots = 0

    def executemany(self, sql: str, rows: Any) -> sqlite3.Cursor:
        found = list(rows)
        Counting.lots += bool(found) and sql.startswith("INSERT")
        return super().executemany(sql, found)


def test_a_long_outage_is_written_in_lots(tmp_path: Path) -> None:
    clock = Clock()

    def connect(path: Path, **given: Any) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=Counting, **given)

    spool = opened(tmp_path, clock=clock, connect=connect)
    Counting.lots = 0
    for number in range(900):  # thirty seconds
        spool.put(event(number))
        clock.now += 1 / 30
        if number % 30 == 29 or spool._has_urgent_work():
            spool.maintain()
    assert Counting.lots <= 32, "one lot each time that it is looked at, also where more waits than memory holds"
    assert drained(spool) == list(range(900))
    spool.close()


def test_age_is_bounded_without_a_disk_too() -> None:
    clock = Clock()
    spool = Spool(SpoolLimits(100, 1 << 20, max_age_s=60, drain_per_s=1e9), clock=clock)
    for number in range(5):
        spool.put(event(number))
        clock.now += 20
    assert numbers(spool.take(2)) == [2, 3]
    assert spool.counts.dropped["too_old"] == 2
    spool.settle(2)
    clock.now += 61
    spool.put(event(5))
    assert drained(spool) == [5]
    assert balanced(spool, 3)


def test_what_is_too_old_on_disk_is_not_sent_before_it_is_looked_at(tmp_path: Path) -> None:
    clock = Clock()
    spool = opened(tmp_path, limits=SpoolLimits(5, 1 << 20, max_age_s=100, drain_per_s=1e9), clock=clock)
    for number in range(20):
        spool.put(event(number))
        spool.maintain(everything=True)
    clock.now += 101
    assert drained(spool) == []
    assert spool.counts.dropped["too_old"] == 20
    assert balanced(spool, 0)


def test_an_event_larger_than_memory_takes_no_other_with_it(tmp_path: Path) -> None:
    spool = opened(tmp_path, always=True, limits=SpoolLimits(100, 65536, drain_per_s=1e9))

    def put() -> None:
        for number in range(3):
            spool.put(event(number))

    putting = threading.Thread(target=put, daemon=True)
    putting.start()
    while putting.is_alive():
        spool.wait_for_work(0.1)
        spool.maintain()
    begun = time.monotonic()
    spool.put(event(3, 70_000))
    assert time.monotonic() - begun < 2, "nothing to wait for"
    assert spool.counts.dropped["buffer_full"] == 1
    assert drained(spool) == [0, 1, 2]
    assert balanced(spool, 3)


def test_another_boots_event_of_an_unset_clock_is_not_too_old(tmp_path: Path) -> None:
    store = Store(tmp_path / "mqtt.db")
    store.open()
    payload = b'{"captured_at":"1970-01-01T00:00:01.000Z","clock_synced":false}'
    store.apply([Row(1, Message(Kind.DETECTIONS, "front", payload, at=1.0), 0.0, "another boot")], [])
    store.close()
    spool = Spool(LIMITS, Disk(Store(tmp_path / "mqtt.db")))
    spool.open()
    spool.maintain()
    assert [message.payload for message in spool.take(1)] == [payload]
    spool.close()


def test_a_disk_that_hangs_does_not_hold_the_line_twice(tmp_path: Path) -> None:
    """With "always": the first event waits for it in vain, which is told, and the others do not."""
    spool = opened(tmp_path, always=True)
    assert spool.disk is not None
    store, held = spool.disk.store, threading.Event()
    write = store.apply

    def hanging(*given: Any) -> None:
        held.wait(30)
        write(*given)

    store.__dict__["apply"] = hanging
    spool.answers_within_s = 0.3

    def keep() -> None:
        spool.wait_for_work(5)
        spool.maintain()

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    begun = time.monotonic()
    for number in range(30):
        spool.put(event(number))
    assert time.monotonic() - begun < 3
    health = spool.health()
    assert (health.mode, "does not answer" in str(health.error)) == ("memory", True)
    assert numbers(spool.take(30)) == list(range(30)), "and they are sent"
    spool.settle(30)
    held.set()
    keeper.join(5)
    spool.maintain()
    assert spool.health().mode == "always"
    spool.close()
