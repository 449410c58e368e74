"""Video files: every frame, in order, and an end. ``http(s)://`` files are files too, not live streams."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

from edge_agent.config import Table
from edge_agent.config_file import redact
from edge_agent.errors import EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.sources._ffmpeg import FfmpegSource, FfmpegTarget
from edge_agent.sources.base import FrameUnreadable, Reading, Source, SourceContext, StreamInfo

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv"}
    | {".h264", ".264", ".h265", ".265", ".hevc", ".mjpg", ".mjpeg"}
)
LONGEST_PAUSE_S = 10.0
"""Between two frames played in realtime; what is further apart than that is a jump in the timestamps."""
FURTHEST_BEHIND_S = 1.0
"""What a slow model holds up for longer is not caught up with."""


class Config(Table):
    """Keys of a video file."""

    loop: bool = False
    """Begin again at the end."""
    realtime: bool = False
    """Play at the file's own speed, as if it were a camera. Default: as fast as the model goes."""


def claims(source: str | int) -> bool:
    """Paths and http(s) addresses that end like a video file."""
    if not isinstance(source, str):
        return False
    scheme, found, _ = source.partition("://")
    try:
        path = urlsplit(source).path if found else source
    except ValueError:  # "http://[": no address
        return False
    return (not found or scheme.lower() in {"file", "http", "https"}) and PurePath(path).suffix.lower() in SUFFIXES


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
        self._position = 0
        self._failed_at: int | None = None

    def open(self) -> StreamInfo:
        self._started = None
        info = self._file.open()
        for _ in range(self._position):
            self._skip()
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
        except EndOfStream:
            if not self._position:
                raise SourceBroken(f"{self._target.shown} holds no frame{self._hint()}", SourceErrorCode.INVALID_DATA) from None
            self._position, self._failed_at = 0, None
            if not self._config.loop:
                raise
            self.open()
            return self.read()
        self._position += 1
        return replace(reading, not_before=self._due(reading)) if self._config.realtime else reading

    def _next(self) -> Reading:
        try:
            return self._file.read()
        except SourceUnavailable as error:
            if self._failed_at == self._position:
                raise SourceBroken(f"{error} (after {self._position} frames, twice)", error.code) from None
            self._failed_at = self._position
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


def build(context: SourceContext, config: Config) -> Source:
    """A source for one file."""
    url = local_path(context)
    options = {} if "://" not in url else {"reconnect": "1", "reconnect_streamed": "1", "rw_timeout": "10000000"}
    # A plain path that holds ':' would be read as a protocol by FFmpeg.
    target = FfmpegTarget(
        url if "://" in url else f"file:{url}",
        redact(url),
        live=False,
        open_timeout_s=10,
        read_timeout_s=10,
        options=options,
        threads=decoder_threads(),
    )
    return FileSource(target, config)
