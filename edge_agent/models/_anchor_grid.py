"""Heads of YOLOv5 and YOLOv7 as their convolutions leave them: a map [1, 3, h, w, 5 + classes] for each stride, nothing decoded.

Source: ultralytics/yolov5 models/yolo.py and WongKinYiu/yolov7 models/yolo.py (``Detect.forward``): of the logistic function of each
number, centre = (2 * xy - 0.5 + cell) * stride, size = (2 * wh)^2 * anchor, and objectness and classes as they are. The two differ in
their anchors alone, which are in neither's graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from edge_agent.models._boxes import Floats, best_class, from_centres, logit, sigmoid, suppress
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._raw_maps import ANCHORS_PER_CELL, map_strides
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, Tensor, TensorSpec, dequantize

Anchors = Mapping[int, Sequence[tuple[int, int]]]
P6: Anchors = {
    8: ((19, 27), (44, 40), (38, 94)),
    16: ((96, 68), (86, 152), (180, 137)),
    32: ((140, 301), (303, 264), (238, 542)),
    64: ((436, 615), (739, 380), (925, 792)),
}
"""Of both, for models of four strides."""
_MAP_RANK = 5


def recognised(graph: GraphSpec) -> str | None:
    """One map of three anchors a cell for each of the strides 8, 16, 32 (and 64), and nothing else."""
    if any(len(spec.shape) != _MAP_RANK for spec in graph.outputs) or not _are_grids(graph):
        return None
    return f"{len(graph.outputs)} maps of three anchors a cell, which the graph does not decode"


def _numbers(spec: TensorSpec) -> int:
    """How many numbers an anchor has; 0 where there are not three anchors a cell."""
    if len(spec.shape) == _MAP_RANK:
        return spec.shape[4] if spec.shape[1] == ANCHORS_PER_CELL else 0
    return 0 if spec.shape[1] % ANCHORS_PER_CELL else spec.shape[1] // ANCHORS_PER_CELL


def _are_grids(graph: GraphSpec) -> bool:
    if map_strides(graph, graph.outputs) is None:
        return False
    numbers = {_numbers(spec) for spec in graph.outputs}
    return len(numbers) == 1 and min(numbers) > 5


class AnchorGrid(Family):
    """Boxes as offsets from cells and anchors. [1, 3 * (5 + classes), h, w] is read too, where the user says that it is one."""

    input_format = InputFormat("RGB", "centre", scale=1 / 255)
    anchors: ClassVar[Anchors]
    """Width and height in pixels, for models of three strides."""

    def __init__(self, graph: GraphSpec) -> None:
        strides = map_strides(graph, graph.outputs)
        if strides is None or not _are_grids(graph):
            raise ValueError("not one map of three anchors a cell for each stride")
        self._specs, self._strides = graph.outputs, strides
        self._numbers = _numbers(graph.outputs[0])
        self.class_count = self._numbers - 5
        self._logits: bool | None = None

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        maps = [self._rows(output, spec) for output, spec in zip(outputs, self._specs, strict=True)]
        if self._logits is None:  # some exporters apply the logistic function in the graph
            self._logits = any(float(rows.min()) < 0 or float(rows.max()) > 1 for rows in maps)
        floor = logit(thresholds.confidence) if self._logits else thresholds.confidence
        parts = [self._boxes(rows, stride, floor) for rows, stride in zip(maps, self._strides, strict=True)]
        boxes, shares = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        class_id, score = best_class(shares[:, 1:], thresholds.class_ids)
        score = score * shares[:, 0]
        kept = score >= thresholds.confidence
        return suppress(from_centres(boxes[kept]), score[kept], class_id[kept], thresholds)

    def _rows(self, output: Tensor, spec: TensorSpec) -> Floats:
        """[3, h, w, numbers], as stored."""
        real: Floats = dequantize(output[0], spec)
        if real.ndim == _MAP_RANK - 1:
            return real
        anchors: Floats = real.reshape(ANCHORS_PER_CELL, self._numbers, *real.shape[1:]).transpose(0, 2, 3, 1)
        return anchors

    def _boxes(self, rows: Floats, stride: int, floor: float) -> tuple[Floats, Floats]:
        """Boxes around their centres in pixels [N, 4], and objectness and classes [N, 1 + classes], of those sure enough."""
        anchor, row, column = np.nonzero(rows[..., 4] >= floor)  # no score is above its objectness
        found = rows[anchor, row, column]
        shares = sigmoid(found) if self._logits else found
        sides = np.array((self.anchors if len(self._strides) == len(self.anchors) else P6)[stride], np.float32)
        centres = (shares[:, :2] * 2 - 0.5 + np.stack((column, row), axis=1)) * stride
        boxes = np.concatenate((centres, (shares[:, 2:4] * 2) ** 2 * sides[anchor]), axis=1)
        return boxes.astype(np.float32), shares[:, 4:]
