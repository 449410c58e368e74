"""YOLOv5 and YOLOv7 heads: [1, rows, 5 + classes], boxes decoded in the graph, objectness in column 4.

Source: ultralytics/yolov5 export.py and utils/general.py (non_max_suppression). ONNX files hold pixels of the input,
TFLite files fractions of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._boxes import best_class, from_centres, suppress
from edge_agent.models._preprocess import InputFormat, input_layout
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
ANCHORS_PER_CELL = 3


def recognise(graph: GraphSpec) -> str | None:
    """One output [1, rows, 5 + classes] with three rows a cell of strides 8, 16, 32 (and 64)."""
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 3:
        return None
    _, (width, height) = input_layout(graph.inputs[0])
    _, rows, columns = graph.outputs[0].shape
    cells = [(width // s) * (height // s) for s in (8, 16, 32, 64)]
    if rows in {ANCHORS_PER_CELL * sum(cells[:3]), ANCHORS_PER_CELL * sum(cells)} and columns > 5:
        return f"{rows} rows are three anchors a cell"
    return None


class Yolov5(Family):
    """Boxes with objectness."""

    name = "yolov5"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        self._spec = only_output(graph)
        if recognise(graph) is None:
            raise ValueError("not three rows a cell of 5 + classes")
        self.class_count = self._spec.shape[2] - 5
        self._normalised = not graph.runtime.startswith("ONNX")

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        rows = dequantize(outputs[0][0], self._spec)
        rows = rows[rows[:, 4] >= thresholds.confidence]
        class_id, score = best_class(rows[:, 5:], thresholds.class_ids)
        score = score * rows[:, 4]
        kept = score >= thresholds.confidence
        boxes = rows[kept, :4] * np.array(size * 2, np.float32) if self._normalised else rows[kept, :4]
        return suppress(from_centres(boxes), score[kept], class_id[kept], thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov5(graph)
