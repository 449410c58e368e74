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


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def nanodet(rows: Sequence[Sequence[float]], classes: int, size: tuple[int, int], confidence: float, *, plus: bool) -> list[Found]:
    """Each side's distance is the expectation of a softmax over eight bins, in strides; Plus measures from a cell's corner."""
    found = []
    strides = (8, 16, 32, 64) if plus else (8, 16, 32)
    cells = [(x, y, s) for s in strides for y in range(math.ceil(size[1] / s)) for x in range(math.ceil(size[0] / s))]
    for (x, y, stride), row in zip(cells, rows, strict=True):
        best = max(range(classes), key=row.__getitem__)
        if row[best] < confidence:
            continue
        sides = []
        for side in range(4):
            bins = [math.exp(v) for v in row[classes + 8 * side : classes + 8 * side + 8]]
            sides.append(stride * sum(i * v for i, v in enumerate(bins)) / sum(bins))
        cx, cy = (x, y) if plus else (x + 0.5, y + 0.5)
        cx, cy = cx * stride, cy * stride
        found.append(Found((cx - sides[0], cy - sides[1], cx + sides[2], cy + sides[3]), row[best], best))
    return found


def ssd_anchors(size: tuple[int, int]) -> list[Box]:
    """Centre y, centre x, height, width, one by one, from the description in section 2.2 of the paper and ssd_mobilenet's configuration."""
    scales = [0.2 + 0.15 * level for level in range(6)] + [1.0]
    found = []
    for level in range(6):
        stride = 16 * 2**level
        columns, rows = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
        if level == 0:
            shapes = [(0.1, 1.0), (0.2, 2.0), (0.2, 0.5)]
        else:
            shapes = [(scales[level], ratio) for ratio in (1.0, 2.0, 1 / 2, 3.0, 1 / 3)] + [
                (math.sqrt(scales[level] * scales[level + 1]), 1.0)
            ]
        for y in range(rows):
            for x in range(columns):
                found += [((y + 0.5) / rows, (x + 0.5) / columns, s / math.sqrt(r), s * math.sqrt(r)) for s, r in shapes]
    return found


def ssd(
    encodings: Sequence[Sequence[float]],
    scores: Sequence[Sequence[float]],
    anchors: Sequence[Box],
    size: tuple[int, int],
    confidence: float,
) -> list[Found]:
    """``scores`` are probabilities, class 0 being nothing."""
    found = []
    for (ty, tx, th, tw), row, (ay, ax, ah, aw) in zip(encodings, scores, anchors, strict=True):
        best = max(range(1, len(row)), key=row.__getitem__)
        if row[best] >= confidence:
            cy, cx = ty / 10 * ah + ay, tx / 10 * aw + ax
            box = corners(cx * size[0], cy * size[1], math.exp(tw / 5) * aw * size[0], math.exp(th / 5) * ah * size[1])
            found.append(Found(box, row[best], best - 1))
    return found


def fastestdet(grid: Sequence[Sequence[Sequence[float]]], size: tuple[int, int], confidence: float) -> list[Found]:
    """``grid``: [channel][row][column]."""
    found = []
    rows, columns = len(grid[0]), len(grid[0][0])
    for y in range(rows):
        for x in range(columns):
            cell = [channel[y][x] for channel in grid]
            best = max(range(5, len(cell)), key=cell.__getitem__)
            score = cell[0] ** 0.6 * cell[best] ** 0.4
            if score >= confidence:
                cx, cy = (x + math.tanh(cell[1])) / columns * size[0], (y + math.tanh(cell[2])) / rows * size[1]
                found.append(Found(corners(cx, cy, sigmoid(cell[3]) * size[0], sigmoid(cell[4]) * size[1]), score, best - 5))
    return found


YOLOV5_ANCHORS = [[(10, 13), (16, 30), (33, 23)], [(30, 61), (62, 45), (59, 119)], [(116, 90), (156, 198), (373, 326)]]
YOLOV7_ANCHORS = [[(12, 16), (19, 36), (40, 28)], [(36, 75), (76, 55), (72, 146)], [(142, 110), (192, 243), (459, 401)]]


def anchor_grid(
    maps: Sequence[Sequence[Sequence[Sequence[Sequence[float]]]]], anchors: Sequence[Sequence[tuple[int, int]]], confidence: float
) -> list[Found]:
    """``maps``: for strides 8, 16 and 32 [anchor][row][column][number], logits."""
    found = []
    for level, one in enumerate(maps):
        stride = 8 * 2**level
        for anchor, rows in enumerate(one):
            for y, row in enumerate(rows):
                for x, numbers in enumerate(row):
                    share = [sigmoid(number) for number in numbers]
                    best = max(range(5, len(share)), key=share.__getitem__)
                    if share[4] * share[best] >= confidence:
                        width, height = ((2 * share[2 + i]) ** 2 * anchors[level][anchor][i] for i in (0, 1))
                        box = corners((2 * share[0] - 0.5 + x) * stride, (2 * share[1] - 0.5 + y) * stride, width, height)
                        found.append(Found(box, share[4] * share[best], best - 5))
    return found


def efficientdet_anchors(size: tuple[int, int], scale: float) -> list[Box]:
    """Left, top, right, bottom, one by one: section 4 of the paper (arXiv 1911.09070), with three sizes and three shapes a cell."""
    found = []
    for level in range(3, 8):
        rows, columns = math.ceil(size[1] / 2**level), math.ceil(size[0] / 2**level)
        high, wide = size[1] / rows, size[0] / columns
        for y in range(rows):
            for x in range(columns):
                for octave in (0, 1, 2):
                    for aspect_x, aspect_y in ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4)):
                        growth = scale * 2 ** (octave / 3)
                        found.append(corners((x + 0.5) * wide, (y + 0.5) * high, growth * wide * aspect_x, growth * high * aspect_y))
    return found


def efficientdet(
    steps: Sequence[Sequence[float]], scores: Sequence[Sequence[float]], anchors: Sequence[Box], confidence: float
) -> list[Found]:
    """``scores`` are probabilities, all of them of something."""
    found = []
    for (ty, tx, th, tw), row, (left, top, right, bottom) in zip(steps, scores, anchors, strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        if row[best] >= confidence:
            wide, high = right - left, bottom - top
            box = corners((left + right) / 2 + tx * wide, (top + bottom) / 2 + ty * high, math.exp(tw) * wide, math.exp(th) * high)
            found.append(Found(box, row[best], best))
    return found
