"""FastestDet: one grid of stride 16, [1, 5 + classes, h, w]: objectness, x, y, width, height, and a probability for each class.

Source: dog-qiuqiu/FastestDet example/onnx-runtime/runtime.py: score = objectness^0.6 * class^0.4; centre = (cell + tanh(x, y)) / grid,
size = sigmoid(width, height), as fractions of the input. The input is BGR from 0 to 1, of any aspect.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._boxes import best_class, from_centres, sigmoid, suppress
from edge_agent.models._preprocess import InputFormat, input_layout
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
STRIDE = 16


def recognise(graph: GraphSpec) -> str | None:
    """One map [1, 5 + classes, h, w] at a sixteenth of the input's size."""
    _, (width, height) = input_layout(graph.inputs[0])
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 4:
        return None
    _, channels, rows, columns = graph.outputs[0].shape
    if (rows, columns) == (height // STRIDE, width // STRIDE) and channels > 5:
        return f"one grid of {columns}x{rows}, stride {STRIDE}"
    return None


class FastestDet(Family):
    """Boxes of one grid."""

    name = "fastestdet"
    input_format = InputFormat("BGR", "none", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        if recognise(graph) is None:
            raise ValueError("not one grid of stride 16")
        self._spec = graph.outputs[0]
        _, channels, _, self._columns = self._spec.shape
        self.class_count = channels - 5

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        cells = dequantize(outputs[0][0], self._spec)
        _, high, wide = cells.shape
        cells = cells.reshape(len(cells), -1)
        # a class is 1 at most, so the objectness alone bounds the score
        index = np.flatnonzero(cells[0] >= thresholds.confidence ** (1 / 0.6))
        found = cells[:, index].T
        class_id, score = best_class(found[:, 5:], thresholds.class_ids)
        score = found[:, 0] ** 0.6 * np.maximum(score, 0) ** 0.4
        kept = score >= thresholds.confidence
        found, index = found[kept], index[kept]
        places = np.stack((index % wide, index // wide), axis=1)
        centres = (places + np.tanh(found[:, 1:3])) / np.array([wide, high])
        boxes = np.concatenate((centres, sigmoid(found[:, 3:5])), axis=1) * np.array(size * 2)
        return suppress(from_centres(boxes.astype(np.float32)), score[kept].astype(np.float32), class_id[kept], thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return FastestDet(graph)
