"""The agent's line, composed of its own parts as ``edge_agent.app`` does, with meters put in where parts are handed in.

Nothing inside ``edge_agent`` is patched: a source, a model and ``publish`` are wrapped, and each thread's own CPU clock
is read as a frame passes. Threads of libraries (FFmpeg's decoders, paho's loop) are read from /proc.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_agent.app import FILES_LINGER_S, Agent
from edge_agent.broker_sink import build_sink
from edge_agent.camera_sources import build_source
from edge_agent.capture import Capture
from edge_agent.config import AgentConfig
from edge_agent.errors import ExitCode, Rejected
from edge_agent.events import STATUS_ONLINE, Message, ModelInfo
from edge_agent.health import Health, HealthContext
from edge_agent.image import Image
from edge_agent.models import _loading as model_loading
from edge_agent.models import _model_file, _thresholds
from edge_agent.models.base import Family, Model, Prediction, Thresholds
from edge_agent.notify import Notifier
from edge_agent.pipeline import Crew, Pipeline, PipelineContext
from edge_agent.plugins import load
from edge_agent.publisher import Publisher
from edge_agent.runtimes.base import Runtime, RuntimeContext, Tensor
from edge_agent.scheduler import Scheduler
from edge_agent.sinks.base import Sink
from edge_agent.sources.base import Reading, Source, StreamInfo
from edge_agent.spool import Spool, SpoolLimits
from edge_agent.state_folder import state_for

DEVICE = "bench"
_END_S = 300.0
_DECODER_THREADS = "av:"
"""How FFmpeg's threads are called."""


class StageMeter:
    """CPU seconds by stage: each mark gives what its thread used since its last mark to the stage that is now over."""

    def __init__(self) -> None:
        self._last = threading.local()
        self._used: dict[int, Counter[str]] = {}

    def mark(self, stage: str) -> None:
        """``stage`` ends here, in this thread."""
        now = time.thread_time()
        used = self._used.setdefault(threading.get_ident(), Counter())
        used[stage] += now - getattr(self._last, "at", 0.0)  # type: ignore[assignment]
        self._last.at = now

    def totals(self) -> dict[str, float]:
        """Over all threads."""
        found: dict[str, float] = {}
        for used in list(self._used.values()):
            for stage, seconds in used.items():
                found[stage] = found.get(stage, 0.0) + seconds
        return found


class MeteredRuntime(Runtime):
    """Notes where preprocessing ends and inference ends."""

    def __init__(self, runtime: Runtime, meter: StageMeter) -> None:
        self.spec = runtime.spec
        self.plain, self.meter = runtime, meter

    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        self.meter.mark("preprocess")
        outputs = self.plain.infer(tensor)
        self.meter.mark("infer")
        return outputs


@dataclass(frozen=True)
class Slower:
    """Makes a model take at least so long: asleep (as with an accelerator), or at work (repeats the inference)."""

    seconds: float = 0.0
    at_work: bool = False


AS_IT_IS = Slower()


class MeteredModel(Model):
    """Notes how long each call took and where postprocessing ends."""

    def __init__(self, runtime: MeteredRuntime, family: Family, labels: Sequence[str], slower: Slower = AS_IT_IS) -> None:
        super().__init__(runtime, family, labels)
        self.calls_s: list[float] = []
        self.plain = runtime.plain
        self._meter, self._slower = runtime.meter, slower

    def __call__(self, image: Image, thresholds: Thresholds) -> Prediction:
        started = time.perf_counter()
        self._meter.mark("schedule")
        prediction = super().__call__(image, thresholds)
        self._linger(started + self._slower.seconds, image)
        self._meter.mark("postprocess")
        self.calls_s.append(time.perf_counter() - started)
        return prediction

    def _linger(self, until: float, image: Image) -> None:
        if not self._slower.at_work:
            time.sleep(max(0.0, until - time.perf_counter()))
            return
        tensor, _ = self._preprocess(image)
        while time.perf_counter() < until:
            self.plain.infer(tensor)
        self._meter.mark("infer")


