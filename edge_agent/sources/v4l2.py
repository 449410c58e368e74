"""Webcams through V4L2. Buffers are taken raw (MJPG, NV12, YUYV), so that a frame nobody serves is never decoded.

H.264 goes the way of network streams (``_v4l2_h264``). How a camera is found is in ``_v4l2_devices``, what is asked of it in
``_v4l2_modes`` and ``_v4l2_controls``, how it streams in ``_v4l2_stream``; why this is done over the kernel's own interface, in
docs/decisions/0004-v4l2.md.
"""

from __future__ import annotations

import errno
import logging
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr

from edge_agent.config_values import not_bool
from edge_agent.errors import ConfigError, SourceErrorCode, SourceUnavailable
from edge_agent.libraries import ensure
from edge_agent.redaction import redact
from edge_agent.sources import _v4l2 as kernel
from edge_agent.sources import _v4l2_controls as v4l2_controls
from edge_agent.sources import _v4l2_devices as v4l2_devices
from edge_agent.sources import _v4l2_modes as modes
from edge_agent.sources._jpeg import JPEG_DECODER
from edge_agent.sources._v4l2_h264 import CodedPictures
from edge_agent.sources._v4l2_pictures import picture
from edge_agent.sources._v4l2_stream import Buffer, Lost, Silent, Stream
from edge_agent.sources.base import DecodeConfig, FrameUnreadable, Pixels, Reading, Source, SourceContext, StreamInfo

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 5.0
LONGEST_SILENCE_S = 0.5
"""A picture is handed out at least so often even if nobody is going to want it, as a sign of life."""


class Config(DecodeConfig):
    """Keys of a webcam."""

    width: Pixels = 1280
    """Pixels. Written out: just this, or an error that names the nearest offered. Left out: the nearest to 1280."""
    height: Pixels = 720
    """Pixels. As width; left out: the nearest to 720."""
    fps: Annotated[float, BeforeValidator(not_bool), Field(gt=0, le=1000)] = 30
    """Frames per second. As width; left out: the nearest to 30."""
    format: Literal["auto", "MJPG", "JPEG", "H264", "NV12", "NM12", "YU12", "YUYV", "UYVY", "GREY", "BGR3"] = "auto"
    """Pixel format; "auto": by what it costs (docs/cameras.md): NV12, YUYV where the USB has room for it, else MJPG, else H.264."""
    controls: dict[str, StrictBool | StrictInt | StrictStr] = {}
    """Exposure, focus and so on, by the names of "edge-agent devices": { power_line_frequency = "50 Hz", focus_absolute = 30 }."""


def claims(source: str | int) -> bool:
    """Numbers, and paths under /dev."""
    return isinstance(source, int) or source.isdigit() or source.startswith("/dev/")


