"""A spool's queue: what is in memory, what is on disk only, what is in flight, and the books of all of it. Knows no disk and no lock.

Each event has a position, which only grows. From the oldest to the youngest: those in flight (``taken``), those on disk only
(``only``, beyond ``read_to``), those in memory, of which a first part (up to ``stored_to``) is on disk too.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain, islice, takewhile

from edge_agent._spool_entry import Entry, SpoolCounts, SpoolLimits, Window, size_of
from edge_agent._spool_rows import Found, Row
from edge_agent.events import Message

log = logging.getLogger(__name__)

UNTOLD = frozenset({"rejected", "shutdown"})
"""Reasons that the publisher tells of."""


class Queue:
    """Not thread-safe: the spool's lock is held."""

    def __init__(self, limits: SpoolLimits) -> None:
        self.limits, self.counts = limits, SpoolCounts()
        self.memory: deque[Entry] = deque()
        self.memory_bytes = 0
        self.taken: list[Entry] = []
        """At the very front: ``flying`` of them are in flight; the others came back, and are the next ones."""
        self.flying = 0
        self.next = 1
        self.stored_to = 0
        """What is in memory or taken, up to here, is on disk, synced."""
        self.given_to = 0
        """Events up to here may be on disk, even where they are not known to be."""
        self.only = self.only_bytes = self.read_to = 0
        self.away: Window | None = None
        """Those on disk only, while the disk cannot be read; they are taken up again once it can."""
        self.gone: list[tuple[int, int]] = []
        """Positions that are done with, and may still be on disk."""
        self.oldest_at: float | None = None
        """When the oldest of those on disk only came."""
        self._put_bytes = self._stored_end = 0

    # --- in ---

    def put(self, message: Message, now: float, shift: float, boot: str) -> Entry | None:
        """A new one; None: it is larger than all of memory."""
        self.counts.accepted += 1
        if len(message.payload) > self.limits.max_memory_bytes:
            self.drop("buffer_full")
            return None
        self._put_bytes += len(message.payload)
        entry = Entry(self.next, message, now, shift, boot, self._put_bytes)
        self.next += 1
        self.memory.append(entry)
        self.memory_bytes += entry.size
        self.make_room()
        return entry

    def make_room(self) -> None:
        """In memory. What is in flight cannot be taken back, and is bounded by the sink's ``most``."""
        limits = self.limits
        while self.memory and (len(self.memory) > limits.max_events or self.memory_bytes > limits.max_memory_bytes):
            entry = self._pop()
            if self.is_stored(entry):
                if not self.only:
                    self.read_to = entry.position - 1
                self.only, self.only_bytes = self.only + 1, self.only_bytes + entry.size
            else:
                self.drop("buffer_full")
                self._forget(entry.position)

    def take_up(self, found: Found) -> None:
        """What the last run left comes before all that this one has accepted."""
        self.counts.recovered += found.events + found.damaged
        self.drop("damaged", found.damaged)
        for entry in self.held():
            entry.position += found.last
        self.next += found.last
        self.given_to = self.stored_to = found.last
        self.only, self.only_bytes, self.read_to = found.events, found.size, 0

    # --- out ---

    def take(self, most: int, *, stored_only: bool) -> bool:
        """Let the first ones fly that need no disk: what came back, else from memory. False: the next ones are on disk."""
        if not self.taken and self.only:
            return False
        if not self.taken:
            count = self.ready_in_memory(most, stored_only=stored_only)
            self.taken = [self._pop() for _ in range(count)]
        self.flying = min(most, len(self.taken))
        return True

    def take_rows(self, rows: Sequence[Row], positions: Sequence[int], now: float, age: Callable[[Row], float]) -> None:
        """Let fly what was read from the disk: whole rows, of all those positions. None: what should be there is not."""
        self.drop("damaged", len(positions) - len(rows) if positions else self.only)
        fresh = [row for row in rows if age(row) <= self.limits.max_age_s]
        self.drop("too_old", len(rows) - len(fresh))
        for position in sorted(set(positions) - {row.position for row in fresh}):
            self._forget(position)
        end = self.memory[0].end - self.memory[0].size if self.memory else self._put_bytes
        self.taken = [Entry(row.position, row.message, now - age(row), row.shift, row.boot, end) for row in fresh]
        self.flying = len(self.taken)
        self._only_shrinks(len(positions) or self.only, sum(row.size for row in rows))
        if positions:
            self.read_to = positions[-1]

    def settle(self, done: int, rejected: int) -> None:
        """The sink is through with the first ``done``; the others wait again, before what came since."""
        self.drop("rejected", rejected)
        for entry in self.taken[:done]:
            self._forget(entry.position)
        self.taken, self.flying = self.taken[done:], 0
        if self.taken and not self.only:
            self.memory.extendleft(reversed(self.taken))
            self.memory_bytes += size_of(self.taken)
            self.taken = []
        self.make_room()

    @property
    def head(self) -> int:
        """The position of the next one; 0: there is none."""
        if self.taken:
            return self.taken[0].position
        return self.read_to + 1 if self.only else self.memory[0].position if self.memory else 0

    def ready_in_memory(self, most: int, *, stored_only: bool) -> int:
        """How many may be taken from there; ``stored_only``: none that is not on disk."""
        if not stored_only:
            return min(most, len(self.memory))
        return sum(1 for _ in takewhile(self.is_stored, islice(self.memory, most)))

    # --- the books ---

    def held(self) -> chain[Entry]:
        """All that are in memory, in flight included."""
        return chain(self.taken, self.memory)

    def is_stored(self, entry: Entry) -> bool:
        """It is on disk, synced."""
        return entry.position <= self.stored_to

    def is_past(self, entry: Entry) -> bool:
        """It is no longer in memory: delivered, dropped, or on disk only."""
        first = next(self.held(), None)
        return first is None or entry.position < first.position

    @property
    def waiting(self) -> int:
        """Events that could be taken now or soon: neither in flight nor out of reach."""
        return self.only + len(self.memory) + (0 if self.flying else len(self.taken))

    @property
    def queued(self) -> tuple[int, int]:
        """All events that are neither delivered nor dropped, and their bytes."""
        events, size = (self.away.events, self.away.size) if self.away else (0, 0)
        held = len(self.memory) + len(self.taken)
        return events + self.only + held, size + self.only_bytes + self.memory_bytes + size_of(self.taken)

    @property
    def oldest_since(self) -> float | None:
        """When the oldest one came that can be reached, if that is known."""
        if self.only and not self.taken:
            return self.oldest_at
        return next((entry.since for entry in self.held()), None)

    @property
    def on_disk(self) -> int:
        """Of those, how many are on disk."""
        in_memory = 0 if not self.stored_to else sum(1 for _ in takewhile(self.is_stored, self.held()))
        return (self.away.events if self.away else 0) + self.only + in_memory

    @property
    def unwritten(self) -> tuple[int, int]:
        """Events in memory that are not on disk, and their bytes."""
        if not self.memory:
            return 0, 0
        first, last = self.memory[0], self.memory[-1]
        events = last.position - max(self.stored_to, first.position - 1)
        return max(0, events), max(0, last.end - max(self._stored_end, first.end - first.size))

    @property
    def is_filling(self) -> bool:
        """Half of memory holds what is not on disk: time to write it."""
        events, size = self.unwritten
        return 2 * events > self.limits.max_events or 2 * size > self.limits.max_memory_bytes

    def drop(self, reason: str, events: int = 1) -> None:
        """Count a loss, and tell of the first."""
        if events <= 0:
            return
        self.counts.dropped[reason] += events
        if self.counts.dropped[reason] == events and reason not in UNTOLD:
            log.warning("events are dropped from now on, the oldest first reason=%s", reason)

    def expire(self, oldest: float) -> None:
        """What came before that goes. Those on disk only are older than what is in memory: they go first, elsewhere."""
        while self.memory and not self.only and self.memory[0].since < oldest:
            self._forget(self._pop().position)
            self.drop("too_old")

    # --- for the disk ---

    def lot(self, most: int) -> list[Entry]:
        """The next ones to write."""
        return list(islice((entry for entry in self.held() if not self.is_stored(entry)), most))

    def stored(self, lot: Sequence[Entry]) -> None:
        """They are on disk."""
        if lot:
            self.stored_to, self._stored_end = max(self.stored_to, lot[-1].position), max(self._stored_end, lot[-1].end)

    def discard(self, rows: Sequence[Row], positions: Sequence[int], reason: str) -> None:
        """Drop those, which are on disk, wherever else they are; all but what is in flight."""
        last, flying = positions[-1], {entry.position for entry in self.taken}
        if self.only:
            first = self.memory[0].position if self.memory else self.next
            mine = {p for p in positions if self.read_to < p < first} - flying
            self._only_shrinks(len(mine), sum(row.size for row in rows if row.position in mine))
            self.read_to = max(self.read_to, min(last, first - 1))
            self.drop(reason, len(mine))
        while self.memory and self.memory[0].position <= last:
            self._pop()
            self.drop(reason)
        for position in positions:
            if position not in flying:
                self._forget(position)

    def window(self) -> Window:
        """What is on disk only."""
        return self.away or Window(self.only, self.only_bytes, self.read_to, (self.memory[0].position if self.memory else self.next) - 1)

    def put_away(self) -> None:
        """The disk cannot be read: what is only there must not keep the others waiting, and what is here is not known to be there."""
        if self.only:
            self.away = self.window()
            self._only_shrinks(self.only, 0)
        self.stored_to = self._stored_end = 0
        self.make_room()

    def adopt(self, present: Sequence[tuple[int, int]]) -> None:
        """The file was opened anew, and holds those positions, of those sizes. All that is in memory has to be written again."""
        window = self.window()
        still = [size for position, size in present if position <= window.upto and window.events]
        self.drop("damaged", window.events - len(still))
        self.only, self.only_bytes, self.read_to, self.away = len(still), sum(still), window.after, None
        self.stored_to = self._stored_end = 0
        alive = min([entry.position for entry in islice(self.held(), 1)] + ([self.read_to + 1] if self.only else []), default=self.next)
        self.gone = [(0, alive - 1), *self.gone]
        self.given_to = self.next - 1

    def end(self) -> int:
        """Nothing comes any more. What is not on disk is lost; how many that are."""
        kept = self.on_disk
        gone = self.queued[0] - kept
        self.counts.kept += kept
        self.drop("shutdown", gone)
        self.taken, self.only, self.only_bytes, self.memory_bytes, self.flying, self.away = [], 0, 0, 0, 0, None
        self.memory.clear()
        return gone

    def _pop(self) -> Entry:
        entry = self.memory.popleft()
        self.memory_bytes -= entry.size
        return entry

    def _only_shrinks(self, events: int, size: int) -> None:
        self.only = max(0, self.only - events)
        self.only_bytes = max(0, self.only_bytes - size) if self.only else 0
        if not self.only:
            self.oldest_at = None

    def _forget(self, position: int) -> None:
        """It is done with: off the disk too, if it is there."""
        if position > self.given_to:
            return
        if self.gone and self.gone[-1][1] == position - 1:
            self.gone[-1] = (self.gone[-1][0], position)
        else:
            self.gone.append((position, position))
