"""Events on disk: one SQLite file in WAL mode (docs/decisions/0022-spool-store.md), each row with a checksum of its own.

SQLite finds a torn write in its log by itself; a flipped bit in a page it would hand out as data, hence the checksum.
A file that cannot be used is set aside, and what can be read of it goes into a new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent._spool_wal import WalView
from edge_agent.errors import AlreadyRunning, EdgeAgentError
from edge_agent.events import Kind, Message

BUSY_S = 2.0
QUARANTINED_MOST = 2
"""Files set aside that are kept, the newest."""
PROBE_BYTES = 1 << 16
COLUMNS = "position, kind, camera, payload, at, shift, boot, crc"
_SCHEMA = "CREATE TABLE IF NOT EXISTS events(position INTEGER PRIMARY KEY, kind, camera, payload, at, shift, boot, crc)"


class StoreError(EdgeAgentError):
    """The disk cannot be used now: full, read-only, gone. It is tried again later."""


class StoreDamaged(StoreError):
    """The disk works, but not the file on it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One event as it is on disk."""

    position: int
    message: Message
    shift: float
    """What the wall clock was ahead of the monotonic one when the event came: seconds."""
    boot: str
    """The boot whose monotonic clock ``message.at`` is of."""

    @property
    def size(self) -> int:
        """Of the payload."""
        return len(self.message.payload)


@dataclass(slots=True)
class Found:
    """What was on disk when it was opened."""

    events: int = 0
    size: int = 0
    last: int = 0
    damaged: int = 0
    """Events that were there, and could not be read."""
    quarantined: int = 0


def _crc(position: int, kind: object, camera: object, payload: bytes, clock: tuple[object, ...]) -> int:
    return zlib.crc32(payload, zlib.crc32(repr((position, kind, camera, *clock)).encode()))


def decoded(found: Sequence[object]) -> Row | None:
    """None: it is not what was written."""
    position, kind, camera, payload, at, shift, boot, crc = found
    with contextlib.suppress(ValueError, UnicodeDecodeError):
        if not (isinstance(position, int) and isinstance(payload, bytes) and isinstance(at, float) and isinstance(shift, float)):
            return None
        if not (isinstance(kind, bytes) and isinstance(boot, bytes) and (camera is None or isinstance(camera, bytes))):
            return None
        if _crc(position, kind, camera, payload, (at, shift, boot)) != crc:
            return None
        name = None if camera is None else camera.decode()
        return Row(position, Message(Kind(kind.decode()), name, payload, at), shift, boot.decode())
    return None


def _encoded(row: Row) -> tuple[object, ...]:
    message, boot = row.message, row.boot.encode()
    kind, camera = message.kind.value.encode(), None if message.camera is None else message.camera.encode()
    at, shift = float(message.at), float(row.shift)
    crc = _crc(row.position, kind, camera, message.payload, (at, shift, boot))
    return row.position, kind, camera, message.payload, at, shift, boot, crc


class Store:
    """One spool's file. Not thread-safe: its owner holds a lock."""

    def __init__(self, path: Path, connect: Callable[..., sqlite3.Connection] = sqlite3.connect) -> None:
        self.path = path
        self._connect_with = connect
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._identity: tuple[int, int] | None = None
        self._believed = -1
        """Frames of the log as it was found that SQLite takes for whole."""
        self.quarantined = 0
        """Files set aside."""

    def lock(self) -> None:
        """Make it this process's own. Raises AlreadyRunning, or StoreError where the folder cannot be used."""
        if self._lock is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"{self.path.parent} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise AlreadyRunning(f"another edge-agent uses the spool {self.path}; stop it first") from None
        self._lock = handle

    def open(self) -> Found:
        """Read all of it once. Raises StoreError; a damaged file is set aside, and what is left of it read."""
        self.lock()
        try:
            return self._open()
        except StoreDamaged as damage:
            return self.salvage(str(damage))

    def _open(self) -> Found:
        self.disconnect()
        wal = WalView.of(self.path)
        with self._translated():
            self._connection = self._connect(self.path)
            found, bad = Found(), []
            for raw in self._connection.execute(f"SELECT {COLUMNS} FROM events ORDER BY position"):  # noqa: S608 - constant
                row = decoded(raw)
                if row is None:
                    bad.append(raw[0])
                    continue
                found.events, found.size, found.last = found.events + 1, found.size + row.size, row.position
            found.damaged = len(bad)
            if wal.lost_commits(self._believed):
                found.quarantined = self._keep_copy(wal)
            self._connection.executemany("DELETE FROM events WHERE position = ?", [(position,) for position in bad])
            self._connection.commit()
        stat = self.path.stat()
        self._identity = (stat.st_dev, stat.st_ino)
        return found

    def _connect(self, path: Path) -> sqlite3.Connection:
        made = self._connect_with(path, timeout=BUSY_S, check_same_thread=False)
        try:
            made.text_factory = bytes
            self._believed = made.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]  # before anything is added to the log
            for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=256",
                           "journal_size_limit=1048576", "cache_size=-512"):  # fmt: skip
                made.execute(f"PRAGMA {pragma}").fetchall()
            made.execute(_SCHEMA)
            made.commit()
        except BaseException:
            made.close()
            raise
        return made

    def apply(self, rows: Sequence[Row], gone: Sequence[tuple[int, int]]) -> None:
        """Write those, and delete positions from..to, in one transaction that is synced. Raises StoreError."""
        connection = self._usable()
        with self._translated(), connection:
            connection.executemany("DELETE FROM events WHERE position BETWEEN ? AND ?", gone)
            connection.executemany(f"INSERT OR REPLACE INTO events({COLUMNS}) VALUES(?,?,?,?,?,?,?,?)", [_encoded(row) for row in rows])

    def read(self, after: int, most: int) -> tuple[list[Row], list[int]]:
        """The next rows beyond that position that are not damaged, and the positions of all, damaged or not. Raises StoreError."""
        with self._translated():
            found = self._usable().execute(f"SELECT {COLUMNS} FROM events WHERE position > ? ORDER BY position LIMIT ?", (after, most))  # noqa: S608
            raws = found.fetchall()
        rows = [decoded(raw) for raw in raws]
        return [row for row in rows if row is not None], [raw[0] for raw in raws]

    @property
    def used_bytes(self) -> int:
        """Of the file's pages, and of its log. Raises StoreError."""
        with self._translated():
            ask = self._usable().execute
            pages, free, size = (ask(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size"))
        return int((pages - free) * size)

    def shrink(self) -> None:
        """Give free pages back to the disk. Raises StoreError."""
        with self._translated():
            self._usable().execute("PRAGMA incremental_vacuum").fetchall()
            self._usable().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @property
    def is_open(self) -> bool:
        """Whether there is a file to write to."""
        return self._connection is not None

    def probe(self) -> None:
        """Try whether the disk takes a write. Raises StoreError."""
        self._probe("tried again")

    def discard(self) -> None:
        """Remove the file with all that is in it. Raises StoreError."""
        self.disconnect()
        try:
            for suffix in ("-wal", "-shm", ""):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be removed: {error.strerror}") from None

    @property
    def is_in_place(self) -> bool:
        """Whether the file that is open still is the one of that name."""
        try:
            stat = self.path.stat()
        except OSError:
            return False
        return (stat.st_dev, stat.st_ino) == self._identity

    def salvage(self, why: str) -> Found:
        """Set the file aside, and read what can be read of it into a new one. Raises StoreError where the disk cannot be used."""
        self.disconnect()
        aside = self._set_aside(why)
        found = self._open()
        if aside is None:
            return found
        rows = list(_readable(aside))
        if rows:
            self.apply(rows, [])
            span = rows[-1].position - rows[0].position + 1
            found = Found(len(rows), sum(row.size for row in rows), rows[-1].position, span - len(rows))
        found.quarantined = 1
        return found

    def _set_aside(self, why: str) -> Path | None:
        aside = self.path.with_name(f"{self.path.stem}.quarantine-{time.time_ns()}.db")
        try:
            if self.path.exists():
                self.path.replace(aside)
                self.quarantined += 1
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).replace(aside.with_name(aside.name + suffix))
            self._forget_old()
        except OSError as error:
            raise StoreError(f"{self.path} is damaged ({why}) and cannot be set aside: {error.strerror}") from None
        return aside if aside.exists() else None

    def _keep_copy(self, wal: WalView) -> int:
        aside = self.path.with_name(f"{self.path.stem}.quarantine-{time.time_ns()}.log")
        with contextlib.suppress(OSError):
            aside.write_bytes(wal.data)
            self._forget_old()
        self.quarantined += 1
        return 1

    def _forget_old(self) -> None:
        for kind in ("db", "log"):
            for old in sorted(self.path.parent.glob(f"{self.path.stem}.quarantine-*.{kind}"))[:-QUARANTINED_MOST]:
                for name in (old.name, f"{old.name}-wal", f"{old.name}-shm"):
                    old.with_name(name).unlink(missing_ok=True)

    def _usable(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self.path} is not open")
        return self._connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """The file is to blame only where the disk takes a write: SQLite's codes do not tell the two apart reliably."""
        try:
            yield
        except (sqlite3.Error, MemoryError, OSError) as error:
            self._probe(error)
            text = f"{self.path}: {error}"
            locked = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
            full = "full" in str(error) or "readonly" in str(error)
            raise (StoreError(text) if locked or full else StoreDamaged(text)) from None

    def _probe(self, why: object) -> None:
        probe = self.path.with_suffix(".probe")
        try:
            try:
                with probe.open("wb") as file:
                    file.seek(self._length())  # beyond the file itself: there may be a limit to one file's size
                    file.write(bytes(PROBE_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                probe.unlink(missing_ok=True)
        except OSError as found:
            raise StoreError(f"{self.path.parent} cannot be written: {found.strerror} ({why})") from None

    def _length(self) -> int:
        found = 0
        for name in (self.path.name, f"{self.path.name}-wal"):
            with contextlib.suppress(OSError):
                found = max(found, self.path.with_name(name).stat().st_size)
        return found

    def disconnect(self) -> None:
        """Close the file, and keep the lock. Never raises."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Close the file, and let the next one have it. Never raises."""
        self.disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _readable(path: Path) -> Iterator[Row]:
    """What a damaged file still holds: from its start to the first damage, and from its end back to the last one."""
    connection = sqlite3.connect(path, timeout=BUSY_S)
    connection.text_factory = bytes
    found: dict[int, Row] = {}
    try:
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.Error, MemoryError):
                for raw in connection.execute(f"SELECT {COLUMNS} FROM events ORDER BY position {order}"):  # noqa: S608 - constants
                    row = decoded(raw)
                    if row is not None:
                        if row.position in found and order == "DESC":
                            break
                        found[row.position] = row
    finally:
        connection.close()
    yield from (found[position] for position in sorted(found))
