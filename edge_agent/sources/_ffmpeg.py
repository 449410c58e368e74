"""FFmpeg through PyAV, for files and network streams: demux, decode, and hand out the decoder's own planes.

PyAV and not OpenCV's FFmpeg backend: see docs/decisions/0002-pyav.md.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from edge_agent.config_file import redact
from edge_agent.errors import EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.image import BgrImage, Colours, Image, Order, Pixels, PlanarImage
from edge_agent.libraries import ensure_libraries
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.plane import VideoPlane
    from av.video.stream import VideoStream

_PLANAR = {"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p", "nv12"}
_FULL_RANGE, _BT709 = 2, 1
_ATTACHED_PICTURE = 0x400
MAX_UNDECODABLE = 300
"""Packets in a row without one picture before a stream counts as undecodable: ten seconds of a usual camera."""
_USUAL_INTERVAL_S = 1 / 25
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_DIAGNOSIS_S = 1.0


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


@dataclass(frozen=True)
class FfmpegTarget:
    """What to open and how."""

    url: str
    shown: str
    """The url as it may be logged."""
    live: bool
    open_timeout_s: float
    read_timeout_s: float
    options: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    format: str | None = None


class _Timestamps:
    """A file's timestamps, made to grow: raw streams have none, and AVI's are in the order of decoding."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last: float | None = None

    def next(self, pts_s: float | None) -> float:
        if self._last is None:
            self._last = pts_s or 0.0
        elif pts_s is None or pts_s <= self._last:
            self._last += self._interval_s
        else:
            self._last = pts_s
        return self._last


class FfmpegSource(Source):
    """A file or stream that FFmpeg can demux."""

    def __init__(self, target: FfmpegTarget) -> None:
        self.live = target.live
        self._target = target
        self._container: InputContainer | None = None
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self._decoded: deque[tuple[VideoFrame, float]] = deque()
        self._timestamps = _Timestamps(_USUAL_INTERVAL_S)
        self._undecodable = 0
        self._started = False

    def open(self) -> StreamInfo:
        self.close()
        ensure_libraries()
        import av

        # Silent: errors reach us as exceptions. With any level, FFmpeg's threads would wait for the GIL to log, also while
        # closing, which holds it, waits for them.
        av.logging.set_level(None)
        target, asked = self._target, time.monotonic()
        try:
            self._container = av.open(
                target.url, options=dict(target.options), format=target.format, timeout=(target.open_timeout_s, target.read_timeout_s)
            )
            stream = self._video_stream(self._container)
            self._packets = self._container.demux(stream)
        except (av.FFmpegError, OSError, ValueError) as error:
            self.close()
            late = time.monotonic() - asked >= target.open_timeout_s
            raise self._cannot_open(error, late=late) from None
        return self._describe(stream)

    def _video_stream(self, container: InputContainer) -> VideoStream:
        for stream in container.streams.video:
            if not _is_cover_art(stream):
                stream.thread_count = self._target.threads
                # Frame threads add one frame of delay each: right for files, wrong for what is live.
                stream.thread_type = "SLICE" if self.live else "FRAME"
                return stream
        self.close()
        raise SourceBroken(f"{self._target.shown} has no video in it", SourceErrorCode.INVALID_DATA)

    def _describe(self, stream: VideoStream) -> StreamInfo:
        context = stream.codec_context
        # From a few packets of a camera FFmpeg can only average; in a file it knows better from the codec's own headers.
        rate = (stream.average_rate or stream.guessed_rate) if self.live else (stream.guessed_rate or stream.average_rate)
        fps = round(float(rate), 3) if rate else None
        self._timestamps = _Timestamps(1 / fps if fps else _USUAL_INTERVAL_S)
        # Its pixel format is not asked for: where FFmpeg could not find one out, PyAV 17 takes the process down.
        return StreamInfo(context.width, context.height, fps, f"{context.name} (FFmpeg, software)")

    def read(self) -> Reading:
        while not self._decoded:
            self._decode(self._next_packet())
        frame, arrived = self._decoded.popleft()
        self._started = True
        return Reading(image_of(frame), arrived, frame.time if self.live else self._timestamps.next(frame.time))

    def _next_packet(self) -> Packet[VideoStream]:
        import av

        asked = time.monotonic()
        packet, code, reason = None, SourceErrorCode.FAILED, ""
        try:
            packet = next(self._packets)
        except StopIteration:
            raise EndOfStream(f"{self._target.shown} ended") from None
        except (av.FFmpegError, OSError) as error:
            code, reason = error_code(error), _reason(error)
        # A packet after that time is no sign of life: FFmpeg has timed out and hands out what its parser still held.
        late = self.live and time.monotonic() - asked >= self._target.read_timeout_s
        if packet is not None and not late:
            return packet
        if late or code is SourceErrorCode.TIMEOUT:
            code, reason = SourceErrorCode.TIMEOUT, f"nothing came for {self._target.read_timeout_s:g} s"
        raise SourceUnavailable(f"{self._target.shown} was lost: {reason}", code)

    def _decode(self, packet: Packet[VideoStream]) -> None:
        import av

        arrived = time.monotonic()
        damaged = None
        try:
            self._decoded.extend((frame, arrived) for frame in packet.decode())
        except (av.FFmpegError, OSError) as error:  # a damaged packet; the next ones may do
            damaged = _reason(error)
        self._undecodable = 0 if self._decoded else self._undecodable + 1
        if self._undecodable > MAX_UNDECODABLE:
            kind = SourceUnavailable if self.live else SourceBroken
            raise kind(f"{self._target.shown} sends nothing that can be decoded", SourceErrorCode.CODEC_UNSUPPORTED)
        # Before its first key frame a camera that was joined in the middle sends what nobody can decode: no loss.
        if damaged and (self._started or not self.live):
            raise FrameUnreadable(f"{self._target.shown} holds damaged data: {damaged}")

    def close(self) -> None:
        self._packets = iter(())
        self._decoded.clear()
        self._undecodable, self._started = 0, False
        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(Exception):  # of PyAV's own, which is not imported for this
                container.close()

    def _cannot_open(self, error: Exception, *, late: bool) -> SourceUnavailable | SourceBroken:
        shown, code, reason = self._target.shown, error_code(error), _reason(error)
        if late or code is SourceErrorCode.TIMEOUT:
            code, reason = SourceErrorCode.TIMEOUT, f"no answer within {self._target.open_timeout_s:g} s"
        elif code in {SourceErrorCode.FAILED, SourceErrorCode.INVALID_DATA}:
            code, reason = _network_fault(self._target.url) or (code, reason)
        if not self.live and code in {SourceErrorCode.INVALID_DATA, SourceErrorCode.CODEC_UNSUPPORTED}:
            return SourceBroken(f"{shown} is no video that can be read: {reason}", code)
        return SourceUnavailable(f"{shown} cannot be opened: {reason}", code)


