"""How fast a backlog may go out."""

from __future__ import annotations

from collections.abc import Callable

BURST_S = 0.1


class Pace:
    """Lets so many events a second through of those that waited when the connection came, and all that came since. Not thread-safe."""

    def __init__(self, per_s: float, clock: Callable[[], float]) -> None:
        self._per_s, self._clock = per_s, clock
        self._until = 0
        self.off = False
        """From now on everything may go."""
        self._allowance, self._at = 0.0, clock()

    def backlog(self, until: int) -> None:
        """All positions up to that one are."""
        self._until = until
        self._allowance, self._at = 0.0, self._clock()

    def allowed(self, most: int, head: int) -> int:
        """How many may go now, of which ``head`` is the first one's position."""
        if self.off or head == 0 or head > self._until:
            return most
        now = self._clock()
        self._allowance = min(max(1.0, self._per_s * BURST_S), self._allowance + (now - self._at) * self._per_s)
        self._at = now
        return min(most, int(self._allowance))

    def used(self, events: int) -> None:
        """So many went."""
        self._allowance = max(0.0, self._allowance - events)
