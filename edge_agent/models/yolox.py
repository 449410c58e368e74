"""YOLOX as its authors export it: raw grid terms, [1, cells, 5 + classes].

Source: Ge et al., "YOLOX" (arXiv 2107.08430), and demo_utils.py of Megvii-BaseDetection/YOLOX: strides 8, 16, 32,
row-major cells; centre = (raw + cell) * stride, size = exp(raw) * stride; objectness and classes are probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.models._boxes import best_class, from_centres, suppress
from edge_agent.models._preprocess import InputFormat, input_layout
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
STRIDES = (8, 16, 32)
_LARGEST_EXPONENT = 20.0


def _grid(size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cell offsets [cells, 2] (x, y), and strides [cells, 1]."""
    offsets, strides = [], []
    for stride in STRIDES:
        columns, rows = np.meshgrid(np.arange(size[0] // stride), np.arange(size[1] // stride))
        offsets.append(np.stack((columns.ravel(), rows.ravel()), axis=1))
        strides.append(np.full((columns.size, 1), stride))
    return np.concatenate(offsets).astype(np.float32), np.concatenate(strides).astype(np.float32)


def recognise(graph: GraphSpec) -> str | None:
    """One output [1, cells, 5 + classes] whose cells are those of strides 8, 16 and 32, and no Ultralytics metadata."""
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 3 or "names" in graph.metadata:
        return None
    _, (width, height) = input_layout(graph.inputs[0])
    _, rows, columns = graph.outputs[0].shape
    cells = sum((width // s) * (height // s) for s in STRIDES)
    if rows == cells and columns > 5:
        return f"{rows} rows are the cells of strides 8, 16 and 32"
    return None


class Yolox(Family):
    """YOLOX with a raw grid."""

    name = "yolox"
    input_format = InputFormat("BGR", "top_left")

    def __init__(self, graph: GraphSpec) -> None:
        self._spec = only_output(graph)
        self.class_count = self._spec.shape[2] - 5
        _, size = input_layout(graph.inputs[0])
        self._offsets, self._strides = _grid(size)
        if self._spec.shape[1] != len(self._offsets) or self.class_count < 1:
            raise ValueError("not a row a cell of 5 + classes")

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        rows = dequantize(outputs[0][0], self._spec)
        # objectness bounds the score from above, so most cells need no class at all
        index = np.flatnonzero(rows[:, 4] >= thresholds.confidence)
        rows = rows[index]
        class_id, score = best_class(rows[:, 5:], thresholds.class_ids)
        score = score * rows[:, 4]
        kept = score >= thresholds.confidence
        rows, index = rows[kept], index[kept]
        strides = self._strides[index]
        centres = (rows[:, :2] + self._offsets[index]) * strides
        sizes = np.exp(np.minimum(rows[:, 2:4], _LARGEST_EXPONENT)) * strides
        return suppress(from_centres(np.concatenate((centres, sizes), axis=1)), score[kept], class_id[kept], thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolox(graph)
