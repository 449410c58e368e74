"""Times of frames that come through FFmpeg: a file's own, and for a camera when its data came."""

from __future__ import annotations

_WAITED_S = 0.002
"""Whoever waits so long for a packet has read all that had come."""
_MOST_ON_THE_WAY = 64
"""Packets that a decoder may hold before it gives the first of their pictures; what is older was damaged."""


class Timestamps:
    """A file's timestamps, made to grow: raw streams have none, and AVI's are in the order of decoding."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last: float | None = None

    def next(self, pts_s: float | None) -> float:
        """The time of the next frame, in seconds: its own where it has one that is later than that of the one before."""
        if self._last is None:
            self._last = pts_s or 0.0
        elif pts_s is None or pts_s <= self._last:
            self._last += self._interval_s
        else:
            self._last = pts_s
        return self._last


class Arrivals:
    """When each packet of a live stream came, by timestamp: a decoder that puts pictures in order gives them later.

    FFmpeg's parser hands out a picture of H.264 or H.265 when the next one begins (docs/decisions/0006-skipping-packets.md),
    so its data began to arrive when the one before was handed out. Where pictures are sent in another order than they were
    taken in, one does not come before those that it is shown after.
    """

    def __init__(self, *, parsed: bool) -> None:
        self._parsed = parsed
        self._handed_out: float | None = None
        self._by_pts: dict[int | None, float] = {}
        self._latest = 0.0

    def note(self, pts: int | None, now: float) -> None:
        """A packet was handed out at ``now`` (monotonic seconds)."""
        came = self._handed_out if self._parsed and self._handed_out is not None else now
        self._handed_out = now
        if len(self._by_pts) >= _MOST_ON_THE_WAY:
            del self._by_pts[next(iter(self._by_pts))]
        self._by_pts[pts] = came

    def of(self, pts: int | None, now: float) -> float:
        """When the data of the picture with that timestamp came; ``now`` where that is not known."""
        self._latest = max(self._by_pts.pop(pts, now), self._latest)
        return self._latest


class Backlog:
    """How much of a live stream waits to be read, as decoding takes longer than pictures take to come.

    Whoever has to wait for a packet has read all of them. From then on the stream's own clock tells when each came, as long as
    nobody has to wait again; a clock that jumps begins anew.
    """

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        """When all had been read last, and the stream's time then."""
        self._last_s = 0.0

    def note(self, stream_s: float | None, asked: float, now: float) -> float:
        """A packet of that time of the stream was asked for and came: for how many seconds it had waited."""
        if stream_s is None:
            return 0.0
        last_s, self._last_s = self._last_s, stream_s
        if self._began is None or now - asked >= _WAITED_S or stream_s < last_s:
            self._began = (now, stream_s)
        return max(0.0, (now - self._began[0]) - (stream_s - self._began[1]))
