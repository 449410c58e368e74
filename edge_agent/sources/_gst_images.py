"""GStreamer's buffers as lazy pictures: nothing is copied or converted before somebody asks.

A buffer is kept as it came. Its bytes are copied once, when the picture is asked for or when its source closes, since
a driver's buffers do not outlive the device that is let go of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_agent.image import USUAL_COLOURS, BgrImage, Colours, Image, JpegImage, Order, Pixels, PlanarImage, YuyvImage

FORMATS = ("NV12", "I420", "YUY2", "BGRx", "BGRA", "RGBx", "RGBA", "BGR", "RGB", "GRAY8")
"""What can be read; the first that the element before can give is taken."""
CAPS = f"video/x-raw, format=(string){{ {', '.join(FORMATS)} }}; image/jpeg"

_CHANNELS = {"BGRx": 4, "BGRA": 4, "RGBx": 4, "RGBA": 4, "BGR": 3, "RGB": 3, "GRAY8": 1, "YUY2": 2}
_FULL_RANGE, _BT709 = 1, 3  # GstVideoColorRange, GstVideoColorMatrix


@dataclass(frozen=True)
class Layout:
    """How the bytes of a buffer are to be read."""

    format: str
    """One of ``FORMATS``, or ``JPEG``."""
    width: int
    height: int
    offsets: tuple[int, ...] = ()
    """Of each plane, in bytes."""
    strides: tuple[int, ...] = ()
    """Of each plane's rows, in bytes."""
    colours: Colours = USUAL_COLOURS

    @property
    def size(self) -> int:
        """The least that a buffer must hold, in bytes."""
        if self.format == "JPEG":
            return 4
        return max(offset + self._bytes(plane) for plane, offset in enumerate(self.offsets))

    def _bytes(self, plane: int) -> int:
        rows, row = self._plane(plane)
        return self.strides[plane] * (rows - 1) + row

    def _plane(self, plane: int) -> tuple[int, int]:
        """Rows, and bytes that count of each."""
        if self.format in _CHANNELS:
            width = self.width + self.width % 2 if self.format == "YUY2" else self.width
            return self.height, width * _CHANNELS[self.format]
        if plane == 0:
            return self.height, self.width
        half = (self.width + 1) // 2
        return (self.height + 1) // 2, half * 2 if self.format == "NV12" else half

    def image(self, data: bytes) -> Image:
        """The picture in ``data``, which it shares."""
        kind, arguments = self.parts(data)
        return kind(*arguments)

    def parts(self, data: bytes) -> tuple[type[Image], tuple[Any, ...]]:
        """The kind of picture in ``data``, and what it is made from."""
        if self.format == "JPEG":
            return JpegImage, (np.frombuffer(data, np.uint8), self.width, self.height)
        whole = np.frombuffer(data, np.uint8)
        planes = [self._view(whole, plane) for plane in range(len(self.offsets))]
        if self.format == "NV12":
            chroma: tuple[Pixels, ...] = (planes[1].reshape(planes[1].shape[0], -1, 2),)
            return PlanarImage, (planes[0], chroma, self.colours)
        if self.format == "I420":
            return PlanarImage, (planes[0], (planes[1], planes[2]), self.colours)
        pixels = planes[0].reshape(self.height, -1, _CHANNELS[self.format])
        if self.format == "YUY2" and self.width % 2 == 0:
            return YuyvImage, (pixels, self.colours)
        if self.format == "YUY2":  # the last column is half a macropixel, and goes
            return BgrImage, (np.ascontiguousarray(YuyvImage(pixels, self.colours).bgr()[:, : self.width]),)
        return (BgrImage, (pixels,)) if self.format == "BGR" else (PackedImage, (pixels, self.format))

    def _view(self, whole: Pixels, plane: int) -> Pixels:
        rows, row = self._plane(plane)
        strides = (self.strides[plane], 1)
        return np.lib.stride_tricks.as_strided(whole[self.offsets[plane] :], (rows, row), strides, writeable=False)


class PackedImage(Image):
    """Pixels of other orders than BGR: with a fourth byte that means nothing, red first, or grey alone."""

    def __init__(self, pixels: Pixels, form: str) -> None:
        self.height, self.width = pixels.shape[:2]
        self._pixels, self._format = pixels, form
        self._bgr: Pixels | None = None

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        # Four channels are resized as fast as three, and the small picture is what is converted.
        return self._converted(BgrImage(self._pixels).resized(width, height, "BGR"), order)

    def bgr(self) -> Pixels:
        if self._bgr is None:
            self._bgr = self._converted(self._pixels, "BGR")
        return self._bgr

    def _converted(self, pixels: Pixels, order: Order) -> Pixels:
        import cv2

        if self._format == "GRAY8":
            return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)  # type: ignore[return-value]
        same = self._format.startswith(order)
        if pixels.shape[2] == 3:
            return pixels if same else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]
        return cv2.cvtColor(pixels, cv2.COLOR_BGRA2BGR if same else cv2.COLOR_BGRA2RGB)  # type: ignore[return-value]