class MeteredSource(Source):
    """Notes what reading costs; reads FFmpeg's own threads while they still live."""

    def __init__(self, source: Source, meter: StageMeter) -> None:
        self.live, self.unpaced = source.live, source.unpaced
        self.decoder_threads_s = 0.0
        self.read_at: list[float] = []
        self._source, self._meter = source, meter

    def open(self) -> StreamInfo:
        return self._source.open()

    def read(self) -> Reading:
        self._meter.mark("capture")
        try:
            reading = self._source.read()
        finally:
            self._meter.mark("decode")
        self.read_at.append(time.perf_counter())
        return reading

    def close(self) -> None:
        used = sum(used for name, used in tasks().values() if name.startswith(_DECODER_THREADS))
        self.decoder_threads_s = max(self.decoder_threads_s, used)
        self._source.close()


class NullSink(Sink):
    """Takes everything at once: where there is no broker."""

    name = "null"

    def connect(self) -> None:
        """Nothing to connect to."""

    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        return [None] * len(messages)

    def check(self) -> None:
        """Never lost."""

    def close(self) -> None:
        """Nothing to close."""


def _thread_names() -> dict[int | None, str]:
    """Python's own threads by their id in /proc."""
    return {thread.native_id: thread.name for thread in threading.enumerate()}


def tasks() -> dict[int, tuple[str, float]]:
    """Name and CPU seconds of each thread of this process, by its id."""
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            used = int((folder / "schedstat").read_text().split()[0]) / 1e9
            found[int(folder.name)] = ((folder / "comm").read_text().strip(), used)
        except OSError:  # it has just ended
            continue
    return found


@dataclass
class LineRun:
    """What one run of the line came to."""

    served: int
    camera_fps: float
    """Frames per second that the source gave."""
    seconds: float
    """From the first event to the last one's delivery, or to the last one where time ended the run."""
    cpu_ms: dict[str, float]
    """CPU per served frame, by stage, and its "total"."""
    calls_s: list[float]
    """Wall time of each call of the model."""
    events: list[dict[str, Any]]

    @property
    def fps(self) -> float:
        """Events per second."""
        return (self.served - 1) / self.seconds

    @property
    def ages_ms(self) -> list[float]:
        """Age of each frame when its event was handed over, after the first few."""
        return [event["latency_ms"]["total"] for event in self.events[3:]]


@dataclass
class _Recorder:
    """Stands where the pipeline hands its events over."""

    publisher: Publisher
    meter: StageMeter
    payloads: list[bytes] = field(default_factory=list)
    first_at: float = 0.0
    last_at: float = 0.0

    def publish(self, message: Message) -> None:
        self.meter.mark("encode")
        self.last_at = time.perf_counter()
        self.first_at = self.first_at or self.last_at
        self.payloads.append(message.payload)
        self.publisher.publish(message)
        self.meter.mark("hand over")


def models(config: AgentConfig, meter: StageMeter, slower: Slower = AS_IT_IS) -> tuple[list[MeteredModel], model_loading.ModelIdentity]:
    """The configured detector, once per lane, metered and warm."""
    cv2.setNumThreads(1)  # as the agent does
    loaded = model_loading.load(config)
    settings = config.settings.model
    _, threads = model_loading.lanes_and_threads(settings, only_files=False)
    module = load("runtimes", config.runtime)
    found = []
    for lane in loaded.lanes:
        runtime = module.build(RuntimeContext(_model_file.model_path(config), threads), config.runtime_options)
        found.append(MeteredModel(MeteredRuntime(runtime, meter), lane.family, lane.labels, slower))
        runtime.infer(np.zeros(runtime.spec.inputs[0].shape, runtime.spec.inputs[0].dtype))
    return found, loaded.identity


