"""Vectorised arithmetic on boxes that several families share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.models._preprocess import input_layout
from edge_agent.models.base import Candidates, Thresholds
from edge_agent.runtimes.base import GraphSpec, TensorSpec

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
MAX_CANDIDATES = 1000
"""The most boxes that go into NMS; the weakest beyond it could not survive a sensible limit anyway."""
STRIDES = (8, 16, 32)
FRACTIONS_END = 2.0
"""Boxes in fractions of the input stay below this, those in pixels do not."""


def cells(graph: GraphSpec, strides: Sequence[int] = STRIDES) -> int:
    """How many cells the grids of these strides have together, for the graph's input."""
    _, (width, height) = input_layout(graph.inputs[0])
    return sum(-(-width // s) * -(-height // s) for s in strides)


def cell_counts(graph: GraphSpec) -> set[int]:
    """Cells of strides 8, 16, 32, and of the four of models that also see larger (P6) or smaller things (P2)."""
    return {cells(graph), cells(graph, (*STRIDES, 64)), cells(graph, (4, *STRIDES))}


def grid(size: tuple[int, int], strides: Sequence[int] = STRIDES) -> tuple[Floats, Floats]:
    """Cells row by row, stride by stride: column and row [cells, 2], and strides [cells, 1]."""
    offsets, scales = [], []
    for stride in strides:
        columns, rows = np.meshgrid(np.arange(-(-size[0] // stride)), np.arange(-(-size[1] // stride)))
        offsets.append(np.stack((columns.ravel(), rows.ravel()), axis=1))
        scales.append(np.full((columns.size, 1), stride))
    return np.concatenate(offsets).astype(np.float32), np.concatenate(scales).astype(np.float32)


def largest(spec: TensorSpec) -> float | None:
    """The largest real value that a quantized tensor can hold; None for floats."""
    if spec.quantization is None:
        return None
    return (float(np.iinfo(spec.dtype.name).max) - spec.quantization.zero_point) * spec.quantization.scale


def smallest_step(spec: TensorSpec) -> float:
    """The distance of neighbouring real values of a quantized tensor; 0 for floats."""
    return spec.quantization.scale if spec.quantization else 0.0


class Unit:
    """Whether a head's boxes are pixels of the input or fractions of it: the exporters differ, the shapes do not.

    A quantized tensor tells by what it can hold; a float one by the first values met.
    """

    def __init__(self, spec: TensorSpec) -> None:
        limit = largest(spec)
        self._fractions = None if limit is None else limit <= FRACTIONS_END

    def in_pixels(self, boxes: Floats, size: tuple[int, int], met: Floats | None = None) -> Floats:
        """``boxes`` [N, 4] in pixels. ``met``: values that reach over the whole input, if the boxes themselves may not."""
        if self._fractions is None:
            values = boxes if met is None else met
            top = float(values.max(initial=0))
            if not top > 0:  # nothing yet, or no number
                return boxes
            self._fractions = top <= FRACTIONS_END
        return boxes * np.array(size * 2, np.float32) if self._fractions else boxes


def from_centres(cxcywh: Floats) -> Floats:
    """[N, 4] centre x, centre y, width, height to left, top, right, bottom."""
    half = cxcywh[:, 2:] / 2
    return np.concatenate((cxcywh[:, :2] - half, cxcywh[:, :2] + half), axis=1)


def sigmoid(values: Floats) -> Floats:
    """The logistic function, without overflow."""
    shares: Floats = np.reciprocal(1 + np.exp(-np.clip(values, -60, 60)))
    return shares


def softmax(values: Floats) -> Floats:
    """Over the last axis."""
    grown = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Floats = grown / grown.sum(axis=-1, keepdims=True)
    return shares


def logit(share: float) -> float:
    """What the logistic function makes ``share`` of."""
    share = min(max(share, 1e-9), 1 - 1e-9)
    return float(np.log(share / (1 - share)))


def best_class(scores: Floats, class_ids: Ints | None) -> tuple[Ints, Floats]:
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


def survivors(xyxy: Floats, confidence: Floats, class_id: Ints, thresholds: Thresholds) -> NDArray[np.intp]:
    """Rows that greedy non-maximum suppression within each class leaves, strongest first (OpenCV's ``NMSBoxesBatched``)."""
    import cv2

    order = strongest(confidence, MAX_CANDIDATES)
    if len(order) > 1:
        xyxy, confidence, class_id = xyxy[order], confidence[order], class_id[order]
        xywh = np.concatenate((xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]), axis=1)
        kept = cv2.dnn.NMSBoxesBatched(xywh, confidence, class_id, 0.0, thresholds.iou)  # type: ignore[arg-type]
        order = order[np.sort(np.asarray(kept, np.intp).reshape(-1))]
    return order[: thresholds.max_detections]


def suppress(xyxy: Floats, confidence: Floats, class_id: Ints, thresholds: Thresholds) -> Candidates:
    """What :func:`survivors` leaves."""
    kept = survivors(xyxy, confidence, class_id, thresholds)
    return Candidates(xyxy[kept], confidence[kept], class_id[kept])


def final(boxes: Floats, confidence: Floats, class_id: Ints, thresholds: Thresholds) -> Candidates:
    """Boxes that need no suppression: those above the threshold and of the classes wanted, strongest first."""
    kept = confidence >= thresholds.confidence
    if thresholds.class_ids is not None:
        kept &= np.isin(class_id, thresholds.class_ids)
    index = np.flatnonzero(kept)
    index = index[strongest(confidence[index], thresholds.max_detections)]
    return Candidates(boxes[index], confidence[index], class_id[index])
