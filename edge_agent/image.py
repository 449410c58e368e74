"""Lazy pictures: pixels stay as the camera delivered them until somebody asks, then go straight to the size asked for.

A frame that nobody serves is never converted. A served one is resized first and converted after, so the colour
conversion is paid for the model's input and not for the camera's resolution. The full-size BGR picture is made once,
and only if a sink asks for it.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Order = Literal["BGR", "RGB"]


class Image(ABC):
    """One picture of ``width`` x ``height`` pixels. Immutable; may be read from any thread, by one at a time."""

    width: int
    height: int
    decode_ms: float = 0.0
    """Milliseconds that decoding has taken so far, where it was put off until somebody asked."""

    @abstractmethod
    def resized(self, width: int, height: int, order: Order) -> Pixels:
        """The picture as uint8 [height, width, 3] in ``order``; aspect is the caller's business.

        Bilinear, as the training code of the supported model families does, after averaging by halves where it is made
        much smaller. Raises ValueError for undecodable data.
        The array may be shared with the image: do not write to it.
        """

    @abstractmethod
    def bgr(self) -> Pixels:
        """The picture as uint8 [height, width, 3] BGR in full size; made once."""

    def luma(self, width: int, height: int) -> Pixels:
        """Brightness as uint8 [height, width], much smaller than the picture, the cheapest way there is: for looking at motion.

        Averages over some of the rows. Its black and white are those of the picture's own range. Raises ValueError for
        undecodable data.
        """
        import cv2

        return cv2.cvtColor(self.resized(width, height, "BGR"), cv2.COLOR_BGR2GRAY)  # type: ignore[return-value]

    def cropped(self, left: int, top: int, width: int, height: int) -> Image:
        """The part from (``left``, ``top``) on, in pixels, as a picture of its own; nothing is copied before it is asked for.

        ``left`` and ``top`` are even, as chroma has half the places. The part lies inside the picture.
        """
        return CroppedImage(self, left, top, width, height)

    def __getstate__(self) -> dict[str, object]:
        """What another process is given: the picture as it came, not what was made of it or keeps its memory alive."""
        return {name: None if name in {"_bgr", "_owner"} else value for name, value in vars(self).items()}


class CroppedImage(Image):
    """Part of a picture that can only be had as a whole, such as a JPEG: decoded no larger than the part is needed."""

    def __init__(self, image: Image, left: int, top: int, width: int, height: int) -> None:
        self._image, self._left, self._top = image, left, top
        self.width, self.height = width, height
        self.decode_ms = image.decode_ms

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        import cv2

        whole = self._image
        reduce = next((n for n in (8, 4, 2) if self.width >= width * n and self.height >= height * n), 1)
        if reduce == 1:
            return BgrImage(self.bgr()).resized(width, height, order)
        pixels = whole.resized(whole.width // reduce, whole.height // reduce, order)
        self.decode_ms = whole.decode_ms
        # Where the part begins and ends lies between pixels of the reduced picture.
        across, down = pixels.shape[1] / whole.width, pixels.shape[0] / whole.height
        step_x, step_y = self.width * across / width, self.height * down / height
        begin = (self._left * across + step_x / 2 - 0.5, self._top * down + step_y / 2 - 0.5)
        affine = np.array([[step_x, 0, begin[0]], [0, step_y, begin[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(pixels, affine, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]

    def bgr(self) -> Pixels:
        whole = self._image.bgr()
        self.decode_ms = self._image.decode_ms
        return whole[self._top : self._top + self.height, self._left : self._left + self.width]


def _rows_of(pixels: Pixels, height: int, wanted: int) -> Pixels:
    """Evenly spaced rows, ``wanted`` for each of ``height`` or a few more: averaging all of them would read the whole picture."""
    return pixels[:: max(1, pixels.shape[0] // (height * wanted))]


def _averaged(pixels: Pixels, width: int, height: int) -> Pixels:
    import cv2

    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


class BgrImage(Image):
    """Pixels that are BGR already: stills, Python sources."""

    def __init__(self, pixels: Pixels) -> None:
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        import cv2

        pixels = _resized(self._pixels, width, height)
        return pixels if order == "BGR" else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]

    def bgr(self) -> Pixels:
        return self._pixels

    def luma(self, width: int, height: int) -> Pixels:
        import cv2

        return cv2.cvtColor(_averaged(_rows_of(self._pixels, height, 2), width, height), cv2.COLOR_BGR2GRAY)  # type: ignore[return-value]

    def cropped(self, left: int, top: int, width: int, height: int) -> Image:
        return BgrImage(self._pixels[top : top + height, left : left + width])


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
        pixels, began = None, time.perf_counter()
        with contextlib.suppress(cv2.error):
            pixels = cv2.imdecode(self._data, flags[reduce] | cv2.IMREAD_IGNORE_ORIENTATION)
        self.decode_ms += (time.perf_counter() - began) * 1e3
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

    def luma(self, width: int, height: int) -> Pixels:
        import cv2

        if self._bgr is not None:
            return BgrImage(self._bgr).luma(width, height)
        small, began = None, time.perf_counter()
        with contextlib.suppress(cv2.error):
            small = cv2.imdecode(self._data, cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION)
        self.decode_ms += (time.perf_counter() - began) * 1e3
        if small is None:
            raise ValueError("the camera sent a JPEG that cannot be decoded")
        return _averaged(small, width, height)  # type: ignore[arg-type]


class Colours(NamedTuple):
    """What Y'CbCr values mean. The defaults are those of webcams, and of video that does not say otherwise."""

    full_range: bool = False
    """Y from 0 to 255 (JPEG, many IP cameras), else from 16 to 235."""
    hd: bool = False
    """Coefficients of BT.709, else of BT.601."""


