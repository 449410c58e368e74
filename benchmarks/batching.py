"""Frames per second of a model that infers 1, 2, 4 or 8 pictures together, with busy decoders beside and without.

python benchmarks/batching.py yolox_nano.onnx [FILE ...] [--threads 1] [--busy 0 1] [--rounds 5] [--seconds 0.5]

An ONNX file whose batch is fixed at 1 is opened first: its reshapes to one picture are made to keep the batch (with the package
onnx), and the agent's own check that each row is what the picture comes to alone decides whether that was right. The batches are
run in turn, round after round; the best of each is told, and its ratio to a batch of 1. The whole way from a 1080p picture to
what was seen is run, as a lane does it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import onnx

from edge_agent.config_file import build
from edge_agent.errors import ConfigError
from edge_agent.evaluation import read_picture
from edge_agent.image import BgrImage, Image
from edge_agent.models import _loading
from edge_agent.models._threads import busy
from edge_agent.models.base import Model, Thresholds
from edge_agent.plugins import PluginKinds

BATCHES = (1, 2, 4, 8)
THRESHOLDS = Thresholds(confidence=0.3, iou=0.45, max_detections=100)


def opened(path: Path, folder: Path) -> Path:
    """The file with its batch left open, and reshapes that state one picture made to keep what comes."""
    model = onnx.load(str(path))
    constants = {constant.name: constant for constant in model.graph.initializer}
    outputs = {name: node for node in model.graph.node for name in node.output if node.op_type == "Constant"}
    for node in model.graph.node:
        if node.op_type != "Reshape":
            continue
        held = constants.get(node.input[1]) or outputs[node.input[1]].attribute[0].t
        sizes = onnx.numpy_helper.to_array(held).copy()
        if sizes.size > 1 and sizes[0] == 1:
            sizes[0] = 0  # as the input's
            held.CopyFrom(onnx.numpy_helper.from_array(sizes, held.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    target = folder / path.name
    onnx.save(model, str(target))
    return target


def load(path: Path, batch: int, threads: int) -> Model:
    """As the agent loads it; raises ConfigError where it cannot take so many."""
    tables = {
        "model": {"path": str(path), "batch": batch, "threads": threads, "lanes": 1},
        "cameras": [{"id": "x", "source": "synthetic"}],
    }
    return _loading.load(build(tables, PluginKinds(), environ={})).lanes[0]


def frames_per_second(model: Model, images: list[Image], seconds: float) -> float:
    """The whole way, so many at a time as the model takes."""
    thresholds, served, began = [THRESHOLDS] * len(images), 0, time.perf_counter()
    while served == 0 or time.perf_counter() - began < seconds:
        if len(images) == 1:
            model(images[0], THRESHOLDS)
        else:
            for one in model.together(images, thresholds):
                if isinstance(one, Exception):
                    raise one
        served += len(images)
    return served / (time.perf_counter() - began)


def measured(models: dict[int, Model], picture: np.ndarray, options: argparse.Namespace, decoders: int) -> str:
    """A row of the table."""
    best = dict.fromkeys(models, 0.0)
    with busy(decoders):
        for _ in range(options.rounds):
            for batch, model in models.items():
                images: list[Image] = [BgrImage(picture) for _ in range(batch)]
                best[batch] = max(best[batch], frames_per_second(model, images, options.seconds))
    return " | ".join(f"{rate:.1f} ({rate / best[1]:.2f})" for rate in best.values())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--busy", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (1080, 1920, 3), np.uint8) if options.picture is None else read_picture(options.picture).bgr()
    print(f"frames per second (ratio to one at a time), {options.threads} thread(s)")
    print("| file | busy beside | " + " | ".join(f"batch {batch}" for batch in BATCHES) + " |\n|---|---|" + "---|" * len(BATCHES))
    with tempfile.TemporaryDirectory() as folder:
        for path in options.models:
            try:
                file = opened(path, Path(folder)) if path.suffix == ".onnx" else path
                models = {batch: load(file, batch, options.threads) for batch in BATCHES}
            except ConfigError as error:
                print(f"| {path.name} | cannot: {error} |")
                continue
            for decoders in options.busy:
                print(f"| {path.name} | {decoders} | {measured(models, picture, options, decoders)} |", flush=True)


if __name__ == "__main__":
    main()
