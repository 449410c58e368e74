"""Whose frame is inferred next, and when: the model pulls, and cameras share it evenly."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_agent.capture import Capture
from edge_agent.frame import Frame

EARLY = 0.97
"""Share of the shortest recent service time after which the next frame is expected to be taken: rather too soon than too late."""
RECENT = 8
POLL_S = 0.5
"""Longest a lane waits before it looks whether it is to stop, and shows the watchdog that it lives."""


@dataclass(frozen=True, slots=True)
class Job:
    """A frame that was taken, and its place in its camera's order."""

    capture: Capture
    frame: Frame
    ticket: int
    taken_at: float


class Scheduler:
    """Fair queueing over cameras: among those with a frame ready, the one that was served least goes next.

    Each camera has a virtual time that advances by one for each frame taken (start-time fair queueing, Goyal et al.
    1996, with unit cost). A camera that comes back from a pause begins at the present, so it cannot claim the turns it
    did not use. Shared by all lanes; every method may be called from any thread.
    """

    def __init__(self, captures: Sequence[Capture], wake: threading.Condition, clock: Callable[[], float] = time.monotonic) -> None:
        self._captures = captures
        self._wake = wake
        self._clock = clock
        self._virtual = dict.fromkeys((c.camera.id for c in captures), 0.0)
        self._tickets = dict.fromkeys((c.camera.id for c in captures), 0)
        self._now = 0.0
        self._taken_at: dict[int, float | None] = {}
        """When each lane took the frame that it is inferring; None: it is free."""
        self._service_s: deque[float] = deque(maxlen=RECENT)

    def take(self, timeout_s: float = POLL_S, *, lane: int = 0) -> Job | None:
        """The next frame to infer; None if none became ready in time, or none ever will. Each lane says who it is."""
        called = self._clock()
        deadline = called + timeout_s
        with self._wake:
            if (taken := self._taken_at.get(lane)) is not None:
                self._service_s.append(called - taken)
            self._taken_at[lane] = None
            while True:
                now = self._clock()
                job = self._pick(now)
                if job:
                    self._taken_at[lane] = now
                    job.capture.expect(self._next_turn(job.capture, now), now)
                if job or now >= deadline or self._all_ended():
                    return job
                self._wake.wait(max(0.0, min(self._next_due(now), deadline) - now))

    def _pick(self, now: float) -> Job | None:
        ready = [c for c in self._captures if (due := c.ready_at()) is not None and due <= now]
        if not ready:
            return None
        capture = min(ready, key=lambda c: max(self._virtual[c.camera.id], self._now))
        camera = capture.camera.id
        frame = capture.take(now)
        assert frame is not None
        self._now = max(self._virtual[camera], self._now)
        self._virtual[camera] = self._now + 1
        ticket = self._tickets[camera]
        self._tickets[camera] += 1
        return Job(capture, frame, ticket, now)

    def _next_turn(self, capture: Capture, now: float) -> float:
        """When this camera's next frame is taken at the earliest: each of the others that wait goes first."""
        shortest = EARLY * min(self._service_s, default=0.0)
        free = sorted(now if taken is None else max(now, taken + shortest) for taken in self._taken_at.values())
        before = sum(c is not capture and c.ready_at() is not None for c in self._captures)
        rounds, lane = divmod(before, len(free))
        return free[lane] + rounds * shortest

    def _next_due(self, now: float) -> float:
        dues = [due for c in self._captures if (due := c.ready_at()) is not None]
        return min(dues, default=now + POLL_S)

    def finished(self) -> bool:
        """Every camera has ended and no frame waits."""
        with self._wake:
            return self._all_ended()

    def _all_ended(self) -> bool:
        return all(capture.ended for capture in self._captures)
