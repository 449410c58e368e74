#!/usr/bin/env python3
# mypy: disable-error-code="import-untyped, import-not-found"
"""compare.py REBUILT SHIPPED: whether the files of one folder are those of the other, and if not, whether they do the same.

Other bytes are no fault in themselves: another encoder, another TensorFlow or another processor gives them. Then both models
run on the clips, and what they detect has to agree. Exit code 1 if it does not.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

Array = npt.NDArray[Any]

MODEL, LABELS, CLIP, TRUTH = FILES = ("oid_int8_pp.tflite", "oid_int8_pp.txt", "people_cross.mp4", "people_cross.truth.json")
THRESHOLDS = (0.25, 0.3)  # the useful ones
TRUE_IOU = 0.4  # a person is found
SAME_IOU, SAME_SCORE = 0.8, 0.1  # two models mean the same detection
AGREEMENT = 0.95  # share of the detections that both models must have
TRUTH_PX = 4.0  # GrabCut may find an edge a little elsewhere


@dataclass(frozen=True)
class Detections:
    """Of one frame: [n, 4] left, top, right, bottom in pixels; n scores; n lines of the label file."""

    boxes: Array
    scores: Array
    classes: Array

    def of(self, label: int, threshold: float) -> Array:
        """The boxes of one label."""
        boxes: Array = self.boxes[(self.classes == label) & (self.scores >= threshold)]
        return boxes


def detections(model: Path, clip: Path) -> list[Detections]:
    """What the model sees in each frame."""
    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    image = interpreter.get_input_details()[0]["index"]
    outputs = [output["index"] for output in interpreter.get_output_details()]
    video = cv2.VideoCapture(str(clip))
    found: list[Detections] = []
    while True:
        read, frame = video.read()
        if not read:
            return found
        height, width = frame.shape[:2]
        interpreter.set_tensor(image, cv2.resize(frame, (300, 300))[None, ..., ::-1])
        interpreter.invoke()
        boxes, classes, scores, count = (interpreter.get_tensor(output) for output in outputs)
        valid = np.s_[0, : int(count[0])]
        pixels = boxes[valid][:, [1, 0, 3, 2]].clip(0, 1) * np.array([width, height] * 2)
        found.append(Detections(pixels, scores[valid], classes[valid].astype(int)))


def iou(one: Array, others: Array) -> Array:
    """Intersection over union of a box with each of the others."""
    width, height = (np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])).clip(0).T
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(one[2:] - one[:2])
    shared = width * height
    quotient: Array = shared / np.maximum(areas - shared, 1e-9)
    return quotient


def against_truth(found: list[Detections], truth: dict[str, Any], person: int, threshold: float) -> str:
    """How many of the people at least half in the frame are found, and how many detections of people are of nobody."""
    hits = people = strays = 0
    for frame, seen in zip(truth["frames"], found, strict=True):
        boxes = seen.of(person, threshold)
        for box in frame["boxes"]:
            if box["visible"] >= 0.5:
                people += 1
                hits += bool((iou(np.array(box["xyxy"]), boxes) >= TRUE_IOU).any())
        true = np.array([box["xyxy"] for box in frame["boxes"]]).reshape(-1, 4)
        strays += sum(not (iou(box, true) >= TRUE_IOU).any() for box in boxes)
    frames = sum(len(seen.of(person, threshold)) > 0 for seen in found)
    return f"a person in {frames} frames; {hits} of {people} people found; {strays} detections of nobody"


def agreement(ours: list[Detections], theirs: list[Detections], threshold: float) -> float:
    """The share of our detections that are theirs too."""
    same = total = 0
    for mine, other in zip(ours, theirs, strict=True):
        for box, score, label in zip(mine.boxes, mine.scores, mine.classes, strict=True):
            if score >= threshold:
                near = (other.classes == label) & (np.abs(other.scores - score) <= SAME_SCORE)
                total += 1
                same += bool((iou(box, other.boxes[near]) >= SAME_IOU).any())
    return same / total if total else 1.0


def truth_distance(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The most by which an edge of a person's box differs, in pixels; infinite if the people are others."""
    distance = 0.0
    for mine, other in zip(ours["frames"], theirs["frames"], strict=True):
        if [box["id"] for box in mine["boxes"]] != [box["id"] for box in other["boxes"]]:
            return float("inf")
        for box, twin in zip(mine["boxes"], other["boxes"], strict=True):
            distance = max(distance, *(abs(edge - its) for edge, its in zip(box["xyxy"], twin["xyxy"], strict=True)))
    return distance


def say(line: str) -> None:
    """A line for the person who watches."""
    sys.stdout.write(line + "\n")


def same_behaviour(rebuilt: Path, shipped: Path) -> bool:
    """Runs both pairs of model and clip; says what they find."""
    person = (shipped / LABELS).read_text().split("\n").index("Person")
    truths = [json.loads((folder / TRUTH).read_text()) for folder in (rebuilt, shipped)]
    distance = truth_distance(*truths)
    say(f"the edges of the people in the two clips differ by up to {distance} px (at most {TRUTH_PX} wanted)")
    model = (rebuilt if (rebuilt / MODEL).exists() else shipped) / MODEL
    ours, theirs = detections(model, rebuilt / CLIP), detections(shipped / MODEL, shipped / CLIP)
    agreed = []
    for threshold in THRESHOLDS:
        say(f"score >= {threshold}, shipped: {against_truth(theirs, truths[1], person, threshold)}")
        say(f"score >= {threshold}, rebuilt: {against_truth(ours, truths[0], person, threshold)}")
        agreed.append(min(agreement(ours, theirs, threshold), agreement(theirs, ours, threshold)))
        say(f"score >= {threshold}: {agreed[-1]:.1%} of the detections of all classes agree (at least {AGREEMENT:.0%} wanted)")
    return distance <= TRUTH_PX and min(agreed) >= AGREEMENT


def main() -> int:
    """Compare."""
    rebuilt, shipped = map(Path, sys.argv[1:])
    different = []
    for name in FILES:
        if not (rebuilt / name).exists():
            say(f"{name} was not rebuilt")
            continue
        ours, theirs = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (rebuilt, shipped))
        say(f"{ours}  {name}: {'identical to the shipped file' if ours == theirs else f'the shipped file has {theirs}'}")
        different += [name] if ours != theirs else []
    if not different:
        return 0
    if LABELS in different:
        say(f"error: {LABELS} is a part of a source that is checked; it has to be identical")
        return 1
    return 0 if same_behaviour(rebuilt, shipped) else 1


if __name__ == "__main__":
    sys.exit(main())
