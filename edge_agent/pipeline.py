"""THE loop: take a frame, infer it, publish what was seen.

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
from typing import Literal

from edge_agent.capture import Capture
from edge_agent.encoding import Encoding, encode
from edge_agent.errors import ModelError, PictureUnusable
from edge_agent.events import DetectionsEvent, LatencyParts, Message, ModelInfo, timestamp
from edge_agent.looking import look
from edge_agent.models.base import Model, Prediction, Thresholds
from edge_agent.payload import MaskForm, enriched, is_plain, objects, summed
from edge_agent.publishing import Interval, OnChange, PublishRule
from edge_agent.scheduler import Job, Scheduler
from edge_agent.stats import RateMeter, ReasonCounter, Sketch, percentiles

log = logging.getLogger(__name__)

Outcome = Prediction | Literal["no_motion", "model_error", "unreadable"]
"""What came of a frame that was taken."""

MAX_ERRORS_IN_A_ROW = 30
ENDED = -1
STAGES = ("wait", "decode", "preprocess", "infer", "postprocess")
TOLD_TOGETHER = 8
"""Results of a file that is read as fast as it can be, which become events in one go. An inference leaves nothing of what came
before it in the processor's caches: one event after each costs 0.15 ms, eight in a row cost 0.03 ms each."""

TELL_WITHIN_S = 0.5
"""After a frame was taken, where the lanes stay at work."""


