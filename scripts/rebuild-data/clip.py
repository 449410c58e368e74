#!/usr/bin/env python3
"""clip.py PHOTOGRAPHS TRUTH.json: the two people of two photographs, cut out, walk past each other before a brick wall.

PHOTOGRAPHS is scikit-image's data folder. Writes 150 raw BGR frames of 1280x720 to standard output, and where the people
are in each of them, exactly, to TRUTH.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[Any]
Polygon = list[tuple[int, int]]

FPS, FRAMES, WIDTH, HEIGHT = 15, 150, 1280, 720
HORIZON = 470  # where the wall stands on the ground
LINE = WIDTH // 2  # the truth says when somebody crosses it


@dataclass(frozen=True)
class Outline:
    """Where the person is in a photograph: GrabCut finds the edge between what surely is the person and what surely is not."""

    photograph: str
    around: tuple[int, int, int, int]  # x, y, width, height
    person: list[Polygon]
    surroundings: list[Polygon]


ASTRONAUT = Outline(
    "astronaut",
    (0, 0, 400, 512),
    [[(60, 512), (100, 300), (230, 200), (330, 330), (330, 512)], [(190, 60), (270, 60), (290, 170), (200, 190)]],
    [
        [(300, 0), (512, 0), (512, 230), (390, 260), (310, 180)],
        [(0, 0), (130, 0), (120, 150), (60, 230), (28, 330), (14, 512), (0, 512)],
    ],
)
CAMERA = Outline(
    "camera",
    (0, 60, 340, 452),
    [[(5, 500), (30, 300), (150, 150), (200, 120), (240, 110), (215, 200), (180, 330), (120, 400), (100, 500)]],
    [[(300, 150), (512, 150), (512, 512), (250, 512), (290, 330)], [(0, 0), (512, 0), (512, 60), (0, 60)], [(0, 60), (60, 60), (0, 200)]],
)


@dataclass(frozen=True)
class Walker:
    """A person cut out, and the way they go: where their left edge is at the first frame and at the last."""

    number: int
    who: str
    pixels: Image
    alpha: Image
    height: int
    start: int
    end: int
    first: int
    last: int

    @property
    def scale(self) -> float:
        return self.height / float(self.pixels.shape[0])

    @property
    def width(self) -> float:
        return float(self.pixels.shape[1]) * self.scale

    def position(self, frame: int) -> tuple[float, float]:
        """Left and top; steps make it bob."""
        x = self.start + (self.end - self.start) * ((frame - self.first) / (self.last - self.first))
        y = HEIGHT - self.height + 5 * np.sin(frame / FPS * 2 * np.pi * 1.6 + self.number - 1) + 5
        return x, float(y)

    def draw(self, canvas: Image, frame: int) -> Image:
        """The canvas with this person on it."""
        x, y = self.position(frame)
        move = np.array([[self.scale, 0, x], [0, self.scale, y]], np.float32)
        pixels = cv2.warpAffine(self.pixels, move, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
        alpha = cv2.warpAffine(self.alpha, move, (WIDTH, HEIGHT))[..., None]
        drawn: Image = canvas * (1 - alpha) + pixels * alpha
        return drawn

    def box(self, frame: int) -> dict[str, Any] | None:
        """The truth: the part of the person's box inside the frame, whoever walks in front."""
        x, y = self.position(frame)
        left, top, right, bottom = max(0.0, x), max(0.0, y), min(WIDTH, x + self.width), min(HEIGHT, y + self.height)
        if right <= left:
            return None
        edges = [round(float(edge), 1) for edge in (left, top, right, bottom)]
        return {"id": self.number, "label": "person", "who": self.who, "xyxy": edges, "visible": round((right - left) / self.width, 2)}

    def event(self) -> dict[str, Any]:
        """The truth: when the middle of the box crosses the line."""
        before = [self.position(frame)[0] + self.width / 2 < LINE for frame in range(self.first, self.last + 1)]
        crossing = self.first + before.index(not before[0])
        direction = "left_to_right" if before[0] else "right_to_left"
        return {"id": self.number, "dir": direction, "line_x": LINE, "centre_crosses_at_frame": crossing}


