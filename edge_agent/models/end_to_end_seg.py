"""Instance segmentation that needs no NMS: [1, rows, 6 + P], and prototypes (YOLO26-seg, and exports with NMS inside).

Source: as of ``end_to_end``; how prototypes make a mask: ``_prototypes.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.models._anchor_free import metadata_task
from edge_agent.models._final_rows import BASE, FinalRows, are_final_rows
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._prototypes import PROTOTYPES, mask_roles, prototype_count, soft_masks
from edge_agent.models._results import More
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """Two outputs: rows of a box, confidence, class and weights, and 16, 32 or 64 prototypes."""
    roles = mask_roles(graph)
    if roles is None or metadata_task(graph) not in {"", "segment"}:
        return None
    count, _ = prototype_count(graph.outputs[roles[1]])
    if count not in PROTOTYPES or not are_final_rows(graph.outputs[roles[0]], BASE + count):
        return None
    return f"rows of a box and {count} weights, and {count} prototypes"


class EndToEndSeg(Family):
    """Final boxes and masks."""

    name = "end_to_end_seg"
    task = "instance segmentation"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        roles = mask_roles(graph)
        if roles is None or recognise(graph) is None:
            raise ValueError("not rows of boxes with weights, and prototypes")
        self._boxes, self._masks = roles
        self._rows = FinalRows(graph.outputs[self._boxes])
        self._prototypes = graph.outputs[self._masks]

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        boxes, confidence, class_id, weights = self._rows.best(outputs[self._boxes], size, thresholds)
        return Candidates(boxes, confidence, class_id, More(masks=soft_masks(weights, outputs[self._masks], self._prototypes)))


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return EndToEndSeg(graph)
