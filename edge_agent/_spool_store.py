"""Events on disk: one SQLite file in WAL mode (docs/decisions/0022-spool-store.md), each row with a checksum of its own.

SQLite finds a torn write in its log by itself; a flipped bit in a page it would hand out as data, hence the checksum.
A file that cannot be used is set aside, and what can be read of it goes into a new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from edge_agent._spool_quarantine import BUSY_S, PARTS, Quarantine, beside, readable
from edge_agent._spool_rows import COLUMNS, Found, Row, StoreDamaged, StoreError, decoded, encoded
from edge_agent._spool_wal import WalView
from edge_agent.errors import AlreadyRunning

PROBE_BYTES = 1 << 16
SAVED_TOGETHER = 500
"""Events of a damaged file that are read, and written to the new one, at once."""
LOG_BYTES = 2 << 20
"""What the log beside the file may grow to."""
LOCK_TRIES = 6
_SCHEMA = "CREATE TABLE IF NOT EXISTS events(position INTEGER PRIMARY KEY, kind, camera, payload, at, shift, boot, crc)"


class Store:
    """One spool's file. Not thread-safe: its owner holds a lock."""

    def __init__(self, path: Path, connect: Callable[..., sqlite3.Connection] = sqlite3.connect) -> None:
        self.path = path
        self._connect_with = connect
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._identity: tuple[int, int] | None = None
        self._home: int | None = None
        """The file system that it was found on."""
        self._believed = -1
        """Frames of the log as it was found that SQLite takes for whole."""
        self._quarantine = Quarantine(path)

    def lock(self) -> None:
        """Make it this process's own. Raises AlreadyRunning, or StoreError where the folder cannot be used."""
        if self._lock is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"{self.path.parent} cannot be used: {error.strerror}") from None
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.05)  # "edge-agent spool status" holds it for a moment, to see whether it is free
            else:
                self._lock = handle
                return
        os.close(handle)
        raise AlreadyRunning(f"another edge-agent uses the spool {self.path}; stop it first")

    def open(self) -> Found:
        """Read all of it once. Raises StoreError; a damaged file is set aside, and what is left of it read."""
        self.lock()
        try:
            return self._open()
        except StoreDamaged as damage:
            return self.salvage(str(damage))

    def _open(self) -> Found:
        self.disconnect()
        self._make_private()
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
                self._quarantine.keep_copy(wal.data)
                found.quarantined = 1
            self._connection.executemany("DELETE FROM events WHERE position = ?", [(position,) for position in bad])
            self._connection.commit()
        stat = self.path.stat()
        self._identity, self._home = (stat.st_dev, stat.st_ino), stat.st_dev
        return found

    def _make_private(self) -> None:
        """For this user only, and so what SQLite makes beside it: that gets the same mode."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(0o600)
            for suffix in PARTS:
                with contextlib.suppress(FileNotFoundError):
                    beside(self.path, suffix).chmod(0o600)
        except OSError as error:
            raise StoreError(f"{self.path} cannot be opened: {error.strerror}") from None

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
            connection.executemany(f"INSERT OR REPLACE INTO events({COLUMNS}) VALUES(?,?,?,?,?,?,?,?)", [encoded(row) for row in rows])

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
    def quarantined(self) -> int:
        """Damaged files that were set aside."""
        return self._quarantine.count

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
            for suffix in PARTS:
                beside(self.path, suffix).unlink(missing_ok=True)
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

    def check_in_place(self) -> None:
        """Raises StoreDamaged where the file was taken away, and StoreError where its file system was."""
        if not self.is_in_place:
            self.check_at_home()
            raise StoreDamaged(f"{self.path} was taken away")

    def check_at_home(self) -> None:
        """Raises StoreError where the file system that it was on is no longer there: it may come back, with all that is on it."""
        try:
            there = self._home is None or self.path.exists() or self.path.parent.stat().st_dev == self._home
        except OSError:
            return  # not even the folder: that was removed, and is made anew
        if not there:
            raise StoreError(f"{self.path.parent} is on another file system than before; is the disk still mounted?")

    def salvage(self, why: str) -> Found:
        """Set the file aside, and read what can be read of it into a new one. Raises StoreError where the disk cannot be used."""
        self.disconnect()
        self._check_room(why)
        aside = self._quarantine.set_aside(why)
        try:
            found = self._open()
            if aside is not None:
                self._read_over(aside, found)
        except StoreError:
            self.disconnect()
            if aside is not None:
                self._quarantine.put_back(aside)
            raise
        self._quarantine.forget_old()
        return found

    def _check_room(self, why: str) -> None:
        """Before anything is moved: a disk that is nearly full must not be filled, and worn, with one attempt after the other."""
        with contextlib.suppress(OSError):
            wanted = self._length() + min(self._length(), LOG_BYTES)
            if shutil.disk_usage(self.path.parent).free < wanted:
                raise StoreError(f"{self.path} is damaged ({why}); {wanted} bytes of free space are needed to save what is in it")

    def _read_over(self, aside: Path, found: Found) -> None:
        """In lots: a spool may be larger than memory."""
        rows, first = readable(aside), 0
        with self._translated():
            while lot := list(islice(rows, SAVED_TOGETHER)):
                self.apply(lot, [])
                positions = [row.position for row in lot]
                first, found.last = min([*positions, first or positions[0]]), max(found.last, *positions)
                found.events, found.size = found.events + len(lot), found.size + sum(row.size for row in lot)
        found.damaged = found.last - first + 1 - found.events if found.events else 0
        found.quarantined = 1

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
