"""COCO's average precision written out plainly, one box at a time: what pycocotools' is held against.

After the description at https://cocodataset.org/#detection-eval: for each category and IoU, detections in the order of their
confidence each take the free box that overlaps most; crowds take any number and count for nothing; precision is made monotonic and
read at 101 recalls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Box = tuple[float, float, float, float]
"""Left, top, width, height."""
IOUS: list[float] = np.linspace(0.5, 0.95, 10).tolist()


@dataclass(frozen=True)
class Object:
    """One annotated box."""

    category: int
    box: Box
    crowd: bool = False


@dataclass(frozen=True)
class Seen:
    """One detection."""

    category: int
    box: Box
    confidence: float


def overlap(seen: Box, truth: Box, *, crowd: bool) -> float:
    width = min(seen[0] + seen[2], truth[0] + truth[2]) - max(seen[0], truth[0])
    height = min(seen[1] + seen[3], truth[1] + truth[3]) - max(seen[1], truth[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    whole = seen[2] * seen[3] if crowd else seen[2] * seen[3] + truth[2] * truth[3] - both
    return both / whole


def average_precision(
    truth: Mapping[int, Sequence[Object]], found: Mapping[int, Sequence[Seen]], categories: Sequence[int]
) -> tuple[float, float]:
    """AP and AP50 over the images of ``found``, over the categories that have boxes in them."""
    tables = {iou: [_one(truth, found, category, iou) for category in categories] for iou in IOUS}
    means = []
    for iou in IOUS:
        valid = [value for value in tables[iou] if value is not None]
        means.append(sum(valid) / len(valid) if valid else 0.0)
    return sum(means) / len(means), means[0]


def _one(truth: Mapping[int, Sequence[Object]], found: Mapping[int, Sequence[Seen]], category: int, iou: float) -> float | None:
    marks: list[tuple[float, bool]] = []
    wanted = 0
    for image, detections in found.items():
        objects = [o for o in truth.get(image, []) if o.category == category]
        wanted += sum(not o.crowd for o in objects)
        taken = [False] * len(objects)
        mine = sorted((d for d in detections if d.category == category), key=lambda d: -d.confidence)[:100]
        for detection in mine:
            best, at = min(iou, 1 - 1e-10), None
            for index, one in enumerate(objects):
                if not one.crowd and not taken[index] and (value := overlap(detection.box, one.box, crowd=False)) >= best:
                    best, at = value, index
            if at is not None:
                taken[at] = True
                marks.append((detection.confidence, True))
            elif not any(one.crowd and overlap(detection.box, one.box, crowd=True) >= iou for one in objects):
                marks.append((detection.confidence, False))
    if wanted == 0:
        return None
    marks.sort(key=lambda mark: -mark[0])
    points, hits = [], 0
    for count, (_, hit) in enumerate(marks, 1):
        hits += hit
        points.append((hits / wanted, hits / count))
    for index in range(len(points) - 2, -1, -1):
        points[index] = (points[index][0], max(points[index][1], points[index + 1][1]))
    total = 0.0
    for threshold in np.linspace(0, 1, 101).tolist():
        total += next((precision for recall, precision in points if recall >= threshold), 0.0)
    return total / 101
