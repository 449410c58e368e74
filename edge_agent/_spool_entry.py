"""What a spool's queue is made of: an event in it, its limits, its counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_agent._spool_rows import Row
from edge_agent.events import Message
from edge_agent.stats import ReasonCounter


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
    end: int
    """Bytes of payload that had come with it, all in all."""

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


@dataclass(frozen=True, slots=True)
class Window:
    """Events that are on disk only: so many, beyond one position, up to another."""

    events: int
    size: int
    after: int
    upto: int


def size_of(entries: Sequence[Entry]) -> int:
    """Of all payloads."""
    return sum(entry.size for entry in entries)
