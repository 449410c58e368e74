"""Runs the daemon's own agent for a while, and counts beside it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge_agent.app import Agent, LoadedCrew
from edge_agent.bench.cpu import CpuMeter
from edge_agent.bench.judging import judged
from edge_agent.bench.report import PARTS, BrokerReport, CameraReport, Milliseconds, ModelReport, Report
from edge_agent.capture import Capture
from edge_agent.config import AgentConfig
from edge_agent.errors import EdgeAgentError, ExitCode, Rejected
from edge_agent.events import Message
from edge_agent.health import Health
from edge_agent.host import read_process
from edge_agent.pipeline import Pipeline
from edge_agent.publisher import DeliveryCounts, Publisher
from edge_agent.sinks.base import Sink
from edge_agent.state import State
from edge_agent.stats import FrameCounts, ReasonCounter

LOOK_S = 0.1
WARM_S = 12.0
"""For cameras to come online; what is not there by then may come later, and is told as it was."""
ALL_WARM_S = 3.0
"""From the first camera's first frame, for the others."""
LEAVE_S = 6.0
Progress = Callable[[int, int], None]


class NoCamera(EdgeAgentError):
    """No camera was reached, so there is nothing to measure."""

    exit_code = ExitCode.UNAVAILABLE


class Stopped(EdgeAgentError):
    """Asked to stop before anything was measured."""


@dataclass(frozen=True)
class Request:
    """What to measure."""

    seconds: float
    publish: bool = True


class CountingSink(Sink):
    """Takes everything and keeps nothing."""

    name = "nowhere"

    def connect(self) -> None:
        pass

    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        return [None] * len(messages)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


class MeasuredAgent(Agent):
    """The daemon's agent, whose parts can be looked at."""

    def __init__(self, config: AgentConfig, started: threading.Event, *, publish: bool) -> None:
        super().__init__(config, on_started=started.set)
        self._publish = publish
        self.pipeline: Pipeline | None = None
        self.publisher: Publisher | None = None
        self.crews: Sequence[LoadedCrew] = ()

    def _sink(self) -> Sink:
        return super()._sink() if self._publish else CountingSink()

    def _build(self, state: State, loaded: Sequence[LoadedCrew]) -> tuple[Pipeline, Publisher, Health]:
        self.pipeline, self.publisher, health = super()._build(state, loaded)
        self.crews = loaded
        return self.pipeline, self.publisher, health


@dataclass(frozen=True)
class _Moment:
    """Counters of one moment."""

    at: float
    frames: Mapping[str, FrameCounts]
    lost_upstream: Mapping[str, int]
    delivery: DeliveryCounts

    @classmethod
    def of(cls, agent: MeasuredAgent, at: float) -> _Moment:
        assert agent.publisher is not None
        counts = agent.publisher.counts
        return cls(
            at,
            {capture.camera.id: capture.snapshot() for capture in agent.captures},
            {capture.camera.id: capture.status.lost_upstream for capture in agent.captures},
            DeliveryCounts(counts.accepted, counts.delivered, ReasonCounter(counts.dropped), counts.connections),
        )


def measure(config: AgentConfig, request: Request, progress: Progress) -> Report:
    """Run for ``request.seconds`` and tell. KeyboardInterrupt in the meantime ends it early, with what there is.

    Raises what prevents the start, NoCamera where none is reached, Stopped where nothing was measured yet.
    """
    started = threading.Event()
    agent = MeasuredAgent(config, started, publish=request.publish)
    with _running(agent) as worker:
        early = None
        try:
            _wait_started(agent, started, worker)
            meter, before = CpuMeter(), _Moment.of(agent, time.monotonic())
        except KeyboardInterrupt:
            raise Stopped("stopped before anything was measured") from None
        try:
            early = _watch(agent, worker, meter, before.at + request.seconds, progress)
        except KeyboardInterrupt:
            early = "stopped"
        after = _Moment.of(agent, time.monotonic())
        meter.sample(_camera_processes(agent.captures))
        report = _report(agent, request, (before, after), meter, early)
    return judged(report)


@contextlib.contextmanager
def _running(agent: Agent) -> Iterator[_Worker]:
    worker = _Worker(agent)
    worker.start()
    try:
        yield worker
    finally:
        agent.stop()
        with contextlib.suppress(KeyboardInterrupt):  # once is enough
            worker.join(LEAVE_S)


class _Worker(threading.Thread):
    """The agent's thread, and how it ended."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(name="agent", daemon=True)
        self._agent = agent
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._agent.run()
        except BaseException as error:  # handed to the thread that waits
            self.failure = error


def _wait_started(agent: MeasuredAgent, started: threading.Event, worker: _Worker) -> None:
    """Until frames are served. The start is not measured: what it costs falls on nobody's second frame."""
    while not started.wait(LOOK_S):
        if not worker.is_alive():
            raise worker.failure or Stopped("the agent ended before it began")
    began, first = time.monotonic(), None
    while worker.is_alive():
        now = time.monotonic()
        served = [capture.snapshot().served > 0 or capture.ended for capture in agent.captures]
        first = now if first is None and any(served) else first
        if all(served) or (first is not None and now - first > ALL_WARM_S):
            return
        if now - began > WARM_S:
            _refuse_nothing(agent.captures)
            return
        time.sleep(0.02)
    _refuse_nothing(agent.captures)