class V4l2Source(Source):
    """One webcam."""

    live = True
    exclusive = True

    def __init__(self, path: str, config: Config) -> None:
        self._path, self._config = path, config
        self._node: kernel.Node | None = None
        self._stream: Stream | None = None
        self._coded: CodedPictures | None = None
        self._format = kernel.PictureFormat("", 0, 0)
        self._unwanted_before = 0.0
        self._left_out = 0

    def open(self) -> StreamInfo:
        self.close()
        ensure("cv2")
        node, capability = v4l2_devices.open_camera(self._path)
        self._node = node
        try:
            return self._start(node, capability)
        except (modes.NotOffered, v4l2_controls.ControlRefused) as error:
            self.close()
            raise SourceUnavailable(f"{self._path} ({capability.card}) {error}", SourceErrorCode.UNSUPPORTED) from None
        except OSError as error:
            failure = self._failure(error)
            self.close()
            raise failure from None
        except BaseException:
            self.close()
            raise

    def _start(self, node: kernel.Node, capability: kernel.Capability) -> StreamInfo:
        """The order matters: the format decides which sizes exist, the size which rates; all of them before the buffers."""
        wanted = self._wanted(capability)
        kind = capability.buffer_type
        mode = modes.choose(modes.offers(node, kind, wanted), wanted)
        given = kernel.set_format(node, kind, kernel.PictureFormat(mode.fourcc, mode.width, mode.height))
        if (given.fourcc, given.width, given.height) != (mode.fourcc, mode.width, mode.height) and (
            given.fourcc != mode.fourcc or wanted.exact & {"width", "height"}
        ):
            raise modes.NotOffered(f"was asked for {mode} and gives {given.fourcc} {given.width}x{given.height}")
        fps = kernel.set_rate(node, kind, mode.fps or self._config.fps)
        if "fps" in wanted.exact and fps is not None and abs(fps / wanted.fps - 1) > modes.RATE_TOLERANCE:
            raise modes.NotOffered(f"was asked for {wanted.fps:g}/s at {given.width}x{given.height} and gives {fps:g}/s")
        for difference in v4l2_controls.apply(node, self._config.controls):
            log.warning("%s: %s", self._path, difference)
        self._format = given
        if given.fourcc in modes.COMPRESSED and self._config.decode == "hardware":
            reason = f'{given.fourcc} is decoded in software by this kind; kind = "gstreamer" can use a board\'s decoder'
            raise SourceUnavailable(f"{self._path}: {reason}", SourceErrorCode.CODEC_UNSUPPORTED)
        self._stream = Stream(node, kind)
        fps = fps or mode.fps  # some drivers tell their rates and have no say in them
        negotiated = modes.Mode(given.fourcc, given.width, given.height, fps)
        if given.fourcc == modes.H264:
            self._coded = CodedPictures(self._path, given, self._config.decode, lambda: self._next(0.0), READ_TIMEOUT_S)
            self._coded.skipper.until(self._unwanted_before)
            decoder, why = self._coded.decoder, self._coded.decoder.reason
            return StreamInfo(given.width, given.height, fps, decoder.shown, decoder.candidate.hardware, why, str(negotiated))
        shown = JPEG_DECODER if given.fourcc in modes.COMPRESSED else f"none ({given.fourcc})"
        return StreamInfo(given.width, given.height, fps, shown, mode=str(negotiated))

    def _wanted(self, capability: kernel.Capability) -> modes.Wanted:
        config = self._config
        exact = frozenset(config.model_fields_set & {"width", "height", "fps"})
        budget = v4l2_devices.raw_budget(self._path, capability)
        return modes.Wanted(config.width, config.height, config.fps, config.format, exact, budget)

    def _failure(self, error: OSError) -> SourceUnavailable:
        if error.errno in {errno.EBUSY, errno.ENODEV, errno.ENXIO}:
            return v4l2_devices.refusal(self._path, error)
        if error.errno == errno.ENOSPC:
            mend = 'take format = "MJPG", a smaller size or rate, or plug it into another bus'
            return SourceUnavailable(f"{self._path} finds no room on its USB bus: {mend}", SourceErrorCode.BUSY)
        return SourceUnavailable(f"{self._path} does not start: {error.strerror}")

    def read(self) -> Reading:
        if self._coded is not None:
            return self._coded.read()
        deliver_from = time.monotonic() + LONGEST_SILENCE_S
        while (buffer := self._next(0.0 if time.monotonic() >= deliver_from else self._unwanted_before)) is None:
            self._left_out += 1
        if buffer.damaged:
            raise FrameUnreadable(f"{self._path} sent a picture that its driver calls damaged")
        try:
            return Reading(picture(self._format, buffer.planes), buffer.arrived_at)
        except FrameUnreadable as error:
            raise FrameUnreadable(f"{self._path} sent {error}") from None

    def _next(self, unwanted_before: float) -> Buffer | None:
        """What the driver filled next; None for what came too early to be wanted. Raises SourceUnavailable."""
        assert self._stream is not None, "read() before open()"
        try:
            return self._stream.next(READ_TIMEOUT_S, unwanted_before)
        except Silent as silence:
            gone = not Path(self._path).exists()
            code = SourceErrorCode.UNPLUGGED if gone else SourceErrorCode.TIMEOUT
            raise SourceUnavailable(f"{self._path} {'was unplugged' if gone else silence}", code) from None
        except Lost as loss:
            gone = loss.gone or not Path(self._path).exists()
            code = SourceErrorCode.UNPLUGGED if gone else SourceErrorCode.FAILED
            raise SourceUnavailable(f"{self._path} {'was unplugged' if gone else loss}", code) from None

    def skip_until(self, at: float, cheaper_by: float = 0.0) -> None:
        self._unwanted_before = at
        if (coded := self._coded) is not None:
            coded.skipper.until(at, cheaper_by)

    def lost_upstream(self) -> int:
        if self._stream is None:
            return 0
        count, self._stream.lost_upstream = self._stream.lost_upstream, 0
        return count

    def left_out(self) -> int:
        count, self._left_out = self._left_out, 0
        return count + (self._coded.skipper.left_out() if self._coded is not None else 0)

    def close(self) -> None:
        self._coded = None
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        node, self._node = self._node, None
        if node is not None:
            node.close()


def build(context: SourceContext, config: Config) -> Source:
    """A source for one webcam: a number, a node or a stable link. Raises ConfigError, and ValueError for what can be no path."""
    source = context.source
    if "\0" in str(source):
        raise ValueError("a path holds no NUL")
    if (isinstance(source, int) and source < 0) or "://" in str(source):
        raise ConfigError(f"{redact(str(source))!r} is no webcam; it should look like 0 or /dev/video0")
    path = f"/dev/video{source}" if isinstance(source, int) or source.isdigit() else str(source)
    return V4l2Source(path, config)