USUAL_COLOURS = Colours()


@cache
def _matrix(colours: Colours, order: Order) -> NDArray[np.float32]:
    """From Y, Cb, Cr to three colours, as ``cv2.transform`` wants it: [3, 4]. After ITU-R BT.601-7 and BT.709-6, section 3."""
    red, blue = (0.2126, 0.0722) if colours.hd else (0.299, 0.114)
    green = 1 - red - blue
    luma, chroma, black = (1.0, 1.0, 0) if colours.full_range else (255 / 219, 255 / 224, 16)
    cb, cr = 2 * (1 - blue) * chroma, 2 * (1 - red) * chroma
    rows = [[luma, cb, 0.0], [luma, -cb * blue / green, -cr * red / green], [luma, 0.0, cr]]
    weights = np.array(rows if order == "BGR" else rows[::-1])
    offset = weights @ np.array([-black, -128, -128])
    return np.hstack([weights, offset[:, None]]).astype(np.float32)


def _halved(pixels: Pixels, width: int, height: int) -> tuple[int, int]:
    """Width and height of ``pixels``, each halved if that is still enough."""
    given_height, given_width = pixels.shape[:2]
    return given_width // 2 if given_width >= 2 * width else given_width, given_height // 2 if given_height >= 2 * height else given_height