def _refuse_nothing(captures: Sequence[Capture]) -> None:
    """Raises NoCamera where there is nothing to measure."""
    if not any(capture.snapshot().captured for capture in captures):
        told = "; ".join(f"{c.camera.id}: {c.status.error or c.status.last_error or c.status.state.value}" for c in captures)
        raise NoCamera(f"no camera was reached, so there is nothing to measure: {told}")


def _watch(agent: MeasuredAgent, worker: _Worker, meter: CpuMeter, until: float, progress: Progress) -> str | None:
    """Until it is time; why it ended before."""
    assert agent.pipeline is not None
    whole = max(until - time.monotonic(), 1e-3)
    while (now := time.monotonic()) < until:
        progress(min(99, int(100 * (1 - (until - now) / whole))), 100)
        if agent.pipeline.finished.is_set() or not worker.is_alive():
            failure = agent.pipeline.failure or worker.failure
            return f"the agent failed: {failure}" if failure else "every source has ended"
        meter.sample(_camera_processes(agent.captures))
        agent.pipeline.finished.wait(min(LOOK_S, until - now))
    progress(100, 100)
    return None


def _camera_processes(captures: Sequence[Capture]) -> list[int]:
    pids = [getattr(capture.source, "pid", None) for capture in captures]
    return [pid for pid in pids if pid is not None]


def _report(agent: MeasuredAgent, request: Request, moments: tuple[_Moment, _Moment], meter: CpuMeter, early: str | None) -> Report:
    seconds = max(moments[1].at - moments[0].at, 1e-3)
    return Report(
        seconds=round(seconds, 2),
        asked_s=request.seconds,
        stopped_early=early,
        cores=len(os.sched_getaffinity(0)),
        cpu_s={name: round(float(used), 3) for name, used in meter.used.items()},
        rss_mb=round(read_process().rss_bytes / 1e6, 1),
        cameras=tuple(_camera(agent, capture, moments, seconds) for capture in agent.captures),
        models=tuple(_model(crew) for crew in agent.crews),
        broker=_broker(agent, request, moments),
    )


def _model(crew: LoadedCrew) -> ModelReport:
    identity = crew.model.identity
    names = tuple(capture.camera.id for capture in crew.captures)
    return ModelReport(identity.name, len(crew.model.lanes), crew.model.threads, identity.precision, identity.runtime, names)


def _camera(agent: MeasuredAgent, capture: Capture, moments: tuple[_Moment, _Moment], seconds: float) -> CameraReport:
    assert agent.pipeline is not None
    assert agent.publisher is not None
    name, status, settings = capture.camera.id, capture.status, capture.camera.settings
    before, after = (moment.frames[name] for moment in moments)
    flow = agent.pipeline.flows[name]
    parts = {**agent.pipeline.stages_ms(name), "publish": agent.publisher.acknowledged_ms(name)}
    captured, served = after.captured - before.captured, after.served - before.served
    service, decode = flow.service.mean(), flow.stages["decode"].mean()
    return CameraReport(
        camera=name,
        kind=capture.camera.kind,
        state=status.state.value,
        error=str(status.error) if status.error else None,
        live=not capture.unpaced,
        model=flow.model.name,
        decoder=status.info.decoder if status.info else None,
        declared_fps=status.info.fps if status.info else None,
        real_fps=round(captured / seconds, 2),
        served_fps=round(served / seconds, 2),
        captured=captured + before.in_flight,
        served=served,
        skipped=_since(before.skipped, after.skipped),
        dropped=_since(before.dropped, after.dropped),
        in_flight=after.in_flight,
        lost_upstream=moments[1].lost_upstream[name] - moments[0].lost_upstream[name],
        total_ms=_short(flow.latency.percentiles()),
        parts_ms={part: _short(parts[part]) for part in PARTS},
        service_ms=None if service is None else round(service, 3),
        decode_mean_ms=None if decode is None else round(decode, 3),
        asked_fps=settings.max_fps or (1 / settings.interval_s if settings.interval_s else None),
        weight=settings.weight,
    )


def _since(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {reason: count - before.get(reason, 0) for reason, count in sorted(after.items()) if count != before.get(reason, 0)}


def _short(found: Mapping[str, float] | None) -> Milliseconds:
    return None if found is None else {"p50": found["p50"], "p95": found["p95"]}


def _broker(agent: MeasuredAgent, request: Request, moments: tuple[_Moment, _Moment]) -> BrokerReport:
    publisher = agent.publisher
    assert publisher is not None
    before, after = (moment.delivery for moment in moments)
    return BrokerReport(
        name=publisher.sink.name,
        publishing=request.publish,
        connected=publisher.connected,
        error=publisher.error,
        delivered=after.delivered - before.delivered,
        dropped=_since(before.dropped, after.dropped),
        queued=publisher.queued[0],
    )
