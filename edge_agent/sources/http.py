"""Cameras that send JPEG pictures over HTTP: MJPEG streams (``multipart/x-mixed-replace``), and single pictures to ask for.

By Python's own http client and not by FFmpeg's mpjpeg demuxer: see docs/decisions/0002-pyav.md.
"""

from __future__ import annotations

import time
from typing import Annotated
from urllib.parse import quote

from pydantic import BeforeValidator, Field

from edge_agent.config_values import not_bool
from edge_agent.errors import EndOfStream, SourceErrorCode, SourceUnavailable
from edge_agent.image import JpegImage
from edge_agent.redaction import redact
from edge_agent.sources._http_client import HttpAnswer, HttpTarget, get, unavailable
from edge_agent.sources._jpeg import JPEG_DECODER, jpeg_size
from edge_agent.sources._multipart import MAX_PART, MultipartError, MultipartReader
from edge_agent.sources._network import TlsConfig, check_address, names_video_file, split_credentials, tls_context
from edge_agent.sources.base import FrameUnreadable, NetworkConfig, Reading, Source, SourceContext, StreamInfo

MAX_UNREADABLE = 30
"""Parts in a row that are no JPEG before the stream counts as lost."""
_RESERVED = "%/:?#[]@!$&'()*+,;=~"
_STREAM, _PICTURE = "multipart/x-mixed-replace", "image/jpeg"


class Config(NetworkConfig, TlsConfig):
    """Keys of a camera that sends JPEG pictures over HTTP."""

    fps: Annotated[float, BeforeValidator(not_bool), Field(ge=0.2, le=60)] = 2
    """How often a single picture is asked for, per second; a stream comes at the camera's own rate."""
    username: Annotated[str | None, Field(examples=["viewer"])] = None
    """User at the camera; or write it into the address."""
    password_file: Annotated[str | None, Field(examples=["front_password"])] = None
    """File whose first line is the password of username."""


def claims(source: str | int) -> bool:
    """http:// and https:// addresses that do not end like a video file; ``.mjpg`` is a stream here."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://")) and not names_video_file(source)


class HttpSource(Source):
    """One such camera. A picture is not decoded until it is served."""

    def __init__(self, target: HttpTarget, config: Config) -> None:
        self._target, self._config = target, config
        self.patience_s = config.patience_s
        self._answer: HttpAnswer | None = None
        self._parts: MultipartReader | None = None
        self._first: tuple[bytes, float] | None = None
        self._next_at = 0.0
        self._unreadable = 0

    def open(self) -> StreamInfo:
        self.close()
        answer = self._answer = get(self._target)
        self.patience_s = self._config.patience_s
        if answer.content_type == _STREAM:
            self._parts = MultipartReader(answer.read)
        elif answer.content_type != _PICTURE:
            self.close()
            raise SourceUnavailable(
                f"{self._target.shown} sends {answer.content_type}, no JPEG pictures ({_STREAM} or {_PICTURE}); "
                'if it is a video file, set kind = "file"',
                SourceErrorCode.CODEC_UNSUPPORTED,
            )
        data, came = self._data(None)
        try:
            width, height = jpeg_size(data)
            self._first = data, came
        except ValueError:  # the next one may be better
            width, height = 0, 0
        if self._parts:
            return StreamInfo(width, height, None, JPEG_DECODER, mode="MJPEG stream")
        self.patience_s += self._config.open_timeout_s + 1 / self._config.fps  # each picture is waited for, and asked for anew
        return StreamInfo(width, height, self._config.fps, JPEG_DECODER, mode=f"a picture asked for {self._config.fps:g} times a second")

    def read(self) -> Reading:
        if self._first is not None:
            (data, came), self._first = self._first, None
        else:
            if self._parts is None:
                self._ask()
            data, came = self._data(self._config.read_timeout_s)
        try:
            width, height = jpeg_size(data)
        except ValueError as error:
            self._unreadable += 1
            if self._unreadable > MAX_UNREADABLE:
                raise SourceUnavailable(
                    f"{self._target.shown} sends no JPEG pictures: {error}", SourceErrorCode.CODEC_UNSUPPORTED
                ) from None
            raise FrameUnreadable(f"{self._target.shown} sent something else than a picture: {error}") from None
        self._unreadable = 0
        return Reading(JpegImage(data, width, height), came)

    def _ask(self) -> None:
        """For the next single picture, when it is time."""
        if self._answer is not None:
            self._answer.close()
        # Reading.not_before would hold back a picture that was taken long before.
        time.sleep(max(0.0, self._next_at - time.monotonic()))
        self._answer = get(self._target)

    def _data(self, timeout_s: float | None) -> tuple[bytes, float]:
        """The next picture and when it came, within ``timeout_s``, or within what is left of the time to open."""
        answer = self._answer
        assert answer is not None, "read() before open()"
        if timeout_s is not None:
            answer.deadline.set(timeout_s)
        try:
            return self._parts.next() if self._parts else self._whole(answer)
        except EOFError:
            raise EndOfStream(f"{self._target.shown} ended") from None
        except MultipartError as error:
            raise SourceUnavailable(
                f"{self._target.shown} sends no MJPEG that can be read: {error}", SourceErrorCode.INVALID_DATA
            ) from None
        except TimeoutError:
            raise SourceUnavailable(
                f"{self._target.shown} was lost: no picture came for {timeout_s or self._config.open_timeout_s:g} s",
                SourceErrorCode.TIMEOUT,
            ) from None
        except (OSError, ValueError) as error:
            raise unavailable(self._target, error, "was lost") from None

    def _whole(self, answer: HttpAnswer) -> tuple[bytes, float]:
        self._next_at = max(self._next_at, time.monotonic()) + 1 / self._config.fps
        data = bytearray()
        while chunk := answer.read(64 * 1024):
            data += chunk
            if len(data) > MAX_PART:
                raise MultipartError(f"a picture of more than {MAX_PART} bytes")
        if not data:
            raise MultipartError("the answer is empty")
        return bytes(data), time.monotonic()

    def close(self) -> None:
        answer, self._answer, self._parts, self._first = self._answer, None, None, None
        self._unreadable = 0
        if answer is not None:
            answer.close()


def build(context: SourceContext, config: Config) -> Source:
    """A source for one camera. Reads the password file and ``ca_file``; raises ConfigError."""
    given = check_address(str(context.source), context.camera, ("http", "https"), "http://192.168.1.20/video.mjpg")
    url, user, password = split_credentials(given)
    begin = url.find("/", url.index("://") + 3)
    url = url if begin < 0 else url[:begin] + quote(url[begin:], safe=_RESERVED)  # what lies beyond ASCII
    if config.username:
        user, password = config.username, context.secret(config.password_file) if config.password_file else ""
    tls = tls_context(config, context.resolve)
    return HttpSource(HttpTarget(url, redact(given), user, password, tls, config.open_timeout_s), config)
