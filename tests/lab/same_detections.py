"""Whether two runs saw the same: same_detections.py A B, files of detections messages, one JSON object a line, of one file and model.

Each object of A must have one of its class in the same frame of B, with an overlap (IoU) of 0.8 and a confidence within 0.06, which are
two steps of a quantized model's scores and the neighbouring anchor; and the other way round. Those that only one of them has may be near
the threshold: as much as 2 % of all, and at least one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

LEAST_IOU, MOST_DIFFERENCE, MOST_ALONE = 0.8, 0.06, 0.02


def read(path: str) -> dict[int, list[dict[str, Any]]]:
    """By frame."""
    messages = (json.loads(line) for line in Path(path).read_text().splitlines() if line.startswith("{"))
    return {message["frame_id"]: message["detections"] for message in messages}


def iou(a: list[float], b: list[float]) -> float:
    """Of two boxes [left, top, right, bottom]."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def alone(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the others do not have."""
    return [
        one
        for one in ours
        if not any(
            other["label"] == one["label"]
            and iou(one["xyxy"], other["xyxy"]) >= LEAST_IOU
            and abs(one["confidence"] - other["confidence"]) <= MOST_DIFFERENCE
            for other in theirs
        )
    ]


def main(first: str, second: str) -> int:
    """0 if they did."""
    a, b = read(first), read(second)
    if a.keys() != b.keys() or not a:
        print(f"FAILED  frames: {len(a)} and {len(b)}")
        return 1
    count = sum(len(objects) for objects in a.values())
    odd = [one for frame in a for one in (*alone(a[frame], b[frame]), *alone(b[frame], a[frame]))]
    most = max(1, int(MOST_ALONE * count))
    good = bool(count) and len(odd) <= most
    print(f"{'ok     ' if good else 'FAILED '} {len(a)} frames, {count} objects, {len(odd)} without their like (at most {most})")
    for one in odd[:5]:
        print("        ", one["label"], one["confidence"], one["xyxy"])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
