"""One side of benchmarks/peers.py, in a process of its own and in its own environment; writes what it measured as JSON.

Every side calls the same model object (the same preprocessing, inference and postprocessing, from this project), which notes the
number that is burned into each frame, read from the model's own input.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PEER = "streamvision.stream.pipeline"
BITS = 12
CELL = 96
"""Pixels of the source, of a clip 1920 wide."""


def rss_mb(key: str = "VmRSS") -> float:
    """A memory figure of this process, in 10^6 bytes."""
    text = Path("/proc/self/status").read_text("utf-8")
    return int(next(line for line in text.splitlines() if line.startswith(f"{key}:")).split()[1]) * 1024 / 1e6


def number_in(tensor: Any, placed: tuple[int, int], source: tuple[int, int] = (1920, 1080)) -> int:
    """The number in a model's input [1, 3, height, width] or [1, height, width, 3]: a row of cells, white is 1."""
    plane = tensor[0] if tensor.shape[1] == 3 else tensor[0].transpose(2, 0, 1)
    scale_x, scale_y = placed[0] / source[0], placed[1] / source[1]
    y, found = int(CELL / 2 * scale_y), 0
    middle = (float(tensor.max()) + float(tensor.min())) / 2
    for bit in range(BITS):
        if plane[1, y, int((bit + 0.5) * CELL * scale_x)] > middle:
            found |= 1 << bit
    return found


def plain_session(options: argparse.Namespace) -> Callable[[Any], Any]:
    """ONNX Runtime as it comes, but for the number of threads."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda tensor: session.run(None, {name: tensor})


class Side:
    """What a side shares with the others: the model and the record of its frames."""

    def __init__(self, options: argparse.Namespace) -> None:
        before = rss_mb()
        from edge_agent import config_file, plugins
        from edge_agent.models import _loading
        from edge_agent.models.base import Model, Thresholds
        from edge_agent.runtimes.base import Runtime

        self.ours_mb = rss_mb() - before
        """Of this project's own modules, which a side of others would not have."""
        tables = {
            "device": {"id": "bench", "state_dir": options.state},
            "model": {"path": options.model, "threads": options.threads, "lanes": options.lanes, "confidence": 0.4},
            "mqtt": {"host": "127.0.0.1", "port": options.port},
            "log": {"level": "error"},
            "cameras": [{"id": "cam", "source": options.source}],
        }
        self.config = config_file.build(tables, plugins.PluginKinds(), environ={})
        self.seconds = options.seconds
        self.stop: Callable[[], None] = lambda: None
        self.records: list[tuple[int, float, float]] = []
        """Number of the frame, monotonic seconds at the handler, CPU seconds of the process until then."""
        side, repeat, live = self, options.repeat, options.seconds > 0

        class Noting(Runtime):
            """Notes the number, and infers so many times as the model is to be slower."""

            def __init__(self, runtime: Runtime) -> None:
                self.spec = runtime.spec
                self.number = 0
                self._run: Callable[[Any], Any] = plain_session(options) if options.default_session else runtime.infer

            def infer(self, tensor: Any) -> Any:
                if live:
                    self.number = number_in(tensor, side.placed(tensor))
                for _ in range(repeat - 1):
                    self._run(tensor)
                return self._run(tensor)

        def noting(lane: Model) -> tuple[Noting, Model]:
            runtime = Noting(lane._runtime)  # noqa: SLF001 - the very session of the agent, as a second one would weigh
            return runtime, Model(runtime, lane.family, lane.labels)

        self.noting = noting
        self.thresholds = Thresholds(0.4, 0.45, 100)
        if options.side != "ours":
            self.runtime, self.model = noting(_loading.load(self.config).lanes[0])
            self.letterbox = self.model.family.input_format.letterbox
            self.predict(np.zeros((1080, 1920, 3), np.uint8))

    def placed(self, tensor: Any) -> tuple[int, int]:
        """Width and height of the 1080p picture in the model's input."""
        height, width = tensor.shape[2:] if tensor.shape[1] == 3 else tensor.shape[1:3]
        return (width, height) if self.letterbox == "none" else (width, round(width * 9 / 16))

    def predict(self, pixels: Any) -> Any:
        """For sides that hand over BGR pixels."""
        from edge_agent.image import BgrImage

        prediction = self.model(BgrImage(pixels), self.thresholds)
        return self.runtime.number, prediction

    def handled(self, number: int) -> None:
        """A prediction is in its handler. ``stop`` is called so long after the first."""
        if not self.records and self.seconds:
            threading.Timer(self.seconds, self.stop).start()
        self.records.append((number, time.monotonic(), time.process_time()))


