"""From what a model saw to what the contract says: numbers rounded, and what only some tasks have."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Literal

from edge_agent.detections import Masks
from edge_agent.events import (
    DetectedObject,
    DetectionsEvent,
    IntervalSummary,
    Mask,
    RankedClass,
    RichDetectionsEvent,
    RichObject,
    RunLengths,
    Segment,
)
from edge_agent.models.base import Prediction

MaskForm = Literal["polygon", "rle", "none"]


def is_plain(prediction: Prediction) -> bool:
    """Whether there is nothing but boxes, as of a detector."""
    found = prediction.detections
    return found.keypoints is None and found.masks is None and prediction.classes is None and prediction.segmentation is None


def objects(prediction: Prediction, width: int, height: int) -> list[DetectedObject]:
    """The detections as the contract writes them: pixels to a tenth, fractions and confidence to four places."""
    found = prediction.detections
    if len(found) == 0:
        return []
    rows = zip(found.class_id.tolist(), found.label, found.confidence.tolist(), found.xyxy.tolist(), strict=True)
    return [
        DetectedObject(
            class_id,
            label,
            _share(confidence),
            (round(box[0], 1), round(box[1], 1), round(box[2], 1), round(box[3], 1)),
            (round(box[0] / width, 5), round(box[1] / height, 5), round(box[2] / width, 5), round(box[3] / height, 5)),
        )
        for class_id, label, confidence, box in rows
    ]


def enriched(event: DetectionsEvent, prediction: Prediction, form: MaskForm) -> RichDetectionsEvent:
    """An event with what its model's task adds: keypoints, masks in ``form``, classes of the picture, segments."""
    found = prediction.detections
    nothing: list[None] = [None] * len(found)
    masks = _masks(found.masks, form)
    points = nothing if found.keypoints is None else found.keypoints.tolist()
    rich = [
        RichObject(
            plain.class_id,
            plain.label,
            plain.confidence,
            plain.xyxy,
            plain.xyxyn,
            mask,
            None if row is None else [(round(x, 1), round(y, 1), _share(score)) for x, y, score in row],
        )
        for plain, mask, row in zip(event.detections, masks or nothing, points, strict=True)
    ]
    return RichDetectionsEvent(**_common(event, rich), classes=_classes(prediction), segments=_segments(prediction, form))


def summed(newest: DetectionsEvent, interval: IntervalSummary, seq: int) -> RichDetectionsEvent:
    """An interval's message: its newest frame, and the sum."""
    if isinstance(newest, RichDetectionsEvent):
        return replace(newest, seq=seq, interval=interval)
    rich = [RichObject(each.class_id, each.label, each.confidence, each.xyxy, each.xyxyn) for each in newest.detections]
    return RichDetectionsEvent(**{**_common(newest, rich), "seq": seq}, interval=interval)


def _common(event: DetectionsEvent, rich: list[RichObject]) -> dict[str, Any]:
    return {field.name: getattr(event, field.name) for field in fields(DetectionsEvent)} | {"detections": rich}


def _share(value: float) -> float:
    return min(1.0, max(0.0, round(value, 4)))


def _masks(masks: Masks | None, form: MaskForm) -> list[Mask] | None:
    if masks is None or form == "none":
        return None
    if form == "polygon":
        return [Mask(polygons=polygons) for polygons in masks.polygons()]
    return [Mask(rle=RunLengths((masks.height, masks.width), counts)) for counts in masks.rle()]


def _classes(prediction: Prediction) -> list[RankedClass] | None:
    found = prediction.classes
    if found is None:
        return None
    rows = zip(found.class_id.tolist(), found.label, found.confidence.tolist(), strict=True)
    return [RankedClass(class_id, label, _share(confidence)) for class_id, label, confidence in rows]


def _segments(prediction: Prediction, form: MaskForm) -> list[Segment] | None:
    found = prediction.segmentation
    if found is None:
        return None
    size = (found.height, found.width)
    return [
        Segment(class_id, label, _share(share), RunLengths(size, found.rle(class_id)) if form == "rle" else None)
        for class_id, label, share in found.shares()
    ]
