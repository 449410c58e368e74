"""Frames that a camera made and that never arrived: seen from its own numbers, where it has any that can be relied on."""

from __future__ import annotations

from collections import deque

_WRAP = 1 << 32
_MOST_LOST = 1000
"""A jump further than this is another beginning, and no loss."""
_RECENT = 32
_KNOWN_AFTER = 16
_NEAR = 0.2
_STEADY_SHARE = 0.9
"""So many of the last intervals within 20 % of the usual one, or the camera has no beat that could be missed: variable rates, pictures
that are sent in another order than they are shown in, 25 frames on a clock of 30."""
_GAP = 1.5
"""Usual intervals from which one is a gap."""
_RUN = 4
"""Gaps one after the other that are a new rate, such as of a camera that exposes longer at night."""
_OUTAGE_S = 10.0
"""A silence of the stream's own clock, and not a few packets."""


class SequenceGaps:
    """V4L2's ``sequence``: counts the frames of the device, delivered or not; 32 bits. Some drivers leave it at 0, some count fields."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._steps: deque[int] = deque(maxlen=_RECENT)

    def note(self, sequence: int) -> int:
        """A buffer came: how many frames were lost between it and the one before."""
        last, self._last = self._last, sequence
        step = 0 if last is None else (sequence - last) % _WRAP
        if not 0 < step <= _MOST_LOST:
            return 0
        self._steps.append(step)
        usual = min(self._steps)
        return step // usual - 1 if len(self._steps) >= _KNOWN_AFTER or usual == 1 else 0


class TimestampGaps:
    """A stream's own timestamps, in the order in which its packets come. Counts only where the intervals are steady.

    A gap counts once a usual interval follows it: where none does, the camera has changed its rate, and lost nothing. Nor does one
    in which no time has passed here: the camera's clock was set.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._came = 0.0
        self._intervals: deque[float] = deque(maxlen=_RECENT)
        self._pending: list[float] = []
        """Gaps one after the other, not yet followed by a usual interval."""

    def note(self, pts_s: float | None, now: float) -> int:
        """A packet with this timestamp in seconds came at monotonic ``now``: how many frames are newly known to be lost."""
        passed_s, self._came = now - self._came, now
        last, self._last = self._last, pts_s if pts_s is not None else self._last
        if pts_s is None or last is None:
            return 0
        interval = pts_s - last
        if not 0 < interval < _OUTAGE_S:
            if interval:  # the clock was set, or another stream began
                self._forget()
            return 0
        usual = self._usual()
        if usual is None:
            self._intervals.append(interval)
            return 0
        if interval > _GAP * usual and passed_s < interval / 2:
            self._forget()
            return 0
        if interval > _GAP * usual:
            self._pending.append(interval)
            if len(self._pending) >= _RUN:
                self._forget()
            return 0
        pending, self._pending = self._pending, []
        self._intervals.append(interval)
        return sum(round(gap / usual) - 1 for gap in pending)

    def _forget(self) -> None:
        self._intervals.clear()
        self._pending = []

    def _usual(self) -> float | None:
        """Seconds; None where there is no such interval, or none yet."""
        if len(self._intervals) < _KNOWN_AFTER:
            return None
        usual = sorted(self._intervals)[len(self._intervals) // 2]
        near = sum(abs(interval - usual) <= _NEAR * usual for interval in self._intervals)
        return usual if near >= _STEADY_SHARE * len(self._intervals) else None
