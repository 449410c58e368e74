"""EfficientDet and EfficientDet-Lite before their post-processing: for each of nine anchors a cell, scores of classes and a box.

Sources: google/automl efficientdet: tf2/anchors.py (strides 8 to 128; for each cell three sizes, 2^(0, 1/3, 2/3) times scale and stride,
by three shapes), hparams_config.py (scale 3 in Lite0 to Lite2, else 4), tf2/postprocess.py; also rwightman/efficientdet-pytorch.
Boxes are ty, tx, th, tw, not scaled; scores are logits or probabilities, each class on its own, without one for nothing.
As two outputs [1, anchors, classes] and [1, anchors, 4], or ten maps, [1, h, w, 9 * numbers] or [1, 9 * numbers, h, w].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._boxes import Floats, best_class, logit, sigmoid, suppress
from edge_agent.models._preprocess import IMAGENET, InputFormat, input_layout, pixels_as_they_are
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, TensorSpec, dequantize

Config = NoConfig
STRIDES = (8, 16, 32, 64, 128)
PER_CELL = 9
_SHAPES = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Width and height for each size."""
_LITE_SIDES = {320, 384, 448}
"""Inputs of Lite0 to Lite2, whose anchors are smaller."""
_LARGEST_EXPONENT = 20.0
_FEW = 8
"""EfficientDet's activations hold dozens of sigmoids; Lite's hold none, and its scores one for each of five levels at most."""


def _cells(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns of each level: each is half of the last, rounded up."""
    return [(-(-size[1] // stride), -(-size[0] // stride)) for stride in STRIDES]


def anchors(size: tuple[int, int]) -> Floats:
    """Centre y, centre x, height, width in pixels of the input, [anchors, 4]."""
    scale = 3.0 if min(size) in _LITE_SIDES else 4.0
    sizes = np.array([(high * 2 ** (step / 3), wide * 2 ** (step / 3)) for step in range(3) for wide, high in _SHAPES])
    levels = []
    for rows, columns in _cells(size):
        strides = np.array((size[1] / rows, size[0] / columns))
        y, x = np.meshgrid((np.arange(rows) + 0.5) * strides[0], (np.arange(columns) + 0.5) * strides[1], indexing="ij")
        centres = np.repeat(np.stack((y.ravel(), x.ravel()), axis=1), PER_CELL, axis=0)
        levels.append(np.concatenate((centres, np.tile(sizes * scale * strides, (rows * columns, 1))), axis=1))
    return np.concatenate(levels).astype(np.float32)


def _roles(graph: GraphSpec) -> tuple[list[int], list[int]] | None:
    """Positions of scores and of boxes, from the finest level on."""
    cells = _cells(input_layout(graph.inputs[0])[1])
    outputs = graph.outputs
    if len(outputs) == 2 and all(len(spec.shape) == 3 for spec in outputs):
        rows = PER_CELL * sum(high * wide for high, wide in cells)
        if any(spec.shape[1] != rows for spec in outputs):
            return None
        pair = _score_and_box({index: spec.shape[2] for index, spec in enumerate(outputs)}, 4, outputs)
        return None if pair is None else ([pair[0]], [pair[1]])
    if len(outputs) != 2 * len(STRIDES) or any(len(spec.shape) != 4 for spec in outputs):
        return None
    scores, boxes = [], []
    for level in cells:
        pair = _score_and_box(
            {i: _channels(spec, level) for i, spec in enumerate(outputs) if _channels(spec, level)}, 4 * PER_CELL, outputs
        )
        if pair is None:
            return None
        scores.append(pair[0])
        boxes.append(pair[1])
    return scores, boxes


def _score_and_box(numbers: dict[int, int], of_box: int, outputs: Sequence[TensorSpec]) -> tuple[int, int] | None:
    """Which of two outputs, of so many numbers each, holds the scores and which the boxes. Of four classes, by name, or else by order."""
    boxes = [index for index, count in numbers.items() if count == of_box]
    if len(numbers) != 2 or not boxes:
        return None
    named = [index for index in boxes if "box" in outputs[index].name.lower() or "reg" in outputs[index].name.lower()]
    box = named[0] if len(named) == 1 else boxes[-1]
    return next(index for index in numbers if index != box), box


def _channels(spec: TensorSpec, level: tuple[int, int]) -> int:
    """Of a map of this level; 0 for any other."""
    if spec.shape[1:3] == level:
        return spec.shape[3]
    return spec.shape[1] if spec.shape[2:] == level else 0


def recognise(graph: GraphSpec) -> str | None:
    """Scores and boxes of nine anchors a cell of strides 8 to 128."""
    roles = _roles(graph)
    return None if roles is None else f"nine anchors a cell of strides 8 to 128, in {len(graph.outputs)} outputs"


class EfficientDetRaw(Family):
    """Boxes as offsets from anchors."""

    name = "efficientdet_raw"

    def __init__(self, graph: GraphSpec) -> None:
        roles = _roles(graph)
        if roles is None:
            raise ValueError("not scores and boxes of nine anchors a cell")
        self._scores, self._boxes = roles
        self._specs = graph.outputs
        size = input_layout(graph.inputs[0])[1]
        self._cells, self._anchors = _cells(size), anchors(size)
        one = graph.outputs[self._scores[0]]
        self.class_count = one.shape[2] if len(one.shape) == 3 else _channels(one, self._cells[0]) // PER_CELL
        is_lite = graph.file is None or graph.file.operators.get("Sigmoid", 0) < _FEW
        mean, deviation = ((127.0,) * 3, (128.0,) * 3) if is_lite else IMAGENET
        form = InputFormat.normalised("RGB", "top_left", mean, deviation, round(sum(mean) / 3))
        self.input_format = pixels_as_they_are(graph.inputs[0], form)
        self._logits: bool | None = None

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        scores = self._rows(outputs, self._scores, self.class_count or 1)
        if self._logits is None:
            self._logits = bool(scores.min() < 0 or scores.max() > 1)
        floor = logit(thresholds.confidence) if self._logits else thresholds.confidence
        index = np.flatnonzero(scores.max(axis=1) >= floor)
        class_id, score = best_class(scores[index], thresholds.class_ids)
        kept = score >= floor
        index, class_id, score = index[kept], class_id[kept], score[kept]
        steps, around = self._rows(outputs, self._boxes, 4)[index], self._anchors[index]
        centres = steps[:, :2] * around[:, 2:] + around[:, :2]
        half = np.exp(np.minimum(steps[:, 2:], np.float32(_LARGEST_EXPONENT))) * around[:, 2:] / np.float32(2)
        corners = np.concatenate((centres - half, centres + half), axis=1)[:, [1, 0, 3, 2]]
        return suppress(corners, sigmoid(score) if self._logits else score, class_id, thresholds)

    def _rows(self, outputs: Sequence[Tensor], which: list[int], numbers: int) -> Floats:
        """Of all levels, [anchors, numbers]."""
        parts = []
        for place, index in enumerate(which):
            real = dequantize(outputs[index][0], self._specs[index])
            if real.ndim == 3 and real.shape[:2] != self._cells[place]:
                real = real.transpose(1, 2, 0)
            parts.append(real.reshape(-1, numbers))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return EfficientDetRaw(graph)
