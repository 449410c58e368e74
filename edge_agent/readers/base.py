"""What a reader is. A new one is one file here that exports ``build``, and a field of its own in the heartbeat."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edge_agent.health_event import HostHealth, ProcessHealth
from edge_agent.sysfs import Tree


@dataclass(frozen=True)
class Readings:
    """What was read so far in one look; a reader hands back a copy with its own part in it."""

    process: ProcessHealth = field(default_factory=lambda: ProcessHealth(0.0, 0, 0, 0))
    host: HostHealth = field(default_factory=lambda: HostHealth(0.0, None, {}))


@dataclass(frozen=True)
class ReaderContext:
    """Where readers look. In tests other folders and clocks."""

    tree: Tree = field(default_factory=Tree)
    state_dir: Path = Path("/")
    """A folder whose file system matters."""
    wall: Callable[[], float] = time.time
    boottime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    statvfs: Callable[[Path], os.statvfs_result] = os.statvfs


class Reader(Protocol):
    """One part of the heartbeat. Used from one thread at a time; may remember what it saw before."""

    def read(self, now: float, readings: Readings) -> Readings:
        """``readings`` with its own part. What the machine does not tell is None, and no error. ``now`` is monotonic."""

    def reasons(self) -> Sequence[str]:
        """Why the agent is degraded, by what was read last; empty where it is not."""
