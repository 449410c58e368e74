"""Preprocess and postprocess of a YOLO head for a 1080p frame, against the straightforward numpy version; and TFLite's two libraries.

python benchmarks/models.py yolox_nano.onnx [--picture FILE] [--rounds N]
python benchmarks/models.py --tflite FILE ...

The first prints milliseconds of CPU of this thread, both ways in turn, for a BGR picture and for the planes that a decoder hands
over. The second prints milliseconds of one inference at one thread by whichever library is installed: run it in an environment
for each, one after the other.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_agent.evaluation import ModelOptions, load_model, read_picture
from edge_agent.image import BgrImage, Image, PlanarImage
from edge_agent.models._preprocess import Preprocessor
from edge_agent.models._threads import blank
from edge_agent.models.base import Model, Thresholds
from edge_agent.runtimes import onnx, tflite
from edge_agent.runtimes.base import RuntimeContext

WIDTH, HEIGHT = 1920, 1080
THRESHOLDS = Thresholds(confidence=0.3, iou=0.45, max_detections=100)
Floats = NDArray[np.float32]


def plain_preprocess(picture: NDArray[np.uint8], size: int) -> tuple[Floats, float]:
    """As YOLOX's demo does it: resize, paste onto grey, transpose, make floats."""
    ratio = min(size / picture.shape[0], size / picture.shape[1])
    inner = cv2.resize(picture, (int(picture.shape[1] * ratio), int(picture.shape[0] * ratio)), interpolation=cv2.INTER_LINEAR)
    canvas = np.full((size, size, 3), 114, np.uint8)
    canvas[: inner.shape[0], : inner.shape[1]] = inner
    return np.ascontiguousarray(canvas.transpose(2, 0, 1), np.float32)[np.newaxis], ratio


def plain_postprocess(output: Floats, size: int, ratio: float) -> Floats:
    """As YOLOX's demo does it: decode every cell, score every class, then greedy suppression class by class in numpy."""
    grids, strides = [], []
    for stride in (8, 16, 32):
        columns, rows = np.meshgrid(np.arange(size // stride), np.arange(size // stride))
        grids.append(np.stack((columns, rows), 2).reshape(1, -1, 2))
        strides.append(np.full((1, columns.size, 1), stride))
    output = output.copy()
    output[..., :2] = (output[..., :2] + np.concatenate(grids, 1)) * np.concatenate(strides, 1)
    output[..., 2:4] = np.exp(output[..., 2:4]) * np.concatenate(strides, 1)
    rows = output[0]
    boxes = np.concatenate((rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2), 1) / ratio
    scores = rows[:, 4:5] * rows[:, 5:]
    found = []
    for kind in range(scores.shape[1]):
        valid = scores[:, kind] >= THRESHOLDS.confidence
        if valid.any():
            kept = plain_nms(boxes[valid], scores[valid, kind])
            rest = np.full((len(kept), 1), kind)
            found.append(np.concatenate((boxes[valid][kept], scores[valid, kind][kept, np.newaxis], rest), 1))
    return np.concatenate(found) if found else np.empty((0, 6), np.float32)


def plain_nms(boxes: Floats, scores: Floats) -> list[int]:
    """Greedy suppression."""
    left, top, right, bottom = boxes.T
    areas = (right - left) * (bottom - top)
    order, kept = scores.argsort()[::-1], []
    while order.size:
        first, rest = order[0], order[1:]
        kept.append(int(first))
        width = np.maximum(0, np.minimum(right[first], right[rest]) - np.maximum(left[first], left[rest]))
        height = np.maximum(0, np.minimum(bottom[first], bottom[rest]) - np.maximum(top[first], top[rest]))
        shared = width * height
        order = rest[shared / (areas[first] + areas[rest] - shared) <= THRESHOLDS.iou]
    return kept


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of this thread's CPU time for each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.thread_time()
            way()
            times[name].append((time.thread_time() - started) * 1e3)
    return {name: statistics.median(taken) for name, taken in times.items()}


def head(path: Path, picture_file: Path | None, rounds: int) -> None:
    """Print the first table."""
    model = load_model(path, ModelOptions())
    if picture_file is None:
        drawn = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), (0, 0), 3)
    else:
        drawn = cv2.resize(read_picture(picture_file).bgr(), (WIDTH, HEIGHT))
    bgr: NDArray[np.uint8] = np.asarray(drawn, np.uint8)
    size = model.input_size[0]
    planes = planar(bgr)
    prepare = Preprocessor(model.graph.inputs[0], model.family.input_format)
    tensor, placement = prepare(BgrImage(bgr))
    output = np.array(onnx.build(RuntimeContext(path, 1), onnx.Config()).infer(tensor)[0], np.float32)
    ratio = plain_preprocess(bgr, size)[1]
    ways = {
        "preprocess, BGR": lambda: prepare(BgrImage(bgr)),
        "preprocess, planes": lambda: prepare(planes),
        "preprocess, plainly": lambda: plain_preprocess(bgr, size),
        "postprocess": lambda: postprocess(model, output, placement, bgr),
        "postprocess, plainly": lambda: plain_postprocess(output, size, ratio),
    }
    found, plainly = len(postprocess(model, output, placement, bgr)), len(plain_postprocess(output, size, ratio))
    ms = in_turn(ways, rounds)
    print(f"{path.name}, 1920x1080 to {size}, {found} boxes ({plainly} plainly), median of {rounds} rounds, ms of CPU")
    for name, value in ms.items():
        print(f"{name:24s} {value:7.3f}")
    print(f"{'total, BGR':24s} {ms['preprocess, BGR'] + ms['postprocess']:7.3f}")
    print(f"{'total, planes':24s} {ms['preprocess, planes'] + ms['postprocess']:7.3f}")
    print(f"{'total, plainly':24s} {ms['preprocess, plainly'] + ms['postprocess, plainly']:7.3f}")


def planar(bgr: NDArray[np.uint8]) -> Image:
    """The planes that a decoder would hand over."""
    stacked = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), np.uint8)
    luma = stacked[:HEIGHT]
    quarter = stacked[HEIGHT:].reshape(2, HEIGHT // 2, WIDTH // 2)
    return PlanarImage(luma, (quarter[0], quarter[1]))


def postprocess(model: Model, output: Floats, placement: Any, bgr: NDArray[np.uint8]) -> Any:
    """From the output to boxes in the picture's pixels."""
    found = model.family.decode([output], model.input_size, THRESHOLDS)
    return placement.to_source(found.xyxy, BgrImage(bgr))


def libraries(files: list[Path], rounds: int) -> None:
    """Print the second table."""
    for file in files:
        runtime = tflite.build(RuntimeContext(file, 1), tflite.Config())
        tensor = blank(runtime)
        runtime.infer(tensor)
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            runtime.infer(tensor)
            times.append((time.perf_counter() - started) * 1e3)
        print(f"{file.name:52s} {runtime.spec.runtime:22s} {statistics.median(times):8.2f} ms  (least {min(times):.2f})")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="*")
    parser.add_argument("--tflite", action="store_true", help="time TFLite files by the library that is installed")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    if given.tflite:
        libraries(given.model, given.rounds)
        return
    for path in given.model:
        head(path, given.picture, given.rounds)


if __name__ == "__main__":
    main()