def read(folder: Path, name: str) -> Image:
    """A photograph, in colour even if it has none."""
    image = cv2.imread(str(folder / f"{name}.png"))
    if image is None:
        sys.exit(f"error: {folder} has no photograph {name}.png")
    return image


def cut_out(folder: Path, outline: Outline) -> tuple[Image, Image]:
    """The person's pixels, and how far each belongs to the person, 0 to 1."""
    image = read(folder, outline.photograph)
    mask: Image = np.full(image.shape[:2], cv2.GC_BGD, np.uint8)
    x, y, width, height = outline.around
    mask[y : y + height, x : x + width] = cv2.GC_PR_FGD
    for polygons, value in ((outline.person, cv2.GC_FGD), (outline.surroundings, cv2.GC_BGD)):
        for polygon in polygons:
            cv2.fillPoly(mask, [np.array(polygon, np.int32)], [value])
    cv2.setRNGSeed(1)
    cv2.grabCut(image, mask, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), 6, cv2.GC_INIT_WITH_MASK)
    person = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(person)
    person = (labels == 1 + statistics[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
    closed = cv2.morphologyEx(person, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    alpha = cv2.GaussianBlur(closed.astype(np.float32), (0, 0), 1.2)
    rows, columns = np.where(alpha > 0.5)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return image[box], alpha[box]


def background(folder: Path) -> Image:
    """A brick wall on gravel."""
    bricks = cv2.resize(cv2.rotate(read(folder, "brick"), cv2.ROTATE_90_CLOCKWISE), (360, 360), interpolation=cv2.INTER_AREA)
    gravel = np.tile(cv2.resize(read(folder, "gravel"), (400, 400), interpolation=cv2.INTER_AREA), (2, 6, 1))
    seen_from_above = np.array([[500, 0], [1900, 0], [1400, 800], [1000, 800]], np.float32)
    seen_from_here = np.array([[0, HORIZON], [WIDTH, HORIZON], [WIDTH + 300, HEIGHT], [-300, HEIGHT]], np.float32)
    perspective = cv2.getPerspectiveTransform(seen_from_above, seen_from_here)
    scene = cv2.warpPerspective(gravel, perspective, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT).astype(np.float32)
    scene[:HORIZON] = np.tile(bricks, (2, 4, 1))[:HORIZON, :WIDTH]
    scene[:HORIZON] *= np.array([0.80, 0.92, 1.05], np.float32)
    scene[HORIZON:] *= np.array([0.80, 0.85, 0.85], np.float32)
    return scene.clip(0, 255)


def walkers(folder: Path) -> list[Walker]:
    """Who walks; the second passes in front of the first."""
    pixels, alpha = cut_out(folder, ASTRONAUT)
    first = Walker(1, "astronaut", pixels, alpha, 560, -520, 1300, 5, 120)
    pixels, alpha = cut_out(folder, CAMERA)
    return [first, Walker(2, "camera", cv2.flip(pixels, 1), cv2.flip(alpha, 1), 600, 1290, -480, 30, 148)]


def frames(scene: Image, cast: Iterable[Walker], truth: list[dict[str, Any]]) -> Iterator[Image]:
    """Each frame; what is in it is appended to the truth."""
    for frame in range(FRAMES):
        canvas, boxes = scene.copy(), []
        for walker in cast:
            if walker.first <= frame <= walker.last:
                canvas = walker.draw(canvas, frame)
                boxes.append(walker.box(frame))
        truth.append({"frame": frame, "boxes": [box for box in boxes if box]})
        yield canvas.clip(0, 255).astype(np.uint8)


def main() -> None:
    """Write the frames and the truth."""
    folder, result = map(Path, sys.argv[1:])
    cast, boxes = walkers(folder), list[dict[str, Any]]()
    for image in frames(background(folder), cast, boxes):
        sys.stdout.buffer.write(np.ascontiguousarray(image).tobytes())
    truth = {"width": WIDTH, "height": HEIGHT, "fps": FPS, "frames": boxes, "events": [walker.event() for walker in cast]}
    result.write_text(json.dumps(truth, separators=(",", ":")))


if __name__ == "__main__":
    main()
