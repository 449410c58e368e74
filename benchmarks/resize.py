"""What averaging by halves before the bilinear resize costs, and what the shipped model sees for it on the shipped clip.

python benchmarks/resize.py

Both ways in turns within one run: milliseconds of CPU for one frame (medians of 7 turns over 40 frames), and recall over
truth boxes at least half in the frame, and precision, at IoU 0.4.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import numpy as np

from edge_agent import config_file, demo, plugins
from edge_agent.image import Image, Order, Pixels, PlanarImage
from edge_agent.models import _loading
from edge_agent.models.base import Thresholds
from edge_agent.sources._ffmpeg_images import image_of

CLIP = Path(demo.clip_path())
Box = tuple[float, float, float, float]


class Bilinear(Image):
    """The same planes, brightness sampled plainly."""

    def __init__(self, image: PlanarImage) -> None:
        self.width, self.height, self._image = image.width, image.height, image

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        image = self._image
        luma = np.asarray(cv2.resize(image._y, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)  # noqa: SLF001
        return PlanarImage(luma, image._chroma, image._colours).resized(width, height, order)  # noqa: SLF001

    def bgr(self) -> Pixels:
        return self._image.bgr()


def iou(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def main() -> None:
    """Print both tables."""
    cv2.setNumThreads(1)
    with av.open(str(CLIP)) as container:
        frames = [image_of(frame) for frame in container.decode(video=0)]
    ways: dict[str, Sequence[Image]] = {"bilinear": [Bilinear(f) for f in frames if isinstance(f, PlanarImage)], "halves": frames}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(7):
        for name, images in ways.items():
            begun = time.thread_time()
            for image in images[:40]:
                image.resized(300, 300, "RGB")
            times[name].append((time.thread_time() - begun) / 40 * 1e3)
    print({name: f"{statistics.median(found):.3f} ms for 1280x720 to 300x300" for name, found in times.items()})
    tables = {"cameras": [{"id": "x", "source": str(CLIP)}]}
    model = _loading.load(config_file.build(tables, plugins.PluginKinds(), environ={})).lanes[0]
    truth = json.loads(CLIP.with_suffix(".truth.json").read_text())["frames"]
    for confidence in (0.25, 0.3):
        thresholds = Thresholds(confidence, 0.45, 25, np.array([model.labels.index("Person")], np.int32))
        for name, images in ways.items():
            wanted = hits = reported = right = 0
            for image, known in zip(images, truth, strict=True):
                found: list[Box] = [tuple(box) for box in model(image, thresholds).detections.xyxy.tolist()]
                boxes: list[Box] = [tuple(box["xyxy"]) for box in known["boxes"]]
                visible = [tuple(box["xyxy"]) for box in known["boxes"] if box["visible"] >= 0.5]
                wanted, reported = wanted + len(visible), reported + len(found)
                hits += sum(any(iou(box, f) >= 0.4 for f in found) for box in visible)
                right += sum(any(iou(f, box) >= 0.4 for box in boxes) for f in found)
            print(f"confidence {confidence}: {name}: {hits} of {wanted} people found, precision {right / reported:.2f} of {reported}")


if __name__ == "__main__":
    main()
