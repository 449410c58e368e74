"""THE loop: take a frame, infer it, have it told what was seen.

Each lane is a thread with a detector of its own, and belongs to one model; cameras of different models share nothing but
the machine. With more than one lane, results are put back into each camera's order before they are published.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from edge_agent.camera_flow import STAGES, CameraFlow, Outcome
from edge_agent.capture import Capture
from edge_agent.encoding import Encoding
from edge_agent.errors import ModelError, PictureUnusable
from edge_agent.events import Message, ModelInfo
from edge_agent.looking import look
from edge_agent.models.base import Model, Prediction, Thresholds
from edge_agent.payload import MaskForm
from edge_agent.publishing import PublishRule, publishing_for
from edge_agent.scheduler import Job, Scheduler
from edge_agent.stats import percentiles
from edge_agent.telling import Teller

log = logging.getLogger(__name__)

MAX_ERRORS_IN_A_ROW = 30
ENDED = -1
TOLD_TOGETHER = 8
"""Results of a file that is read as fast as it can be, which become events in one go. An inference leaves nothing of what came
before it in the processor's caches: one event after each costs 0.15 ms, eight in a row cost 0.03 ms each."""

TELL_WITHIN_S = 0.5
"""After a frame was taken, where the lanes stay at work."""


@dataclass(frozen=True)
class PipelineContext:
    """What the loop needs besides frames and detectors."""

    device: str
    stream: str
    publish: Callable[[Message], None]
    reserve: Callable[[str], range]
    clock_synced: Callable[[], bool]
    encoding: Encoding = "json"


@dataclass(frozen=True)
class Crew:
    """One model: the cameras that it looks at, and its lanes."""

    scheduler: Scheduler
    lanes: Sequence[Model]
    """A detector for each lane."""
    thresholds: Mapping[str, Thresholds]
    """Of each of its cameras, by id."""
    model: ModelInfo
    masks: MaskForm = "polygon"
    """How masks are published."""
    rules: Mapping[str, PublishRule] = field(default_factory=dict)
    """When its cameras' frames are published, by id; without one: always."""


