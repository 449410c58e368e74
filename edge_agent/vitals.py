"""Asks every reader (edge_agent/readers/) for its part of the heartbeat. One that fails costs its part and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from edge_agent import plugins
from edge_agent.errors import MemoryExceeded
from edge_agent.health_event import ProcessHealth
from edge_agent.memory_ceiling import MemoryCeiling
from edge_agent.readers.base import Reader, ReaderContext, Readings

log = logging.getLogger(__name__)


class Vitals:
    """Used from one thread at a time. ``readers`` None: all there are. ``ceiling`` None: the machine's and the cgroup's."""

    def __init__(self, context: ReaderContext, readers: Sequence[Reader] | None = None, *, ceiling: MemoryCeiling | None = None) -> None:
        self._readers = list(readers) if readers is not None else _all(context)
        self._ceiling = ceiling or MemoryCeiling(tree=context.tree)
        self._slope: int | None = None
        self.failed_total = 0

    def read(self, now: float) -> Readings:
        """One look at everything. Never raises."""
        readings = Readings()
        for reader in self._readers:
            try:
                readings = reader.read(now, readings)
            except Exception:  # a defect of one reader must not silence the heartbeat
                self.failed_total += 1
                log.exception("reader failed reader=%s", type(reader).__name__)
        self._slope = readings.process.rss_slope_bytes_per_hour
        return Readings(self._with_limit(readings.process), replace(readings.host, readers_failed_total=self.failed_total))

    def _with_limit(self, process: ProcessHealth) -> ProcessHealth:
        use = self._ceiling.last
        if use is None:
            return process
        used, limit = use.used_bytes, use.limit
        return replace(process, memory_used_bytes=used, memory_limit_bytes=limit.size_bytes, memory_limit_origin=limit.origin)

    def check(self, now: float) -> MemoryExceeded | None:
        """What to end with, if more memory is used than may be. Looks at nothing else, once a second."""
        return self._ceiling.check(now)

    def reasons(self) -> list[str]:
        """Why the agent is degraded, by what was read last."""
        return [reason for reader in self._readers for reason in reader.reasons()] + self._ceiling.reasons(self._slope)


def _all(context: ReaderContext) -> list[Reader]:
    return [plugins.load("readers", name).build(context) for name in plugins.names("readers")]
