"""A spool's file from outside: read only, beside the agent that writes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from edge_agent._spool_clock import Clocks
from edge_agent._spool_quarantine import BUSY_S
from edge_agent._spool_rows import COLUMNS, Row, decoded
from edge_agent.errors import StateError

PAGE = 500


def rows(file: Path) -> Iterator[Row | None]:
    """Oldest first; None for one that is damaged. Raises StateError for a file that cannot be read (further)."""
    connection: sqlite3.Connection | None = None
    after = -1
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
        connection.text_factory = bytes
        # page by page: as long as one reads, the agent's log cannot be emptied, and whoever reads our output may take his time
        query = f"SELECT {COLUMNS} FROM events WHERE position > ? ORDER BY position LIMIT {PAGE}"  # noqa: S608 - constants
        while raws := connection.execute(query, (after,)).fetchall():
            yield from (decoded(raw) for raw in raws)
            after = raws[-1][0]
    except sqlite3.Error as error:
        raise StateError(f"{file} cannot be read: {error}; an agent that starts with it sets it aside, and saves what it can") from None
    finally:
        if connection is not None:
            connection.close()


def is_held(file: Path) -> bool:
    """Whether an agent uses it now."""
    with contextlib.suppress(OSError):
        handle = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
    return False


def summary(file: Path) -> dict[str, object]:
    """For ``spool status``. Raises StateError."""
    events = size = damaged = 0
    oldest: float | None = None
    for row in rows(file):
        if row is None:
            damaged += 1
            continue
        events, size = events + 1, size + row.size
        if oldest is None:
            oldest = Clocks(time.monotonic, lambda: True).age(row)
    disk = sum(part.stat().st_size for part in file.parent.glob(f"{file.name}*"))
    return {
        "sink": file.stem,
        "events": events,
        "bytes": size,
        "oldest_age_s": None if oldest is None else round(oldest, 1),
        "damaged": damaged,
        "disk_bytes": disk,
        "quarantined": len(list(file.parent.glob(f"{file.stem}.quarantine-*.*"))),
        "held_by_an_agent": is_held(file),
        "file": str(file),
    }