@dataclass
class CameraFlow:
    """What the pipeline keeps about one camera."""

    thresholds: Thresholds
    usual: Thresholds
    """By the settings; ``thresholds`` are what holds now."""
    sequence: range
    model: ModelInfo
    masks: MaskForm
    crew: int = 0
    """Which of the models looks at it."""
    publishing: OnChange | Interval | None = None
    """Which frames have a message of their own; None: every one."""
    published: int = 0
    withheld: ReasonCounter = field(default_factory=ReasonCounter)
    """Served frames without a message of their own: ``unchanged``, ``too_soon``, ``summed``."""
    sent: int = 0
    next_ticket: int = 0
    waiting: dict[int, tuple[Job, Outcome]] = field(default_factory=dict)
    """Results of frames before which another is still being inferred."""
    settled: list[tuple[Job, Outcome]] = field(default_factory=list)
    """Results in order that are not told yet."""
    held: bool = False
    """Too many results wait: no more of its frames are taken for now."""
    served_rate: RateMeter = field(default_factory=RateMeter)
    latency: Sketch = field(default_factory=Sketch)
    service: Sketch = field(default_factory=Sketch)
    """For how long a frame has taken the model, from the picture to what was seen."""
    stages: dict[str, Sketch] = field(default_factory=lambda: {stage: Sketch() for stage in STAGES})


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
            camera: CameraFlow(own, own, context.reserve(camera), crew.model, crew.masks, index, _publishing(crew.rules.get(camera)))
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
        self._context = context
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
                flow = CameraFlow(thresholds, thresholds, self._context.reserve(camera), model, masks, crew, _publishing(rule))
                self.flows = {**self.flows, camera: flow}  # others may be reading the one before
            elif flow.publishing is not None:
                self._tell_waiting(flow, flow.publishing, time.monotonic())
            flow.publishing = _publishing(rule)
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
                self._tell(flow)
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
                self._tell(flow)

    def _tell_all(self) -> None:
        with self._committed:
            for flow in self.flows.values():
                self._tell(flow)
            self._tell_due(time.monotonic())

    def _tell_due(self, now: float) -> None:
        """Sums of intervals that are over, and changes that came too soon: of cameras that give no frame any more, too.

        ``now`` at the end: infinity.
        """
        for flow in self.flows.values():
            if flow.publishing is not None and flow.publishing.is_over(now):
                self._tell_waiting(flow, flow.publishing, now)

    def _tell(self, flow: CameraFlow) -> None:
        for job, outcome in flow.settled:
            if outcome == "no_motion":
                job.capture.unmoved()
            elif isinstance(outcome, str):
                job.capture.lost(outcome)
            else:
                self._emit(flow, job, outcome)
        flow.settled.clear()

    def _emit(self, flow: CameraFlow, job: Job, prediction: Prediction) -> None:
        now = time.monotonic()
        parts = _latency(job, prediction, now)
        self._publish(flow, job, prediction, parts, now)
        job.capture.served()
        flow.served_rate.tick(now)
        flow.latency.add(parts.total)
        flow.service.add(prediction.timings.occupied)
        for stage in STAGES:
            flow.stages[stage].add(getattr(parts, stage))

    def _publish(self, flow: CameraFlow, job: Job, prediction: Prediction, parts: LatencyParts, now: float) -> None:
        """As the camera's rule wants it: now, in its interval's sum, or not at all."""
        rule, image = flow.publishing, job.frame.image
        if rule is not None and rule.is_over(now):
            self._tell_waiting(flow, rule, now)
        if isinstance(rule, Interval):
            rule.add(self._event(flow, job, prediction, 0, parts), now)
            flow.withheld["summed"] += 1
            return
        if rule is not None and rule.forget():
            flow.withheld["too_soon"] += 1
        why = None if rule is None else rule.withholds(prediction, (image.width, image.height), now, flow.thresholds.confidence)
        if why is None:
            self._send(flow, self._event(flow, job, prediction, self._next_seq(flow, job.frame.camera), parts))
        elif rule is not None and why == "too_soon":
            rule.keep(self._event(flow, job, prediction, 0, parts))
        else:
            flow.withheld[why] += 1

    def _tell_waiting(self, flow: CameraFlow, rule: OnChange | Interval, now: float) -> None:
        if isinstance(rule, OnChange):
            event = rule.take(now)
            if event is not None:
                self._send(flow, replace(event, seq=self._next_seq(flow, event.camera)))
            return
        told = rule.take()
        if told is not None:
            newest, interval = told
            self._send(flow, summed(newest, interval, self._next_seq(flow, newest.camera)))

    def _send(self, flow: CameraFlow, event: DetectionsEvent) -> None:
        self._context.publish(encode(event, self._context.encoding))
        flow.published += 1

    def _next_seq(self, flow: CameraFlow, camera: str) -> int:
        if flow.sent == len(flow.sequence):
            flow.sequence, flow.sent = self._context.reserve(camera), 0
        flow.sent += 1
        return flow.sequence[flow.sent - 1]

    def _event(self, flow: CameraFlow, job: Job, prediction: Prediction, seq: int, parts: LatencyParts) -> DetectionsEvent:
        frame, context = job.frame, self._context
        event = DetectionsEvent(
            device=context.device,
            camera=frame.camera,
            stream=context.stream,
            seq=seq,
            frame_id=frame.frame_id,
            captured_at=timestamp(frame.captured_utc),
            clock_synced=context.clock_synced(),
            width=frame.image.width,
            height=frame.image.height,
            model=flow.model,
            latency_ms=parts,
            detections=objects(prediction, frame.image.width, frame.image.height),
            pts_s=None if frame.pts_s is None else round(frame.pts_s, 4),
        )
        return event if is_plain(prediction) else enriched(event, prediction, flow.masks)


def _publishing(rule: PublishRule | None) -> OnChange | Interval | None:
    if rule is None or rule.when == "every":
        return None
    return OnChange(rule) if rule.when == "change" else Interval(rule.interval_s)


def _moves(job: Job) -> bool | Exception:
    try:
        return job.capture.moves(job.frame, job.ticket, job.taken_at)
    except Exception as error:  # a picture that cannot be read
        return error


def _latency(job: Job, prediction: Prediction, now: float) -> LatencyParts:
    """Disjoint parts: a camera's picture is decoded while it waits, or, where that was put off, in what was preprocess."""
    timings, frame = prediction.timings, job.frame
    waited = (job.taken_at - frame.captured_at) * 1e3
    return LatencyParts(
        total=round((now - frame.captured_at) * 1e3, 2),
        wait=round(waited - min(waited, frame.decode_ms) if job.capture.source.live else waited, 2),
        decode=round(frame.decode_ms + timings.decode, 2),
        preprocess=round(timings.preprocess - timings.decode, 2),
        infer=round(timings.infer, 2),
        postprocess=round(timings.postprocess, 2),
    )
