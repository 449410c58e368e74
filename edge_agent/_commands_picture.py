"""A frame as a JPEG of bounded size."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.image import Image

_QUALITIES = (85, 70, 50)
_LEAST_WIDTH = 16


@dataclass(frozen=True, slots=True)
class Jpeg:
    """What is sent: ``data`` is a JPEG (ISO/IEC 10918-1, baseline) of ``width`` x ``height``."""

    data: bytes
    width: int
    height: int


def jpeg_of(image: Image, max_width: int, max_bytes: int) -> Jpeg:
    """The picture in at most so many pixels across and so many bytes: coarser first, then smaller by halves.

    Raises ValueError for a picture that cannot be read, or that is too much for ``max_bytes`` at any size.
    """
    import cv2

    width = min(image.width, max_width)
    while width >= min(_LEAST_WIDTH, image.width):
        height = max(1, round(image.height * width / image.width))
        pixels = image.bgr() if width == image.width else image.resized(width, height, "BGR")
        for quality in _QUALITIES:
            done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if done and data.nbytes <= max_bytes:
                return Jpeg(data.tobytes(), width, height)
        width //= 2
    raise ValueError(f"the picture cannot be made as small as {max_bytes} bytes; allow more by max_bytes")
