"""What survives a restart: the device's id, and sequence numbers that are never used twice.

One agent per state directory: it is locked, because two agents with one identity would disconnect each other at the
broker for ever.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from edge_agent.durable import make_folder, write_whole
from edge_agent.errors import AlreadyRunning, StateError, StateFull

__all__ = ["State", "default_directory", "write_whole"]

RESERVED = 1 << 20
"""Sequence numbers taken per camera and start: one small write at start, and then one in a million events."""
_DEVICE_ID = re.compile(r"\w[\w.-]{0,63}")
MAX_SEQ = 1 << 53
"""JSON numbers are exact up to here."""


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
        self._lock: int | None = None
        self._sequences: dict[str, int] = {}

    def open(self) -> None:
        """Create, lock and read. Raises StateError or AlreadyRunning."""
        try:
            make_folder(self.directory)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._problem(error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip()
            self.close()
            raise AlreadyRunning(
                f"another edge-agent (process {holder or '?'}) uses the state directory {self.directory}; "
                "stop it, or give this one its own [device] id and state_dir"
            ) from None
        with contextlib.suppress(OSError):  # a full disk: the number only helps who meets the lock
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        try:
            self._sequences = self._read_sequences()
        except StateError:
            self.close()
            raise

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
            self._write(path, kept + "\n")
        return kept

    def reserve(self, camera: str) -> range:
        """Sequence numbers that this camera never had and never gets again. Raises StateError."""
        first = self._sequences.get(camera, 0)
        self._sequences[camera] = first + RESERVED
        self._write(self.directory / "sequences.json", json.dumps(self._sequences))
        return range(first, first + RESERVED)

    def _read_sequences(self) -> dict[str, int]:
        path = self.directory / "sequences.json"
        try:
            found = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise StateError(
                f"{path} cannot be read ({error}): sequence numbers could repeat. "
                "Restore it, or remove it if consumers may see numbers again"
            ) from None
        if not isinstance(found, dict) or not all(type(v) is int and 0 <= v < MAX_SEQ for v in found.values()):
            raise StateError(
                f"{path} is damaged: sequence numbers could repeat. Restore it, or remove it if consumers may see numbers again"
            )
        return found

    def _write(self, path: Path, text: str) -> None:
        try:
            write_whole(path, text)
        except OSError as error:
            raise self._problem(error) from None

    def _problem(self, error: OSError) -> StateError:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return StateFull(f"the disk of the state directory {self.directory} is full; make room there, or set [device] state_dir")
        return StateError(
            f"the state directory {self.directory} cannot be used: {error.strerror}; "
            "set [device] state_dir (or $STATE_DIRECTORY) to a folder that this user may write"
        )
