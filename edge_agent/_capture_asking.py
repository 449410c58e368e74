"""What one camera's source is asked for, when, and how regularly it answers.

A source is told from when a frame can be of use, so that it spares itself what would only be overtaken.
"""

from __future__ import annotations

from edge_agent.rhythm import Rhythm
from edge_agent.slot import Slot
from edge_agent.sources.base import Source
from edge_agent.stats import RateMeter

HINT_S = 3.0
"""A source is told to leave out frames for so long at most, so that ``read`` comes back while the model is busy."""


class Asking:
    """See the module. Everything wants the wake lock held."""

    def __init__(self, source: Source, slot: Slot, rhythm: Rhythm) -> None:
        self.hearer: Source | None = source
        """Who is told which frames are wanted; nobody while the present source hangs."""
        self.rhythm = rhythm
        self.rate = RateMeter()
        """Of the frames that came, those that were left out included."""
        self.hint_until = 0.0
        """Monotonic time until which the source was told to leave out frames."""
        self._slot = slot
        self._wanted_at = self._cheaper_by = 0.0
        self._last_asked: float | None = None

    def expect(self, at: float, now: float, cheaper_by: float) -> None:
        """See :meth:`edge_agent.capture.Capture.expect`."""
        # In the longest of the usual intervals before, one almost surely comes.
        self._wanted_at = max(at, self._slot.due) - self.rhythm.usual_s
        self._cheaper_by = max(cheaper_by, self._slot.due) if cheaper_by else 0.0
        self.hint(now)

    def whenever(self) -> None:
        """From now on the next frame may be of use as soon as it comes."""
        self._wanted_at = 0.0

    def hint(self, now: float) -> None:
        """Tell the source from when on a frame is wanted."""
        wanted_at = float("inf") if self._slot.muted else self._wanted_at
        self.hint_until = min(wanted_at, now + HINT_S)
        if self.hearer is not None:
            self.hearer.skip_until(self.hint_until, self._cheaper_by)

    def remind(self, now: float) -> None:
        """A frame came: tell the source again if the next one is not wanted yet either."""
        if now < self._wanted_at or self._slot.muted:
            self.hint(now)

    def hurry(self) -> None:
        """None of the frames that come is to be left out: ``read`` comes back with the next."""
        if self.hearer is not None:
            self.hearer.skip_until(0.0)

    def asked(self, now: float | None) -> None:
        """The source is asked for the next frame at monotonic ``now``; None: it was opened, and tells nothing of its rhythm yet."""
        self._last_asked = now

    def beat(self, now: float, frames: int) -> None:
        """So many frames have come since the last time, and tell the camera's rhythm."""
        if self._last_asked is not None:
            self.rhythm.note((now - self._last_asked) / frames)
        self.rate.tick(now, frames)

    def begin_anew(self) -> None:
        """Another source follows, of which nothing is known, and which hears when it is there."""
        self.hearer, self.rhythm, self._last_asked = None, Rhythm(), None
        self._wanted_at = self.hint_until = 0.0
