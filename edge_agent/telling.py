"""From what came of a frame to what the world reads: an event with its latency and its sequence number, as its camera's rule wants it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from edge_agent.camera_flow import STAGES, CameraFlow
from edge_agent.encoding import Encoding, encode
from edge_agent.events import DetectionsEvent, LatencyParts, Message, timestamp
from edge_agent.models.base import Prediction
from edge_agent.payload import enriched, is_plain, objects, summed
from edge_agent.publishing import Interval, OnChange
from edge_agent.scheduler import Job


class Teller:
    """Writes events. One call at a time: whoever calls has a lock.

    ``reserve`` gives the next sequence numbers of a camera; ``publish`` returns at once.
    """

    def __init__(
        self,
        device: str,
        stream: str,
        publish: Callable[[Message], None],
        reserve: Callable[[str], range],
        clock_synced: Callable[[], bool],
        encoding: Encoding,
    ) -> None:
        self._device, self._stream, self._encoding = device, stream, encoding
        self._publish, self._reserve, self._clock_synced = publish, reserve, clock_synced

    def tell(self, flow: CameraFlow) -> None:
        """Of the results that are settled, in their order; each of those frames is accounted for here."""
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
        parts = latency(job, prediction, now)
        self._offer(flow, job, prediction, parts, now)
        job.capture.served()
        flow.served_rate.tick(now)
        flow.latency.add(parts.total)
        flow.service.add(prediction.timings.occupied)
        for stage in STAGES:
            flow.stages[stage].add(getattr(parts, stage))

    def _offer(self, flow: CameraFlow, job: Job, prediction: Prediction, parts: LatencyParts, now: float) -> None:
        """As the camera's rule wants it: now, in its interval's sum, or not at all."""
        rule, image = flow.publishing, job.frame.image
        if rule is not None and rule.is_over(now):
            self.tell_waiting(flow, rule, now)
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

    def tell_waiting(self, flow: CameraFlow, rule: OnChange | Interval, now: float) -> None:
        """What a camera's rule has kept: its interval's sum, or a change that came too soon, told at monotonic ``now``."""
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
        self._publish(encode(event, self._encoding))
        flow.published += 1

    def _next_seq(self, flow: CameraFlow, camera: str) -> int:
        if flow.sent == len(flow.sequence):
            flow.sequence, flow.sent = self._reserve(camera), 0
        flow.sent += 1
        return flow.sequence[flow.sent - 1]

    def _event(self, flow: CameraFlow, job: Job, prediction: Prediction, seq: int, parts: LatencyParts) -> DetectionsEvent:
        frame = job.frame
        event = DetectionsEvent(
            device=self._device,
            camera=frame.camera,
            stream=self._stream,
            seq=seq,
            frame_id=frame.frame_id,
            captured_at=timestamp(frame.captured_utc),
            clock_synced=self._clock_synced(),
            width=frame.image.width,
            height=frame.image.height,
            model=flow.model,
            latency_ms=parts,
            detections=objects(prediction, frame.image.width, frame.image.height),
            pts_s=None if frame.pts_s is None else round(frame.pts_s, 4),
        )
        return event if is_plain(prediction) else enriched(event, prediction, flow.masks)


def latency(job: Job, prediction: Prediction, now: float) -> LatencyParts:
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
