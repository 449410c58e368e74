"""Rows of final boxes, [1, rows, 6 + what the task adds]: left, top, right, bottom, confidence, class, and the rest.

Source: ultralytics/ultralytics nn/modules/head.py (end2end) and engine/exporter.py (nms=True).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.models._boxes import Floats, Ints, Unit, strongest
from edge_agent.models.base import Thresholds
from edge_agent.runtimes.base import Tensor, TensorSpec, dequantize

BASE = 6
MOST_ROWS = 1000


def are_final_rows(spec: TensorSpec, numbers: int) -> bool:
    """Whether an output is rows of so many numbers, a thousand at most, or an open number of them."""
    return len(spec.shape) == 3 and spec.shape[0] == 1 and spec.shape[2] == numbers and spec.shape[1] <= MOST_ROWS


class FinalRows:
    """The part that boxes, masks and keypoints share."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self._unit = Unit(spec)

    def best(self, output: Tensor, size: tuple[int, int], thresholds: Thresholds) -> tuple[Floats, Floats, Ints, Floats]:
        """Boxes in pixels, confidence, classes and the rest of those rows that are wanted, strongest first."""
        rows = dequantize(output[0], self.spec)
        rows = rows[rows[:, 4] >= thresholds.confidence]
        classes = rows[:, 5].round().astype(np.int32)
        if thresholds.class_ids is not None:
            wanted: NDArray[np.bool_] = np.isin(classes, thresholds.class_ids)
            rows, classes = rows[wanted], classes[wanted]
        order = strongest(rows[:, 4], thresholds.max_detections)
        rows = rows[order]
        return self._unit.in_pixels(rows[:, :4], size), rows[:, 4], classes[order], rows[:, BASE:]

    def points_in_pixels(self, points: Floats, size: tuple[int, int]) -> Floats:
        """[N, 2] in the boxes' unit, in pixels."""
        return self._unit.in_pixels(np.tile(points, 2), size)[:, :2]
