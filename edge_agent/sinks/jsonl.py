"""JSON Lines: one file on this machine that is written at its end, and that makes room for the next one by size and by age.

What is confirmed is in the file (``fsync`` says how surely on the disk). A line that was not written whole is taken back, so
that every line can be read. Not thread-safe: one publisher drives it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent.config_delivery import JsonlSettings
from edge_agent.errors import Rejected, SinkUnavailable
from edge_agent.events import Message, timestamp
from edge_agent.sinks._lines import envelopes
from edge_agent.sinks.base import Sink

log = logging.getLogger(__name__)

Config = JsonlSettings
_LONGEST_TAIL = 64 << 20
"""Bytes that are looked through for the end of the last whole line."""


@dataclass(frozen=True)
class JsonlContext:
    """What the sink is given besides ``[sinks.jsonl]``."""

    device: str
    path: Path
    """``path``, resolved."""


class JsonlSink(Sink):
    """One file and the ones before it: ``NAME``, ``NAME.1`` (the newest), ``NAME.2`` ..."""

    def __init__(self, context: JsonlContext, config: JsonlSettings, clock: Callable[[], float] = time.time) -> None:
        """``clock``: seconds since the epoch."""
        self._context, self._config, self._clock = context, config, clock
        self._path = context.path
        self.name = f"jsonl:{context.path}"
        self._file: int | None = None
        self._size = 0
        self._begun_at: float | None = None
        """When the first line was written; None: there is none."""
        self._synced_at = 0.0
        self._is_dirty = False

    def connect(self) -> None:
        self.close()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except (OSError, SinkUnavailable) as error:
            self.close()
            raise self._unavailable(error) from None

    def _open(self) -> None:
        file = self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise SinkUnavailable(f"{self.name}: is no file")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SinkUnavailable(f"{self.name}: another process writes to it; give each its own path") from None
        self._size = self._whole_lines(file)
        os.ftruncate(file, self._size)
        self._begun_at = self._first_written(file) if self._size else None

    @staticmethod
    def _whole_lines(file: int) -> int:
        """Bytes up to the end of the last whole line: what follows was being written when the power went."""
        size = at = os.fstat(file).st_size
        while at > max(0, size - _LONGEST_TAIL):
            start = max(0, at - 65536)
            newline = os.pread(file, at - start, start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            at = start
        return at

    def _first_written(self, file: int) -> float:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            line = os.pread(file, 256, 0).decode("ascii", "replace")
            written = json.loads(line[: line.index(",")] + "}")["written_at"]
            return datetime.fromisoformat(written.replace("Z", "+00:00")).timestamp()
        return os.fstat(file).st_mtime

    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        if self._file is None:
            raise SinkUnavailable(f"{self.name}: not open")
        bodies = envelopes(messages, self._context.device, state=self._config.state)
        stamp = f'{{"written_at":"{timestamp(self._clock())}",'.encode()
        lines = [stamp + body[1:] + b"\n" for body in bodies if isinstance(body, bytes)]
        try:
            self._make_way(sum(map(len, lines)))
            self._append(b"".join(lines))
            self._sync()
        except (OSError, SinkUnavailable) as error:
            raise self._unavailable(error) from None
        return [body if isinstance(body, Rejected) else None for body in bodies]

    def _make_way(self, coming: int) -> None:
        """Go on in another file where this one is full, too old, or not the one of that name any more."""
        now, config = self._clock(), self._config
        if not self._is_in_place():
            self._reopen()
        if not self._size:
            return
        too_old = config.max_age_s is not None and self._begun_at is not None and now - self._begun_at >= config.max_age_s
        if too_old or self._size + coming > config.max_bytes:
            self._rotate()

    def _is_in_place(self) -> bool:
        """Whether somebody else (logrotate) has moved or removed the file."""
        assert self._file is not None
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(self._file)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def _reopen(self) -> None:
        self.close()
        self._open()

    def _rotate(self) -> None:
        self._sync(at_once=self._config.fsync != "never")
        for number in range(self._config.files - 1, 0, -1):
            older, newer = self._numbered(number), self._numbered(number - 1)
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        surplus = self._config.files if self._config.files > 1 else 0
        while self._numbered(surplus).exists():  # of the one file that may be, or of a time when more might be
            self._numbered(surplus).unlink()
            surplus += 1
        self._reopen()

    def _numbered(self, number: int) -> Path:
        return self._path if number == 0 else self._path.with_name(f"{self._path.name}.{number}")

    def _append(self, data: bytes) -> None:
        """All of it, or nothing: a disk that is full takes a part."""
        assert self._file is not None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            with contextlib.suppress(OSError):  # else it is done at the next connect
                os.ftruncate(self._file, self._size)
            raise
        if data and not self._size:
            self._begun_at = self._clock()
        self._size += len(data)
        self._is_dirty = self._is_dirty or bool(data)

    def _sync(self, *, at_once: bool = False) -> None:
        assert self._file is not None
        now, how = self._clock(), self._config.fsync
        due = how == "interval" and abs(now - self._synced_at) >= self._config.fsync_interval_s
        if self._is_dirty and (at_once or due or how == "always"):
            os.fdatasync(self._file)
            self._synced_at, self._is_dirty = now, False

    def check(self) -> None:
        if self._file is None:
            raise SinkUnavailable(f"{self.name}: not open")
        try:
            self._sync()
        except OSError as error:
            raise self._unavailable(error) from None

    def close(self) -> None:
        file = self._file
        if file is None:
            return
        with contextlib.suppress(OSError):
            self._sync(at_once=self._config.fsync != "never")
        self._file = None
        with contextlib.suppress(OSError):
            os.close(file)

    def _unavailable(self, error: OSError | SinkUnavailable) -> SinkUnavailable:
        if isinstance(error, SinkUnavailable):
            return error
        what = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "the disk is read-only"}
        return SinkUnavailable(f"{self.name}: {what.get(error.errno or 0, error.strerror or str(error))}")


def build(context: JsonlContext, config: JsonlSettings) -> Sink:
    """A sink for one file; does no I/O."""
    return JsonlSink(context, config)
