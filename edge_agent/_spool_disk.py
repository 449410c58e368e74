"""A spool's disk: its store, when it is written, and whether it works now."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_agent._spool_rows import Found, StoreDamaged, StoreError
from edge_agent._spool_store import Store

log = logging.getLogger(__name__)

RETRY_S = 5.0
BIG_BYTES = 1 << 20
"""An empty spool's file that is larger than this is made smaller."""


class Disk:
    """Used with the spool's ``_io`` held; ``error`` may be read at any time."""

    def __init__(self, store: Store, *, always: bool = False, interval_s: float = 2.0) -> None:
        """``always``: each event, before it may be sent; else those that are not acknowledged within ``interval_s``."""
        self.store, self.always, self.interval_s = store, always, interval_s
        self.error: str | None = None
        """Why it is not used now."""
        self._retry_at = 0.0

    @property
    def quarantined(self) -> int:
        """Damaged files that were set aside."""
        return self.store.quarantined

    def open(self, now: float) -> Found:
        """Raises AlreadyRunning and nothing else: a disk that cannot be used now is tried again later."""
        try:
            return self._counted(self.store.open)
        except StoreError as error:
            self.failed(error, now)
            return Found()

    def reopen(self, *, is_empty: bool, anew: bool) -> Found | None:
        """Try again; None: the file is still open and as it was. Raises StoreError.

        ``is_empty``: nothing in the file is wanted any more. On a full disk that cannot be deleted, for that needs room; but removed.
        ``anew``: it could not be read: read all of it.
        """
        self.store.check_at_home()
        if self.store.is_open and is_empty:
            self.store.discard()
        if self.store.is_open and self.store.is_in_place and not anew:
            self.store.probe()
            return None
        return self._counted(self.store.open)

    def works(self) -> None:
        """It was written to."""
        if self.error is not None:
            log.info("the spool's disk works again path=%s", self.store.path)
        self.error = None

    def salvage(self, why: str) -> Found:
        """Set the file aside, and go on with what can be read of it. Raises StoreError."""
        return self._counted(lambda: self.store.salvage(why))

    def _counted(self, get: Callable[[], Found]) -> Found:
        found = get()
        if found.quarantined:
            log.error("the spool was damaged and set aside path=%s recovered=%d lost=%d", self.store.path, found.events, found.damaged)
        return found

    def failed(self, error: StoreError, now: float) -> None:
        """Do without it for a while."""
        if self.error is None:
            log.error("the spool's disk cannot be used, events wait in memory reason=%s", error)
        self.error, self._retry_at = str(error), now + RETRY_S

    def is_due(self, now: float) -> bool:
        """Whether to try again."""
        return now >= self._retry_at

    @staticmethod
    def is_damage(error: StoreError) -> bool:
        """Whether the file is to blame, and not the disk."""
        return isinstance(error, StoreDamaged)

    @staticmethod
    def is_big(used: int) -> bool:
        """Whether an empty file of that size is worth making smaller."""
        return used > BIG_BYTES

    def present(self, after: int) -> list[tuple[int, int]]:
        """Positions and sizes of what is on disk beyond that one. Raises StoreError."""
        found: list[tuple[int, int]] = []
        while True:
            rows, positions = self.store.read(after, 1000)
            found += [(row.position, row.size) for row in rows]
            if not positions:
                return found
            after = positions[-1]

    def close(self) -> None:
        """Let the next one have it."""
        self.store.close()
