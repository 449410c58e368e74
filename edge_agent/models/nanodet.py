"""NanoDet and NanoDet-Plus: [1, cells, classes + 4 * bins]: class probabilities, and a distribution for each side's distance.

Older exports (tools/export.py before 0.4, and OpenCV's zoo) have two outputs for each stride: [1, cells, classes] and [1, cells, 4 * bins].

Source: Li et al., "Generalized Focal Loss" (arXiv 2006.04388), and RangiLyu/nanodet nanodet/model/head/nanodet_plus_head.py
(``_forward_onnx``, ``get_single_level_center_priors``) and gfl_head.py: strides 8, 16, 32, and 64 in Plus; a distance is the mean
of its distribution times the stride. NanoDet measures from the cells' centres, (column + 0.5) * stride; Plus from their corners.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.models._boxes import STRIDES, Floats, best_class, cells, grid, softmax, suppress
from edge_agent.models._preprocess import InputFormat, input_layout
from edge_agent.models._signs import ENLARGES
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
BINS = 8
PLUS = (*STRIDES, 64)
_OF_PICODET = ("HardSwish", "HardSigmoid")
"""Activations of PP-PicoDet, whose outputs look alike, and which measures from the cells' centres and was trained on RGB."""
_COCO_COLUMNS = 80 + 4 * BINS


def _apart(graph: GraphSpec) -> list[tuple[int, int]] | None:
    """Positions of scores and distances of each stride, from the finest on, where they are outputs of their own."""
    strides = {6: STRIDES, 8: PLUS}.get(len(graph.outputs), ())
    pairs = []
    for stride in strides:
        level = [index for index, spec in enumerate(graph.outputs) if len(spec.shape) == 3 and spec.shape[1] == cells(graph, [stride])]
        sides = [index for index in level if graph.outputs[index].shape[2] == 4 * BINS]
        if len(level) != 2 or not sides:
            return None
        pairs.append((level[0] if level[0] != sides[-1] else level[1], sides[-1]))  # of 32 classes: scores come first
    return pairs if pairs and len({graph.outputs[scores].shape[2] for scores, _ in pairs}) == 1 else None


def recognise(graph: GraphSpec) -> str | None:
    """Rows for strides 8 to 64 and more columns than 32; or for 8 to 32 with the 112 columns of a COCO model, which may be a YOLOX too."""
    if "names" in graph.metadata or any(graph.has_operator(name) for name in ("Exp", ENLARGES)):
        return None
    if _apart(graph) is not None and not any(graph.has_operator(name) for name in _OF_PICODET):
        return "scores and 4 x 8 bins of each stride"
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 3:
        return None
    _, rows, columns = graph.outputs[0].shape
    if rows == cells(graph, PLUS) and columns > 4 * BINS:
        return f"{rows} rows are the cells of strides 8 to 64"
    if rows == cells(graph) and columns == _COCO_COLUMNS and not graph.has_operator("Softmax"):
        return f"{rows} rows are the cells of strides 8, 16 and 32, of 80 classes and 4 x 8 bins"
    return None


class Nanodet(Family):
    """Boxes as distances from cells."""

    name = "nanodet"
    input_format = InputFormat.normalised("BGR", "none", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))

    def __init__(self, graph: GraphSpec) -> None:
        self._apart, self._specs = _apart(graph), graph.outputs
        if self._apart is not None:
            rows = sum(graph.outputs[scores].shape[1] for scores, _ in self._apart)
            self.class_count = graph.outputs[self._apart[0][0]].shape[2]
        else:
            _, rows, columns = only_output(graph).shape
            self.class_count = columns - 4 * BINS
        strides = PLUS if rows == cells(graph, PLUS) else STRIDES
        if rows != cells(graph, strides) or self.class_count < 1:
            raise ValueError("not a row a cell of classes and 4 x 8 bins")
        offsets, self._strides = grid(input_layout(graph.inputs[0])[1], strides)
        self._centres = (offsets + (0.0 if strides == PLUS else 0.5)) * self._strides

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        scores = self._joined(outputs, 0)
        index = np.flatnonzero(scores.max(axis=1) >= thresholds.confidence)
        class_id, score = best_class(scores[index], thresholds.class_ids)
        kept = score >= thresholds.confidence
        index = index[kept]
        bins = self._joined(outputs, 1, index).reshape(-1, 4, BINS)
        distances = (softmax(bins) @ np.arange(BINS, dtype=np.float32)) * self._strides[index]
        centres = self._centres[index]
        boxes = np.concatenate((centres - distances[:, :2], centres + distances[:, 2:]), axis=1)
        return suppress(boxes.astype(np.float32), score[kept], class_id[kept], thresholds)

    def _joined(self, outputs: Sequence[Tensor], part: int, index: NDArray[np.intp] | None = None) -> Floats:
        """Scores (0) or bins (1) of all cells, or of some."""
        if self._apart is not None:
            places = [pair[part] for pair in self._apart]
            every = np.concatenate([dequantize(outputs[place][0], self._specs[place]) for place in places])
            return every if index is None else every[index]
        count = self.class_count or 0
        stored = outputs[0][0, :, :count] if part == 0 else outputs[0][0, :, count:]
        return dequantize(stored if index is None else stored[index], self._specs[0])


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Nanodet(graph)