def plain(side: Side, options: argparse.Namespace) -> None:
    """``cv2.VideoCapture``, read, predict, again."""
    import cv2

    capture = cv2.VideoCapture(options.source)
    stopped = threading.Event()
    side.stop = stopped.set
    while not stopped.is_set():
        ok, pixels = capture.read()
        if not ok:
            break
        side.handled(side.predict(pixels)[0])
    capture.release()


def theirs(side: Side, options: argparse.Namespace) -> None:
    """Roboflow's InferencePipeline with custom logic, as its documentation has it."""
    pipeline = importlib.import_module(PEER).InferencePipeline.init_with_custom_logic(
        video_reference=options.source,
        on_video_frame=lambda frames: [side.predict(frame.image) for frame in frames],
        on_prediction=lambda prediction, _frame: side.handled(prediction[0]),
    )
    side.stop = pipeline.terminate
    pipeline.start(use_main_thread=True)
    pipeline.join()


def ours(side: Side, options: argparse.Namespace) -> None:
    """The agent, with its health, its buffer and MQTT."""
    from dataclasses import replace

    from edge_agent.app import Agent
    from edge_agent.config import AgentConfig
    from edge_agent.crews import LoadedCrew
    from edge_agent.models.base import Model, Prediction, Thresholds

    class Noted(Model):
        def __init__(self, lane: Model) -> None:
            self._noting, model = side.noting(lane)
            side.letterbox = lane.family.input_format.letterbox
            super().__init__(self._noting, model.family, model.labels)

        def __call__(self, image: Any, thresholds: Thresholds) -> Prediction:
            prediction = super().__call__(image, thresholds)
            side.handled(self._noting.number)
            return prediction

    class Measured(Agent):
        def _load_one(self, view: AgentConfig) -> LoadedCrew:
            crew = super()._load_one(view)
            return replace(crew, model=replace(crew.model, lanes=tuple(Noted(lane) for lane in crew.model.lanes)))

    agent = Measured(side.config)
    side.stop = agent.stop
    agent.run()


def main() -> None:
    """Run one side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=["plain", "theirs", "ours"])
    for name in ("source", "model", "state", "result"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True, help="of the broker")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0, help="0: until the source ends, without numbers")
    parser.add_argument("--default-session", action="store_true", help="ONNX Runtime and OpenCV as they come, but for the threads")
    options = parser.parse_args()
    run: Callable[[Side, argparse.Namespace], None] = {"plain": plain, "theirs": theirs, "ours": ours}[options.side]
    if options.side == "theirs":
        importlib.import_module(PEER)  # before what is ours is weighed
    import cv2
    import onnxruntime

    if not options.default_session:
        cv2.setNumThreads(1)  # everywhere: the resize of one picture in several threads costs more than it saves
    side = Side(options)
    run(side, options)
    versions = {"onnxruntime": onnxruntime.__version__, "opencv": cv2.__version__, "python": sys.version.split()[0]}
    found = {"records": side.records, "peak_mb": rss_mb("VmHWM"), "ours_mb": side.ours_mb, "versions": versions}
    Path(options.result).write_text(json.dumps(found), "utf-8")
    sys.stdout.flush()
    os._exit(0)  # their threads may outlive their pipeline


if __name__ == "__main__":
    main()
