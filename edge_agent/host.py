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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_TIME_ERROR = 5
_MOST_ERROR_US = 16_000_000
"""The kernel stops counting there: it means unknown."""
_TIMESYNCD = "run/systemd/timesync/synchronized"
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


class _Timex(ctypes.Structure):
    """The beginning of struct timex (adjtimex(2)) on 64-bit Linux, and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("rest", ctypes.c_char * 216),
    )


@dataclass(frozen=True)
class ClockState:
    """Who keeps the wall clock."""

    synced: bool | None
    """None: cannot be told."""
    told_by: str | None
    max_error_s: float | None = None
    """The kernel's own bound; None: unknown."""


def kernel_clock() -> ClockState | None:
    """What the kernel says; None where it may not be asked: a unit with ``ProtectClock=`` forbids adjtimex(2), also to read."""
    timex = _Timex()
    try:
        state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    error: int = timex.maxerror
    return ClockState(state < _TIME_ERROR, "adjtimex", round(error / 1e6, 6) if 0 <= error < _MOST_ERROR_US else None)


def clock_state(root: Path = Path("/"), ask: Callable[[], ClockState | None] = kernel_clock) -> ClockState:
    """From the kernel; where that may not be asked, from the mark that systemd-timesyncd leaves once it has the time."""
    found = ask()
    if found is not None:
        return found
    try:
        marked = (root / _TIMESYNCD).exists()
    except OSError:
        marked = False
    return ClockState(True, "timesyncd") if marked else ClockState(None, None)


def clock_synced() -> bool:
    """Whether the wall clock is kept by NTP or the like; False where it cannot be told."""
    return bool(clock_state().synced)


def machine_device_id(root: Path = Path("/")) -> str | None:
    """A stable name for this machine that does not give its machine id away (machine-id(5) asks for a keyed hash)."""
    for path in ("etc/machine-id", "var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError, ValueError):
            machine = (root / path).read_text().strip()
            if len(machine) == 32 and machine != "0" * 32:
                return "edge-" + hmac.new(machine.encode(), _APPLICATION, hashlib.sha256).hexdigest()[:12]
    return None
