"""Video files: every frame, in order, and an end. ``http(s)://`` files are files too, not live streams."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

from edge_agent.config_values import Seconds
from edge_agent.errors import EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.redaction import redact
from edge_agent.sources._ffmpeg import FfmpegSource, FfmpegTarget
from edge_agent.sources._network import TlsConfig, check_address, names_video_file, tls_context, tls_options
from edge_agent.sources.base import MARGIN_S, DecodeConfig, FrameUnreadable, Reading, Source, SourceContext, StreamInfo

OPEN_TIMEOUT_S = 6.0
"""For a server's answer; with MARGIN_S, a file that hangs is told within ten seconds."""
SLOWEST_FPS = 50.0
"""Frames per second that are gone over at least, when a file is opened again in the middle."""
LONGEST_PAUSE_S = 10.0
"""Between two frames played in realtime; what is further apart than that is a jump in the timestamps."""
FURTHEST_BEHIND_S = 1.0
"""What a slow model holds up for longer is not caught up with."""


class Config(DecodeConfig, TlsConfig):
    """Keys of a video file."""

    loop: bool = False
    """Begin again at the end."""
    realtime: bool = False
    """Play at the file's own speed, as if it were a camera. Default: as fast as the model goes."""
    read_timeout_s: Seconds = 6
    """Longest wait for a web server, or a disk in the network, to go on; then the file is opened again where it was."""


def claims(source: str | int) -> bool:
    """Paths and http(s) addresses that end like a video file."""
    return isinstance(source, str) and names_video_file(source)


class FileSource(Source):
    """A video file, perhaps looped, perhaps at its own speed.

    Opened again after a failure (a server that went away, a disk that was pulled), it goes on where it was, so that no
    frame comes twice. A failure at the same frame again is taken as damage.
    """

    live = False

    def __init__(self, target: FfmpegTarget, config: Config) -> None:
        self._file = FfmpegSource(target)
        self._target, self._config = target, config
        self.unpaced = not config.realtime
        self._started: tuple[float, float] | None = None
        self.position = 0
        self._is_open = False
        self._last_pts_s = 0.0
        self._failed_at: int | None = None

    @property
    def patience_s(self) -> float:  # type: ignore[override] # grows with what is to be gone over again, while it is opened
        """Seconds: see ``Source``."""
        timeout_s: float = max(OPEN_TIMEOUT_S, self._config.read_timeout_s)
        return timeout_s + MARGIN_S + (0.0 if self._is_open else self.position / SLOWEST_FPS)

    def open(self) -> StreamInfo:
        self._started = None
        if _is_empty(self._target.url):
            raise SourceBroken(f"{self._target.shown} is empty", SourceErrorCode.INVALID_DATA)
        info = self._file.open()
        for _ in range(self.position):
            self._skip()
        self._is_open = True
        return info

    def _skip(self) -> None:
        while True:
            try:
                self._next()
            except FrameUnreadable:  # was counted when it was met first
                continue
            return

    def read(self) -> Reading:
        try:
            reading = self._next()
        except EndOfStream as end:
            if not self.position:
                raise SourceBroken(f"{self._target.shown} holds no frame{self._hint()}", SourceErrorCode.INVALID_DATA) from None
            self.position, self._failed_at = 0, None
            if not self._config.loop:
                raise self._early(end) from None
            self.open()
            return self.read()
        self.position += 1
        self._last_pts_s = max(self._last_pts_s, reading.pts_s or 0.0)
        return replace(reading, not_before=self._due(reading)) if self._config.realtime else reading

    def _early(self, end: EndOfStream) -> EndOfStream:
        """The end, with a code of its own and the reason where the file declares more than there was: cut short, or still growing."""
        missing = self._file.missing(self._last_pts_s)
        if missing:
            end = EndOfStream(f"{self._target.shown} ends early: {missing} that it declares; it was cut short, or is still being written")
            end.code = SourceErrorCode.INVALID_DATA
        return end

    def _next(self) -> Reading:
        try:
            return self._file.read()
        except SourceUnavailable as error:
            if self._failed_at == self.position:
                raise SourceBroken(f"{error} (after {self.position} frames, twice)", error.code) from None
            self._failed_at = self.position
            raise

    def _hint(self) -> str:
        if "://" not in self._target.url:
            return ""
        return " (of a server without range requests, an mp4 can only be read with its index first: ffmpeg's -movflags +faststart)"

    def _due(self, reading: Reading) -> float:
        """When to show it. After a pause (a slow model, a jump in the timestamps) the count begins anew."""
        pts = reading.pts_s or 0.0
        if self._started is not None:
            due = self._started[0] + pts - self._started[1]
            if -FURTHEST_BEHIND_S <= due - reading.captured_at <= LONGEST_PAUSE_S:
                return due
        self._started = (reading.captured_at, pts)
        return reading.captured_at

    def close(self) -> None:
        self._is_open = False
        self._file.close()


def local_path(context: SourceContext) -> str:
    """The file's path, or the address of a remote one."""
    source = str(context.source)
    scheme, found, rest = source.partition("://")
    if not found:
        return str(context.resolve(source))
    if scheme.lower() == "file":
        return unquote("/" + rest.partition("/")[2])
    return f"{scheme.lower()}://{rest}"  # FFmpeg knows its protocols by their lower-case names only


def decoder_threads() -> int:
    """A second thread decodes faster but costs a tenth more of the CPU: not where the lanes leave it no core."""
    return 1 if len(os.sched_getaffinity(0)) <= 2 else 2


def _is_empty(url: str) -> bool:
    """Whether it is a file without a byte in it: FFmpeg calls that invalid data, like any other."""
    if "://" in url:
        return False
    try:
        status = Path(url.removeprefix("file:")).stat()
    except (OSError, ValueError):  # FFmpeg says why
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == 0


def build(context: SourceContext, config: Config) -> Source:
    """A source for one file."""
    url = local_path(context)
    options: dict[str, str] = {}
    tls = None
    if "://" in url:
        url = check_address(url.replace(" ", "%20"), context.camera, ("http", "https"), "http://192.168.1.20/clip.mp4")
        tls = tls_context(config, context.resolve)
        timeout = str(int(config.read_timeout_s * 1e6))  # microseconds
        options = {"reconnect": "1", "reconnect_streamed": "1", "rw_timeout": timeout, **tls_options(config, context.resolve)}
    # A plain path that holds ':' would be read as a protocol by FFmpeg.
    target = FfmpegTarget(
        url if "://" in url else f"file:{url}",
        redact(url),
        live=False,
        open_timeout_s=OPEN_TIMEOUT_S,
        read_timeout_s=config.read_timeout_s,
        options=options,
        threads=decoder_threads(),
        decode=config.decode,
        tls=tls,
    )
    return FileSource(target, config)
