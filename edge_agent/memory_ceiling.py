"""Leaves before the kernel ends us: a clean end is told, drained and restarted; a killed one is a gap that nobody explains."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.errors import MemoryExceeded
from edge_agent.memory import give_back
from edge_agent.memory_use import Cgroup, children_of, own_cgroup, own_rss, total_memory
from edge_agent.sysfs import Tree

log = logging.getLogger(__name__)

OF_MAX, OF_HIGH, OF_MACHINE = 0.92, 0.97, 0.8
"""Of memory.max the kernel kills, of memory.high it makes us crawl; without a limit, 0.8 of the machine's memory is nobody's to take."""
TELL_AT = 0.9
"""Of the ceiling: told in the heartbeat."""
LOOK_EVERY_S = 0.5
ANEW_EVERY_S = 60.0
"""Limits are set anew now and then (``systemctl set-property``)."""
IN_A_ROW = 2
"""A single look above it is a peak, unless it is far above."""
FAR_ABOVE = 1.05
AHEAD_S, RUSH = 2.0, 1 / 0.92
"""Near the limit, growth that in so long would reach what the kernel kills for is not waited for."""


@dataclass(frozen=True)
class MemoryLimit:
    """Where we leave."""

    size_bytes: int
    origin: str
    cgroup: Cgroup | None = None
    """Where use is read; None: of the processes themselves."""


@dataclass(frozen=True)
class MemoryUse:
    """One look."""

    used_bytes: int
    limit: MemoryLimit


class MemoryCeiling:
    """``check`` from one thread. ``max_rss_mb`` of [health], else the cgroup's limits, else a share of the machine's memory."""

    def __init__(self, max_rss_mb: float | None = None, tree: Tree | None = None, relieve: Callable[[], object] | None = None) -> None:
        self._tree, self._max_rss_mb = tree or Tree(), max_rss_mb
        self._relieve = relieve or _relieve
        self._limit: MemoryLimit | None = None
        self._asked_at = self._looked_at = float("-inf")
        self._above = 0
        self.last: MemoryUse | None = None
        """The last look; None before the first, and where nothing can be read."""

    def check(self, now: float) -> MemoryExceeded | None:
        """What to end with, if it is time to. ``now`` is monotonic; looks once a second."""
        if now - self._looked_at < LOOK_EVERY_S:
            return None
        before, since_s, self._looked_at = self.last, now - self._looked_at, now
        use = self._look(now)
        if use is None:
            return None
        self._above = self._above + 1 if use.used_bytes > use.limit.size_bytes else 0
        grown = use.used_bytes - before.used_bytes if before is not None else 0
        soon = use.used_bytes + max(0.0, grown / since_s) * AHEAD_S
        rushes = use.used_bytes >= TELL_AT * use.limit.size_bytes and soon >= use.limit.size_bytes * RUSH
        if use.used_bytes < FAR_ABOVE * use.limit.size_bytes and self._above < IN_A_ROW and not rushes:
            if self._above == 1:
                log.warning("memory is at its limit used=%.0fMB limit=%.0fMB origin=%r", *_megabytes(use), use.limit.origin)
                self._relieve()
            return None
        used, limit = _megabytes(use)
        pace = f", {grown / since_s / 1e6:.0f} MB more each second" if rushes else ""
        return MemoryExceeded(f"memory: {used:.0f} MB are used{pace}, and {limit:.0f} MB is the limit ({use.limit.origin})")

    def _look(self, now: float) -> MemoryUse | None:
        if now - self._asked_at >= ANEW_EVERY_S:
            self._asked_at, self._limit = now, find_limit(self._tree, self._max_rss_mb)
        limit = self._limit
        used = _used(self._tree, limit.cgroup) if limit is not None else None
        self.last = MemoryUse(used, limit) if limit is not None and used is not None else None
        return self.last

    def reasons(self, slope_bytes_per_hour: int | None = None) -> list[str]:
        """Why the agent is degraded by its memory: near the limit, or there within a day if it goes on like this."""
        use = self.last
        if use is None:
            return []
        used, limit = _megabytes(use)
        if use.used_bytes >= TELL_AT * use.limit.size_bytes:
            return [f"memory: {used:.0f} MB of {limit:.0f} MB are used ({use.limit.origin})"]
        if slope_bytes_per_hour is not None and slope_bytes_per_hour >= LEAST_GROWTH_BYTES:
            hours = (use.limit.size_bytes - use.used_bytes) / slope_bytes_per_hour
            if hours <= WITHIN_HOURS:
                return [f"memory: grows by {slope_bytes_per_hour / 1e6:.0f} MB an hour, and is at its limit in {hours:.0f} hours"]
        return []


WITHIN_HOURS = 24.0
LEAST_GROWTH_BYTES = 8_000_000
"""Per hour: what is less is the unevenness of any process."""


def find_limit(tree: Tree, max_rss_mb: float | None) -> MemoryLimit | None:
    """The ceiling, and who says so; None where the machine does not even tell how much memory it has."""
    if max_rss_mb is not None:
        return MemoryLimit(round(max_rss_mb * 1e6), "[health] max_rss_mb")
    group = own_cgroup(tree)
    if group is not None:
        found = [
            MemoryLimit(round(share * size), f"{share:.0%} of the cgroup's {kind}", group)
            for kind, share in (("max", OF_MAX), ("high", OF_HIGH))
            if (size := group.limit(tree, kind)) is not None
        ]
        if found:
            return min(found, key=lambda limit: limit.size_bytes)
    total = total_memory(tree)
    return None if total is None else MemoryLimit(round(OF_MACHINE * total), f"{OF_MACHINE:.0%} of this machine's memory")


def _used(tree: Tree, group: Cgroup | None) -> int | None:
    if group is not None and (used := group.used(tree)) is not None:
        return used
    own = own_rss(tree)
    return None if own is None else own + sum(children_of(tree))


def _relieve() -> None:
    """What can be given back at once."""
    gc.collect()
    give_back()


def _megabytes(use: MemoryUse) -> tuple[float, float]:
    return use.used_bytes / 1e6, use.limit.size_bytes / 1e6
