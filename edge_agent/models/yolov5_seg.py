"""YOLOv5 and YOLOv7 instance segmentation: [1, rows, 5 + classes + P], and prototypes [1, P, h, w] or [1, h, w, P].

Source: ultralytics/yolov5 models/yolo.py (Segment) and segment/predict.py: as yolov5, with P weights at the end of each row; how
prototypes make a mask: ``_prototypes.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._boxes import Unit, best_class, cell_counts, from_centres, smallest_step, survivors
from edge_agent.models._objectness import coarse_scores
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._prototypes import PROTOTYPES, mask_roles, prototype_count, soft_masks
from edge_agent.models._raw_maps import ANCHORS_PER_CELL
from edge_agent.models._results import More
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """Two outputs: three rows a cell, and 16, 32 or 64 prototypes."""
    roles = mask_roles(graph)
    if roles is None:
        return None
    count, _ = prototype_count(graph.outputs[roles[1]])
    _, rows, columns = graph.outputs[roles[0]].shape
    if rows not in {ANCHORS_PER_CELL * cells for cells in cell_counts(graph)} or count not in PROTOTYPES or columns <= 5 + count:
        return None
    return f"{rows} rows are three anchors a cell, and {count} prototypes"


class Yolov5Seg(Family):
    """Boxes with objectness, and masks."""

    name = "yolov5_seg"
    task = "instance segmentation"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        roles = mask_roles(graph)
        if roles is None or recognise(graph) is None:
            raise ValueError("not three rows a cell, and prototypes")
        self._rows, self._masks = roles
        self._spec, self._prototypes = graph.outputs[self._rows], graph.outputs[self._masks]
        self.class_count = self._spec.shape[2] - 5 - prototype_count(self._prototypes)[0]
        self._unit = Unit(self._spec)

    def doubts(self) -> list[str]:
        return coarse_scores(self._spec.name, smallest_step(self._spec))

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        every = dequantize(outputs[self._rows][0], self._spec)
        rows = every[every[:, 4] >= thresholds.confidence]
        end = 5 + (self.class_count or 0)
        class_id, score = best_class(rows[:, 5:end], thresholds.class_ids)
        score = score * rows[:, 4]
        sure = np.flatnonzero(score >= thresholds.confidence)
        rows, class_id, score = rows[sure], class_id[sure], score[sure]
        boxes = from_centres(self._unit.in_pixels(rows[:, :4], size, met=every[:, 0]))
        kept = survivors(boxes, score, class_id, thresholds)
        masks = soft_masks(rows[kept, end:], outputs[self._masks], self._prototypes)
        return Candidates(boxes[kept], score[kept], class_id[kept], More(masks=masks))


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov5Seg(graph)