def _resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Halved by averaging while it is at least twice too large, then bilinear.

    Bilinear alone looks at four pixels of the source whatever the factor: below a half it loses detail to aliasing, and
    detectors miss what a mip map (Williams 1983, "Pyramidal parametrics") keeps. Between a half and one the two are the same.
    """
    import cv2

    while (size := _halved(pixels, width, height)) != pixels.shape[1::-1]:
        # At a factor of two, bilinear *is* the average of the two or four pixels, and OpenCV's is fast in one direction too.
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return _sampled(pixels, width, height)


def _sampled(pixels: Pixels, width: int, height: int) -> Pixels:
    """Plain bilinear: what chroma needs, of which cameras keep half the detail and detectors see less."""
    import cv2

    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.shape == (2 * height, 2 * width, 2):  # OpenCV halves two channels at once seven times slower than one by one
        halves = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in cv2.split(pixels)]
        return cv2.merge(halves)  # type: ignore[return-value]
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


class YuyvImage(Image):
    """Packed 4:2:2 from a webcam: ``data`` is uint8 [height, width, 2], Y0 U Y1 V."""

    def __init__(self, data: Pixels, colours: Colours = USUAL_COLOURS) -> None:
        self.height, self.width = data.shape[:2]
        self._data, self._colours = data, colours
        self._bgr: Pixels | None = None

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        import cv2

        # Both are resized at their own resolution; of the chroma's rows every other one is enough when half of them is.
        luma, chroma = cv2.split(self._data)
        chroma = chroma.reshape(self.height, self.width // 2, 2)[:: 2 if self.height >= 2 * height else 1]
        yuv = cv2.merge([_resized(luma, width, height), _sampled(chroma, width, height)])  # type: ignore[arg-type]
        return cv2.transform(yuv, _matrix(self._colours, order), dst=yuv)  # type: ignore[return-value]

    def bgr(self) -> Pixels:
        import cv2

        if self._bgr is None and self._colours == USUAL_COLOURS:
            self._bgr = cv2.cvtColor(self._data, cv2.COLOR_YUV2BGR_YUYV)  # type: ignore[assignment]
        if self._bgr is None:
            self._bgr = self.resized(self.width, self.height, "BGR")
        return self._bgr

    def luma(self, width: int, height: int) -> Pixels:
        import cv2

        return _averaged(cv2.extractChannel(_rows_of(self._data, height, 3), 0), width, height)  # type: ignore[arg-type]

    def cropped(self, left: int, top: int, width: int, height: int) -> Image:
        if left % 2 or width % 2:
            return super().cropped(left, top, width, height)
        return YuyvImage(self._data[top : top + height, left : left + width], self._colours)


class PlanarImage(Image):
    """Planes as video decoders make them: Y [h, w], and U and V, or U and V interleaved [., ., 2], of any smaller size.

    ``owner`` keeps the memory behind the planes alive.
    """

    def __init__(self, y: Pixels, chroma: tuple[Pixels, ...], colours: Colours = USUAL_COLOURS, owner: object = None) -> None:
        self.height, self.width = y.shape[:2]
        self._y, self._chroma, self._colours, self._owner = y, chroma, colours, owner
        self._bgr: Pixels | None = None

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        import cv2

        luma = _resized(self._y, width, height)
        yuv = cv2.merge([luma, *(_sampled(plane, width, height) for plane in self._chroma)])
        return cv2.transform(yuv, _matrix(self._colours, order), dst=yuv)  # type: ignore[return-value]

    def bgr(self) -> Pixels:
        if self._bgr is None:
            self._bgr = self._converted() if self._is_usual() else self.resized(self.width, self.height, "BGR")
        return self._bgr

    def luma(self, width: int, height: int) -> Pixels:
        return _averaged(_rows_of(self._y, height, 3), width, height)

    def cropped(self, left: int, top: int, width: int, height: int) -> Image:
        chroma = []
        for plane in self._chroma:
            down, across = -(-self.height // plane.shape[0]), -(-self.width // plane.shape[1])
            if self._subsamples_unevenly(plane, across, down) or left % across or top % down:
                return super().cropped(left, top, width, height)
            part = plane[top // down : -(-(top + height) // down), left // across : -(-(left + width) // across)]
            chroma.append(part)
        return PlanarImage(self._y[top : top + height, left : left + width], tuple(chroma), self._colours, owner=self._owner)

    def _subsamples_unevenly(self, plane: Pixels, across: int, down: int) -> bool:
        """Whether its places are no whole number of pixels apart, as where grey alone came with a token of colour."""
        return (plane.shape[0], plane.shape[1]) != (-(-self.height // down), -(-self.width // across))

    def _is_usual(self) -> bool:
        """Whether OpenCV has a conversion for it, which is some eight times faster than ours in two steps."""
        half = (self.height // 2, self.width // 2)
        even = self.height % 2 == 0 and self.width % 2 == 0
        return even and self._colours == USUAL_COLOURS and all(plane.shape[:2] == half for plane in self._chroma)

    def _converted(self) -> Pixels:
        import cv2

        chroma = self._chroma[0] if len(self._chroma) == 1 else cv2.merge(self._chroma)
        return cv2.cvtColorTwoPlane(self._y, chroma, cv2.COLOR_YUV2BGR_NV12)  # type: ignore[return-value]
