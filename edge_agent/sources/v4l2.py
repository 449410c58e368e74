"""Webcams through V4L2. Buffers are taken raw (MJPG or YUYV), so that a frame nobody serves is never decoded.

OpenCV's V4L2 backend does the streaming (``CAP_PROP_CONVERT_RGB=0`` gives the driver's own buffers); device
capabilities are asked from the kernel directly (Linux ``videodev2.h``, VIDIOC_QUERYCAP).
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from edge_agent.config import Table, not_bool
from edge_agent.errors import SourceErrorCode, SourceUnavailable
from edge_agent.image import BgrImage, Image, JpegImage, YuyvImage
from edge_agent.libraries import ensure
from edge_agent.sources.base import FrameUnreadable, Pixels, Reading, Source, SourceContext, StreamInfo

if TYPE_CHECKING:
    import cv2

_QUERYCAP = struct.Struct("16s32s32sII I 12x")
_VIDIOC_QUERYCAP = 0x80685600
_VIDEO_CAPTURE, _VIDEO_CAPTURE_MPLANE, _VIDEO_M2M = 0x1, 0x1000, 0x4000 | 0x8000
SELECT_TIMEOUT_VARIABLE = "OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"


class Config(Table):
    """Keys of a webcam."""

    width: Pixels = 1280
    """Pixels asked for; the camera may only have others, and the log says what it gave."""
    height: Pixels = 720
    """Pixels asked for."""
    fps: Annotated[float, BeforeValidator(not_bool), Field(gt=0, le=1000)] = 30
    """Frames per second asked for."""
    format: Literal["auto", "MJPG", "YUYV"] = "auto"
    """Pixel format; "auto" takes MJPG where there is one (YUYV needs more of the USB than it has, at larger sizes)."""


@dataclass(frozen=True)
class Device:
    """A V4L2 node and what the kernel says of it."""

    path: str
    name: str
    driver: str
    bus: str
    captures: bool
    """False for metadata, output and codec nodes."""
    links: tuple[str, ...] = ()
    """Stable names under /dev/v4l/by-id and by-path."""


def claims(source: str | int) -> bool:
    """Numbers, and paths under /dev."""
    return isinstance(source, int) or source.isdigit() or source.startswith("/dev/")


def query(path: str) -> Device:
    """Ask the kernel what a node is. Raises OSError."""
    buffer = bytearray(104)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _VIDIOC_QUERYCAP, buffer)
    finally:
        os.close(descriptor)
    driver, card, bus, _version, capabilities, device_caps = _QUERYCAP.unpack_from(buffer)
    caps = device_caps if capabilities & 0x80000000 else capabilities
    captures = bool(caps & (_VIDEO_CAPTURE | _VIDEO_CAPTURE_MPLANE)) and not caps & _VIDEO_M2M
    driver_name, name, bus_name = (raw.split(b"\0")[0].decode(errors="replace") for raw in (driver, card, bus))
    return Device(path, name, driver_name, bus_name, captures, _links(path))


def devices() -> list[Device]:
    """Every node that can be opened, in the order of their numbers."""
    found = []
    nodes = sorted(Path("/dev").glob("video[0-9]*"), key=lambda p: int(p.name[5:]) if p.name[5:].isdigit() else 0)
    for node in nodes:
        try:
            found.append(query(str(node)))
        except OSError as error:
            found.append(Device(str(node), f"cannot be opened: {error.strerror}", "", "", captures=False))
    return found


def _links(path: str) -> tuple[str, ...]:
    real = os.path.realpath(path)
    folders = (Path("/dev/v4l/by-id"), Path("/dev/v4l/by-path"))
    links = (link for folder in folders if folder.is_dir() for link in sorted(folder.iterdir()))
    return tuple(str(link) for link in links if os.path.realpath(link) == real)


class V4l2Source(Source):
    """One webcam."""

    live = True

    def __init__(self, path: str, config: Config) -> None:
        self._path, self._config = path, config
        self._capture: cv2.VideoCapture | None = None
        self._size = (0, 0)
        self._format = ""

    def open(self) -> StreamInfo:
        self.close()
        self._refuse_unusable()
        ensure("cv2")
        import cv2

        os.environ.setdefault(SELECT_TIMEOUT_VARIABLE, "5")
        for fourcc in ["MJPG", "YUYV"] if self._config.format == "auto" else [self._config.format]:
            capture = cv2.VideoCapture()
            # The order matters: the format decides which sizes exist, and the size which rates.
            parameters = [
                (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*fourcc)),
                (cv2.CAP_PROP_FRAME_WIDTH, self._config.width),
                (cv2.CAP_PROP_FRAME_HEIGHT, self._config.height),
                (cv2.CAP_PROP_FPS, round(self._config.fps)),
                (cv2.CAP_PROP_CONVERT_RGB, 0),
            ]
            capture.open(os.path.realpath(self._path), cv2.CAP_V4L2)
            if not capture.isOpened():
                raise SourceUnavailable(f"{self._path} cannot be opened: is another program using it?", SourceErrorCode.BUSY)
            for prop, value in parameters:
                capture.set(prop, value)
            given = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("ascii", "replace")
            self._capture = capture
            if given == fourcc:
                break
            if fourcc == "MJPG" and self._config.format == "auto":
                self.close()
        self._format = given
        self._size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        if given not in {"MJPG", "JPEG", "YUYV"}:
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 1)
        decoder = {"MJPG": "jpeg (libjpeg-turbo, software)", "JPEG": "jpeg (libjpeg-turbo, software)"}.get(given, f"none ({given})")
        return StreamInfo(*self._size, capture.get(cv2.CAP_PROP_FPS) or None, decoder, mode=given)

    def _refuse_unusable(self) -> None:
        try:
            device = query(self._path)
        except FileNotFoundError:
            raise SourceUnavailable(f"{self._path} does not exist; is the camera plugged in?", SourceErrorCode.NOT_FOUND) from None
        except PermissionError:
            raise SourceUnavailable(
                f"{self._path} may not be opened by this user; add it to the group 'video'", SourceErrorCode.PERMISSION
            ) from None
        except OSError as error:
            code = SourceErrorCode.BUSY if error.errno == 16 else SourceErrorCode.NOT_FOUND
            raise SourceUnavailable(f"{self._path} is no usable camera: {error.strerror}", code) from None
        if not device.captures:
            others = [d.path for d in devices() if d.captures and d.bus == device.bus]
            hint = f"; the camera is {others[0]}" if others else ""
            raise SourceUnavailable(
                f"{self._path} ({device.name}) gives no pictures: a metadata or codec node{hint}", SourceErrorCode.NOT_FOUND
            )

    def read(self) -> Reading:
        import cv2

        capture = self._capture
        assert capture is not None, "read() before open()"
        try:
            ok, raw = capture.read()
        except cv2.error as error:
            raise FrameUnreadable(f"{self._path} sent a picture that OpenCV cannot convert: {error.err}") from None
        if not ok or raw is None:
            gone = not Path(self._path).exists()
            code = SourceErrorCode.UNPLUGGED if gone else SourceErrorCode.TIMEOUT
            raise SourceUnavailable(f"{self._path} " + ("was unplugged" if gone else "stopped sending"), code)
        return Reading(self._image(np.asarray(raw, np.uint8)), self._arrival(float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1e3))

    def _image(self, raw: NDArray[np.uint8]) -> Image:
        width, height = self._size
        if self._format in {"MJPG", "JPEG"}:
            return JpegImage(raw.reshape(-1), width, height)
        if self._format == "YUYV":
            if raw.size != width * height * 2:
                raise FrameUnreadable(f"{self._path} sent {raw.size} bytes of {width * height * 2}")
            return YuyvImage(raw.reshape(height, width, 2))
        return BgrImage(raw)

    @staticmethod
    def _arrival(stamp: float) -> float:
        """The kernel's timestamp where it is on our clock (uvcvideo: CLOCK_MONOTONIC), else now."""
        now = time.monotonic()
        return stamp if 0 <= now - stamp < 5 else now

    def close(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()


def build(context: SourceContext, config: Config) -> Source:
    """A source for one webcam: a number, a node or a stable link."""
    source = context.source
    path = f"/dev/video{source}" if isinstance(source, int) or source.isdigit() else str(source)
    return V4l2Source(path, config)
