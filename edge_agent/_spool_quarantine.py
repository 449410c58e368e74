"""Damaged files of a spool, set aside under another name, and what can still be read of them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from edge_agent._spool_rows import COLUMNS, Row, StoreError, decoded

BUSY_S = 2.0
MOST = 2
"""Files set aside that are kept, the newest."""
PARTS = ("", "-wal", "-shm")
"""What a file of SQLite's consists of."""


def beside(path: Path, suffix: str) -> Path:
    """Another part of it."""
    return path.with_name(path.name + suffix)


class Quarantine:
    """Of one spool's file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        """Files set aside since the start."""

    def set_aside(self, why: str) -> Path | None:
        """Rename it; None: there is none. Raises StoreError."""
        aside = self._name("db")
        try:
            if self.path.exists():
                self.path.replace(aside)
                self.count += 1
            for suffix in PARTS[1:]:
                with contextlib.suppress(FileNotFoundError):
                    beside(self.path, suffix).replace(beside(aside, suffix))
        except OSError as error:
            raise StoreError(f"{self.path} is damaged ({why}) and cannot be set aside: {error.strerror}") from None
        return aside if aside.exists() else None

    def put_back(self, aside: Path) -> None:
        """It could not be saved now: there will be another time, perhaps of another process. Never raises."""
        with contextlib.suppress(OSError):
            for suffix in PARTS:
                beside(self.path, suffix).unlink(missing_ok=True)
            for suffix in PARTS:
                if beside(aside, suffix).exists():
                    beside(aside, suffix).replace(beside(self.path, suffix))
            self.count -= 1

    def keep_copy(self, log: bytes) -> None:
        """Of a log that SQLite makes nothing of. Never raises."""
        with (
            contextlib.suppress(OSError),
            os.fdopen(os.open(self._name("log"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as file,
        ):
            file.write(log)
        self.forget_old()
        self.count += 1

    def forget_old(self) -> None:
        """Keep the newest ones only. Never raises."""
        for kind in ("db", "log"):
            for old in sorted(self.path.parent.glob(f"{self.path.stem}.quarantine-*.{kind}"))[:-MOST]:
                for suffix in PARTS:
                    with contextlib.suppress(OSError):
                        beside(old, suffix).unlink(missing_ok=True)

    def _name(self, kind: str) -> Path:
        return self.path.with_name(f"{self.path.stem}.quarantine-{time.time_ns()}.{kind}")


def readable(path: Path) -> Iterator[Row]:
    """What a damaged file still holds: from its start to the first damage, and from its end back to the last one."""
    connection = sqlite3.connect(path, timeout=BUSY_S)
    connection.text_factory = bytes
    reached = 0
    try:
        for order in ("ASC", "DESC"):
            last = 0
            with contextlib.suppress(sqlite3.Error, MemoryError):
                for raw in connection.execute(f"SELECT {COLUMNS} FROM events ORDER BY position {order}"):  # noqa: S608 - constants
                    row = decoded(raw)
                    if row is None:
                        continue
                    # a damaged tree may lead in circles
                    if row.position <= (last if order == "ASC" else reached) or (order == "DESC" and last and row.position >= last):
                        break
                    last = row.position
                    yield row
            reached = reached or last
    finally:
        connection.close()
