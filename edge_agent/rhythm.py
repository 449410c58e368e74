"""When a camera has been silent for too long, judged by its own rhythm."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice

RECENT = 16
"""Intervals that tell when the next frame comes: fewer than tell a stall, so that a camera whose rate changes is followed."""


@dataclass(frozen=True)
class RhythmPolicy:
    """``floor_s``: no silence shorter than this is a stall. ``unknown_s``: the limit before two frames have come.

    ``times``: a silence of so many times the longest of the ``window`` last intervals is a stall.
    """

    floor_s: float = 1.5
    unknown_s: float = 10.0
    times: float = 3.0
    window: int = 64


class Rhythm:
    """The intervals between a camera's frames, and the silence that is too long for them. One thread writes, any reads.

    The longest of the last intervals counts and not their mean, so that a camera that sends in bursts, or jitters, is not
    called stalled in its usual pauses. An interval that was itself a stall counts only as the limit that it broke: one
    outage widens the limit by ``times`` for ``window`` frames and no more, and a camera that has really become slower
    (at night, one frame a minute) is believed after a few, as the limit grows by that factor each time.
    """

    def __init__(self, policy: RhythmPolicy | None = None) -> None:
        self._policy = policy or RhythmPolicy()
        self._intervals: deque[float] = deque(maxlen=self._policy.window)
        self._limit_s = self._policy.unknown_s

    def note(self, interval_s: float) -> None:
        """A frame came so long after the one before, or after the source was asked for it, whichever was later."""
        self._intervals.append(max(0.0, min(interval_s, self._limit_s)))
        self._limit_s = max(self._policy.floor_s, self._policy.times * max(self._intervals))

    @property
    def usual_s(self) -> float:
        """Nine in ten of the last ``RECENT`` intervals are no longer; 0 before there is one."""
        recent = sorted(islice(reversed(self._intervals), RECENT))
        return recent[len(recent) * 9 // 10] if recent else 0.0

    @property
    def limit_s(self) -> float:
        """A silence longer than this is a stall."""
        return self._limit_s
