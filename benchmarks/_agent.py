"""The agent as it is, with cameras and a model of the benchmark's own put in where the agent makes them.

Threads, scheduler, publisher and health are those of ``edge_agent.app``: nothing is patched, two of its methods are overridden.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent import config_file, plugins
from edge_agent.app import Agent
from edge_agent.capture import Capture
from edge_agent.config import AgentConfig, CameraConfig
from edge_agent.crews import LoadedCrew
from edge_agent.delivery import Delivery
from edge_agent.errors import ExitCode, Rejected
from edge_agent.events import Message
from edge_agent.health import Health
from edge_agent.image import Image
from edge_agent.models import _loading as model_loading
from edge_agent.models import _model_file
from edge_agent.models._loading import LoadedModel
from edge_agent.models.base import Family, Model, Prediction, Thresholds
from edge_agent.pipeline import Pipeline
from edge_agent.runtimes.base import Runtime, RuntimeContext, Tensor
from edge_agent.sinks.base import Sink
from edge_agent.sources.base import Source
from edge_agent.state import State

DEVICE = "bench"
NO_PORT = 1
"""Stands for no broker."""


def configured(folder: Path, port: int | None, cameras: Sequence[Mapping[str, Any]], **model: Any) -> AgentConfig:
    """A configuration as agent.toml would hold it, validated. Without a broker's port, what is published waits in the buffer."""
    tables = {
        "device": {"id": DEVICE, "state_dir": str(folder / "state")},
        "model": {"threads": 1, "lanes": 1} | model,
        "mqtt": {"host": "127.0.0.1", "port": port or NO_PORT},
        "log": {"level": "error"},
        "cameras": [dict(camera) for camera in cameras],
    }
    return config_file.build(tables, plugins.PluginKinds(), environ={})


class Accelerator(Runtime):
    """Answers with what the real runtime said of the first picture, after so long: asleep, as an accelerator's caller is, or at work."""

    def __init__(self, runtime: Runtime, *, at_work: bool) -> None:
        self.spec = runtime.spec
        self.until = 0.0
        """Monotonic; when the present inference is done."""
        self._at_work = at_work
        tensor = np.zeros(runtime.spec.inputs[0].shape, runtime.spec.inputs[0].dtype)
        self._outputs = [np.array(output) for output in runtime.infer(tensor)]
        self._load = np.zeros((120, 160, 3), np.uint8)

    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        if not self._at_work:
            time.sleep(max(0.0, self.until - time.monotonic()))
            return self._outputs
        import cv2

        while time.monotonic() < self.until:
            cv2.GaussianBlur(self._load, (9, 9), 0)  # about 0.1 ms of one core, without the GIL
        return self._outputs


@dataclass(frozen=True)
class Call:
    """One frame in the model. Monotonic seconds."""

    image: Image
    began: float
    ended: float


class PacedModel(Model):
    """A real model's pre- and postprocessing around an inference that makes the whole call take ``service_s``."""

    def __init__(self, runtime: Runtime, family: Family, labels: Sequence[str], service_s: float, *, at_work: bool) -> None:
        self._accelerator = Accelerator(runtime, at_work=at_work)
        super().__init__(self._accelerator, family, labels)
        self._service_s = service_s
        self.calls: list[Call] = []

    def __call__(self, image: Image, thresholds: Thresholds) -> Prediction:
        began = time.monotonic()
        self._accelerator.until = began + self._service_s
        prediction = super().__call__(image, thresholds)
        self.calls.append(Call(image, began, time.monotonic()))
        return prediction


def runtime_of(config: AgentConfig) -> Runtime:
    """The configured model's file, opened as the agent does."""
    _, threads = model_loading.lanes_and_threads(config.settings.model, only_files=False)
    context = RuntimeContext(_model_file.model_path(config), threads)
    runtime: Runtime = plugins.load("runtimes", config.runtime).build(context, config.runtime_options)
    return runtime


@dataclass
class Detector:
    """Loads the model once; gives it to every agent of the benchmark, paced anew."""

    config: AgentConfig
    loaded: LoadedModel = field(init=False)
    runtime: Runtime = field(init=False)

    def __post_init__(self) -> None:
        self.loaded, self.runtime = model_loading.load(self.config), runtime_of(self.config)

    def paced(self, service_s: float, *, at_work: bool) -> PacedModel:
        """One lane."""
        lane = self.loaded.lanes[0]
        return PacedModel(self.runtime, lane.family, lane.labels, service_s, at_work=at_work)


class Recorder(Sink):
    """Stands before the real sink, or where there is no broker in its place, and keeps each detections event."""

    name = "recorder"

    def __init__(self, sink: Sink | None) -> None:
        self._sink = sink
        self.most = Sink.most if sink is None else sink.most
        self.payloads: list[bytes] = []

    def connect(self) -> None:
        if self._sink is not None:
            self._sink.connect()

    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        self.payloads += [message.payload for message in messages if message.kind == "detections"]
        return [None] * len(messages) if self._sink is None else self._sink.write(messages)

    def check(self) -> None:
        if self._sink is not None:
            self._sink.check()

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()

    def events(self) -> list[dict[str, Any]]:
        """What was published, in order."""
        return [json.loads(payload) for payload in self.payloads]


class BenchAgent(Agent):
    """See the module. ``sources`` makes those cameras' sources; the others are made as configured."""

    def __init__(self, config: AgentConfig, models: Sequence[Model], sources: Mapping[str, Callable[[], Source]] | None = None) -> None:
        super().__init__(config)
        self._models, self._sources = tuple(models), sources or {}
        self._has_broker = config.settings.mqtt.port != NO_PORT
        self.recorder = Recorder(None)

    def _capture(self, camera: CameraConfig, model_size: Callable[[], tuple[int, int] | None]) -> Capture:
        make = self._sources.get(camera.id)
        if make is None:
            return super()._capture(camera, model_size)
        return Capture(camera, make(), self._wake, self._camera_changed, another=make)

    def _load_one(self, view: AgentConfig) -> LoadedCrew:
        crew = super()._load_one(view)
        return replace(crew, model=replace(crew.model, lanes=self._models))

    def _build(self, state: State, loaded: Sequence[LoadedCrew]) -> tuple[Pipeline, Delivery, Health]:
        pipeline, delivery, health = super()._build(state, loaded)
        delivery.main.sink = self.recorder = Recorder(delivery.main.sink if self._has_broker else None)
        return pipeline, delivery, health

    def run_for(self, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Run so long, in a thread of its own, and end. Raises RuntimeError if it did not end well."""
        ended: list[ExitCode | BaseException] = []

        def work() -> None:
            try:
                ended.append(self.run())
            except BaseException as error:  # told below
                ended.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            thread.join(seconds)
            meanwhile()
        finally:
            self.stop()
            thread.join(30.0)
        if ended != [ExitCode.OK]:
            raise RuntimeError(f"the agent ended with {ended or 'nothing: it hangs'}")
