"""Straightforward decoders, one box at a time, worked out from the papers: what the vectorised ones are held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Found:
    """One detection in pixels of the input."""

    box: Box
    confidence: float
    class_id: int


def iou(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def suppress(found: Sequence[Found], limit: float) -> list[Found]:
    """Greedy, within a class, strongest first."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda f: -f.confidence):
        if all(other.class_id != one.class_id or iou(other.box, one.box) <= limit for other in kept):
            kept.append(one)
    return kept


def corners(cx: float, cy: float, width: float, height: float) -> Box:
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def yolox(rows: Sequence[Sequence[float]], size: tuple[int, int], confidence: float) -> list[Found]:
    found = []
    cells = [(x, y, s) for s in (8, 16, 32) for y in range(size[1] // s) for x in range(size[0] // s)]
    for (x, y, stride), row in zip(cells, rows, strict=True):
        scores = [row[4] * c for c in row[5:]]
        best = max(range(len(scores)), key=scores.__getitem__)
        if scores[best] >= confidence:
            box = corners((row[0] + x) * stride, (row[1] + y) * stride, math.exp(row[2]) * stride, math.exp(row[3]) * stride)
            found.append(Found(box, scores[best], best))
    return found


def with_objectness(rows: Sequence[Sequence[float]], confidence: float, scale: Callable[[Box], Box]) -> list[Found]:
    found = []
    for row in rows:
        scores = [row[4] * c for c in row[5:]]
        best = max(range(len(scores)), key=scores.__getitem__)
        if scores[best] >= confidence:
            found.append(Found(scale(corners(*row[:4])), scores[best], best))
    return found


def without_objectness(rows: Sequence[Sequence[float]], confidence: float, scale: Callable[[Box], Box]) -> list[Found]:
    return with_objectness([[*row[:4], 1.0, *row[4:]] for row in rows], confidence, scale)
