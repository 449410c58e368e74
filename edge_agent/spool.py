"""Where events wait until they are acknowledged: in memory, and on disk as ``[spool] durability`` says.

One queue, first in first out; each event has a position in it that only grows. Its younger end is in memory, its older end may
be on disk only; what is in memory may be on disk too, and of it only a first part. What is taken stays, in flight, until it is
settled. No thread and no network here: the publisher calls (docs/decisions/0020-delivery.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Literal

from edge_agent import _spool_clock as spool_clock
from edge_agent._spool_disk import Disk
from edge_agent._spool_pace import Pace
from edge_agent._spool_store import Found, Row, StoreDamaged, StoreError
from edge_agent.events import Message
from edge_agent.health_event import SpoolHealth
from edge_agent.stats import ReasonCounter

log = logging.getLogger(__name__)

Durability = Literal["memory", "interval", "always"]
ALWAYS_WAIT_S = 5.0
"""The longest that ``put`` waits for a disk that does not answer."""
LOT = 2000
"""The most events written in one transaction."""


@dataclass(frozen=True)
class SpoolLimits:
    """Beyond these the oldest events go, counted. In memory: events and bytes. On disk: bytes. Anywhere: seconds."""

    max_events: int
    max_memory_bytes: int
    max_bytes: int = 256 << 20
    max_age_s: float = 7 * 86400.0
    drain_per_s: float = 1000.0
    """The most of what waited when the connection came."""


@dataclass(slots=True)
class Entry:
    """One event in the queue."""

    position: int
    message: Message
    since: float
    """When it came, by the spool's clock."""
    shift: float
    boot: str
    stored: bool = False
    """It is on disk, synced."""

    @property
    def size(self) -> int:
        """Of the payload."""
        return len(self.message.payload)

    def row(self) -> Row:
        """As it goes on disk."""
        return Row(self.position, self.message, self.shift, self.boot)


