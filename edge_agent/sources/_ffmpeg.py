"""FFmpeg through PyAV, for files and network streams: demux, decode, and hand out the decoder's own planes.

PyAV and not OpenCV's FFmpeg backend: see docs/decisions/0002-pyav.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.config_file import redact
from edge_agent.errors import EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.image import Image, Order, Pixels, PlanarImage
from edge_agent.sources.base import Reading, Source, StreamInfo

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_LIMITED_420 = {"yuv420p": 3, "nv12": 2}
_FULL_RANGE = 2
_ATTACHED_PICTURE = 0x400
MAX_UNDECODABLE = 300
"""Packets in a row without one picture before a stream counts as undecodable: ten seconds of a usual camera."""


class DecodedImage(Image):
    """A decoded frame that FFmpeg converts: pixel formats other than limited-range 4:2:0."""

    def __init__(self, frame: VideoFrame) -> None:
        self.width, self.height = frame.width, frame.height
        self._frame = frame
        self._bgr: Pixels | None = None

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        pixel_format = "bgr24" if order == "BGR" else "rgb24"
        return self._frame.reformat(width, height, pixel_format, interpolation="BILINEAR").to_ndarray()  # type: ignore[return-value]

    def bgr(self) -> Pixels:
        if self._bgr is None:
            self._bgr = self._frame.to_ndarray(format="bgr24")  # type: ignore[assignment]
        assert self._bgr is not None
        return self._bgr


class RotatedImage(Image):
    """A picture whose container says that it is to be shown turned (phones): by ``quarter_turns`` x 90° clockwise."""

    def __init__(self, image: Image, quarter_turns: int) -> None:
        self._image, self._turns = image, quarter_turns % 4
        swap = self._turns % 2 == 1
        self.width, self.height = (image.height, image.width) if swap else (image.width, image.height)

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        size = (height, width) if self._turns % 2 else (width, height)
        return np.ascontiguousarray(np.rot90(self._image.resized(*size, order), -self._turns))

    def bgr(self) -> Pixels:
        return np.ascontiguousarray(np.rot90(self._image.bgr(), -self._turns))


def image_of(frame: VideoFrame) -> Image:
    """The frame's planes without a copy where OpenCV can convert them, else a frame that FFmpeg converts."""
    image: Image
    planes = _LIMITED_420.get(frame.format.name)
    if planes and int(frame.color_range) != _FULL_RANGE and frame.width % 2 == 0 and frame.height % 2 == 0:
        y = _plane(frame, 0, 1)
        chroma = (_plane(frame, 1, 2),) if planes == 2 else (_plane(frame, 1, 1), _plane(frame, 2, 1))
        image = PlanarImage(y, chroma, owner=frame)
    else:
        image = DecodedImage(frame)
    turns = round(getattr(frame, "rotation", 0) / -90) % 4
    return RotatedImage(image, turns) if turns else image


def _plane(frame: VideoFrame, index: int, channels: int) -> Pixels:
    plane = frame.planes[index]
    rows: Pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    height, width = (frame.height, frame.width) if index == 0 else (frame.height // 2, frame.width // 2)
    pixels = rows[:height, : width * channels]
    return pixels.reshape(height, width, 2) if channels == 2 else pixels


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


class FfmpegSource(Source):
    """A file or stream that FFmpeg can demux."""

    def __init__(self, target: FfmpegTarget) -> None:
        self.live = target.live
        self._target = target
        self._container: InputContainer | None = None
        self._frames: Iterator[tuple[VideoFrame, float]] = iter(())

    def open(self) -> StreamInfo:
        import av

        self.close()
        av.logging.set_level(av.logging.PANIC)  # every error reaches us as an exception; FFmpeg's own lines may hold passwords
        target = self._target
        try:
            self._container = av.open(
                target.url, options=dict(target.options), format=target.format, timeout=(target.open_timeout_s, target.read_timeout_s)
            )
            stream = self._video_stream(self._container)
            self._frames = self._decode(self._container, stream)
            return self._describe(stream)
        except (av.FFmpegError, OSError, ValueError) as error:
            self.close()
            raise self._translated(error, "cannot be opened") from None

    def _video_stream(self, container: InputContainer) -> VideoStream:
        for stream in container.streams.video:
            if not _is_cover_art(stream):
                stream.thread_count = self._target.threads
                # Frame threads add one frame of delay each: right for files, wrong for what is live.
                stream.thread_type = "SLICE" if self.live else "FRAME"
                return stream
        raise SourceBroken(f"{self._target.shown} has no video in it", SourceErrorCode.INVALID_DATA)

    def _describe(self, stream: VideoStream) -> StreamInfo:
        context = stream.codec_context
        rate = stream.average_rate or stream.guessed_rate
        fps = round(float(rate), 3) if rate else None
        return StreamInfo(context.width, context.height, fps, f"{context.name} (FFmpeg, software)", context.pix_fmt or "")

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[VideoFrame, float]]:
        import av

        undecodable = 0
        for packet in container.demux(stream):
            arrived = time.monotonic()
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:  # a damaged packet; the next ones may do
                frames = []
            undecodable = 0 if frames else undecodable + 1
            if undecodable > MAX_UNDECODABLE:
                raise SourceUnavailable(f"{self._target.shown} sends nothing that can be decoded", SourceErrorCode.CODEC_UNSUPPORTED)
            for frame in frames:
                yield frame, arrived

    def read(self) -> Reading:
        import av

        try:
            frame, arrived = next(self._frames)
        except StopIteration:
            raise EndOfStream(f"{self._target.shown} ended") from None
        except (av.FFmpegError, OSError) as error:
            raise self._translated(error, "was lost") from None
        return Reading(image_of(frame), arrived, frame.time)

    def close(self) -> None:
        self._frames = iter(())
        container, self._container = self._container, None
        if container is not None:
            container.close()

    def _translated(self, error: Exception, what: str) -> SourceUnavailable | SourceBroken:
        code = error_code(error)
        reason = redact(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        message = f"{self._target.shown} {what}: {reason}"
        if not self.live and code in {SourceErrorCode.INVALID_DATA, SourceErrorCode.CODEC_UNSUPPORTED}:
            return SourceBroken(f"{self._target.shown} is no video that can be read: {reason}", code)
        return SourceUnavailable(message, code)


def _is_cover_art(stream: VideoStream) -> bool:
    return bool(int(stream.disposition) & _ATTACHED_PICTURE)


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
