"""CPU time by what it was used for: by threads, and that of the lanes by stages."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edge_agent.runtimes.base import Runtime, Tensor

CAPTURE, PREPROCESS, INFER, POSTPROCESS, EVENTS = "capture and decode", "preprocess", "infer", "postprocess", "events"
PUBLISH, HEALTH, OTHER = "publish", "health", "other"
LANES = "lanes"
"""Of the threads that hold a frame; :func:`by_stage` says what for."""
MODEL = (PREPROCESS, INFER, POSTPROCESS)
_BY_NAME = {"capture-": CAPTURE, "lane-": LANES, "publisher": PUBLISH, "paho": PUBLISH, "health": HEALTH}
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


def machine_time(root: Path = Path("/")) -> float:
    """CPU seconds that were used on the cores that this process may use, by anyone; 0 where the kernel does not tell."""
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    with contextlib.suppress(OSError, ValueError, IndexError):
        rows = [line.split() for line in (root / "proc/stat").read_text().splitlines()]
        # user, nice, system, (idle, waiting,) interrupts, and what a hypervisor took
        return sum(int(row[at]) for row in rows if row and row[0] in mine for at in (1, 2, 3, 6, 7, 8)) * _TICK_S
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
    return INFER if kernel_name == own_name else CAPTURE


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


class InferMeter:
    """CPU seconds that inference takes of the threads that call it: a runtime's own threads are others.

    ``watch`` before the runtimes are used, then read ``seconds`` from any thread.
    """

    def __init__(self) -> None:
        self._seconds: list[list[float]] = []

    @property
    def seconds(self) -> float:
        """So far, of all that are watched."""
        return sum(one[0] for one in self._seconds)

    def watch(self, runtime: Runtime) -> None:
        """Count what ``runtime.infer`` uses from now on; that costs it two readings of a clock."""
        used, infer = [0.0], runtime.infer
        self._seconds.append(used)  # one for each, as += of two lanes on one number could lose some

        def metered(tensor: Tensor) -> Sequence[Tensor]:
            began = time.thread_time()
            try:
                return infer(tensor)
            finally:
                used[0] += time.thread_time() - began

        vars(runtime)["infer"] = metered  # what an object has itself is found before what its class has


def by_stage(used: Mapping[str, float], infer_s: float, walls_s: Mapping[str, float]) -> dict[str, float]:
    """CPU seconds by purpose, with the lanes' given to the stages.

    ``infer_s`` was measured. ``walls_s``: how long the other stages took in the lanes; they compute and wait for nothing, so that is
    what they used unless something else ran meanwhile: together never more than the lanes did. What is left makes events, looks
    for motion, and chooses frames.
    """
    found = {name: float(seconds) for name, seconds in used.items() if name != LANES}
    lanes_s = float(used.get(LANES, 0.0))
    infer_s = min(infer_s, lanes_s)
    left, wanted = lanes_s - infer_s, sum(walls_s.values())
    factor = min(1.0, left / wanted) if wanted > 0 else 0.0
    for name, wall_s in {**walls_s, INFER: 0.0}.items():
        found[name] = found.get(name, 0.0) + wall_s * factor
    found[INFER] += infer_s
    found[EVENTS] = max(0.0, left - wanted * factor)
    return found
