"""Heads of YOLOv8, 9, 11 and 12, which have a column a cell: box, a score for each class, and what the task adds.

Source: ultralytics/ultralytics nn/modules/head.py (Detect, Segment, Pose) and engine/exporter.py.
"""

from __future__ import annotations

import ast

import numpy as np
from numpy.typing import NDArray

from edge_agent.models._boxes import Floats, Ints, Unit, best_class, cell_counts, from_centres, smallest_step, survivors
from edge_agent.models._objectness import coarse_scores
from edge_agent.models.base import Thresholds
from edge_agent.runtimes.base import GraphSpec, Tensor, TensorSpec, dequantize


def metadata_task(graph: GraphSpec) -> str:
    """``detect``, ``segment``, ``pose``, ``obb`` or ``classify`` where Ultralytics' metadata say so, else nothing."""
    return graph.metadata.get("task", "")


def keypoint_shape(graph: GraphSpec) -> tuple[int, int] | None:
    """How many keypoints a pose model has, and of how many numbers each (2, or 3 with a score), from its metadata."""
    try:
        count, numbers = ast.literal_eval(graph.metadata.get("kpt_shape", ""))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return (count, numbers) if isinstance(count, int) and numbers in {2, 3} and count > 0 else None


def is_transposed(graph: GraphSpec, spec: TensorSpec) -> bool | None:
    """False for [1, numbers, cells], True for [1, cells, numbers], None for neither.

    The second is also the shape of a YOLOX, so it takes metadata, or the ``Softmax`` that decodes these heads' distances.
    """
    if len(spec.shape) != 3:
        return None
    _, rows, columns = spec.shape
    counts = cell_counts(graph)
    if columns in counts and 4 < rows < columns:
        return False
    if rows in counts and columns > 4 and ("names" in graph.metadata or graph.has_operator("Softmax")):
        return True
    return None


def _stored(value: float, spec: TensorSpec) -> float:
    """``value`` on the scale of the stored numbers, so that whole tensors are compared unconverted."""
    return value if spec.quantization is None else value / spec.quantization.scale + spec.quantization.zero_point


class AnchorFree:
    """The part that the three tasks share. ``extra``: numbers of a cell besides box and classes."""

    def __init__(self, graph: GraphSpec, spec: TensorSpec, extra: int = 0) -> None:
        if len(spec.shape) != 3:
            raise ValueError("not an output of three dimensions")
        _, rows, columns = spec.shape
        counts = cell_counts(graph)
        self.transposed = columns not in counts
        numbers = columns if self.transposed else rows
        self.class_count = numbers - 4 - extra
        if (rows if self.transposed else columns) not in counts or self.class_count < 1:
            raise ValueError("not a cell each with 4 + classes")
        self.spec = spec
        self._unit = Unit(spec)

    def doubts(self) -> list[str]:
        """As of a family."""
        return coarse_scores(self.spec.name, smallest_step(self.spec))

    def candidates(self, output: Tensor, size: tuple[int, int], thresholds: Thresholds) -> tuple[Floats, Floats, Ints, Floats]:
        """Boxes, confidence, classes and whole rows of the cells above the threshold, not suppressed."""
        columns = output[0].T if self.transposed else output[0]
        best = columns[4 : 4 + self.class_count].max(axis=0)
        index = np.flatnonzero(best >= _stored(thresholds.confidence, self.spec))
        rows = dequantize(columns[:, index].T, self.spec)
        class_id, score = best_class(rows[:, 4 : 4 + self.class_count], thresholds.class_ids)
        kept = score >= thresholds.confidence
        rows = rows[kept]
        # the cells' centres reach over the whole input, whatever is seen
        boxes = self._unit.in_pixels(rows[:, :4], size, met=columns[0].astype(np.float32, copy=False))
        return from_centres(boxes), score[kept], class_id[kept], rows

    def extra_in_pixels(self, rows: Floats, size: tuple[int, int]) -> Floats:
        """Numbers [N, 2] that are in the boxes' unit, in pixels."""
        return self._unit.in_pixels(np.tile(rows, 2), size)[:, :2]


def survivors_of(found: tuple[Floats, Floats, Ints, Floats], thresholds: Thresholds) -> NDArray[np.intp]:
    """The rows that NMS leaves."""
    return survivors(found[0], found[1], found[2], thresholds)
