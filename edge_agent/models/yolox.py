"""YOLOX as its authors export it: raw grid terms, [1, cells, 5 + classes].

Source: Ge et al., "YOLOX" (arXiv 2107.08430), and demo_utils.py of Megvii-BaseDetection/YOLOX: strides 8, 16, 32,
row-major cells; centre = (raw + cell) * stride, size = exp(raw) * stride; objectness and classes are probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.errors import ModelError
from edge_agent.models._boxes import best_class, cells, from_centres, grid, largest, suppress
from edge_agent.models._preprocess import InputFormat, input_layout
from edge_agent.models._signs import ENLARGES
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
_LARGEST_EXPONENT = 20.0
_IMPOSSIBLE = 12.0
"""e^12 times the stride of 8 is 1.3 million pixels."""
_DECODED = (
    'the boxes are no raw terms of a YOLOX, so this is another model: set family = "yolox_decoded" in [model], or "yolov6" where it is one'
)
_RAW_REACH = 4.0
"""Raw terms of YOLOX reach a few units: e^4 times the stride of 32 is 1700 pixels."""


def recognise(graph: GraphSpec) -> str | None:
    """One output [1, cells, 5 + classes] of strides 8, 16 and 32; a graph that does not decode (Exp), or belong to YOLOv8 or YOLOv6."""
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 3 or "names" in graph.metadata:
        return None
    _, rows, columns = graph.outputs[0].shape
    if rows != cells(graph) or columns <= 5 or any(graph.has_operator(name) for name in ("Exp", "Softmax", ENLARGES)):
        return None
    return f"{rows} rows are the cells of strides 8, 16 and 32, and the graph does not decode them"


class Yolox(Family):
    """YOLOX with a raw grid."""

    name = "yolox"
    input_format = InputFormat("BGR", "top_left")

    def __init__(self, graph: GraphSpec) -> None:
        self._spec = only_output(graph)
        self.class_count = self._spec.shape[2] - 5
        _, size = input_layout(graph.inputs[0])
        self._offsets, self._strides = grid(size)
        if self._spec.shape[1] != len(self._offsets) or self.class_count < 1:
            raise ValueError("not a row a cell of 5 + classes")

    def doubts(self) -> list[str]:
        limit = largest(self._spec)
        if limit is None or limit >= _RAW_REACH or self._spec.quantization is None:
            return []
        scale = self._spec.quantization.scale
        why = f"the boxes are broken: one output scale of 1/{1 / scale:.0f}, made for the scores, cannot hold raw box terms"
        reach = f"nothing above {limit:.3g} can be stored, and they reach some {_RAW_REACH:g}"
        return [f"{why} ({reach}, and below 0); quantize the model again with its head left in float"]

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        rows = dequantize(outputs[0][0], self._spec)
        # objectness bounds the score from above, so most cells need no class at all
        index = np.flatnonzero(rows[:, 4] >= thresholds.confidence)
        rows = rows[index]
        class_id, score = best_class(rows[:, 5:], thresholds.class_ids)
        score = score * rows[:, 4]
        kept = score >= thresholds.confidence
        rows, index = rows[kept], index[kept]
        if len(rows) and float(rows[:, 2:4].max()) > _IMPOSSIBLE:
            raise ModelError(f"{_DECODED}: its widths and heights reach {rows[:, 2:4].max():.0f}, as powers of e times the stride")
        strides = self._strides[index]
        centres = (rows[:, :2] + self._offsets[index]) * strides
        sizes = np.exp(np.minimum(rows[:, 2:4], _LARGEST_EXPONENT)) * strides
        return suppress(from_centres(np.concatenate((centres, sizes), axis=1)), score[kept], class_id[kept], thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolox(graph)
