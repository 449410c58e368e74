"""This process and those that it runs cameras in: CPU, memory and whether it grows, threads, descriptors."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import replace

from edge_agent import host
from edge_agent.health_event import ProcessHealth
from edge_agent.memory_use import children_of
from edge_agent.readers._slope import Slope
from edge_agent.readers.base import ReaderContext, Readings

MOST_DESCRIPTORS = 0.8


class Process:
    """See the fields of ``process`` in the heartbeat; those about the memory's limit are edge_agent/memory_ceiling.py's."""

    def __init__(self, context: ReaderContext) -> None:
        self._tree = context.tree
        self._slope = Slope()
        self._last: tuple[float, float] | None = None
        self._seen: ProcessHealth | None = None

    def read(self, now: float, readings: Readings) -> Readings:
        found = host.read_process(self._tree.root)
        children = children_of(self._tree)
        percent = 0.0
        if self._last is not None and now > self._last[0]:
            percent = round(100 * (found.cpu_s - self._last[1]) / (now - self._last[0]), 1)
        self._last = (now, found.cpu_s)
        self._slope.note(now, found.rss_bytes + sum(children))
        slope = self._slope.per_hour
        self._seen = replace(
            readings.process,
            cpu_percent=percent,
            rss_bytes=found.rss_bytes,
            threads=found.threads,
            descriptors=found.descriptors,
            rss_slope_bytes_per_hour=None if slope is None else round(slope),
            descriptors_limit=_descriptors_limit(),
            children=len(children),
            children_rss_bytes=sum(children),
        )
        return replace(readings, process=self._seen)

    def reasons(self) -> Sequence[str]:
        seen = self._seen
        if seen is None or seen.descriptors_limit is None or seen.descriptors < MOST_DESCRIPTORS * seen.descriptors_limit:
            return ()
        return (f"process: {seen.descriptors} of {seen.descriptors_limit} file descriptors are open",)


def _descriptors_limit() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def build(context: ReaderContext) -> Process:
    """For edge_agent/vitals.py."""
    return Process(context)