@dataclass
class SpoolCounts:
    """accepted + recovered = delivered + dropped + queued + kept."""

    accepted: int = 0
    recovered: int = 0
    """Found on disk at the start: from the last run."""
    dropped: ReasonCounter = field(default_factory=ReasonCounter)
    """``buffer_full``: in memory; ``spool_full``: on disk; ``too_old``; ``damaged``: could not be read again; and, by the
    publisher, ``rejected`` and ``shutdown``."""
    kept: int = 0
    """Left on disk at the end, for the next run."""


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
        self.counts = SpoolCounts()
        self._clock, self._clock_synced = clock, clock_synced
        self._lock = threading.Condition()
        self._io = threading.RLock()
        """Held while the disk is used; never waited for with ``_lock`` held."""
        self._memory: deque[Entry] = deque()
        self._memory_bytes = 0
        self._taken: list[Entry] = []
        self._next = 1
        self._given_to = 0
        """Events up to here may be on disk, even where they are not known to be."""
        self._read_to = 0
        """Of those on disk only, the next one is beyond this."""
        self._only = self._only_bytes = 0
        """Events on disk only, neither in memory nor in flight."""
        self._gone: list[tuple[int, int]] = []
        """Positions that are done with, and may still be on disk."""
        self._pace = Pace(limits.drain_per_s, clock)
        self._oldest_at: float | None = None
        """When the oldest of those on disk only came, by ``clock``."""
        self._closed = self._adopted = False

    # --- the way in ---

    def open(self) -> None:
        """Take up what the last run left. Raises AlreadyRunning where another process uses the same file; nothing else."""
        if self.disk is None:
            return
        with self._io:
            found = self.disk.open(self._clock())
            if self.disk.error is None:
                self._take_up(found)

    def _take_up(self, found: Found) -> None:
        """What the last run left comes before all that this one has accepted."""
        with self._lock:
            self._adopted = True
            self.counts.recovered += found.events + found.damaged
            self._drop("damaged", found.damaged)
            for entry in (*self._taken, *self._memory):
                entry.position += found.last
            self._next += found.last
            self._given_to = found.last
            self._only, self._only_bytes, self._read_to = found.events, found.size, 0
            self._pace.backlog(self._next - 1)
        if found.events:
            log.info("events of the last run wait on disk events=%d bytes=%d", found.events, found.size)

    def put(self, message: Message) -> None:
        """Accept an event. Never raises; beyond the bounds the oldest ones are dropped.

        With ``always`` this returns once the event is on disk, synced, or the disk has failed; a commit is shared by all that came
        meanwhile. Else it never blocks.
        """
        boot = spool_clock.boot_id()
        with self._lock:
            entry = Entry(self._next, message, self._clock(), spool_clock.shift_now(), boot)
            self.counts.accepted += 1
            self._memory.append(entry)
            self._next += 1
            self._memory_bytes += entry.size
            self._make_room()
            disk = self.disk
            if disk is None or disk.error is not None or self._closed:
                return
            if disk.always or self._is_filling:
                self._lock.notify_all()
            if disk.always:
                self._lock.wait_for(lambda: entry.stored or disk.error is not None or self._closed, ALWAYS_WAIT_S)

    @property
    def _is_filling(self) -> bool:
        return 2 * len(self._memory) > self.limits.max_events or 2 * self._memory_bytes > self.limits.max_memory_bytes

    def _make_room(self) -> None:
        """In memory. What is in flight cannot be taken back, and is bounded by the sink's ``most``."""
        limits = self.limits
        while self._memory and (len(self._memory) > limits.max_events or self._memory_bytes > limits.max_memory_bytes):
            entry = self._memory.popleft()
            self._memory_bytes -= entry.size
            if entry.stored:
                if not self._only:
                    self._read_to = entry.position - 1
                self._only, self._only_bytes = self._only + 1, self._only_bytes + entry.size
            else:
                self._drop("buffer_full")
                self._forget(entry)

    def _drop(self, reason: str, events: int = 1) -> None:
        if events <= 0:
            return
        self.counts.dropped[reason] += events
        if self.counts.dropped[reason] == events and reason not in {"rejected", "shutdown"}:
            log.warning("events are dropped from now on, the oldest first reason=%s", reason)

    def _forget(self, entry: Entry) -> None:
        """It is done with: off the disk too, if it is there."""
        if entry.position > self._given_to:
            return
        if self._gone and self._gone[-1][1] == entry.position - 1:
            self._gone[-1] = (self._gone[-1][0], entry.position)
        else:
            self._gone.append((entry.position, entry.position))

    # --- the way out ---

    def connected(self) -> None:
        """What waits now is backlog, and goes at ``drain_per_s`` at most."""
        with self._lock:
            self._pace.backlog(self._next - 1)

    def hurry(self) -> None:
        """From now on as fast as it goes: there is little time left."""
        with self._lock:
            self._pace.off = True

    def take(self, most: int) -> list[Message]:
        """The oldest ones, in order. They stay, in flight, until :meth:`settle`; until then this must not be called again.

        Reads the disk where they are only there.
        """
        with self._lock:
            most = 0 if self._closed else self._pace.allowed(most, self._head)
            from_disk = self._only > 0
        if from_disk and most:
            self._take_from_disk(most)
        elif most:
            with self._lock:
                count = self._ready_in_memory(most)
                self._taken = [self._memory.popleft() for _ in range(count)]
                self._memory_bytes -= _size(self._taken)
        with self._lock:
            self._pace.used(len(self._taken))
            taken = list(self._taken)
        return self._restamped(taken)

    @property
    def _head(self) -> int:
        """The position of the next one; 0: there is none."""
        return self._read_to + 1 if self._only else self._memory[0].position if self._memory else 0

    def _ready_in_memory(self, most: int) -> int:
        """With ``always`` nothing is sent before it is on disk, as long as the disk works."""
        if self.disk is None or not self.disk.always or self.disk.error is not None:
            return min(most, len(self._memory))
        return sum(1 for _ in takewhile(lambda entry: entry.stored, islice(self._memory, most)))

    def _take_from_disk(self, most: int) -> None:
        assert self.disk is not None
        with self._io:
            try:
                rows, positions = self.disk.store.read(self._read_to, min(most, self._only))
            except StoreError as error:
                self._recover(error)
                if self.disk.error is not None:
                    self._give_up_disk()
                return
            now = self._clock()
            with self._lock:
                self._drop("damaged", len(positions) - len(rows) if positions else self._only)
                self._taken = [Entry(row.position, row.message, now - self._age(row), row.shift, row.boot, stored=True) for row in rows]
                self._only_shrinks(len(positions) or self._only, _size(self._taken))
                if positions:
                    self._read_to = positions[-1]

    def _only_shrinks(self, events: int, size: int) -> None:
        self._only = max(0, self._only - events)
        self._only_bytes = max(0, self._only_bytes - size) if self._only else 0
        if not self._only:
            self._oldest_at = None

    def _give_up_disk(self) -> None:
        """It cannot be read: what is only there must not keep the others waiting."""
        with self._lock:
            self._drop("damaged", self._only)
            self._only_shrinks(self._only, 0)
            for entry in (*self._taken, *self._memory):
                entry.stored = False
            self._make_room()

    def _restamped(self, entries: Sequence[Entry]) -> list[Message]:
        found = [entry.message for entry in entries]
        unsynced = [i for i, entry in enumerate(entries) if spool_clock.is_unsynced(entry.message.payload)]
        if unsynced and self._clock_synced():
            now, boot = spool_clock.shift_now(), spool_clock.boot_id()
            for i in unsynced:
                if entries[i].boot == boot:
                    found[i] = spool_clock.restamped(found[i], entries[i].shift, now)
        return found

    def settle(self, done: int, rejected: int = 0) -> None:
        """With the first ``done`` of those in flight the sink is through, and ``rejected`` of them it refused.

        The others wait again, before what came since.
        """
        with self._lock:
            if self._closed:
                return
            self._drop("rejected", rejected)
            for entry in self._taken[:done]:
                self._forget(entry)
            back = self._taken[done:]
            self._taken = []
            if back and self._only and back[0].position <= self._read_to:  # then all of them are on disk
                self._read_to = back[0].position - 1
                self._only, self._only_bytes = self._only + len(back), self._only_bytes + _size(back)
            else:
                self._memory.extendleft(reversed(back))
                self._memory_bytes += _size(back)
            self._make_room()

    # --- the disk ---

    def wait_for_work(self, seconds: float) -> None:
        """Until :meth:`maintain` has something to do, or so long."""
        with self._lock:
            self._lock.wait_for(lambda: self._closed or self._has_urgent_work(), seconds)

    def _has_urgent_work(self) -> bool:
        disk = self.disk
        if disk is None or disk.error is not None or not self._memory or self._memory[-1].stored:
            return False
        return disk.always or self._is_filling

    def maintain(self, *, everything: bool = False) -> None:
        """Write what waits too long, delete what is done with, hold the bounds. Uses the disk; never raises."""
        if self.disk is None or self._closed:
            return
        with self._io:
            self._drop_old()
            if self.disk.error is not None and not self._try_again(now=everything):
                return
            try:
                if not self.disk.store.is_in_place:
                    raise StoreDamaged(f"{self.disk.store.path} was taken away")
                while self._write_one_lot(everything=everything):
                    pass
                self._trim()
                self.disk.works()
            except StoreError as error:
                self._recover(error)

    def _write_one_lot(self, *, everything: bool) -> bool:
        """Whether there is more to write."""
        assert self.disk is not None
        with self._lock:
            young = self._clock() - self.disk.interval_s / 2
            everything = everything or self.disk.always or self._is_filling
            lot: list[Entry] = []
            for entry in (*self._taken, *self._memory):
                if len(lot) >= LOT or not (everything or entry.since <= young):
                    break
                if not entry.stored:
                    lot.append(entry)
            gone, self._gone = self._gone, []
            if lot:
                self._given_to = max(self._given_to, lot[-1].position)
        if not lot and not gone:
            return False
        try:
            self.disk.store.apply([entry.row() for entry in lot], gone)
        except StoreError:
            with self._lock:
                self._gone = gone + self._gone
            raise
        with self._lock:
            for entry in lot:
                entry.stored = True
            self._lock.notify_all()
        return len(lot) == LOT

    def _trim(self) -> None:
        """On disk: the oldest go that are not in flight."""
        assert self.disk is not None
        store = self.disk.store
        excess = store.used_bytes - self.limits.max_bytes
        while excess > 0:
            with self._lock:
                after = self._read_to if self._only else (self._taken[-1].position if self._taken else 0)
            rows, positions = store.read(after, 64)
            if not positions:
                break
            store.apply([], [(after + 1, positions[-1])])
            excess -= sum(row.size for row in rows)
            self._dropped_on_disk("spool_full", rows, positions)
        if not self._only and not self._memory and self.disk.is_big(store.used_bytes):
            store.shrink()

    def _dropped_on_disk(self, reason: str, rows: Sequence[Row], positions: Sequence[int]) -> None:
        """They were deleted; what was taken meanwhile is in flight, and no loss."""
        last = positions[-1]
        with self._lock:
            if self._only:
                first = self._memory[0].position if self._memory else self._next
                of_only = sum(self._read_to < position < first for position in positions)
                self._only_shrinks(of_only, sum(row.size for row in rows if self._read_to < row.position < first))
                self._read_to = max(self._read_to, min(last, first - 1))
                self._drop(reason, of_only)
            while self._memory and self._memory[0].position <= last:
                self._memory_bytes -= self._memory.popleft().size
                self._drop(reason)

    def _drop_old(self) -> None:
        """Of those on disk only first: they are older than what is in memory."""
        assert self.disk is not None
        try:
            while self._only and self.disk.error is None:
                rows, _ = self.disk.store.read(self._read_to, min(64, self._only))
                old = [row for row in rows if self._age(row) > self.limits.max_age_s]
                self._oldest_at = self._clock() - self._age(rows[0]) if rows else None
                if not old:
                    return
                self.disk.store.apply([], [(self._read_to + 1, old[-1].position)])
                self._dropped_on_disk("too_old", old, [row.position for row in old])
        except StoreError as error:
            self._recover(error)
        oldest = self._clock() - self.limits.max_age_s
        with self._lock:
            while self._memory and not self._only and self._memory[0].since < oldest:
                entry = self._memory.popleft()
                self._memory_bytes -= entry.size
                self._drop("too_old")
                self._forget(entry)

    def _age(self, row: Row) -> float:
        if row.boot == spool_clock.boot_id():
            return max(0.0, self._clock() - row.message.at)
        return max(0.0, time.time() - (row.message.at + row.shift)) if self._clock_synced() else 0.0

    def _try_again(self, *, now: bool) -> bool:
        """Whether the disk takes a write again."""
        assert self.disk is not None
        if not now and not self.disk.is_due(self._clock()):
            return False
        disk = self.disk
        return self._adopt(lambda: disk.reopen(is_empty=self.on_disk == 0))

    def _recover(self, error: StoreError) -> None:
        """The disk failed. Where the file is to blame it is set aside; else memory has to do for a while."""
        assert self.disk is not None
        disk = self.disk
        if not disk.is_damage(error) or not self._adopt(lambda: disk.salvage(str(error))):
            disk.failed(error, self._clock())
        with self._lock:
            self._lock.notify_all()

    def _adopt(self, get: Callable[[], Found | None]) -> bool:
        """Open the file anew, and see what of the queue is in it. False: that failed."""
        assert self.disk is not None
        try:
            found = get()
            if found is None:
                return True
            if not self._adopted:
                self._take_up(found)
                return True
            present = self.disk.present(self._read_to)
        except StoreError as error:
            self.disk.failed(error, self._clock())
            if not self.disk.store.is_open:
                self._give_up_disk()
            return False
        with self._lock:
            first = self._memory[0].position if self._memory else self._next
            still = [size for position, size in present if position < first and self._only]
            self._drop("damaged", self._only - len(still))
            self._only, self._only_bytes = len(still), sum(still)
            for entry in (*self._taken, *self._memory):
                entry.stored = False
            alive = self._taken[0].position if self._taken else self._head or self._next
            self._gone = [(0, alive - 1), *self._gone]
            self._given_to = self._next - 1
        return True

    def close(self) -> int:
        """At the end: bring to disk what waits, or forget it; how many events are lost by that."""
        self.maintain(everything=True)
        with self._io, self._lock:
            if self._closed:
                return 0
            entries = (*self._taken, *self._memory)
            lost = sum(not entry.stored for entry in entries)
            self.counts.kept += len(entries) - lost + self._only
            self._drop("shutdown", lost)
            self._taken, self._only, self._only_bytes, self._memory_bytes = [], 0, 0, 0
            self._memory.clear()
            self._closed = True
            self._lock.notify_all()
            if self.disk is not None:
                self.disk.close()
            return lost

    # --- what it tells ---

    @property
    def ready(self) -> int:
        """Events that may be taken now."""
        with self._lock:
            return self._pace.allowed(self._only or self._ready_in_memory(1), self._head)

    @property
    def waiting(self) -> tuple[int, int]:
        """Events that wait, and the bytes in memory."""
        with self._lock:
            return self._only + len(self._memory), self._memory_bytes

    @property
    def queued(self) -> tuple[int, int]:
        """Events that wait or are in flight, and their bytes."""
        with self._lock:
            return self._only + len(self._memory) + len(self._taken), self._only_bytes + self._memory_bytes + _size(self._taken)

    @property
    def on_disk(self) -> int:
        """Of those, how many are on disk."""
        with self._lock:
            return self._only + sum(entry.stored for entry in (*self._taken, *self._memory))

    @property
    def oldest_age_s(self) -> float | None:
        """Seconds since the oldest one came that waits or is in flight."""
        with self._lock:
            first = self._taken[0].since if self._taken else self._oldest_at if self._only else None
            if first is None and self._memory:
                first = self._memory[0].since
            return None if first is None else max(0.0, self._clock() - first)

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


def _size(entries: Sequence[Entry]) -> int:
    return sum(entry.size for entry in entries)
