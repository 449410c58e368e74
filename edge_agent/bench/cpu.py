"""CPU time by what it was used for, as far as the names of threads tell."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

CAPTURE, MODEL, PUBLISH, HEALTH, OTHER = "capture and decode", "model", "publish", "health", "other"
_BY_NAME = {"capture-": CAPTURE, "lane-": MODEL, "publisher": PUBLISH, "paho": PUBLISH, "health": HEALTH}
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def thread_times(root: Path = Path("/")) -> dict[int, tuple[str, float]]:
    """Of each thread of this process, by its id: the kernel's name for it, and CPU seconds so far."""
    found = {}
    for task in (root / "proc/self/task").glob("*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            found[int(task.name)] = ((task / "comm").read_text().strip(), _seconds(task))
    return found


def process_time(pid: int, root: Path = Path("/")) -> float:
    """CPU seconds of another process; 0 for one that has gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return _ticks(root / f"proc/{pid}")
    return 0.0


def _seconds(task: Path) -> float:
    """By the scheduler's own account, in nanoseconds, where the kernel keeps one; else in ticks of 10 ms."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    return _ticks(task)


def _ticks(task: Path) -> float:
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def purpose(name: str | None, kernel_name: str, own_name: str) -> str:
    """What a thread is for. ``name``: Python's for it; None for threads of libraries."""
    if name is not None:
        return next((found for begin, found in _BY_NAME.items() if name.startswith(begin)), OTHER)
    # FFmpeg and GStreamer name theirs; a runtime's pool keeps the name of the process.
    return MODEL if kernel_name == own_name else CAPTURE


class CpuMeter:
    """CPU seconds by purpose from when it was made. ``sample`` now and then, as threads end and take their time with them."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.used: Counter[str] = Counter()
        self._root, self._own_pid = root, os.getpid()
        self._threads = {tid: used for tid, (_, used) in thread_times(root).items()}
        self._processes: dict[int, float] = {}

    def sample(self, camera_processes: Iterable[int] = ()) -> None:
        """Add what was used since the last time. ``camera_processes``: ids of those that hold a camera."""
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        times = thread_times(self._root)
        own_name = times.get(self._own_pid, ("", 0.0))[0]
        for tid, (kernel_name, used) in times.items():
            before = self._threads.get(tid, 0.0)
            self.used[purpose(names.get(tid), kernel_name, own_name)] += max(0.0, used - before)  # type: ignore[assignment]  # seconds
            self._threads[tid] = used
        for pid in camera_processes:
            used = process_time(pid, self._root)
            self.used[CAPTURE] += max(0.0, used - self._processes.get(pid, used))  # type: ignore[assignment]  # seconds
            self._processes[pid] = used
