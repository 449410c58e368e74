"""Where events wait until they are acknowledged: in memory, and on disk as ``[spool] durability`` says.

One queue (_spool_queue.py), first in first out. What is taken stays, in flight, until it is settled. No thread and no network here:
the publisher calls (docs/decisions/0020-delivery.md). What is done with the disk is in _spool_upkeep.py.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from edge_agent import _spool_clock as spool_clock
from edge_agent._spool_disk import Disk
from edge_agent._spool_entry import Entry, SpoolCounts, SpoolLimits
from edge_agent._spool_pace import Pace
from edge_agent._spool_queue import Queue
from edge_agent._spool_rows import StoreError
from edge_agent._spool_upkeep import Upkeep
from edge_agent.events import Message
from edge_agent.health_event import SpoolHealth

__all__ = ["Durability", "Spool", "SpoolCounts", "SpoolLimits"]

log = logging.getLogger(__name__)

Durability = Literal["memory", "interval", "always"]
ALWAYS_WAIT_S = 5.0
"""The longest that ``put`` waits for a disk that does not answer."""
BUSY_S = 0.25
"""The longest that ``take`` waits for the disk while it is written to: state must not wait behind a backlog."""
END_S = 2.0
"""The longest that ``close`` waits for a disk that hangs."""


class Spool:
    """The queue of one sink. Every method may be called from any thread; ``take`` and ``settle`` from one only."""

    def __init__(
        self,
        limits: SpoolLimits,
        disk: Disk | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        clock_synced: Callable[[], bool] = lambda: True,
    ) -> None:
        """``disk`` None: in memory only. ``clock_synced``: whether the wall clock may be trusted now."""
        self.limits, self.disk = limits, disk
        self.answers_within_s = ALWAYS_WAIT_S
        self._clocks = spool_clock.Clocks(clock, clock_synced)
        self._lock = threading.Condition()
        self._io = threading.RLock()
        """Held while the disk is used; never waited for with ``_lock`` held."""
        self._queue = Queue(limits)
        self._pace = Pace(limits.drain_per_s, clock)
        self._upkeep = Upkeep(self._queue, disk, self._lock, self._clocks, self._all_is_backlog) if disk is not None else None
        self._closed = False

    # --- the way in ---

    def open(self) -> None:
        """Take up what the last run left. Raises AlreadyRunning where another process uses the same file; nothing else."""
        if self._upkeep is None:
            return
        with self._io:
            self._upkeep.open()
        if self._queue.only:
            log.info("events of the last run wait on disk events=%d bytes=%d", self._queue.only, self._queue.only_bytes)

    def put(self, message: Message) -> None:
        """Accept an event. Never raises; beyond the bounds the oldest ones are dropped.

        With ``always`` this returns once the event is on disk, synced, or the disk has failed; a commit is shared by all that came
        meanwhile. A disk that does not answer within ``answers_within_s`` has failed. Else it never blocks.
        """
        boot = spool_clock.boot_id()
        with self._lock:
            now = self._clocks.now()
            self._queue.expire(now - self.limits.max_age_s)
            entry = self._queue.put(message, now, spool_clock.shift_now(), boot)
            disk = self.disk
            if entry is None or disk is None or disk.error is not None or self._closed:
                return
            if disk.always or self._queue.is_filling:
                self._lock.notify_all()
            if disk.always and not self._lock.wait_for(lambda: self._is_safe(entry), self.answers_within_s):
                disk.failed(StoreError(f"{disk.store.path} does not answer, not within {self.answers_within_s:g} s"), self._clocks.now())

    def _is_safe(self, entry: Entry) -> bool:
        """There is nothing to wait for any more."""
        failed = self.disk is None or self.disk.error is not None
        return failed or self._closed or self._queue.is_stored(entry) or self._queue.is_past(entry)

    # --- the way out ---

    def connected(self) -> None:
        """What waits now is backlog, and goes at ``drain_per_s`` at most."""
        with self._lock:
            self._all_is_backlog()

    def _all_is_backlog(self) -> None:
        self._pace.backlog(self._queue.next - 1)

    def hurry(self) -> None:
        """From now on as fast as it goes: there is little time left."""
        with self._lock:
            self._pace.off = True

    def take(self, most: int) -> list[Message]:
        """The oldest ones, in order. They stay, in flight, until :meth:`settle`; until then this must not be called again.

        Reads the disk where they are only there; none, where the disk is busy for long.
        """
        queue = self._queue
        with self._lock:
            most = 0 if self._closed else self._pace.allowed(most, queue.head)
        if most and not self._take_from_memory(most) and self._io.acquire(timeout=BUSY_S):
            try:
                self._take_from_disk(most)
            finally:
                self._io.release()
            if not queue.flying:  # all of those were too old, or damaged
                self._take_from_memory(most)
        with self._lock:
            self._pace.used(queue.flying)
            taken = queue.taken[: queue.flying]
        return self._clocks.restamped(taken)

    def _take_from_memory(self, most: int) -> bool:
        with self._lock:
            self._queue.expire(self._clocks.now() - self.limits.max_age_s)
            return self._queue.take(most, stored_only=self._stored_only)

    @property
    def _stored_only(self) -> bool:
        """With ``always`` nothing is sent before it is on disk, as long as the disk works."""
        return self.disk is not None and self.disk.always and self.disk.error is None

    def _take_from_disk(self, most: int) -> None:
        assert self.disk is not None
        assert self._upkeep is not None
        queue = self._queue
        while queue.only and not queue.flying:
            try:
                rows, positions = self.disk.store.read(queue.read_to, min(most, queue.only))
            except StoreError as error:
                self._upkeep.recover(error)
                if self.disk.error is not None:
                    self._upkeep.put_away()
                return
            with self._lock:
                queue.take_rows(rows, positions, self._clocks.now(), self._clocks.age)

    def settle(self, done: int, rejected: int = 0) -> None:
        """With the first ``done`` of those in flight the sink is through, and ``rejected`` of them it refused.

        The others wait again, before what came since.
        """
        with self._lock:
            if not self._closed:
                self._queue.settle(done, rejected)

    # --- the disk ---

    def wait_for_work(self, seconds: float) -> None:
        """Until :meth:`maintain` has something to do, or so long."""
        with self._lock:
            self._lock.wait_for(lambda: self._closed or self._has_urgent_work(), seconds)

    def _has_urgent_work(self) -> bool:
        disk = self.disk
        if disk is None or disk.error is not None:
            return False
        return self._queue.unwritten[0] > 0 if disk.always else self._queue.is_filling

    def maintain(self, *, everything: bool = False) -> None:
        """Write what waits too long, delete what is done with, hold the bounds. Uses the disk; never raises."""
        if self._upkeep is None:
            return
        with self._io:
            if not self._closed:
                self._upkeep.maintain(everything=everything)

    def close(self) -> int:
        """At the end: bring to disk what waits, or forget it; how many events are lost by that."""
        is_free = self._io.acquire(timeout=END_S)
        try:
            if is_free:
                self.maintain(everything=True)
            with self._lock:
                if self._closed:
                    return 0
                lost = self._queue.end()
                self._closed = True
                self._lock.notify_all()
            if self.disk is not None and is_free:
                self.disk.close()
            return lost
        finally:
            if is_free:
                self._io.release()

    # --- what it tells ---

    @property
    def counts(self) -> SpoolCounts:
        """Since the start."""
        return self._queue.counts

    @property
    def ready(self) -> int:
        """Events that may be taken now."""
        with self._lock:
            queue = self._queue
            found = len(queue.taken) or queue.only or queue.ready_in_memory(1, stored_only=self._stored_only)
            return self._pace.allowed(found, queue.head)

    @property
    def waiting(self) -> tuple[int, int]:
        """Events that wait and can be reached, and the bytes in memory."""
        with self._lock:
            return self._queue.waiting, self._queue.memory_bytes

    @property
    def queued(self) -> tuple[int, int]:
        """Events that wait or are in flight, and their bytes."""
        with self._lock:
            return self._queue.queued

    @property
    def on_disk(self) -> int:
        """Of those, how many are on disk."""
        with self._lock:
            return self._queue.on_disk

    @property
    def oldest_age_s(self) -> float | None:
        """Seconds since the oldest one came that waits or is in flight."""
        with self._lock:
            first = self._queue.oldest_since
            return None if first is None else max(0.0, self._clocks.now() - first)

    @property
    def closed(self) -> bool:
        """It has ended."""
        return self._closed

    def health(self) -> SpoolHealth:
        """As of now, for the heartbeat. Does not use the disk."""
        events, size = self.queued
        disk, age = self.disk, self.oldest_age_s
        return SpoolHealth(
            mode="memory" if disk is None or disk.error is not None else "always" if disk.always else "interval",
            events_queued=events,
            events_queued_bytes=size,
            events_on_disk=self.on_disk,
            oldest_age_s=None if age is None else round(age, 1),
            events_recovered_total=self.counts.recovered,
            files_quarantined_total=disk.quarantined if disk is not None else 0,
            error=disk.error if disk is not None else None,
        )
