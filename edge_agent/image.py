"""Lazy pictures: pixels stay as the camera delivered them until somebody asks, then go straight to the size asked for.

A frame that nobody serves is never converted. A served one is resized first and converted after, so the colour
conversion is paid for the model's input and not for the camera's resolution. The full-size BGR picture is made once,
and only if a sink asks for it.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Order = Literal["BGR", "RGB"]


class Image(ABC):
    """One picture of ``width`` x ``height`` pixels. Immutable; may be read from any thread, by one at a time."""

    width: int
    height: int

    @abstractmethod
    def resized(self, width: int, height: int, order: Order) -> Pixels:
        """The picture as uint8 [height, width, 3] in ``order``; aspect is the caller's business.

        Bilinear, as the training code of the supported model families does. Raises ValueError for undecodable data.
        The array may be shared with the image: do not write to it.
        """

    @abstractmethod
    def bgr(self) -> Pixels:
        """The picture as uint8 [height, width, 3] BGR in full size; made once."""


class BgrImage(Image):
    """Pixels that are BGR already: stills, Python sources."""

    def __init__(self, pixels: Pixels) -> None:
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        import cv2

        pixels = self._pixels
        if (width, height) != (self.width, self.height):
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
        return pixels if order == "BGR" else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]

    def bgr(self) -> Pixels:
        return self._pixels


class JpegImage(Image):
    """A JPEG as a webcam sends it (MJPG), decoded at the nearest reduced scale that still covers the size asked for.

    libjpeg scales by 1/2, 1/4 or 1/8 inside the DCT, which costs a fraction of a full decode.
    """

    def __init__(self, data: bytes | Pixels, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        self._bgr: Pixels | None = None

    def _decode(self, reduce: int) -> Pixels:
        import cv2

        flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
        # OpenCV refuses no data at all, and sizes out of all reason, by an error of its own.
        pixels = None
        with contextlib.suppress(cv2.error):
            pixels = cv2.imdecode(self._data, flags[reduce] | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise ValueError("the camera sent a JPEG that cannot be decoded")
        return pixels  # type: ignore[return-value]

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        if self._bgr is not None:
            return BgrImage(self._bgr).resized(width, height, order)
        reduce = next((n for n in (8, 4, 2) if self.width >= width * n and self.height >= height * n), 1)
        return BgrImage(self._decode(reduce)).resized(width, height, order)

    def bgr(self) -> Pixels:
        if self._bgr is None:
            self._bgr = self._decode(1)
        return self._bgr


class YuyvImage(Image):
    """Packed 4:2:2 from a webcam: ``data`` is uint8 [height, width, 2], Y0 U Y1 V."""

    def __init__(self, data: Pixels) -> None:
        self.height, self.width = data.shape[:2]
        self._data = data
        self._bgr: Pixels | None = None

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        import cv2

        # Chroma from the macropixels (Y0 U Y1 V as four channels, half as wide); luma at its own full resolution.
        even_width = width + width % 2
        macro = cv2.resize(self._data.reshape(self.height, self.width // 2, 4), (even_width // 2, height), interpolation=cv2.INTER_LINEAR)
        packed = macro.reshape(height, even_width, 2)
        packed[:, :width, 0] = cv2.resize(self._data, (width, height), interpolation=cv2.INTER_LINEAR)[:, :, 0]
        pixels = cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_YUYV if order == "BGR" else cv2.COLOR_YUV2RGB_YUYV)
        return _cropped(pixels, width, height)  # type: ignore[arg-type]

    def bgr(self) -> Pixels:
        import cv2

        if self._bgr is None:
            self._bgr = cv2.cvtColor(self._data, cv2.COLOR_YUV2BGR_YUYV)  # type: ignore[assignment]
        assert self._bgr is not None
        return self._bgr


class PlanarImage(Image):
    """Limited-range 4:2:0 planes as video decoders make them: Y [h, w], and U and V [h/2, w/2], or interleaved UV [h/2, w/2, 2].

    ``owner`` keeps the memory behind the planes alive. Converted with BT.601 coefficients, as OpenCV does.
    """

    def __init__(self, y: Pixels, chroma: tuple[Pixels, ...], owner: object = None) -> None:
        self.height, self.width = y.shape[:2]
        self._y, self._chroma, self._owner = y, chroma, owner
        self._bgr: Pixels | None = None

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        import cv2

        # The 4:2:0 conversion needs even sizes. An odd one gets a row or column too many, which is cut off afterwards:
        # luma sampled for the size asked for, not for the next even one, is what makes the result exact.
        even_width, even_height = width + width % 2, height + height % 2
        half = (even_width // 2, even_height // 2)
        planes = np.zeros((even_height * 3 // 2, even_width), np.uint8)
        luma = cv2.resize(self._y, (width, height), interpolation=cv2.INTER_LINEAR)
        planes[:height, :width] = luma
        rest = planes[even_height:].reshape(-1)
        if len(self._chroma) == 1:
            cv2.resize(self._chroma[0], half, dst=rest.reshape(half[1], half[0], 2), interpolation=cv2.INTER_LINEAR)
            code = cv2.COLOR_YUV2BGR_NV12 if order == "BGR" else cv2.COLOR_YUV2RGB_NV12
        else:
            for plane, target in zip(self._chroma, np.split(rest, 2), strict=True):
                cv2.resize(plane, half, dst=target.reshape(half[1], half[0]), interpolation=cv2.INTER_LINEAR)
            code = cv2.COLOR_YUV2BGR_I420 if order == "BGR" else cv2.COLOR_YUV2RGB_I420
        return _cropped(cv2.cvtColor(planes, code), width, height)  # type: ignore[arg-type]

    def bgr(self) -> Pixels:
        if self._bgr is None:
            self._bgr = self.resized(self.width, self.height, "BGR")
        return self._bgr


def _cropped(pixels: Pixels, width: int, height: int) -> Pixels:
    return pixels if pixels.shape[:2] == (height, width) else np.ascontiguousarray(pixels[:height, :width])