class ScaledImage(Image):
    """A picture that hardware has made smaller already: it counts in the camera's pixels, ``width`` x ``height``.

    Its full size cannot be had any more; ``bgr`` enlarges what there is.
    """

    def __init__(self, image: Image, width: int, height: int) -> None:
        self._image, self.width, self.height = image, width, height
        self._bgr: Pixels | None = None

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        return self._image.resized(width, height, order)

    def bgr(self) -> Pixels:
        if self._bgr is None:
            self._bgr = self._image.resized(self.width, self.height, "BGR")
        return self._bgr

    def luma(self, width: int, height: int) -> Pixels:
        return self._image.luma(width, height)


class SampleImage(Image):
    """One picture still in GStreamer's hands. ``fetch`` copies its bytes out."""

    def __init__(self, layout: Layout, fetch: Callable[[], bytes]) -> None:
        self.width, self.height = layout.width, layout.height
        self._layout = layout
        self._fetch: Callable[[], bytes] | None = fetch
        self._image: Image | None = None
        self._parts: tuple[type[Image], tuple[Any, ...]] | None = None
        self._lock = threading.Lock()

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        return self._taken().resized(width, height, order)

    def bgr(self) -> Pixels:
        return self._taken().bgr()

    def luma(self, width: int, height: int) -> Pixels:
        return self._taken().luma(width, height)

    def cropped(self, left: int, top: int, width: int, height: int) -> Image:
        return self._taken().cropped(left, top, width, height)

    def detach(self) -> None:
        """Copy what is needed, and let go of GStreamer's buffer. Any thread."""
        self._taken()

    def __reduce__(self) -> tuple[type[Image], tuple[Any, ...]]:
        """To another process it goes as what it holds, still in the camera's format."""
        self._taken()
        assert self._parts is not None
        return self._parts

    def _taken(self) -> Image:
        with self._lock:
            if self._image is None:
                assert self._fetch is not None
                self._parts = kind, arguments = self._layout.parts(self._fetch())
                self._image, self._fetch = kind(*arguments), None
            return self._image


class Layouts:
    """Finds out how buffers are laid out; asks GStreamer only when that changes."""

    def __init__(self, gst: Any, video: Any) -> None:
        self._gst, self._video = gst, video
        self._caps: Any = None
        self._layout: Layout | None = None

    def of(self, sample: Any) -> Layout:
        """The layout of a sample's buffer. Raises ValueError for what is no picture that can be read."""
        caps = sample.get_caps()
        if caps is None:
            raise ValueError("a buffer without a format")
        if self._layout is None or not caps.is_equal(self._caps):
            self._caps, self._layout = caps, self._parsed(caps)
        meta = self._video.buffer_get_video_meta(sample.get_buffer()) if self._layout.format != "JPEG" else None
        return self._layout if meta is None else self._with_meta(self._layout, meta)

    def _parsed(self, caps: Any) -> Layout:
        structure = caps.get_structure(0)
        name = structure.get_name()
        if name == "image/jpeg":
            (has_width, width), (has_height, height) = structure.get_int("width"), structure.get_int("height")
            if not (has_width and has_height):
                raise ValueError("JPEG pictures of an unknown size; put jpegparse before the appsink")
            return Layout("JPEG", width, height)
        info = self._video.VideoInfo.new_from_caps(caps) if name == "video/x-raw" else None
        if info is None or info.finfo.name not in FORMATS:
            shown = structure.get_string("format") or name
            raise ValueError(f"pictures in the format {shown}, which cannot be read here; put videoconvert before the appsink")
        planes = info.finfo.n_planes
        colours = Colours(int(info.colorimetry.range) == _FULL_RANGE, int(info.colorimetry.matrix) == _BT709)
        return Layout(info.finfo.name, info.width, info.height, tuple(info.offset[:planes]), tuple(info.stride[:planes]), colours)

    @staticmethod
    def _with_meta(layout: Layout, meta: Any) -> Layout:
        """Decoders and drivers pad rows and planes; then each buffer says how."""
        offsets, strides = tuple(meta.offset[: meta.n_planes]), tuple(meta.stride[: meta.n_planes])
        if (offsets, strides) == (layout.offsets, layout.strides):
            return layout
        return Layout(layout.format, layout.width, layout.height, offsets, strides, layout.colours)

    def fetch(self, sample: Any) -> bytes:
        """A sample's bytes: the one copy. Raises ValueError where its memory cannot be read."""
        buffer = sample.get_buffer()
        mapped = buffer.map(self._gst.MapFlags.READ)
        ok, info = mapped if isinstance(mapped, tuple) else (True, mapped)  # Debian's python3-gst-1.0 changes what map gives
        if not ok:
            raise ValueError("the buffer is in memory that the CPU cannot read")
        try:
            return bytes(info.data)
        finally:
            buffer.unmap(info)
