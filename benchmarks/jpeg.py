"""What decodes a webcam's JPEG cheapest: OpenCV, PyAV, and simplejpeg where it is installed, at every scale (decision 0010).

    python benchmarks/jpeg.py [--rounds N]

CPU of the thread per picture, 1920x1080 of the built-in clip, by sampling and size of the file. "Plain" is a whole decode and
one resize, the picture kept until the next is there, as a loop around ``read()`` does.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import av
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext

from edge_agent.demo import clip_path
from edge_agent.image import JpegImage, Pixels
from edge_agent.sources._ffmpeg_images import image_of

PICTURES = 30
TARGET = (416, 234)
SAMPLINGS = {"4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422}
QUALITIES = (85, 40)

Way = Callable[[Pixels], object]


def encoded(sampling: int, quality: int) -> list[Pixels]:
    """The clip's first pictures as a webcam would send them."""
    with av.open(clip_path()) as container:
        frames = [frame for _, frame in zip(range(PICTURES), container.decode(video=0), strict=False)]
    pictures = (np.asarray(frame.reformat(1920, 1080, "bgr24").to_ndarray(), np.uint8) for frame in frames)
    flags = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    return [np.asarray(cv2.imencode(".jpg", picture, flags)[1], np.uint8).reshape(-1) for picture in pictures]


def by_pyav(lowres: int) -> Callable[[Pixels], av.VideoFrame]:
    """FFmpeg's decoder, at 1 / 2^lowres of the size; the planes, without any conversion."""
    context = av.CodecContext.create("mjpeg", "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count, context.options = 1, {"lowres": str(lowres)}
    return lambda data: context.decode(av.Packet(data.tobytes()))[0]


def ways() -> dict[str, Way]:
    """What is compared; the first is the plain way."""
    kept: list[object] = []

    def plain(data: Pixels) -> object:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        kept[:] = [picture]
        return cv2.resize(np.asarray(picture), TARGET)

    half, quarter = by_pyav(1), by_pyav(2)
    found: dict[str, Way] = {
        "plain: OpenCV whole, resized": plain,
        "ours: JpegImage": lambda data: JpegImage(data, 1920, 1080).resized(*TARGET, "BGR"),
        "OpenCV, 1/4": lambda data: cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_4),
        "OpenCV, 1/8 and grey: the entropy coding": lambda data: cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8),
        "PyAV whole, planes": by_pyav(0),
        "PyAV lowres=1, planes resized": lambda data: image_of(half(data)).resized(*TARGET, "BGR"),
        "PyAV lowres=2, planes resized": lambda data: image_of(quarter(data)).resized(*TARGET, "BGR"),
    }
    try:
        simplejpeg: Any = importlib.import_module("simplejpeg")
    except ImportError:
        return found
    found["simplejpeg, 1/4"] = lambda data: simplejpeg.decode_jpeg(data, "BGR", True, True, min_width=TARGET[0], min_height=TARGET[1])
    return found


def milliseconds(way: Way, pictures: Sequence[Pixels]) -> float:
    """CPU per picture."""
    begun = time.thread_time()
    for picture in pictures:
        way(picture)
    return (time.thread_time() - begun) / len(pictures) * 1e3


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    for sampling, flag in SAMPLINGS.items():
        for quality in QUALITIES:
            pictures = encoded(flag, quality)
            compared = ways()
            taken: dict[str, list[float]] = {name: [] for name in compared}
            for _ in range(rounds):
                for name, way in compared.items():
                    taken[name].append(milliseconds(way, pictures))
            print(f"{sampling}, {sum(p.size for p in pictures) / len(pictures) / 1e3:.0f} KB")
            plain = next(iter(taken.values()))
            for name, values in taken.items():
                ratio = statistics.median(value / base for value, base in zip(values, plain, strict=True))
                print(f"    {name:42} {statistics.median(values):6.2f} ms  {ratio:.2f} of plain")


if __name__ == "__main__":
    main()
