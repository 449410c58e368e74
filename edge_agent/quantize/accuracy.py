"""What quantizing cost: average precision where there are labels, and agreement with the float model where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_agent import evaluation
from edge_agent.detections import Detections
from edge_agent.image import Image
from edge_agent.labelled import Mapping, Truth
from edge_agent.models.base import Model
from edge_agent.quantize.sessions import MemoryRuntime, Session
from edge_agent.runtimes.base import Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

_SEEN = 0.1
"""Confidence from which a detection counts for agreement."""
AGREEMENT_FOR_DROP = 12.0
"""Without labels the agreement must reach 1 - 12 x --target-drop: at 0.01 that is 0.88. Measured: docs/decisions/0009."""


@dataclass(frozen=True)
class Accuracy:
    """Of one model on all pictures. ``ap`` and ``ap50`` are None without labels."""

    agreement: float
    """1: the same boxes with the same confidence as the float model's."""
    ap: float | None = None
    ap50: float | None = None

    @property
    def merit(self) -> float:
        """To choose by: AP, and with a twelfth of the weight agreement, which moves where AP on few pictures jumps."""
        return (self.ap or 0.0) + self.agreement / AGREEMENT_FOR_DROP


@dataclass(frozen=True)
class Labels:
    """Boxes of the pictures, where there are some."""

    truth: Truth
    classes: Mapping


class Judge:
    """Runs trial models over the pictures through the daemon's own preprocess and postprocess."""

    def __init__(self, reference: Model, pictures: dict[int, Image], labels: Labels | None) -> None:
        """``reference`` is the user's file as loaded; ``pictures`` by image id."""
        self._reference, self._pictures, self._labels = reference, pictures, labels
        self._base = {number: reference(picture, evaluation.THRESHOLDS).detections for number, picture in pictures.items()}
        self.float_accuracy = self._accuracy(self._base)

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def finds_something(self) -> bool:
        """Whether the float model sees anything to agree with."""
        return any(len(_seen(found)) for found in self._base.values())

    def some(self, count: int) -> list[int]:
        """Ids of so many pictures, evenly spread."""
        ids = list(self._pictures)
        return [ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int)).tolist()]

    def accuracy(self, model: ModelProto) -> Accuracy:
        """Of a trial model, on all pictures."""
        return self._accuracy(self._run(self.trial(Session(model))[0], list(self._pictures)))

    def damage(self, model: Model, ids: Sequence[int]) -> float:
        """1 - agreement of a trial on some pictures."""
        return 1 - agreement({i: self._base[i] for i in ids}, self._run(model, ids))

    def trial(self, session: Session, feed: dict[str, Tensor] | None = None) -> tuple[Model, MemoryRuntime]:
        """A session as a model with the reference's family and names, and the runtime that takes its further inputs."""
        runtime = MemoryRuntime(session, self._reference.graph, feed or {})
        return Model(runtime, self._reference.family, self._reference.labels), runtime

    def _run(self, model: Model, ids: Sequence[int]) -> dict[int, Detections]:
        return {number: model(self._pictures[number], evaluation.THRESHOLDS).detections for number in ids}

    def _accuracy(self, found: dict[int, Detections]) -> Accuracy:
        agreed = agreement(self._base, found)
        if self._labels is None:
            return Accuracy(agreed)
        score = evaluation.score(self._labels.truth, self._labels.classes, found)
        return Accuracy(agreed, score.ap, score.ap50)

    def shortfall(self, accuracy: Accuracy, target_drop: float) -> float:
        """How far the target is missed; at most 0 where it is met."""
        if accuracy.ap is None or self.float_accuracy.ap is None:
            return (1 - AGREEMENT_FOR_DROP * target_drop) - accuracy.agreement
        return self.float_accuracy.ap - accuracy.ap - target_drop


def agreement(first: dict[int, Detections], second: dict[int, Detections]) -> float:
    """Overlap (IoU) of the boxes that two models found alike, weighed by confidence, over all that either found; 0 to 1.

    Boxes are paired within a class, the most confident first, each with the one that overlaps it most, from IoU 0.5 on. It moves
    with every small error, where average precision on few pictures jumps.
    """
    shared = total = 0.0
    for number, one in first.items():
        a, b = _seen(one), _seen(second[number])
        total += float(a.confidence.sum() + b.confidence.sum()) / 2
        overlaps = _iou(a.xyxy, b.xyxy) * (a.class_id[:, None] == b.class_id[None, :])
        for row in range(len(a)):
            if overlaps.shape[1] and (best := float(overlaps[row].max())) >= 0.5:
                column = int(overlaps[row].argmax())
                shared += best * min(float(a.confidence[row]), float(b.confidence[column]))
                overlaps[:, column] = 0
    return round(shared / total, 4) if total else 1.0


def _seen(detections: Detections) -> Detections:
    kept = detections.confidence >= _SEEN
    return Detections(detections.xyxy[kept], detections.confidence[kept], detections.class_id[kept], detections.names)


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    inside = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = np.prod(np.maximum(inside, 0), axis=2)
    areas = np.prod(a[:, 2:] - a[:, :2], axis=1)[:, None] + np.prod(b[:, 2:] - b[:, :2], axis=1)[None, :]
    ratio: NDArray[np.float32] = overlap / np.maximum(areas - overlap, np.float32(1e-6))
    return ratio
