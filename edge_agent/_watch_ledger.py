"""What a subscriber can know of each camera: how much came, late, twice, or never. Not thread-safe; the times are given."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

_MOST_MISSING = 10_000
_MOST_CAMERAS = 1_000
_MOST_STREAMS = 4
_RECENT = 300
_RATE_S = 10.0
_CLOCKS_DIFFER_S = 1.0


@dataclass
class _Stream:
    """One run of an agent: its sequence numbers of one camera."""

    first: int
    last: int
    missing: set[int] = field(default_factory=set)
    lost: int = 0

    def note(self, seq: int) -> str | None:
        """``"duplicate"``, ``"earlier"`` (than what was heard first: it may be a second copy or not) or None."""
        if seq > self.last:
            gap = seq - self.last - 1
            self.lost += gap
            self.missing.update(range(self.last + 1, self.last + 1 + min(gap, _MOST_MISSING - len(self.missing))))
            self.last = seq
            return None
        if seq in self.missing:  # late, and not lost
            self.missing.discard(seq)
            self.lost -= 1
            return None
        return "earlier" if seq < self.first else "duplicate"


@dataclass
class CameraLedger:
    """One camera of one device."""

    received: int = 0
    duplicates: int = 0
    state: str = ""
    seen: str = ""
    streams: OrderedDict[str, _Stream] = field(default_factory=OrderedDict)
    forgotten_lost: int = 0
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    """Monotonic seconds."""
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    """Milliseconds from capture to here, by the two clocks."""

    @property
    def lost(self) -> int:
        """Events that never came, as far as the gaps between those that did tell."""
        return self.forgotten_lost + sum(stream.lost for stream in self.streams.values())

    def rate(self, now: float) -> float:
        """Messages per second of late."""
        recent = [at for at in self.arrivals if now - at <= _RATE_S]
        return len(recent) / min(_RATE_S, max(1.0, now - self.arrivals[0])) if recent else 0.0

    def latency_ms(self, share: float) -> float | None:
        """The percentile of the last ones; None before the first."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))] if ordered else None


@dataclass(frozen=True)
class Noted:
    """What is to be said of one detections message."""

    latency_ms: float
    duplicate: bool
    lost: int
    """Of its camera, so far."""


class Ledger:
    """Of all devices and cameras that were heard of; of those beyond a thousand, the oldest are forgotten."""

    def __init__(self) -> None:
        self.cameras: OrderedDict[tuple[str, str], CameraLedger] = OrderedDict()
        self.devices: dict[str, str] = {}
        """``online`` or ``offline``."""
        self.offsets: dict[str, float] = {}
        """Seconds by which a device's clock is behind ours, with the way here: by its heartbeats, which wait for nothing."""
        self.unsynced: set[str] = set()

    def camera(self, device: str, camera: str) -> CameraLedger:
        """Begun if it is new."""
        if (device, camera) not in self.cameras and len(self.cameras) >= _MOST_CAMERAS:
            self.cameras.popitem(last=False)
        return self.cameras.setdefault((device, camera), CameraLedger())

    def note(self, device: str, camera: str, event: Mapping[str, Any], utc: float, now: float) -> Noted:
        """A detections message that came now. Raises KeyError, TypeError or ValueError for what is none."""
        seq, stream, captured = int(event["seq"]), str(event["stream"]), seconds(event["captured_at"])
        of = self.camera(device, camera)
        known = of.streams.get(stream)
        kind = None
        if known is None:
            of.streams[stream] = _Stream(seq, seq)
            if len(of.streams) > _MOST_STREAMS:
                of.forgotten_lost += of.streams.popitem(last=False)[1].lost
        else:
            kind = known.note(seq)
        of.received += 1
        of.duplicates += kind == "duplicate"
        latency = (utc - captured) * 1e3
        if kind is None:
            of.latencies.append(latency)
        of.arrivals.append(now)
        self._note_clock(device, synced=bool(event.get("clock_synced", True)))
        return Noted(round(latency, 1), kind == "duplicate", of.lost)

    def note_health(self, device: str, health: Mapping[str, Any], utc: float) -> None:
        """A heartbeat that was made just now, not a retained one. Raises as :meth:`note`."""
        self.offsets[device] = utc - seconds(health["at"])
        self._note_clock(device, synced=bool(health.get("clock_synced", True)))

    def _note_clock(self, device: str, *, synced: bool) -> None:
        (self.unsynced.discard if synced else self.unsynced.add)(device)

    def warnings(self) -> list[str]:
        """Why latencies may not be true, by device."""
        found = []
        for device in sorted(self.offsets.keys() | self.unsynced):
            offset = self.offsets.get(device, 0.0)
            if abs(offset) > _CLOCKS_DIFFER_S:
                side = "behind" if offset > 0 else "ahead of"
                found.append(f"the clock of {device} is {abs(offset):.1f} s {side} this machine's: its latencies are off by that")
            elif device in self.unsynced:
                found.append(f"the clock of {device} is not set by the network: its latencies may be off")
        return found

    def totals(self) -> dict[str, dict[str, Any]]:
        """By ``device/camera``, for the end."""
        return {
            f"{device}/{camera}": {
                "received": of.received,
                "lost": of.lost,
                "duplicates": of.duplicates,
                "latency_ms": {name: _rounded(of.latency_ms(share)) for name, share in (("p50", 0.5), ("p95", 0.95))},
            }
            for (device, camera), of in self.cameras.items()
            if of.received
        }

    def table(self, now: float) -> list[str]:
        """Lines of a table, one for each camera."""
        rows = [("device", "camera", "state", "msg/s", "received", "lost", "twice", "p50 ms", "p95 ms", "last seen")]
        for (device, camera), of in sorted(self.cameras.items()):
            state = "agent offline" if self.devices.get(device) == "offline" else of.state
            p50, p95 = of.latency_ms(0.5), of.latency_ms(0.95)
            rows.append((
                device, camera, state, f"{of.rate(now):.1f}", str(of.received), str(of.lost), str(of.duplicates),
                "" if p50 is None else f"{p50:.0f}", "" if p95 is None else f"{p95:.0f}", of.seen,
            ))  # fmt: skip
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row[:-1], widths, strict=True)), row[-1]]).rstrip() for row in rows]
        return lines + [f"! {warning}" for warning in self.warnings()]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def seconds(text: str) -> float:
    """RFC 3339 to seconds since the epoch. Raises ValueError, TypeError or AttributeError."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
