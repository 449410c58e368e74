"""Reads the machine and this process from /proc and /sys. ``root`` is another folder in tests."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import hmac
import os
import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_TIME_ERROR = 5
_TIMEX_BYTES = 256
_APPLICATION = b"edge_agent device id"


@dataclass(frozen=True)
class HostReadings:
    """Everything that could be read; None or empty where it could not."""

    load1: float
    memory_available_bytes: int | None
    temperature_c: dict[str, float]


@dataclass(frozen=True)
class ProcessReadings:
    """This process."""

    cpu_s: float
    rss_bytes: int
    threads: int
    descriptors: int


def read_host(root: Path = Path("/")) -> HostReadings:
    """Load, memory and temperatures."""
    load1 = 0.0
    with contextlib.suppress(OSError, ValueError, IndexError):
        load1 = float((root / "proc/loadavg").read_text().split()[0])
    available = None
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    return HostReadings(load1, available, _temperatures(root))


def _temperatures(root: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        # Zones that are off answer with EAGAIN or an absurd value.
        with contextlib.suppress(OSError, ValueError):
            value = int((zone / "temp").read_text()) / 1000
            if -40 <= value <= 150:
                name = (zone / "type").read_text().strip() or zone.name
                found[name if name not in found else f"{name} {zone.name}"] = round(value, 1)
    return found


def read_process(root: Path = Path("/")) -> ProcessReadings:
    """CPU time, memory, threads and descriptors of this process."""
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with contextlib.suppress(OSError, ValueError, IndexError):
        rss = int((root / "proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    descriptors = 0
    with contextlib.suppress(OSError):
        descriptors = len(os.listdir(root / "proc/self/fd"))
    return ProcessReadings(time.process_time(), rss, threading.active_count(), descriptors)


def clock_synced() -> bool:
    """Whether the kernel's clock is kept by NTP or the like (adjtimex(2)); False where it cannot be told."""
    try:
        state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _TIME_ERROR


def machine_device_id(root: Path = Path("/")) -> str | None:
    """A stable name for this machine that does not give its machine id away (machine-id(5) asks for a keyed hash)."""
    for path in ("etc/machine-id", "var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError, ValueError):
            machine = (root / path).read_text().strip()
            if len(machine) == 32 and machine != "0" * 32:
                return "edge-" + hmac.new(machine.encode(), _APPLICATION, hashlib.sha256).hexdigest()[:12]
    return None
