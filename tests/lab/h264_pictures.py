"""Reads H.264 from a V4L2 node through the product's source and compares it with the clip that was sent, pixel by pixel.

    python tests/lab/h264_pictures.py /dev/video21 clip.ts

H.264 decodes to the same pixels everywhere, so a picture is one of the clip's or it is wrong. Pictures after a frame that the
driver lost may be wrong until the next key frame; without a loss none may be. Exits with 1 and says why.
"""

from __future__ import annotations

import sys

import av
import numpy as np

from edge_agent.image import Pixels
from edge_agent.sources._ffmpeg_images import image_of
from edge_agent.sources.base import FrameUnreadable
from edge_agent.sources.v4l2 import Config, V4l2Source

PICTURES = 25


def sent(clip: str) -> list[Pixels]:
    """BGR pictures of the clip, each uint8 [height, width, 3]."""
    with av.open(clip) as container:
        return [image_of(frame).bgr().copy() for frame in container.decode(video=0)]


def main(node: str, clip: str) -> int:
    pictures = sent(clip)
    source = V4l2Source(node, Config(format="H264"))
    info = source.open()
    print(f"{info.mode}, {info.decoder}; the clip has {len(pictures)} pictures")
    seen: list[int | None] = []
    lost = unreadable = 0
    while len(seen) < PICTURES:
        try:
            shown = source.read().image.bgr()
        except FrameUnreadable as error:
            print(error)
            unreadable += 1
            if unreadable > PICTURES:
                break
            continue
        lost += source.lost_upstream()
        seen.append(next((number for number, picture in enumerate(pictures) if np.array_equal(picture, shown)), None))
    source.close()
    wrong, right = seen.count(None), {number for number in seen if number is not None}
    print(f"{len(seen)} pictures, {wrong} wrong, {unreadable} unreadable, {lost} lost by the driver, {len(right)} different ones")
    print(" ".join("wrong" if number is None else str(number) for number in seen))
    return 0 if (wrong == 0 or lost > 0) and wrong < len(seen) / 2 and len(right) >= 5 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
