"""Frames as FFmpeg decodes them, as lazy images: the decoder's own planes where OpenCV can convert those."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_agent.image import BgrImage, Colours, Image, Order, Pixels, PlanarImage

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.plane import VideoPlane

_PLANAR = {"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p", "nv12"}
_FULL_RANGE, _BT709 = 2, 1


class DecodedImage(Image):
    """A decoded frame that FFmpeg converts: pixel formats other than planes of 8 bits.

    Converted in full and resized after, as FFmpeg's own bilinear downscaling averages (the training code does not) and
    takes longer.
    """

    def __init__(self, frame: VideoFrame) -> None:
        self.width, self.height = frame.width, frame.height
        self._frame = frame
        self._bgr: Pixels | None = None

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        return BgrImage(self.bgr()).resized(width, height, order)

    def bgr(self) -> Pixels:
        if self._bgr is None:
            # Without the padding at the end of each row, which newer PyAV leaves in.
            self._bgr = np.ascontiguousarray(self._frame.to_ndarray(format="bgr24"), np.uint8)
        return self._bgr


class RotatedImage(Image):
    """A picture whose container says that it is to be shown turned (phones): by ``quarter_turns`` x 90° clockwise."""

    def __init__(self, image: Image, quarter_turns: int) -> None:
        self._image, self._turns = image, quarter_turns % 4
        swap = self._turns % 2 == 1
        self.width, self.height = (image.height, image.width) if swap else (image.width, image.height)
        self._bgr: Pixels | None = None

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        size = (height, width) if self._turns % 2 else (width, height)
        return self._turned(self._image.resized(*size, order))

    def bgr(self) -> Pixels:
        if self._bgr is None:
            self._bgr = self._turned(self._image.bgr())
        return self._bgr

    def luma(self, width: int, height: int) -> Pixels:
        size = (height, width) if self._turns % 2 else (width, height)
        return self._turned(self._image.luma(*size))

    def _turned(self, pixels: Pixels) -> Pixels:
        import cv2

        codes = {1: cv2.ROTATE_90_CLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_COUNTERCLOCKWISE}
        return cv2.rotate(pixels, codes[self._turns]) if self._turns else pixels  # type: ignore[return-value]


def image_of(frame: VideoFrame) -> Image:
    """The frame's planes without a copy where OpenCV can convert them, else a frame that FFmpeg converts."""
    image: Image
    name = frame.format.name
    if name in _PLANAR:
        y, *chroma = (_pixels(plane, 2 if name == "nv12" and index else 1) for index, plane in enumerate(frame.planes))
        colours = Colours(name.startswith("yuvj") or int(frame.color_range) == _FULL_RANGE, int(frame.colorspace) == _BT709)
        image = PlanarImage(y, tuple(chroma), colours, owner=frame)
    else:
        image = DecodedImage(frame)
    turns = round(getattr(frame, "rotation", 0) / -90) % 4
    return RotatedImage(image, turns) if turns else image


def _pixels(plane: VideoPlane, channels: int) -> Pixels:
    rows: Pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    pixels = rows[: plane.height, : plane.width * channels]
    return pixels.reshape(plane.height, plane.width, channels) if channels > 1 else pixels
