"""Heads that need no NMS: [1, rows, 6] of left, top, right, bottom, confidence, class (YOLOv10, YOLO26, and exports with NMS inside).

Source: ultralytics/ultralytics nn/modules/head.py (v10Detect, end2end) and engine/exporter.py (nms=True).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._anchor_free import metadata_task
from edge_agent.models._boxes import Unit, final
from edge_agent.models._preprocess import InputFormat
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """One output [1, rows, 6] with at most a thousand rows, or an open number of them."""
    if len(graph.outputs) == 1 and len(graph.outputs[0].shape) == 3 and graph.outputs[0].shape[2] == 6:
        rows = graph.outputs[0].shape[1]
        if rows <= 1000 and metadata_task(graph) in {"", "detect"}:
            return f"{rows if rows > 0 else 'open'} rows of six: box, confidence, class"
    return None


class EndToEnd(Family):
    """Final boxes."""

    name = "end_to_end"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        self._spec = only_output(graph)
        if self._spec.shape[2] != 6:
            raise ValueError("not rows of six")
        self._unit = Unit(self._spec)

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        rows = dequantize(outputs[0][0], self._spec)
        rows = rows[rows[:, 4] >= thresholds.confidence]
        boxes = self._unit.in_pixels(rows[:, :4], size)
        return final(boxes, rows[:, 4], rows[:, 5].round().astype(np.int32), thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return EndToEnd(graph)
