"""Video files: every frame, in order, and an end. ``http(s)://`` files are files too, not live streams."""

from __future__ import annotations

import time
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

from edge_agent.config import Table
from edge_agent.config_file import redact
from edge_agent.errors import EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.sources._ffmpeg import FfmpegSource, FfmpegTarget
from edge_agent.sources.base import Reading, Source, SourceContext, StreamInfo

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv"}
    | {".h264", ".264", ".h265", ".265", ".hevc", ".mjpg", ".mjpeg"}
)
LONGEST_PAUSE_S = 1.0


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
    try:
        parts = urlsplit(source)
    except ValueError:  # "http://[": no address
        return False
    scheme = parts.scheme.lower() if "://" in source else ""
    path = parts.path if scheme else source
    return scheme in {"", "file", "http", "https"} and PurePath(path).suffix.lower() in SUFFIXES


class FileSource(Source):
    """A video file, perhaps looped, perhaps at its own speed."""

    live = False

    def __init__(self, target: FfmpegTarget, config: Config) -> None:
        self._file = FfmpegSource(target)
        self._target, self._config = target, config
        self._started: tuple[float, float] | None = None
        self._read_any = False

    def open(self) -> StreamInfo:
        self._started = None
        return self._file.open()

    def read(self) -> Reading:
        try:
            reading = self._file.read()
        except EndOfStream:
            if not self._config.loop or not self._read_any:
                if not self._read_any:
                    raise SourceBroken(f"{self._target.shown} holds no frame", SourceErrorCode.INVALID_DATA) from None
                raise
            self.open()
            reading = self._file.read()
        self._read_any = True
        return self._paced(reading) if self._config.realtime else reading

    def _paced(self, reading: Reading) -> Reading:
        now = time.monotonic()
        pts = reading.pts_s or 0.0
        if self._started is None:
            self._started = (now, pts)
        due = self._started[0] + pts - self._started[1]
        if abs(due - now) > LONGEST_PAUSE_S:  # a jump in the timestamps, or we were held up: begin counting anew
            self._started, due = (now, pts), now
        if due > now:
            time.sleep(due - now)
        return Reading(reading.image, time.monotonic(), reading.pts_s)

    def close(self) -> None:
        self._file.close()


def local_path(context: SourceContext) -> str:
    """The file's path, or the address of a remote one."""
    source = str(context.source)
    if source.lower().startswith("file://"):
        return unquote(urlsplit(source).path)
    return source if "://" in source else str(context.resolve(source))


def build(context: SourceContext, config: Config) -> Source:
    """A source for one file."""
    url = local_path(context)
    options = {} if "://" not in url else {"reconnect": "1", "reconnect_streamed": "1", "rw_timeout": "10000000"}
    # A plain path that holds ':' would be read as a protocol by FFmpeg.
    target = FfmpegTarget(
        url if "://" in url else f"file:{url}", redact(url), live=False, open_timeout_s=10, read_timeout_s=10, options=options, threads=2
    )
    return FileSource(target, config)


__all__ = ["Config", "FileSource", "SourceUnavailable", "build", "claims"]
