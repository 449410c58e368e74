"""NanoDet and NanoDet-Plus: [1, cells, classes + 4 * bins]: class probabilities, and a distribution for each side's distance.

Source: Li et al., "Generalized Focal Loss" (arXiv 2006.04388), and RangiLyu/nanodet nanodet/model/head/nanodet_plus_head.py
(``_forward_onnx``, ``get_single_level_center_priors``) and gfl_head.py: strides 8, 16, 32, and 64 in Plus; a distance is the mean
of its distribution times the stride. NanoDet measures from the cells' centres, (column + 0.5) * stride; Plus from their corners.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._boxes import STRIDES, best_class, cells, grid, softmax, suppress
from edge_agent.models._preprocess import InputFormat, input_layout
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
BINS = 8
PLUS = (*STRIDES, 64)
_COCO_COLUMNS = 80 + 4 * BINS


def recognise(graph: GraphSpec) -> str | None:
    """Rows for strides 8 to 64 and more columns than 32; or for 8 to 32 with the 112 columns of a COCO model, which may be a YOLOX too."""
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 3 or "names" in graph.metadata or graph.has_operator("Exp"):
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
        self._spec = only_output(graph)
        _, rows, columns = self._spec.shape
        strides = PLUS if rows == cells(graph, PLUS) else STRIDES
        self.class_count = columns - 4 * BINS
        if rows != cells(graph, strides) or self.class_count < 1:
            raise ValueError("not a row a cell of classes and 4 x 8 bins")
        offsets, self._strides = grid(input_layout(graph.inputs[0])[1], strides)
        self._centres = (offsets + (0.0 if strides == PLUS else 0.5)) * self._strides

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        stored = outputs[0][0]
        scores = dequantize(stored[:, : self.class_count], self._spec)
        index = np.flatnonzero(scores.max(axis=1) >= thresholds.confidence)
        class_id, score = best_class(scores[index], thresholds.class_ids)
        kept = score >= thresholds.confidence
        index = index[kept]
        bins = dequantize(stored[index, self.class_count :], self._spec).reshape(-1, 4, BINS)
        distances = (softmax(bins) @ np.arange(BINS, dtype=np.float32)) * self._strides[index]
        centres = self._centres[index]
        boxes = np.concatenate((centres - distances[:, :2], centres + distances[:, 2:]), axis=1)
        return suppress(boxes.astype(np.float32), score[kept], class_id[kept], thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Nanodet(graph)
