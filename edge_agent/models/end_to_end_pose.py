"""Pose heads that need no NMS: [1, rows, 6 + keypoints * 3] (YOLO26-pose, and pose exports with NMS inside).

Source: as of ``end_to_end``; keypoints are in the boxes' unit. How many there are stands in Ultralytics' metadata (``kpt_shape``);
without them only COCO's 17 (57 numbers a row) are taken for such.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._anchor_free import keypoint_shape, metadata_task
from edge_agent.models._final_rows import BASE, FinalRows, are_final_rows
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._results import More
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor

Config = NoConfig
COCO_KEYPOINTS = (17, 3)


def recognise(graph: GraphSpec) -> str | None:
    """One output of rows of a box, confidence, class and keypoints."""
    if len(graph.outputs) != 1 or metadata_task(graph) not in {"", "pose"}:
        return None
    count, numbers = keypoint_shape(graph) or COCO_KEYPOINTS
    if not are_final_rows(graph.outputs[0], BASE + count * numbers):
        return None
    return f"rows of a box and {count} keypoints"


class EndToEndPose(Family):
    """Final boxes and keypoints."""

    name = "end_to_end_pose"
    task = "keypoints"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        self._count, self._numbers = keypoint_shape(graph) or COCO_KEYPOINTS
        if only_output(graph).shape[2] != BASE + self._count * self._numbers:
            raise ValueError("not rows of a box and keypoints")
        self._rows = FinalRows(graph.outputs[0])

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        boxes, confidence, class_id, rest = self._rows.best(outputs[0], size, thresholds)
        keypoints = np.ones((len(boxes), self._count, 3), np.float32)
        keypoints[:, :, : self._numbers] = rest.reshape(-1, self._count, self._numbers)
        places = self._rows.points_in_pixels(keypoints[:, :, :2].reshape(-1, 2), size)
        keypoints[:, :, :2] = places.reshape(-1, self._count, 2)
        return Candidates(boxes, confidence, class_id, More(keypoints=keypoints))


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return EndToEndPose(graph)
