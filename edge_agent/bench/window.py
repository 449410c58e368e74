"""What is counted while it is measured: counters at both ends, percentiles of just that time, CPU, and what inference was held to."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_agent.bench import cpu
from edge_agent.bench.report import PARTS, Milliseconds
from edge_agent.camera_flow import STAGES, CameraFlow
from edge_agent.capture import Capture
from edge_agent.pipeline import Pipeline
from edge_agent.publisher import DeliveryCounts, Publisher
from edge_agent.stats import FrameCounts, Sketch


@dataclass(frozen=True)
class Line:
    """What is looked at, all of it running."""

    captures: Sequence[Capture]
    pipeline: Pipeline
    publisher: Publisher
    infer: cpu.InferMeter


@dataclass(frozen=True)
class Moment:
    """Counters of one moment."""

    at: float
    frames: Mapping[str, FrameCounts]
    lost_upstream: Mapping[str, int]
    delivery: DeliveryCounts
    queued: int
    infer_s: float

    @classmethod
    def of(cls, line: Line) -> Moment:
        """Now."""
        return cls(
            time.monotonic(),
            {capture.camera.id: capture.snapshot() for capture in line.captures},
            {capture.camera.id: capture.status.lost_upstream for capture in line.captures},
            line.publisher.counts,
            line.publisher.queued[0],
            line.infer.seconds,
        )

    @property
    def served(self) -> int:
        """Of all cameras."""
        return sum(counts.served for counts in self.frames.values())


@dataclass(frozen=True)
class Times:
    """Of one camera's frames."""

    total_ms: Milliseconds
    parts_ms: Mapping[str, Milliseconds]
    service_ms: float | None
    """Mean time for which the model was taken."""
    decode_ms: float | None
    """Mean."""


@dataclass(frozen=True)
class Measured:
    """What a window has seen."""

    before: Moment
    after: Moment
    times: Mapping[str, Times]
    spans_s: Mapping[str, float]
    """Of each camera, from its first frame, where that came later, to its end, where it has ended."""
    cpu_s: Mapping[str, float]
    others_s: float
    """CPU time of everything else on the machine."""
    share: Sequence[float]
    """Of each model, in the pipeline's order: what of the time its lanes might infer, on the average."""
    shares: Sequence[Mapping[str, float]]
    """The same by cause."""

    @property
    def served(self) -> int:
        """Frames, of all cameras."""
        return self.after.served - self.before.served


class Window:
    """Counts from when it is made until it is closed. One at a time: it begins the percentiles of the running line anew."""

    def __init__(self, line: Line) -> None:
        self._line = line
        for flow in line.pipeline.flows.values():
            _forget(flow)
        line.publisher.forget_delays(math.inf)
        self._meter, self._machine_s = cpu.CpuMeter(), cpu.machine_time()
        self._looks, self._share = 0, [0.0] * len(line.pipeline.crews)
        self._missing: list[Counter[str]] = [Counter() for _ in line.pipeline.crews]
        """By cause, how much of the share was missing: what one that was not there takes is nothing."""
        self.before = Moment.of(line)
        self._began: dict[str, float] = {name: self.before.at for name, counts in self.before.frames.items() if counts.captured}
        self._ended: dict[str, float] = {}

    def look(self) -> None:
        """Now and then."""
        self._meter.sample(_camera_processes(self._line.captures))
        self._looks += 1
        now = time.monotonic()
        for capture in self._line.captures:
            name = capture.camera.id
            if capture.counts.captured:
                self._began.setdefault(name, now)
            if capture.ended:
                self._ended.setdefault(name, now)
        for index, crew in enumerate(self._line.pipeline.crews):
            shares = crew.scheduler.shares
            self._share[index] += min(shares.values(), default=1.0)
            self._missing[index].update({cause: 1.0 - share for cause, share in shares.items()})

    def close(self) -> Measured:
        """What it has seen until now."""
        self.look()
        line, after = self._line, Moment.of(self._line)
        flows = line.pipeline.flows
        return Measured(
            before=self.before,
            after=after,
            times={name: _times(flow, line.publisher.acknowledged_ms(name)) for name, flow in flows.items()},
            spans_s={name: self._ended.get(name, after.at) - self._began.get(name, self.before.at) for name in flows},
            cpu_s=cpu.by_stage(self._meter.used, after.infer_s - self.before.infer_s, _walls_s(list(flows.values()))),
            others_s=max(0.0, cpu.machine_time() - self._machine_s - sum(self._meter.used.values())),
            share=[total / self._looks for total in self._share],
            shares=[{cause: 1.0 - total / self._looks for cause, total in missing.items()} for missing in self._missing],
        )


def _forget(flow: CameraFlow) -> None:
    """A lane that adds to the old one meanwhile does so to one that nobody reads any more."""
    flow.latency, flow.service = Sketch(math.inf), Sketch(math.inf)
    flow.stages = {stage: Sketch(math.inf) for stage in STAGES}


def _camera_processes(captures: Sequence[Capture]) -> list[int]:
    pids = [getattr(capture.source, "pid", None) for capture in captures]
    return [pid for pid in pids if pid is not None]


def _times(flow: CameraFlow, published: Mapping[str, float] | None) -> Times:
    parts = {stage: _short(sketch.percentiles()) for stage, sketch in flow.stages.items()} | {"publish": _short(published)}
    service, decode = flow.service.mean(), flow.stages["decode"].mean()
    return Times(
        _short(flow.latency.percentiles()),
        {part: parts[part] for part in PARTS},
        None if service is None else round(service, 3),
        None if decode is None else round(decode, 3),
    )


def _short(found: Mapping[str, float] | None) -> Milliseconds:
    return None if found is None else {"p50": found["p50"], "p95": found["p95"]}


def _walls_s(flows: Sequence[CameraFlow]) -> dict[str, float]:
    """How long the stages besides inference took in the lanes, seconds."""
    found = {cpu.PREPROCESS: 0.0, cpu.POSTPROCESS: 0.0, cpu.CAPTURE: 0.0}
    for flow in flows:
        took = {stage: _sum_s(sketch) for stage, sketch in flow.stages.items()}
        found[cpu.PREPROCESS] += took["preprocess"]
        found[cpu.POSTPROCESS] += took["postprocess"]
        # Decoding is in the time that the model was taken where it was put off until then (JPEG), and before it elsewhere.
        put_off = _sum_s(flow.service) - took["preprocess"] - took["infer"] - took["postprocess"]
        found[cpu.CAPTURE] += took["decode"] if put_off > took["decode"] / 2 else 0.0
    return found


def _sum_s(sketch: Sketch) -> float:
    return (sketch.mean() or 0.0) * sum(sketch.counts()) / 1e3