def _reason(error: Exception) -> str:
    return redact(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _network_fault(url: str) -> tuple[SourceErrorCode, str] | None:
    """What keeps us from an address, where FFmpeg has only "Input/output error" to say for it."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in _PORTS:
        return None
    try:
        with socket.create_connection((parts.hostname, parts.port or _PORTS[parts.scheme]), _DIAGNOSIS_S):
            return None
    except socket.gaierror:
        return SourceErrorCode.UNREACHABLE, f"the name {parts.hostname!r} cannot be resolved"
    except (OSError, ValueError, UnicodeError) as error:
        code = error_code(error)
        return (code if code is not SourceErrorCode.FAILED else SourceErrorCode.UNREACHABLE), _reason(error)


def _is_cover_art(stream: VideoStream) -> bool:
    disposition = stream.disposition  # a number, or before PyAV 15 an enum.Flag, which is none
    return bool(int(getattr(disposition, "value", disposition)) & _ATTACHED_PICTURE)


def error_code(error: Exception) -> SourceErrorCode:
    """The typed reason for one of PyAV's exceptions."""
    import av

    table: list[tuple[type[Exception] | tuple[type[Exception], ...], SourceErrorCode]] = [
        ((av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError), SourceErrorCode.AUTH_FAILED),
        ((av.error.HTTPNotFoundError, av.error.FileNotFoundError, FileNotFoundError), SourceErrorCode.NOT_FOUND),
        ((av.error.DecoderNotFoundError, av.error.DemuxerNotFoundError), SourceErrorCode.CODEC_UNSUPPORTED),
        ((av.error.PermissionError, PermissionError), SourceErrorCode.PERMISSION),
        ((av.error.ConnectionRefusedError, ConnectionRefusedError), SourceErrorCode.REFUSED),
        ((av.error.TimeoutError, av.error.ExitError, TimeoutError), SourceErrorCode.TIMEOUT),
        (av.error.InvalidDataError, SourceErrorCode.INVALID_DATA),
    ]
    for kinds, code in table:
        if isinstance(error, kinds):
            return code
    number = getattr(error, "errno", None)
    by_number = {
        110: SourceErrorCode.TIMEOUT,
        111: SourceErrorCode.REFUSED,
        113: SourceErrorCode.UNREACHABLE,
        101: SourceErrorCode.UNREACHABLE,
    }
    return by_number.get(number or 0, SourceErrorCode.FAILED)
