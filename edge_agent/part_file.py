"""A file that is being fetched: ``.NAME.part`` beside where it will be, and ``.NAME.part.json`` that tells of which file it is."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

MARGIN = 1 << 20
"""Bytes of the disk that are left to others."""


@dataclass(frozen=True)
class Validator:
    """Which version of the server's file this is: its strong ETag, and its size in bytes, where the server tells them."""

    tag: str | None = None
    total: int | None = None


class NoRoom(OSError):
    """The file will not fit."""


class InUse(Exception):
    """Another process holds this part file."""


def sha256_of(path: Path) -> str:
    """A file's hash, in lower case. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


class PartFile:
    """Opened and locked for one process; one thread. Every method may raise OSError."""

    def __init__(self, target: Path, url: str) -> None:
        """Take what is there of this address. Raises InUse, OSError."""
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self._notes = target.with_name(f".{target.name}.part.json")
        self._key = hashlib.sha256(url.encode()).hexdigest()  # the address itself may hold a password
        self._handle = self._open()
        self.size = os.fstat(self._handle).st_size
        self.validator = self._read() or Validator()
        if self.size and self._read() is None:
            try:
                self.begin(Validator())
            except OSError:
                os.close(self._handle)
                raise

    def _open(self) -> int:
        while True:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Between the two calls the one who had it may have given the file its name: then this is no part any more.
                if self.path.stat(follow_symlinks=False).st_ino == os.fstat(handle).st_ino:
                    return handle
            except BlockingIOError:
                os.close(handle)
                raise InUse from None
            except FileNotFoundError:
                pass
            os.close(handle)

    def _read(self) -> Validator | None:
        """None where it is of another address, or nothing can be told."""
        try:
            found = json.loads(self._notes.read_text("utf-8"))
            tag, total = found["tag"], found["total"]
            right = found["key"] == self._key and isinstance(tag, str | None) and isinstance(total, int | None)
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        return Validator(tag, total) if right else None

    def begin(self, validator: Validator) -> None:
        """Throw away what is there: what comes now is this version, from its first byte."""
        os.ftruncate(self._handle, 0)
        self.size, self.validator = 0, validator
        temporary = self._notes.with_name(self._notes.name + ".new")
        temporary.write_text(json.dumps({"key": self._key, **asdict(validator)}), "utf-8")
        temporary.replace(self._notes)

    def make_room(self, total: int | None, have: int) -> None:
        """Raises NoRoom if a file of ``total`` bytes, of which ``have`` are kept, does not fit on the disk."""
        if total is None:
            return
        disk = os.fstatvfs(self._handle)
        free = disk.f_bavail * disk.f_frsize + self.size - have
        if free < total - have + MARGIN:
            raise NoRoom(None, f"{(total - have) / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free")

    def append(self, data: bytes) -> None:
        """Write at the end; whole, or an error."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._handle, view, self.size)
            self.size += written
            view = view[written:]

    def flush(self) -> None:
        """Onto the disk."""
        os.fsync(self._handle)

    def sha256(self) -> str:
        """Of what the file holds, read anew."""
        return sha256_of(self.path)

    def finish(self) -> None:
        """Give it its name, also across a power cut."""
        self.flush()
        self.path.replace(self.target)
        self._forget()
        folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Leave nothing. Never raises."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._forget()

    def _forget(self) -> None:
        for path in (self._notes, self._notes.with_name(self._notes.name + ".new")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have it. An empty one is removed."""
        if self._handle >= 0:
            if self.size == 0:
                self.discard()
            os.close(self._handle)
            self._handle = -1