class Pipeline:
    """All lanes of all models. ``start`` and ``stop`` from one thread; the counters may be read from any."""

    def __init__(self, context: PipelineContext, crews: Sequence[Crew]) -> None:
        self.flows = {
            camera: CameraFlow(own, own, context.reserve(camera), crew.model, crew.masks, index, publishing_for(crew.rules.get(camera)))
            for index, crew in enumerate(crews)
            for camera, own in crew.thresholds.items()
        }
        self.crews = tuple(crews)
        posts = [(crew.scheduler, model) for crew in crews for model in crew.lanes]
        self._crew_of_lane = [index for index, crew in enumerate(crews) for _ in crew.lanes]
        self.ticks = [0] * len(posts)
        """Grows while a lane makes progress or knowingly waits; the watchdog looks at it. ``ENDED``: all its cameras have."""
        self.failure: Exception | None = None
        self.finished = threading.Event()
        """No frame will come any more, or the loop has failed."""
        self._reserve = context.reserve
        self._teller = Teller(context.device, context.stream, context.publish, context.reserve, context.clock_synced, context.encoding)
        self._stopping = threading.Event()
        self._committed = threading.Lock()
        self._most_waiting = [2 * sum(model.batch for model in crew.lanes) for crew in crews]
        """Results of one camera that may wait for an earlier one of its own, by model: a lane that hangs must not let them pile up."""
        self._running = len(posts)
        self._errors_in_a_row = [0] * len(crews)
        self._lanes = [
            threading.Thread(target=self._lane, args=(index, *post), name=f"lane-{index}", daemon=True) for index, post in enumerate(posts)
        ]

    def start(self) -> None:
        """Begin to pull frames."""
        for lane in self._lanes:
            lane.start()

    def stop(self, timeout_s: float) -> bool:
        """Let the frames that are being inferred be finished; False if a lane is still busy then."""
        self._stopping.set()
        deadline = time.monotonic() + timeout_s
        for lane in self._lanes:
            if lane.ident is not None:
                lane.join(max(0.0, deadline - time.monotonic()))
        return not any(lane.is_alive() for lane in self._lanes)

    def give_up(self, reason: str) -> None:
        """End with a failure, from outside: a lane that hangs cannot say so itself."""
        self.failure = ModelError(reason)
        self.finished.set()

    def set_confidence(self, camera: str, confidence: float | None) -> None:
        """Report nothing below that from the next frame on; None: as the settings say."""
        flow = self.flows[camera]
        flow.thresholds = flow.usual if confidence is None else replace(flow.usual, confidence=confidence)

    def set_thresholds(self, camera: str, thresholds: Thresholds) -> None:
        """What the settings say is another, from the next frame on; what was set is void."""
        flow = self.flows[camera]
        flow.usual = flow.thresholds = thresholds

    def is_looking(self, camera: str) -> bool:
        """Whether a lane still takes frames of that camera: those of a model end when all of its cameras have."""
        return self.is_at_work(self.flows[camera].crew)

    def is_at_work(self, crew: int) -> bool:
        """Whether a lane of that model still takes frames."""
        return any(lane.is_alive() for lane, at in zip(self._lanes, self._crew_of_lane, strict=True) if at == crew)

    def add(self, capture: Capture, crew: int, thresholds: Thresholds, rule: PublishRule | None = None) -> bool:
        """Serve one more camera with the model ``crew``. False if that is not possible: it was another model's, or those lanes ended."""
        camera, flow = capture.camera.id, self.flows.get(capture.camera.id)
        if not self.is_at_work(crew) or (flow is not None and flow.crew != crew):
            return False
        with self._committed:
            if flow is None:
                model, masks = self.crews[crew].model, self.crews[crew].masks
                flow = CameraFlow(thresholds, thresholds, self._reserve(camera), model, masks, crew, publishing_for(rule))
                self.flows = {**self.flows, camera: flow}  # others may be reading the one before
            elif flow.publishing is not None:
                self._teller.tell_waiting(flow, flow.publishing, time.monotonic())
            flow.publishing = publishing_for(rule)
        self.set_thresholds(camera, thresholds)
        self.crews[crew].scheduler.add(capture)
        return True

    def remove(self, capture: Capture) -> None:
        """Serve a camera no more. Its flow stays: for frames that are being inferred, and should it come back."""
        self.crews[self.flows[capture.camera.id].crew].scheduler.remove(capture)

    def stages_ms(self, camera: str | None = None) -> dict[str, dict[str, float] | None]:
        """Percentiles of each stage, of one camera or of all of them together."""
        flows = [self.flows[camera]] if camera is not None else list(self.flows.values())
        return {stage: percentiles([flow.stages[stage] for flow in flows]) for stage in STAGES}

    def _lane(self, index: int, scheduler: Scheduler, model: Model) -> None:
        with self._noting_failure():
            self._work(index, scheduler, model)
        with self._noting_failure():
            self._tell_all()
        with self._noting_failure(), self._committed:
            if self._running == 1:
                self._tell_due(float("inf"))
        self.ticks[index] = ENDED
        with self._committed:
            self._running -= 1
            if self._running == 0 or self.failure is not None:
                self.finished.set()

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, the process must not go on as if frames were served
            log.debug("lane failed", exc_info=True)
            self.failure = self.failure or error

    def _work(self, index: int, scheduler: Scheduler, model: Model) -> None:
        while not self._stopping.is_set():
            self.ticks[index] += 1
            jobs = self._next_jobs(scheduler, index, model.batch)
            for job, outcome in self._infer(model, jobs, partial(scheduler.refund, lane=index)):
                self._commit(job, outcome)
            if not jobs and scheduler.finished():
                break

    def _next_jobs(self, scheduler: Scheduler, lane: int, most: int) -> list[Job]:
        """One frame, or as many of those that wait as one inference takes. Without one there is time to tell of those that are done."""
        jobs = scheduler.take_together(most, 0.0, lane=lane)
        if not jobs:
            self._tell_all()
            jobs = scheduler.take_together(most, lane=lane)
        return jobs

    def _infer(self, model: Model, jobs: Sequence[Job], refund: Callable[[Job], None]) -> Iterator[tuple[Job, Outcome]]:
        """Frames with what came of them; those in which nothing moves are not inferred, and cost their cameras no turn."""
        moving = [(job, _moves(job)) for job in jobs]
        for job, moves in moving:
            if moves is False:
                refund(job)
        wanted = [job for job, moves in moving if moves is True]
        seen = iter(look(model, wanted, [self.flows[job.frame.camera].thresholds for job in wanted]))
        for job, moves in moving:
            yield job, "no_motion" if moves is False else self._judged(job, next(seen) if moves is True else moves)

    def _judged(self, job: Job, seen: Prediction | Exception) -> Outcome:
        """One frame must not end the service, whatever a library makes of it; many in a row do."""
        crew, errors = self.flows[job.frame.camera].crew, self._errors_in_a_row
        if not isinstance(seen, Exception):
            errors[crew] = 0
            return seen
        if isinstance(seen, PictureUnusable):  # the camera's fault, and not the model's
            log.warning("frame lost camera=%s frame_id=%d reason=%s", job.frame.camera, job.frame.frame_id, seen)
            return "unreadable"
        errors[crew] += 1
        unexpected = None if isinstance(seen, ModelError) else seen
        log.error("frame lost camera=%s frame_id=%d reason=%s", job.frame.camera, job.frame.frame_id, seen, exc_info=unexpected)
        if errors[crew] >= MAX_ERRORS_IN_A_ROW:
            raise ModelError(f"{errors[crew]} frames in a row could not be inferred; the last because {seen}") from None
        return "model_error"

    def _commit(self, job: Job, outcome: Outcome) -> None:
        """Publish in the order in which the frames were taken, whichever lane is done first."""
        flow = self.flows[job.frame.camera]
        with self._committed:
            flow.waiting[job.ticket] = (job, outcome)
            while (ready := flow.waiting.pop(flow.next_ticket, None)) is not None:
                flow.next_ticket += 1
                flow.settled.append(ready)
            if len(flow.settled) >= (TOLD_TOGETHER if job.capture.unpaced else 1):
                self._teller.tell(flow)
            now = time.monotonic()
            self._tell_late(now)
            self._tell_due(now)
            held = len(flow.waiting) >= self._most_waiting[flow.crew]
            if held != flow.held:
                flow.held = held
                self.crews[flow.crew].scheduler.hold(job.frame.camera, held=held)

    def _tell_late(self, now: float) -> None:
        """Of a file that has ended there is no next result, while the frames of others may keep the lanes at work for ever."""
        for flow in self.flows.values():
            if flow.settled and now - flow.settled[0][0].taken_at >= TELL_WITHIN_S:
                self._teller.tell(flow)

    def _tell_all(self) -> None:
        with self._committed:
            for flow in self.flows.values():
                self._teller.tell(flow)
            self._tell_due(time.monotonic())

    def _tell_due(self, now: float) -> None:
        """Sums of intervals that are over, and changes that came too soon: of cameras that give no frame any more, too.

        ``now`` at the end: infinity.
        """
        for flow in self.flows.values():
            if flow.publishing is not None and flow.publishing.is_over(now):
                self._teller.tell_waiting(flow, flow.publishing, now)


def _moves(job: Job) -> bool | Exception:
    try:
        return job.capture.moves(job.frame, job.ticket, job.taken_at)
    except Exception as error:  # a picture that cannot be read
        return error
