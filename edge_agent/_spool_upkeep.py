"""What a spool does with its disk: write what waits, delete what is done with, hold the bounds, and get over faults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from edge_agent._spool_clock import Clocks
from edge_agent._spool_disk import Disk
from edge_agent._spool_entry import Entry
from edge_agent._spool_queue import Queue
from edge_agent._spool_rows import Found, Row, StoreError

LOT = 2000
"""The most events written in one transaction."""
TRIMMED = 64
"""Events that are looked at together where the oldest have to go."""


class Upkeep:
    """Every method is called with ``io`` held and without ``lock``, which the queue is guarded by: nobody waits for a disk with it held."""

    def __init__(self, queue: Queue, disk: Disk, lock: threading.Condition, clocks: Clocks, on_adopted: Callable[[], None]) -> None:
        """``on_adopted``: the last run's events were taken up; called with ``lock`` held."""
        self._queue, self._disk, self._lock, self._clocks = queue, disk, lock, clocks
        self._on_adopted, self._adopted = on_adopted, False

    def open(self) -> None:
        """Take up what the last run left. Raises AlreadyRunning and nothing else."""
        found = self._disk.open(self._clocks.now())
        if self._disk.error is None:
            self._take_up(found)

    def _take_up(self, found: Found) -> None:
        with self._lock:
            self._adopted = True
            self._queue.take_up(found)
            self._on_adopted()

    def maintain(self, *, everything: bool) -> None:
        """All that is due. Never raises."""
        try:
            if self._disk.error is None:
                self._disk.store.check_in_place()
                self._drop_old()
        except StoreError as error:
            self.recover(error)
        with self._lock:
            self._queue.expire(self._clocks.now() - self._queue.limits.max_age_s)
        if self._disk.error is not None and not self._try_again(now=everything):
            return
        try:
            while self._write_one_lot(everything=everything):
                pass
            self._trim()
            self._disk.works()
        except StoreError as error:
            self.recover(error)

    def _write_one_lot(self, *, everything: bool) -> bool:
        """Whether there is more to write."""
        queue = self._queue
        with self._lock:
            everything = everything or self._disk.always or queue.is_filling
            lot = queue.lot(LOT)
            if lot and not everything and lot[0].since > self._clocks.now() - self._disk.interval_s / 2:
                lot = []
        self._apply(lot)
        return len(lot) == LOT

    def _apply(self, lot: Sequence[Entry]) -> None:
        queue = self._queue
        with self._lock:
            gone, queue.gone = queue.gone, []
            if lot:
                queue.given_to = max(queue.given_to, lot[-1].position)
        if not lot and not gone:
            return
        try:
            self._disk.store.apply([entry.row() for entry in lot], gone)
        except StoreError:
            with self._lock:
                queue.gone = gone + queue.gone
            raise
        with self._lock:
            queue.stored(lot)
            self._lock.notify_all()

    def _trim(self) -> None:
        """On disk: the oldest go that are not in flight."""
        store, queue = self._disk.store, self._queue
        excess = store.used_bytes - queue.limits.max_bytes
        while excess > 0:
            with self._lock:
                after = queue.read_to if queue.only else queue.taken[-1].position if queue.taken else 0
            rows, positions = store.read(after, TRIMMED)
            if not positions:
                break
            self._discard(rows, positions, "spool_full")
            excess -= sum(row.size for row in rows)
        if not queue.only and not queue.memory and self._disk.is_big(store.used_bytes):
            store.shrink()

    def _discard(self, rows: Sequence[Row], positions: Sequence[int], reason: str) -> None:
        """First in the queue, then on disk: what is taken meanwhile must not be missing there."""
        with self._lock:
            self._queue.discard(rows, positions, reason)
        self._apply([])

    def _drop_old(self) -> None:
        """Of those on disk only. Raises StoreError."""
        queue, age = self._queue, self._clocks.age
        while queue.only:
            rows, _ = self._disk.store.read(queue.read_to, min(TRIMMED, queue.only))
            old = [row for row in rows if age(row) > queue.limits.max_age_s]
            with self._lock:
                queue.oldest_at = self._clocks.now() - age(rows[0]) if rows else None
            if not old:
                return
            self._discard(old, [row.position for row in old], "too_old")

    def _try_again(self, *, now: bool) -> bool:
        """Whether the disk takes a write again."""
        if not now and not self._disk.is_due(self._clocks.now()):
            return False
        queue, disk = self._queue, self._disk
        with self._lock:
            is_empty, is_away = self._adopted and queue.on_disk == 0, queue.away is not None
        return self._adopt(lambda: disk.reopen(is_empty=is_empty, anew=is_away))

    def recover(self, error: StoreError) -> None:
        """The disk failed. Where the file is to blame it is set aside; else memory has to do for a while."""
        disk = self._disk
        if not disk.is_damage(error) or not self._adopt(lambda: disk.salvage(str(error))):
            disk.failed(error, self._clocks.now())
        with self._lock:
            self._lock.notify_all()

    def _adopt(self, get: Callable[[], Found | None]) -> bool:
        """Open the file anew, and see what of the queue is in it. False: that failed."""
        queue = self._queue
        try:
            found = get()
            if found is None:
                return True
            if not self._adopted:
                self._take_up(found)
                return True
            present = self._disk.present(queue.window().after)
        except StoreError as error:
            self._disk.failed(error, self._clocks.now())
            if not self._disk.store.is_open:
                self.put_away()
            return False
        with self._lock:
            queue.adopt(present)
        return True

    def put_away(self) -> None:
        """The disk cannot be read now."""
        with self._lock:
            self._queue.put_away()
