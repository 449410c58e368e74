"""YOLOv8/11 pose: [1, 4 + classes + keypoints * 3, cells]: box, score, and x, y, score of each keypoint.

Source: ultralytics/ultralytics nn/modules/head.py (Pose): keypoints are in the boxes' unit, their scores are probabilities.
Without metadata only the common shape (one class, COCO's 17 keypoints: 56 numbers) is taken for one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._anchor_free import AnchorFree, is_transposed, keypoint_shape, metadata_task, survivors_of
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._results import More
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor

Config = NoConfig
COCO_KEYPOINTS = (17, 3)
_COCO_NUMBERS = 4 + 1 + 17 * 3


def recognise(graph: GraphSpec) -> str | None:
    """One output as of YOLOv8, with keypoints by the metadata, or of 56 numbers."""
    if len(graph.outputs) != 1 or metadata_task(graph) not in {"", "pose"}:
        return None
    transposed = is_transposed(graph, graph.outputs[0])
    if transposed is None:
        return None
    if keypoint_shape(graph) is not None:
        return "the metadata name its keypoints"
    numbers = graph.outputs[0].shape[2 if transposed else 1]
    return "56 numbers a cell: a box, a score and 17 keypoints" if numbers == _COCO_NUMBERS and not graph.metadata else None


class Yolov8Pose(Family):
    """Boxes and keypoints."""

    name = "yolov8_pose"
    task = "keypoints"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        self._count, self._numbers = keypoint_shape(graph) or COCO_KEYPOINTS
        self._head = AnchorFree(graph, only_output(graph), extra=self._count * self._numbers)
        self.class_count = self._head.class_count
        if self.class_count == 1:
            self.default_labels = ("person",) if self._count == COCO_KEYPOINTS[0] else ()

    def doubts(self) -> list[str]:
        return self._head.doubts()

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        found = self._head.candidates(outputs[0], size, thresholds)
        kept = survivors_of(found, thresholds)
        boxes, confidence, class_id, rows = found
        points = rows[kept, 4 + self._head.class_count :].reshape(-1, self._count, self._numbers)
        keypoints = np.ones((len(kept), self._count, 3), np.float32)
        keypoints[:, :, : self._numbers] = points
        keypoints[:, :, :2] = self._head.extra_in_pixels(keypoints[:, :, :2].reshape(-1, 2), size).reshape(-1, self._count, 2)
        return Candidates(boxes[kept], confidence[kept], class_id[kept], More(keypoints=keypoints))


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov8Pose(graph)
