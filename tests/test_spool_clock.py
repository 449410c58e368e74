"""Events from before the clock was set: corrected by the monotonic clock of the same boot, once it is."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent import _spool_clock as spool_clock
from edge_agent._spool_disk import Disk
from edge_agent._spool_rows import Row
from edge_agent._spool_store import Store
from edge_agent.events import Kind, Message, timestamp
from edge_agent.spool import Spool, SpoolLimits
from tests.test_spool import LIMITS


def payload(captured_utc: float, *, packed: bool = False, **others: Any) -> bytes:
    content = {"camera": "front", "captured_at": timestamp(captured_utc), "clock_synced": False, **others}
    return msgspec.msgpack.encode(content) if packed else msgspec.json.encode(content)


def captured(content: dict[str, Any]) -> float:
    return datetime.fromisoformat(content["captured_at"].replace("Z", "+00:00")).timestamp()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("synced", [False, True])
def test_what_waited_is_restamped_once_the_clock_is_set(synced: bool, packed: bool) -> None:
    now = time.monotonic()
    wrong = payload(0.0, packed=packed, latency_ms={"total": 250.0})  # 1970
    spool = Spool(LIMITS, clock_synced=lambda: synced)
    spool.put(Message(Kind.DETECTIONS, "front", wrong, at=now - 30))
    [taken] = spool.take(1)
    if not synced:
        assert taken.payload == wrong
        return
    content = msgspec.msgpack.decode(taken.payload) if packed else json.loads(taken.payload)
    assert content["clock_synced"] is True
    assert captured(content) == pytest.approx(time.time() - 30.25, abs=0.5)
    assert set(content) == {"camera", "captured_at", "clock_synced", "latency_ms"}


def test_without_a_latency_by_what_the_clock_was_moved() -> None:
    shift = spool_clock.shift_now()
    message = Message(Kind.DETECTIONS, "front", payload(1000.0), at=5.0)
    found = json.loads(spool_clock.restamped(message, shift - 3600, shift).payload)
    assert captured(found) == pytest.approx(4600.0, abs=0.001)


def test_what_is_no_such_event_stays_as_it_is() -> None:
    for raw in (
        b'{"clock_synced":false}',
        b'{"clock_synced":false,"captured_at":"noon"}',
        b'{"clock_synced":false',
        b'[1,"clock_synced":false]',
    ):
        message = Message(Kind.DETECTIONS, "front", raw)
        assert spool_clock.restamped(message, 0.0, 1.0) is message


def test_another_boots_event_cannot_be_corrected(tmp_path: Path) -> None:
    store = Store(tmp_path / "mqtt.db")
    store.open()
    wrong = payload(0.0, latency_ms={"total": 1.0})
    store.apply([Row(1, Message(Kind.DETECTIONS, "front", wrong, at=1.0), 0.0, "another boot")], [])
    store.close()
    spool = Spool(SpoolLimits(10, 1 << 20, max_age_s=1e12, drain_per_s=1e9), Disk(Store(tmp_path / "mqtt.db")))
    spool.open()
    assert [m.payload for m in spool.take(1)] == [wrong]
    spool.close()


def test_the_stamps_of_an_interval_move_with_it() -> None:
    moment = 1000.0
    interval = {
        "first_captured_at": timestamp(moment - 9),
        "last_captured_at": timestamp(moment),
        "classes": [{"label": "cat", "best": {"captured_at": timestamp(moment - 4)}}],
    }
    shift = spool_clock.shift_now()
    message = Message(Kind.DETECTIONS, "front", payload(moment, interval=interval), at=5.0)
    found = json.loads(spool_clock.restamped(message, shift - 3600, shift).payload)["interval"]
    stamps = [found["first_captured_at"], found["last_captured_at"], found["classes"][0]["best"]["captured_at"]]
    assert stamps == [timestamp(moment + 3600 + by) for by in (-9, 0, -4)]
