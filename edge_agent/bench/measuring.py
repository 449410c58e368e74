"""Runs the daemon's own agent for a while, and counts beside it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from edge_agent.app import Agent
from edge_agent.bench.cpu import InferMeter
from edge_agent.bench.gathering import gathered
from edge_agent.bench.judging import judged
from edge_agent.bench.report import Report
from edge_agent.bench.window import Line, Measured, Window
from edge_agent.capture import Capture
from edge_agent.config import AgentConfig
from edge_agent.crews import LoadedCrew
from edge_agent.delivery import BROKER, Delivery
from edge_agent.errors import EdgeAgentError, ExitCode, Rejected
from edge_agent.events import Message
from edge_agent.governor import Cause
from edge_agent.health import Health
from edge_agent.outlets import Outlet
from edge_agent.pipeline import Pipeline
from edge_agent.sinks.base import Sink
from edge_agent.state import State

LOOK_S = 0.1
WARM_S = 12.0
"""For cameras to come online; what is not there by then may come later, and is told as it was."""
ALL_WARM_S = 3.0
"""From the first camera's first frame, for the others."""
SETTLE_S = 1.0
"""From then, for caches, rates and the scheduler's estimates. Files that are read as fast as they can be need none of it."""
LEAVE_S = 6.0
STOPPED = "stopped"
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
        self._infer = InferMeter()
        self.line: Line | None = None
        self.crews: Sequence[LoadedCrew] = ()
        self._window: Window | None = None
        self._closed: list[Measured] = []

    @property
    def window(self) -> Window:
        """What is counted now: from before anything runs, or since ``begin_anew``."""
        assert self._window is not None
        return self._window

    def begin_anew(self) -> None:
        """What was counted so far was the start."""
        self._closed.append(self.window.close())
        assert self.line is not None
        self._window = Window(self.line)

    def measured(self, *, stopped: bool) -> Measured:
        """What was counted last. Of one that was stopped too soon for that, what was counted before; raises Stopped without any."""
        windows = [*self._closed, self.window.close()] if self._window is not None else []
        if not stopped:
            return windows[-1]
        found = [window for window in windows if window.served]
        if not found:
            raise Stopped("stopped before anything was measured")
        return found[-1]

    @property
    def governor_cause(self) -> str:
        """Why the governor holds inference back now; empty where it does not."""
        health = self._health.heartbeat(time.monotonic()).governor if self._health is not None else None
        return "" if health is None or health.cause == Cause.NONE.value else health.cause

    def _outlets(self) -> dict[str, Outlet]:
        return super()._outlets() if self._publish else {BROKER: Outlet(CountingSink())}

    def _build(self, state: State, loaded: Sequence[LoadedCrew]) -> tuple[Pipeline, Delivery, Health]:
        pipeline, delivery, health = super()._build(state, loaded)
        for crew in loaded:
            for lane in crew.model.lanes:
                self._infer.watch(lane.runtime)
        self.crews, self.line = loaded, Line(self.captures, pipeline, delivery.main, self._infer)
        self._window = Window(self.line)
        return pipeline, delivery, health


def measure(config: AgentConfig, request: Request, progress: Progress) -> Report:
    """Run for ``request.seconds`` and tell. KeyboardInterrupt in the meantime ends it early, with what there is.

    Raises what prevents the start, NoCamera where none is reached, Stopped where nothing was served yet.
    """
    started = threading.Event()
    agent = MeasuredAgent(config, started, publish=request.publish)
    with _running(agent) as worker:
        try:
            _wait_started(started, worker)
            if not all(capture.unpaced for capture in agent.captures):
                _warm(agent, worker)
            early = _watch(agent, worker, request.seconds, progress)
            _refuse_nothing(agent.captures)
        except KeyboardInterrupt:
            early = STOPPED
        report = _told(agent, request, early)
    return judged(report)


def _told(agent: MeasuredAgent, request: Request, early: str | None) -> Report:
    measured = agent.measured(stopped=early == STOPPED)
    assert agent.line is not None
    report = gathered(agent.line, agent.crews, measured)
    broker = replace(report.broker, publishing=request.publish)
    return replace(report, asked_s=request.seconds, stopped_early=early, governor_cause=agent.governor_cause, broker=broker)


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


def _wait_started(started: threading.Event, worker: _Worker) -> None:
    while not started.wait(LOOK_S):
        if not worker.is_alive():
            raise worker.failure or Stopped("the agent ended before it began")


def _warm(agent: MeasuredAgent, worker: _Worker) -> None:
    """Until frames are served as usual. The start is not measured: what it costs falls on nobody's second frame."""
    began, first = time.monotonic(), None
    while worker.is_alive() and not _finished(agent):
        now = time.monotonic()
        served = [capture.snapshot().served > 0 or capture.ended for capture in agent.captures]
        if first is None and any(served):
            first = now
            agent.begin_anew()
        if first is None and now - began > WARM_S:
            _refuse_nothing(agent.captures)
            agent.begin_anew()
            return
        if first is not None and now - first > (SETTLE_S if all(served) else ALL_WARM_S):
            agent.begin_anew()
            return
        time.sleep(0.02)
    _refuse_nothing(agent.captures)


def _finished(agent: MeasuredAgent) -> bool:
    assert agent.line is not None
    return agent.line.pipeline.finished.is_set()


def _refuse_nothing(captures: Sequence[Capture]) -> None:
    """Raises NoCamera where there is nothing to measure."""
    counts = [capture.snapshot() for capture in captures]
    if not any(one.captured > one.dropped["unreadable"] for one in counts):
        told = "; ".join(f"{c.camera.id}: {c.status.error or c.status.last_error or c.status.state.value}" for c in captures)
        raise NoCamera(f"no camera was reached, or none gave a picture, so there is nothing to measure: {told}")


def _watch(agent: MeasuredAgent, worker: _Worker, seconds: float, progress: Progress) -> str | None:
    """Until it is time; why it ended before."""
    assert agent.line is not None
    pipeline, until = agent.line.pipeline, agent.window.before.at + seconds
    while (now := time.monotonic()) < until:
        progress(min(99, int(100 * (1 - (until - now) / seconds))), 100)
        if pipeline.finished.is_set() or not worker.is_alive():
            failure = pipeline.failure or worker.failure
            return f"the agent failed: {failure}" if failure else "every source has ended"
        agent.window.look()
        pipeline.finished.wait(min(LOOK_S, until - now))
    progress(100, 100)
    return None
