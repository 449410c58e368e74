"""Heads that need no NMS: [1, rows, 6] of left, top, right, bottom, confidence, class (YOLOv10, YOLO26, and exports with NMS inside).

Source: ultralytics/ultralytics nn/modules/head.py (v10Detect, end2end) and engine/exporter.py (nms=True).
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.models._anchor_free import metadata_task
from edge_agent.models._boxes import smallest_step
from edge_agent.models._final_rows import BASE, FinalRows, are_final_rows
from edge_agent.models._objectness import coarse_scores
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._signs import ATTENTION
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """One output [1, rows, 6] with at most a thousand rows, or an open number of them."""
    if len(graph.outputs) != 1 or metadata_task(graph) not in {"", "detect"} or not are_final_rows(graph.outputs[0], BASE):
        return None
    if graph.has_operator(ATTENTION):  # a DETR of two classes has six numbers a row, too
        return None
    rows = graph.outputs[0].shape[1]
    return f"{rows if rows > 0 else 'open'} rows of six: box, confidence, class"


class EndToEnd(Family):
    """Final boxes."""

    name = "end_to_end"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        if only_output(graph).shape[2] != BASE:
            raise ValueError("not rows of six")
        self._rows = FinalRows(graph.outputs[0])

    def doubts(self) -> list[str]:
        return coarse_scores(self._rows.spec.name, smallest_step(self._rows.spec))

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        boxes, confidence, class_id, _ = self._rows.best(outputs[0], size, thresholds)
        return Candidates(boxes, confidence, class_id)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return EndToEnd(graph)
