"""Events that were stamped before the device's clock was set, corrected once it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import msgspec

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
            stamped = datetime.fromisoformat(content["captured_at"].replace("Z", "+00:00"))
            captured = stamped.timestamp() + now_shift - shift
        content["captured_at"], content["clock_synced"] = timestamp(captured), True
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError, OSError, msgspec.DecodeError):
        return message
    payload = msgspec.msgpack.encode(content) if packed else msgspec.json.encode(content)
    return replace(message, payload=payload)


Synced = Callable[[], bool]
