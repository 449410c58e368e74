"""Events that were stamped before the device's clock was set, corrected once it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import msgspec

from edge_agent._spool_entry import Entry
from edge_agent._spool_rows import Row
from edge_agent.events import Message, timestamp

_MARKS = (b'"clock_synced":false', b"\xacclock_synced\xc2")


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Of this run of the machine: monotonic clocks of two of them do not compare."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def shift_now() -> float:
    """What the wall clock is ahead of the monotonic one: seconds."""
    return time.time() - time.monotonic()


def is_unsynced(payload: bytes) -> bool:
    """Whether this says of itself that its time is not to be trusted."""
    return any(mark in payload for mark in _MARKS)


def restamped(message: Message, shift: float, now_shift: float) -> Message:
    """With ``captured_at`` as the clock, set since, would have had it; as it is where it has none.

    ``shift``: the wall clock ahead of the monotonic one when the event came. Where the event tells how long ago its frame was
    captured then, that is more exact: the clock may have been set between the two.
    """
    packed = message.payload[:1] != b"{"
    try:
        content = msgspec.msgpack.decode(message.payload) if packed else json.loads(message.payload)
        total_ms = content.get("latency_ms", {}).get("total")
        if isinstance(total_ms, (int, float)):
            captured = message.at - total_ms / 1e3 + now_shift
        else:
            captured = _seconds(content["captured_at"]) + now_shift - shift
        by = captured - _seconds(content["captured_at"])
        content["captured_at"], content["clock_synced"] = timestamp(captured), True
        _moved(content.get("interval"), by)
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError, OSError, msgspec.DecodeError):
        return message
    payload = msgspec.msgpack.encode(content) if packed else msgspec.json.encode(content)
    return replace(message, payload=payload)


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def _moved(part: object, by: float) -> None:
    """The stamps further in: of an interval's first and last frame, and of the best sights."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key.endswith("captured_at"):
                part[key] = timestamp(_seconds(value) + by)
            else:
                _moved(value, by)
    elif isinstance(part, list):
        for each in part:
            _moved(each, by)


class Clocks:
    """The spool's clock, which is monotonic, and the wall clock where it may be trusted."""

    def __init__(self, clock: Callable[[], float], synced: Callable[[], bool]) -> None:
        self.now, self._synced = clock, synced

    def age(self, row: Row) -> float:
        """Seconds since it came; 0 for one of another boot, where either boot's clock was not set: that cannot be known."""
        if row.boot == boot_id():
            return max(0.0, self.now() - row.message.at)
        if is_unsynced(row.message.payload) or not self._synced():
            return 0.0
        return max(0.0, time.time() - (row.message.at + row.shift))

    def restamped(self, entries: Sequence[Entry]) -> list[Message]:
        """Their messages, corrected where they came in this boot before its clock was set, and it is set now."""
        found = [entry.message for entry in entries]
        unsynced = [i for i, message in enumerate(found) if is_unsynced(message.payload)]
        if unsynced and self._synced():
            now, boot = shift_now(), boot_id()
            for i in unsynced:
                if entries[i].boot == boot:
                    found[i] = restamped(found[i], entries[i].shift, now)
        return found
