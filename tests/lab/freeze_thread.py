"""Stops one thread of a process, the one that works most or the one given, until this program ends: as root, ptrace(2).

SIGSTOP would stop the whole process. Usage: freeze_thread.py PID [TID]. Prints "frozen TID" when it stands still.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000


def ticks(task: Path) -> int:
    """CPU time that a thread used so far."""
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def busiest(process: int) -> int:
    """The thread that uses most CPU in a second."""
    tasks = list(Path(f"/proc/{process}/task").iterdir())
    before = {task.name: ticks(task) for task in tasks}
    time.sleep(1)
    return int(max(before, key=lambda name: ticks(Path(f"/proc/{process}/task/{name}")) - before[name]))


def freeze(thread: int) -> None:
    """Attach to it and interrupt it. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.waitpid(thread, WALL)


if __name__ == "__main__":
    process = int(sys.argv[1])
    thread = int(sys.argv[2]) if len(sys.argv) > 2 else busiest(process)
    freeze(thread)
    print("frozen", thread, flush=True)
    # Its end is told to us; until we have heard it, nobody else hears that the process has ended.
    while True:
        _, status = os.waitpid(thread, WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            break
