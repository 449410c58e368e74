"""Where events wait until they are acknowledged: in memory, and on disk as ``[spool] durability`` says.

One queue, first in first out; each event has a position in it that only grows. Its younger end is in memory, its older end may
be on disk only; what is in memory may be on disk too. What is taken stays, in flight, until it is settled.
No thread and no network here: the publisher calls (docs/decisions/0020-delivery.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edge_agent.events import Message
from edge_agent.stats import ReasonCounter

log = logging.getLogger(__name__)

Durability = Literal["memory", "interval", "always"]


@dataclass(frozen=True)
class SpoolLimits:
    """Beyond these the oldest events go, counted. In memory: events and bytes. On disk: bytes. Anywhere: seconds."""

    max_events: int
    max_memory_bytes: int
    max_bytes: int = 256 << 20
    max_age_s: float = 7 * 86400.0


@dataclass(slots=True)
class Entry:
    """One event in the queue."""

    position: int
    message: Message
    stored: bool = False
    """It is on disk, synced."""


@dataclass
class SpoolCounts:
    """accepted + recovered = taken out + dropped + queued."""

    accepted: int = 0
    recovered: int = 0
    """Found on disk at the start: from the last run, or read from a damaged file."""
    dropped: ReasonCounter = field(default_factory=ReasonCounter)
    """``buffer_full``: in memory; ``spool_full``: on disk; ``too_old``; ``damaged``: could not be read again."""


class Spool:
    """The queue of one sink. Every method may be called from any thread; ``take`` and ``settle`` from one only."""

    def __init__(self, limits: SpoolLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.counts = SpoolCounts()
        self._clock = clock
        self._lock = threading.Condition()
        self._memory: deque[Entry] = deque()
        self._memory_bytes = 0
        self._taken: list[Entry] = []
        self._next = 1

    def put(self, message: Message) -> None:
        """Accept an event. Never raises; beyond the bounds the oldest ones are dropped."""
        with self._lock:
            self.counts.accepted += 1
            self._memory.append(Entry(self._next, message))
            self._next += 1
            self._memory_bytes += len(message.payload)
            self._make_room()

    def take(self, most: int) -> list[Message]:
        """The oldest ones, in order. They stay, in flight, until :meth:`settle`; until then this must not be called again."""
        with self._lock:
            self._taken = [self._memory.popleft() for _ in range(min(most, len(self._memory)))]
            self._memory_bytes -= sum(len(entry.message.payload) for entry in self._taken)
            return [entry.message for entry in self._taken]

    def settle(self, done: int, rejected: int = 0) -> None:
        """With the first ``done`` of those in flight the sink is through, and ``rejected`` of them it refused.

        The others wait again, before what came since.
        """
        with self._lock:
            if rejected:
                self.counts.dropped["rejected"] += rejected
            back = self._taken[done:]
            self._taken = []
            self._memory.extendleft(reversed(back))
            self._memory_bytes += sum(len(entry.message.payload) for entry in back)
            self._make_room()

    def abandon(self) -> int:
        """At the end: forget what waits; how many events are lost by that."""
        with self._lock:
            lost = len(self._memory) + len(self._taken)
            if lost:
                self.counts.dropped["shutdown"] += lost
            self._memory.clear()
            self._memory_bytes = 0
            return lost

    @property
    def waiting(self) -> tuple[int, int]:
        """Events that could be taken, and their bytes in memory."""
        with self._lock:
            return len(self._memory), self._memory_bytes

    @property
    def queued(self) -> tuple[int, int]:
        """Events that wait or are in flight, and their bytes."""
        with self._lock:
            return len(self._memory) + len(self._taken), self._memory_bytes + _size(self._taken)

    @property
    def last_position(self) -> int:
        """Of the youngest event that was ever accepted."""
        with self._lock:
            return self._next - 1

    def _make_room(self) -> None:
        """What is in flight cannot be taken back, and is bounded by the sink's ``most``."""
        limits = self.limits
        while self._memory and (len(self._memory) > limits.max_events or self._memory_bytes > limits.max_memory_bytes):
            self._memory_bytes -= len(self._memory.popleft().message.payload)
            self.counts.dropped["buffer_full"] += 1
            if self.counts.dropped["buffer_full"] == 1:
                log.warning("buffer full, the oldest events are dropped from now on")


def _size(entries: Sequence[Entry]) -> int:
    return sum(len(entry.message.payload) for entry in entries)
