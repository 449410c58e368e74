"""What survives a restart: the device's id, and sequence numbers that are never used twice.

One agent per state directory: it is locked, because two agents with one identity would disconnect each other at the
broker for ever. A disk that is full, read-only or broken is no reason not to look at cameras: numbers are then drawn from
a part of their range that is never written down, where two of them hardly ever meet.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from edge_agent.durable import make_folder, write_whole
from edge_agent.errors import AlreadyRunning, StateError

__all__ = ["State", "default_directory", "write_whole"]

log = logging.getLogger(__name__)

RESERVED = 1 << 20
"""Sequence numbers taken per camera and start: one small write at start, and then one in a million events."""
_DEVICE_ID = re.compile(r"\w[\w.-]{0,63}")
MAX_SEQ = 1 << 53
"""JSON numbers are exact up to here."""
UNWRITTEN = 1 << 52
"""From here on are the numbers that are drawn where none can be reserved; no counter comes so far."""
DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""What a disk may recover from, or a service must live with; not what an owner has to put right before anything can run."""


def default_directory(environ: Mapping[str, str] | None = None) -> Path:
    """Systemd's $STATE_DIRECTORY, else the user's state folder. Raises StateError for a user without one."""
    environ = os.environ if environ is None else environ
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    home = Path(environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or "~") / ".local" / "state")
    try:
        return home.expanduser() / "edge-agent"
    except RuntimeError:
        raise StateError("this user has no home directory to keep state in; set [device] state_dir (or $STATE_DIRECTORY)") from None


class State:
    """An opened and locked state directory. Used from the main thread at start, ``reserve`` later from the pipeline's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.error: str | None = None
        """Why nothing can be written now."""
        self._lock: int | None = None
        self._sequences: dict[str, int] = {}
        self._unreadable = False

    def open(self) -> None:
        """Create, lock and read. Raises StateError or AlreadyRunning; a disk that is full or broken is only told of."""
        try:
            make_folder(self.directory)
            self._lock = self._open_lock(self.directory / "lock")
        except OSError as error:
            self._tell(error)
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            self.close()
            raise AlreadyRunning(
                f"another edge-agent (process {holder or '?'}) uses the state directory {self.directory}; "
                "stop it, or give this one its own [device] id and state_dir"
            ) from None
        with contextlib.suppress(OSError):  # for whoever looks; the lock holds without
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        try:
            self._sequences = self._read_sequences()
        except StateError:
            self.close()
            raise

    @staticmethod
    def _open_lock(path: Path) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in DISK_FAULTS or not path.exists():
                raise
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let the next agent have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def device_id(self) -> str:
        """An id made once and kept, for machines that have none of their own."""
        path = self.directory / "device_id"
        try:
            kept = path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            kept = ""
        if not _DEVICE_ID.fullmatch(kept):
            kept = f"edge-{secrets.token_hex(6)}"
            self._is_written(path, kept + "\n")
        return kept

    def reserve(self, camera: str) -> range:
        """Sequence numbers that this camera never had and never gets again. Raises StateError for what is no fault of a disk."""
        first = self._sequences.get(camera, 0)
        self._sequences[camera] = first + RESERVED
        if self._is_written(self.directory / "sequences.json", json.dumps(self._sequences)):
            return range(first, first + RESERVED)
        first = UNWRITTEN + RESERVED * secrets.randbelow((MAX_SEQ - UNWRITTEN) // RESERVED)
        return range(first, first + RESERVED)

    def _read_sequences(self) -> dict[str, int]:
        path = self.directory / "sequences.json"
        try:
            found = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, OSError) and error.errno in DISK_FAULTS:
                self._unreadable = True
                self._tell(error)
                return {}
            raise StateError(
                f"{path} cannot be read ({error}): sequence numbers could repeat. "
                "Restore it, or remove it if consumers may see numbers again"
            ) from None
        if not isinstance(found, dict) or not all(type(v) is int and 0 <= v < MAX_SEQ for v in found.values()):
            raise StateError(
                f"{path} is damaged: sequence numbers could repeat. Restore it, or remove it if consumers may see numbers again"
            )
        return found

    def _is_written(self, path: Path, text: str) -> bool:
        """Raises StateError where an owner has to put something right."""
        if self._unreadable:  # what is not known must not be written over
            return False
        try:
            write_whole(path, text)
        except OSError as error:
            self._tell(error)
            return False
        self.error = None
        return True

    def _tell(self, error: OSError) -> None:
        if error.errno not in DISK_FAULTS:
            raise self._problem(error) from None
        if self.error is None:
            log.error("nothing can be kept across a restart directory=%s reason=%s", self.directory, error.strerror)
        self.error = f"{self.directory} cannot be used: {error.strerror}"

    def _problem(self, error: OSError) -> StateError:
        return StateError(
            f"the state directory {self.directory} cannot be used: {error.strerror}; "
            "set [device] state_dir (or $STATE_DIRECTORY) to a folder that this user may write"
        )
