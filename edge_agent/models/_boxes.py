"""Vectorised arithmetic on boxes that several families share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_agent.models.base import Candidates, Thresholds

Floats = NDArray[np.float32]
MAX_CANDIDATES = 1000
"""The most boxes that go into NMS; the weakest beyond it could not survive a sensible limit anyway."""


def from_centres(cxcywh: Floats) -> Floats:
    """[N, 4] centre x, centre y, width, height to left, top, right, bottom."""
    half = cxcywh[:, 2:] / 2
    return np.concatenate((cxcywh[:, :2] - half, cxcywh[:, :2] + half), axis=1)


def best_class(scores: Floats, class_ids: NDArray[np.int32] | None) -> tuple[NDArray[np.int32], Floats]:
    """For [N, classes]: each row's best class among those wanted, and its score."""
    if class_ids is not None:
        wanted = class_ids[class_ids < scores.shape[1]]
        if wanted.size == 0:
            return np.zeros(len(scores), np.int32), np.zeros(len(scores), np.float32)
        column = scores[:, wanted].argmax(axis=1)
        best = wanted[column]
    else:
        best = scores.argmax(axis=1)
    return best.astype(np.int32), scores[np.arange(len(scores)), best]


def strongest(confidence: Floats, limit: int) -> NDArray[np.intp]:
    """Indices of the ``limit`` highest values, highest first."""
    if len(confidence) > limit:
        kept = np.argpartition(-confidence, limit)[:limit]
        return kept[np.argsort(-confidence[kept], kind="stable")]
    return np.argsort(-confidence, kind="stable")


def suppress(xyxy: Floats, confidence: Floats, class_id: NDArray[np.int32], thresholds: Thresholds) -> Candidates:
    """Greedy non-maximum suppression within each class, strongest first (OpenCV's ``NMSBoxesBatched``)."""
    import cv2

    order = strongest(confidence, MAX_CANDIDATES)
    xyxy, confidence, class_id = xyxy[order], confidence[order], class_id[order]
    if len(order) > 1:
        xywh = np.concatenate((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]), axis=1)
        kept = cv2.dnn.NMSBoxesBatched(xywh, confidence, class_id, 0.0, thresholds.iou)  # type: ignore[arg-type]
        index = np.sort(np.asarray(kept, np.intp).reshape(-1))
        xyxy, confidence, class_id = xyxy[index], confidence[index], class_id[index]
    limit = thresholds.max_detections
    return Candidates(xyxy[:limit], confidence[:limit], class_id[:limit])
