"""The parts of a ``multipart/x-mixed-replace`` body (MJPEG over HTTP), each bounded, whatever the server sends.

Cameras disagree about the boundary (with or without ``--``, quoted or not, another in the body than in the header), so
that of the body's own first delimiter line is taken; and about Content-Length, without which a part ends where the next
delimiter begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_HEADERS = 16 * 1024
"""Bytes before a part's picture, the delimiter included."""
MAX_PART = 32 * 1024 * 1024
"""Bytes of one picture: a JPEG of 100 megapixels is smaller."""
_CHUNK = 64 * 1024


class MultipartError(Exception):
    """The body is not what it should be; in one line."""


class MultipartReader:
    """Reads part after part from ``read(size)``, which blocks for some bytes and gives none at the end."""

    def __init__(self, read: Callable[[int], bytes], clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self._buffer = bytearray()
        self._delimiter = b""
        self._came = 0.0

    def next(self) -> tuple[bytes, float]:
        """A part's content, and when its last byte came (monotonic seconds).

        Raises EOFError at the end, MultipartError for what is no multipart, and what ``read`` raises.
        """
        headers = self._headers()
        length = headers.get(b"content-length", b"")
        if length.isdigit() and len(length) < 19:
            return self._exactly(int(length)), self._came
        return self._up_to_delimiter()

    def _headers(self) -> dict[bytes, bytes]:
        self._begin()
        found: dict[bytes, bytes] = {}
        size = 0
        while line := self._line(MAX_HEADERS - size):
            size += len(line) + 2
            name, _, value = line.partition(b":")
            found[name.strip().lower()] = value.strip()
        return found

    def _begin(self) -> None:
        """Read on behind the next delimiter line. Blank lines come before it, and before the first one a preamble."""
        size = 0
        while True:
            line = self._line(MAX_HEADERS - size)
            size += len(line) + 2
            if self._delimiter and line == self._delimiter + b"--":
                raise EOFError
            if line == self._delimiter or (not self._delimiter and line[:2] == b"--" and len(line) > 2):
                self._delimiter = line
                return
            if self._delimiter and line:
                raise MultipartError(
                    "a part is longer than its Content-Length says, or its boundary is another than that of the part before"
                )

    def _line(self, at_most: int) -> bytes:
        begin = 0
        while (end := self._buffer.find(b"\n", begin)) < 0:
            begin = len(self._buffer)
            if begin >= at_most:
                break
            self._fill()
        if end < 0 or end > at_most:
            raise MultipartError(f"its headers are longer than {MAX_HEADERS} bytes, or there is no boundary")
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        return line

    def _exactly(self, length: int) -> bytes:
        if length > MAX_PART:
            raise MultipartError(f"a picture of {length} bytes is larger than the {MAX_PART} that are taken")
        while len(self._buffer) < length:
            self._fill()
        return self._take(length)

    def _up_to_delimiter(self) -> tuple[bytes, float]:
        mark = b"\n" + self._delimiter
        begin, before, came = 0, 0, self._came
        while (end := self._buffer.find(mark, begin)) < 0:
            begin = max(0, len(self._buffer) - len(mark))
            if begin > MAX_PART:
                raise MultipartError(f"a picture without Content-Length does not end within {MAX_PART} bytes")
            before, came = len(self._buffer), self._came
            self._fill()
        # The delimiter often comes with the next picture only, and says nothing of when this one was complete.
        came = came if end <= before else self._came
        return self._take(end + 1).removesuffix(b"\n").removesuffix(b"\r"), came

    def _take(self, length: int) -> bytes:
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    def _fill(self) -> None:
        data = self._read(_CHUNK)
        if not data:
            raise EOFError
        self._came = self._clock()
        self._buffer += data
