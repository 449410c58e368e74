"""YOLOv8, 9, 11 and 12 heads: [1, 4 + classes, cells], or transposed; no objectness.

Source: ultralytics/ultralytics nn/modules/head.py (Detect) and engine/exporter.py: ONNX files hold pixels of the
input, TFLite files fractions of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._boxes import best_class, from_centres, suppress
from edge_agent.models._preprocess import InputFormat, input_layout
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, TensorSpec, dequantize

Config = NoConfig


def _cells(graph: GraphSpec) -> set[int]:
    _, (width, height) = input_layout(graph.inputs[0])
    by_stride = [(width // s) * (height // s) for s in (8, 16, 32, 64)]
    return {sum(by_stride[:3]), sum(by_stride)}


def recognise(graph: GraphSpec) -> str | None:
    """One output [1, 4 + classes, cells]; the transposed form only with Ultralytics' metadata, or it could be a YOLOX."""
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 3:
        return None
    _, rows, columns = graph.outputs[0].shape
    if columns in _cells(graph) and 4 < rows < columns:
        return f"{columns} columns are the cells of strides 8, 16 and 32"
    if rows in _cells(graph) and "names" in graph.metadata and columns == 4 + len(graph.labels):
        return f"{rows} rows are the cells of strides 8, 16 and 32, and the metadata names {len(graph.labels)} classes"
    return None


def _stored_threshold(value: float, spec: TensorSpec) -> float:
    """``value`` on the scale of the stored numbers, so that whole tensors are compared unconverted."""
    return value if spec.quantization is None else value / spec.quantization.scale + spec.quantization.zero_point


class Yolov8(Family):
    """Boxes without objectness."""

    name = "yolov8"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        self._spec = only_output(graph)
        _, rows, columns = self._spec.shape
        cells = _cells(graph)
        self._transposed = columns not in cells
        self.class_count = (columns if self._transposed else rows) - 4
        if (rows if self._transposed else columns) not in cells or self.class_count < 1:
            raise ValueError("not a cell each with 4 + classes")
        self._normalised = not graph.runtime.startswith("ONNX")

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        columns = outputs[0][0].T if self._transposed else outputs[0][0]
        best = columns[4:].max(axis=0)
        index = np.flatnonzero(best >= _stored_threshold(thresholds.confidence, self._spec))
        rows = dequantize(columns[:, index].T, self._spec)
        class_id, score = best_class(rows[:, 4:], thresholds.class_ids)
        kept = score >= thresholds.confidence
        boxes = rows[kept, :4] * np.array(size * 2, np.float32) if self._normalised else rows[kept, :4]
        return suppress(from_centres(boxes), score[kept], class_id[kept], thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov8(graph)