class Line:
    """Source, capture, scheduler, model, publisher, health: one run."""

    def __init__(self, config: AgentConfig, *, mqtt: bool, slower: Slower = AS_IT_IS) -> None:
        self.meter = StageMeter()
        self._config = config
        self._models, identity = models(config, self.meter, slower)
        info = ModelInfo(identity.name, identity.sha256, identity.precision, identity.runtime)
        spool = config.settings.spool
        sink = build_sink(config, DEVICE) if mqtt else NullSink()
        live = any(camera.settings.mode == "freshest" for camera in config.cameras)
        self._publisher = Publisher(
            sink, Spool(SpoolLimits(spool.max_events, spool.max_memory_bytes)), linger_s=0.0 if live else FILES_LINGER_S
        )
        self._recorder = _Recorder(self._publisher, self.meter)
        wake = threading.Condition()
        self._sources = [MeteredSource(build_source(config, camera), self.meter) for camera in config.cameras]
        self._captures = [Capture(camera, source, wake) for camera, source in zip(config.cameras, self._sources, strict=True)]
        self._state = state_for(config)
        thresholds = {
            camera.id: _thresholds.thresholds_for(camera.settings, config.settings.model, self._models[0].labels, index)
            for index, camera in enumerate(config.cameras)
        }
        self._state.open()
        context = PipelineContext(DEVICE, "bench", self._recorder.publish, self._state.reserve, lambda: True)
        self._pipeline = Pipeline(context, [Crew(Scheduler(self._captures, wake), self._models, thresholds, info)])
        health = HealthContext(DEVICE, "bench", (info,), identity.accelerator, config.settings.health.interval_s)
        self._thread_names: dict[int | None, str] = {}
        self._health = Health(health, self._captures, self._pipeline, self._publisher, Notifier({}))

    def run(self, seconds: float | None = None) -> LineRun:
        """Until the source ends, or for so long."""
        self._publisher.publish(STATUS_ONLINE)
        self._publisher.start()
        _until(lambda: self._publisher.connected, 10.0)
        cpu_before, tasks_before = time.process_time(), tasks()
        self._pipeline.start()
        for capture in self._captures:
            capture.start()
        self._health.start()
        self._thread_names = _thread_names()  # a thread that has just ended is in /proc for a moment longer than in Python's list
        self._pipeline.finished.wait(seconds or _END_S)
        served = self._served()
        _until(lambda: self._publisher.queued[0] == 0, 10.0)
        ended = time.perf_counter() if seconds is None else self._recorder.last_at
        cpu = time.process_time() - cpu_before
        others = self._service_threads(tasks_before)
        self._stop()
        return self._result(served, ended, cpu, others)

    def _served(self) -> int:
        return len(self._recorder.payloads)

    def _service_threads(self, before: dict[int, tuple[str, float]]) -> dict[str, float]:
        """CPU of the threads beside the line, since the start: ours by name, and what libraries started for themselves."""
        found = {"publisher thread": 0.0, "paho thread": 0.0, "health thread": 0.0, "library threads": 0.0}
        ours = self._thread_names | _thread_names()
        for task, (name, used) in tasks().items():
            shown = ours.get(task, "decoder" if name.startswith(_DECODER_THREADS) else "library")
            kind = next((kind for kind in found if kind.split()[0] in shown), None)
            if kind is not None:
                found[kind] += used - before.get(task, ("", 0.0))[1]
        return found

    def _stop(self) -> None:
        for capture in self._captures:
            capture.stop()
        self._pipeline.stop(5.0)
        for capture in self._captures:
            capture.join(5.0)
        self._health.stop(1.0)
        self._publisher.stop(5.0)
        self._state.close()

    def _result(self, served: int, ended: float, cpu_s: float, others: dict[str, float]) -> LineRun:
        stages = self.meter.totals() | others
        stages["decode"] += sum(source.decoder_threads_s for source in self._sources)
        stages["rest"] = cpu_s - sum(stages.values())
        stages["total"] = cpu_s
        per_frame = {stage: used / served * 1e3 for stage, used in stages.items()}
        events = [json.loads(payload) for payload in self._recorder.payloads[:served]]
        calls = [call for model in self._models for call in model.calls_s]
        read_at = self._sources[0].read_at
        camera_fps = (len(read_at) - 1) / (read_at[-1] - read_at[0])
        return LineRun(served, camera_fps, ended - self._recorder.first_at, per_frame, calls, events)


def agent_throughput(config: AgentConfig) -> tuple[float, float]:
    """The agent as it is, from its first frame captured to its last one served: frames per second, CPU seconds per frame."""
    agent = Agent(config)
    ended: list[ExitCode] = []
    running = threading.Thread(target=lambda: ended.append(agent.run()))
    running.start()
    _until(lambda: bool(agent.captures) and agent.captures[0].counts.captured > 0, 30.0)
    wall, cpu = time.perf_counter(), time.process_time()
    capture = agent.captures[0]
    _until(lambda: capture.ended and not capture.counts.in_flight, _END_S, look_s=0.02)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    running.join(_END_S)
    frames = capture.counts.served
    if ended != [ExitCode.OK]:
        raise RuntimeError(f"the agent ended with {ended}")
    return frames / wall, cpu / frames


def _until(condition: Callable[[], bool], timeout_s: float, look_s: float = 0.002) -> None:
    """``look_s``: each look wakes a thread, and takes the interpreter from those that are measured."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the line did not come to rest in time")
        time.sleep(look_s)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
