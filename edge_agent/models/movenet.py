"""MoveNet: a person's 17 keypoints, [1, 1, 17, 3]; or six people's, [1, 6, 56].

Source: the model cards of MoveNet SinglePose and MultiPose (tfhub.dev/google/movenet): y, x, score as fractions of the input, which
is RGB from 0 to 255, the aspect kept, black around it; MultiPose adds top, left, bottom, right and a score after its 17 * 3 numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._boxes import Floats, strongest
from edge_agent.models._preprocess import InputFormat, pixels_as_they_are
from edge_agent.models._results import More
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
KEYPOINTS = 17
_NUMBERS = 3 * KEYPOINTS + 5
_SURE = 0.2
"""Keypoints above this make up the box, as in the authors' own drawing code."""


def _is_single(graph: GraphSpec) -> bool:
    return len(graph.outputs) == 1 and graph.outputs[0].shape in {(1, 1, KEYPOINTS, 3), (-1, 1, KEYPOINTS, 3), (1, KEYPOINTS, 3)}


def _is_multi(graph: GraphSpec) -> bool:
    return len(graph.outputs) == 1 and len(graph.outputs[0].shape) == 3 and graph.outputs[0].shape[1:] == (6, _NUMBERS)


def recognise(graph: GraphSpec) -> str | None:
    """One output [1, 1, 17, 3] or [1, 6, 56]."""
    if _is_single(graph):
        return "17 keypoints of y, x and a score"
    return "six times 17 keypoints and a box" if _is_multi(graph) else None


class Movenet(Family):
    """People's keypoints, in COCO's order."""

    name = "movenet"
    task = "keypoints"
    class_count = 1
    default_labels = ("person",)
    default_confidence = 0.3

    def __init__(self, graph: GraphSpec) -> None:
        if recognise(graph) is None:
            raise ValueError("not 17 keypoints")
        self._spec = graph.outputs[0]
        self.input_format = pixels_as_they_are(graph.inputs[0], InputFormat("RGB", "centre", pad=0))

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        real = dequantize(outputs[0], self._spec)
        if thresholds.class_ids is not None and 0 not in thresholds.class_ids:
            return Candidates.none()
        if real.shape[-1] == 3:
            points = real.reshape(1, KEYPOINTS, 3)
            boxes, confidence = _hull(points), points[:, :, 2].mean(axis=1)
        else:
            rows = real.reshape(-1, _NUMBERS)
            points, boxes, confidence = rows[:, : 3 * KEYPOINTS].reshape(-1, KEYPOINTS, 3), rows[:, -5:-1], rows[:, -1]
        index = np.flatnonzero(confidence >= thresholds.confidence)
        index = index[strongest(confidence[index], thresholds.max_detections)]
        keypoints = points[index][:, :, [1, 0, 2]] * np.array((*size, 1), np.float32)
        corners = boxes[index][:, [1, 0, 3, 2]] * np.array(size * 2, np.float32)
        return Candidates(corners, confidence[index], np.zeros(len(index), np.int32), More(keypoints=keypoints))


def _hull(points: Floats) -> Floats:
    """Top, left, bottom, right of each one's sure points, or of all where none is sure."""
    sure = points[:, :, 2] >= _SURE
    sure |= ~sure.any(axis=1, keepdims=True)
    places = points[:, :, :2]
    least = np.where(sure[:, :, None], places, np.inf).min(axis=1)
    most = np.where(sure[:, :, None], places, -np.inf).max(axis=1)
    return np.concatenate((least, most), axis=1).astype(np.float32)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Movenet(graph)
