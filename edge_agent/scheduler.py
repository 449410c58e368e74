"""Whose frame is inferred next, and when: the model pulls, and cameras share it by their weights.

The loop is closed by what is measured: how long the frames of each camera occupied a lane lately (decoding that was put
off, preprocessing, inference, telling of it), and when the lanes will be free of what they do now. From that each camera
is told from when its next frame can be of use (:meth:`edge_agent.capture.Capture.expect`), so that it has one ready just
then, and spares itself the others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_agent.capture import Capture
from edge_agent.frame import Frame

RECENT = 8
FREE_CREDIT = 0.03
"""Of the time that frames take, so much may be spent on waiting for one that costs less to decode."""
MOST_CREDIT_S = 0.3
POLL_S = 0.5
"""Longest a lane waits before it looks whether it is to stop, and shows the watchdog that it lives."""


@dataclass(frozen=True, slots=True)
class Job:
    """A frame that was taken, and its place in its camera's order."""

    capture: Capture
    frame: Frame
    ticket: int
    taken_at: float


@dataclass
class Service:
    """How long the last frames of one camera occupied a lane, seconds."""

    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def note(self, seconds: float) -> None:
        """One more, which is taken as it is: what a step changes is believed after half of ``RECENT``."""
        self._recent.append(seconds)

    @property
    def usual_s(self) -> float:
        """The median; 0 before there is one."""
        return sorted(self._recent)[len(self._recent) // 2] if self._recent else 0.0

    @property
    def soonest_s(self) -> float:
        """What the next may take at least: the shortest, less as much as that is below the median. Rather too soon than too late."""
        if not self._recent:
            return 0.0
        shortest = min(self._recent)
        return max(0.0, shortest - (self.usual_s - shortest))


@dataclass
class _Lane:
    """One inference after another."""

    taken_at: float | None = None
    """When it took what it is inferring; None: it is free."""
    cameras: Sequence[str] = ()
    """Whose frames those are: one, or as many as are inferred together."""
    rests_until: float = 0.0


@dataclass
class _Share:
    """A camera's place in the order."""

    weight: float
    virtual: float = 0.0
    tickets: int = 0
    service: Service = field(default_factory=Service)


class Scheduler:
    """Fair queueing over cameras: among those with a frame ready, the one that was served least for its weight goes next.

    Each camera has a virtual time that advances by 1 / weight for each frame taken (start-time fair queueing, Goyal et al.
    1996, with unit cost). A camera that comes back from a pause begins at the present, so it cannot claim the turns it
    did not use. Of several whose turn it is, the one whose frame expires first goes first: its deadline is when it becomes
    stale. Shared by all lanes of one model; every method may be called from any thread.
    """

    def __init__(self, captures: Sequence[Capture], wake: threading.Condition, clock: Callable[[], float] = time.monotonic) -> None:
        self._captures = list(captures)
        self._wake = wake
        self._clock = clock
        self._cameras = {c.camera.id: _Share(c.camera.settings.weight) for c in captures}
        self._lanes: dict[int, _Lane] = {}
        self._now = 0.0
        """The virtual time of the frame that was taken last."""
        self._shares: dict[str, float] = {}
        self._held: set[str] = set()
        self._credit_s = MOST_CREDIT_S

    def add(self, capture: Capture) -> None:
        """Serve one more camera from now on; one that was served before goes on with its tickets."""
        with self._wake:
            share = self._cameras.setdefault(capture.camera.id, _Share(capture.camera.settings.weight))
            share.weight = capture.camera.settings.weight
            self._captures.append(capture)
            self._wake.notify_all()

    def remove(self, capture: Capture) -> None:
        """Take no more frames of a camera. What was taken of it may still be being inferred."""
        with self._wake:
            self._captures.remove(capture)
            self._wake.notify_all()

    def slow_down(self, share: float, cause: str = "governor") -> None:
        """Let each lane infer for no more than ``share`` (0..1] of the time; of several causes the least holds.

        After an inference of s seconds a lane's next one begins no sooner than s / share after that one began.
        """
        if not 0 < share <= 1:
            raise ValueError(f"a share is above 0 and at most 1, not {share}")
        with self._wake:
            self._shares[cause] = share
            self._wake.notify_all()

    @property
    def shares(self) -> dict[str, float]:
        """What each cause leaves of the time for inference now."""
        with self._wake:
            return dict(self._shares)

    @property
    def share(self) -> float:
        """What of the time may be spent on inference now."""
        return min(self._shares.values(), default=1.0)

    def hold(self, camera: str, *, held: bool) -> None:
        """Hand out no frame of a camera for now: too many of its results wait for an earlier one. Or hand them out again."""
        with self._wake:
            if held:
                self._held.add(camera)
            else:
                self._held.discard(camera)
                self._wake.notify_all()

    def service_s(self, camera: str) -> float:
        """How long a frame of that camera usually occupies a lane, seconds; 0 before the first."""
        with self._wake:
            return self._cameras[camera].service.usual_s

    def take(self, timeout_s: float = POLL_S, *, lane: int = 0) -> Job | None:
        """The next frame to infer; None if none became ready in time, or none ever will. Each lane says who it is."""
        return next(iter(self.take_together(1, timeout_s, lane=lane)), None)

    def take_together(self, most: int, timeout_s: float = POLL_S, *, lane: int = 0) -> list[Job]:
        """As :meth:`take`, and with the next frame as many of those that are ready by then as one inference takes, in the fair order.

        Nothing is waited for but the first. All of them were taken at one time.
        """
        called = self._clock()
        deadline = called + timeout_s
        with self._wake:
            mine = self._lanes.setdefault(lane, _Lane())
            self._freed(mine, called)
            while True:
                now = self._clock()
                jobs = self._pick_together(most, now) if now >= mine.rests_until else []
                if jobs:
                    self._taken(mine, jobs, most, waited_s=now - called)
                if jobs or now >= deadline or self._all_ended():
                    return jobs
                self._wake.wait(max(0.0, min(max(self._next_due(now), mine.rests_until), deadline) - now))

    def refund(self, job: Job, *, lane: int = 0) -> None:
        """A frame that the lane took last was not inferred after all.

        It costs its camera no turn, and tells nothing of how long an inference takes.
        """
        with self._wake:
            mine = self._lanes[lane]
            if mine.taken_at is not None:
                mine.rests_until = mine.taken_at + (self._clock() - mine.taken_at) / self.share
            mine.cameras = [name for at, name in enumerate(mine.cameras) if at != mine.cameras.index(job.frame.camera)]
            if not mine.cameras:
                mine.taken_at = None
            camera = self._cameras[job.frame.camera]
            camera.virtual -= 1 / camera.weight

    def _freed(self, lane: _Lane, now: float) -> None:
        if lane.taken_at is None:
            return
        took_s = now - lane.taken_at
        for camera in lane.cameras:  # of frames that were inferred together each has its part
            self._cameras[camera].service.note(took_s / len(lane.cameras))
        self._credit_s = min(MOST_CREDIT_S, self._credit_s + FREE_CREDIT * took_s)
        lane.rests_until = lane.taken_at + took_s / self.share
        lane.taken_at = None

    def _taken(self, lane: _Lane, jobs: Sequence[Job], most: int, *, waited_s: float) -> None:
        taken_at = lane.taken_at = jobs[0].taken_at
        lane.cameras = [job.frame.camera for job in jobs]
        self._credit_s = max(0.0, self._credit_s - waited_s)
        for capture in dict.fromkeys(job.capture for job in jobs):
            free_at = self._next_turn(capture, taken_at, most)
            capture.expect(free_at, taken_at, cheaper_by=free_at + self._credit_s, turn_s=self._turn_s(capture, taken_at))

    def _turn_s(self, capture: Capture, now: float) -> float:
        """How long it usually takes from one turn of a camera to its next, while as many others wait as do now."""
        return (1 + len(self._ahead_of(capture, now))) * self._cameras[capture.camera.id].service.usual_s / (self.share * len(self._lanes))

    def _pick_together(self, most: int, now: float) -> list[Job]:
        jobs: list[Job] = []
        starts: list[float] = []
        while len(jobs) < most and (job := self._pick(now)) is not None:
            jobs.append(job)
            starts.append(self._now)
        if len(jobs) > 1 and any(self._waits(capture, now) for capture in self._captures):
            # The first tells the present: a camera that but fills it up is ahead of those that have no second frame to take its place.
            self._now = starts[0]
        return jobs

    def _pick(self, now: float) -> Job | None:
        ready = [c for c in self._captures if self._waits(c, now)]
        if not ready:
            return None
        capture = min(ready, key=self._place)
        frame = capture.take(now)
        assert frame is not None
        mine = self._cameras[capture.camera.id]
        self._now = max(mine.virtual, self._now)
        mine.virtual = self._now + 1 / mine.weight
        ticket = mine.tickets
        mine.tickets += 1
        return Job(capture, frame, ticket, now)

    def _waits(self, capture: Capture, now: float) -> bool:
        return (due := capture.ready_at(now)) is not None and due <= now and capture.camera.id not in self._held

    def _place(self, capture: Capture) -> tuple[float, float]:
        return max(self._cameras[capture.camera.id].virtual, self._now), capture.deadline()

    def _next_turn(self, capture: Capture, now: float, most: int) -> float:
        """When this camera's next frame is taken at the earliest: the others that wait go first, ``most`` together."""
        share = self.share
        free = sorted(self._free_at(lane, now, share) for lane in self._lanes.values())
        others = self._ahead_of(capture, now)
        for other in others[: len(others) // most * most]:  # each goes to the lane that is free first; the last few leave room
            free[0] += self._cameras[other.camera.id].service.soonest_s / share
            free.sort()
        return free[0]

    def _ahead_of(self, capture: Capture, now: float) -> list[Capture]:
        """The cameras with a frame that waits, and that goes before this camera's next one."""
        mine = self._cameras[capture.camera.id].virtual
        return [
            c
            for c in self._captures
            if c is not capture and c.ready_at(now) is not None and max(self._cameras[c.camera.id].virtual, self._now) <= mine
        ]

    def _free_at(self, lane: _Lane, now: float, share: float) -> float:
        if lane.taken_at is None:
            return max(now, lane.rests_until)
        return max(now, lane.taken_at + sum(self._cameras[camera].service.soonest_s for camera in lane.cameras) / share)

    def _next_due(self, now: float) -> float:
        dues = [due for c in self._captures if (due := c.ready_at(now)) is not None and c.camera.id not in self._held]
        return min(dues, default=now + POLL_S)

    def finished(self) -> bool:
        """Every camera has ended and no frame waits."""
        with self._wake:
            return self._all_ended()

    def _all_ended(self) -> bool:
        return all(capture.ended for capture in self._captures)
