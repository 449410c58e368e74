"""An agent that is well writes nothing to any disk: cards in cameras' boxes wear out. Seen by strace and by the kernel's own account."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import CommandLine, Mosquitto, needs, terminated, wait_until
from tests.integration.test_agent import write_config
from tests.subscriber import subscribed

CHANGES = "?open,?openat,?creat,?rename,?renameat,?renameat2,?unlink,?unlinkat,?mkdir,?mkdirat,?rmdir,?link,?linkat,?symlink,?symlinkat"
WRITES = "?write,?pwrite64,?writev,?pwritev,?pwritev2,?fsync,?fdatasync,?sync,?syncfs,?truncate,?ftruncate,?fallocate,?utimensat,?sendfile"
TRACE_S = 4.0
_ON_DISK = re.compile(r"^\d+<(/(?!dev/|proc/|sys/|memfd:)[^>]*)>")


def written_bytes(pid: int) -> int:
    match = re.search(r"^write_bytes: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    return int(match[1]) if match else 0


def changes(trace: str) -> list[str]:
    """The calls that change a file system: whatever opens for writing, writes to a file, or changes a name."""
    found = []
    for line in trace.splitlines():
        match = re.match(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)", line)
        if match is None or match[3].startswith("-"):
            continue
        name, arguments = match[1], match[2]
        if name in {"open", "openat", "creat"}:
            harmless = "O_RDONLY" in arguments and "O_CREAT" not in arguments
            if not harmless and not re.search(r'"/(dev|proc|sys)/', arguments):
                found.append(line)
        elif name in {"write", "pwrite64", "writev", "pwritev", "pwritev2", "fsync", "fdatasync", "ftruncate", "fallocate", "sendfile"}:
            if _ON_DISK.match(arguments):
                found.append(line)
        else:
            found.append(line)
    return found


def test_what_counts_as_a_change() -> None:
    harmless = [
        'openat(AT_FDCWD</x>, "/proc/self/statm", O_RDONLY|O_CLOEXEC) = 7</proc/1/statm>', "write(11<anon_inode:[eventfd]>, 8) = 8",
        "write(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, 8) = 8", 'openat(AT_FDCWD</x>, "/dev/null", O_RDWR) = 3</dev/null>',
        'unlink("/x/nothing") = -1 ENOENT', "write(2<pipe:[4711]>, 8) = 8",
    ]  # fmt: skip
    harmful = [
        "write(3</var/lib/edge-agent/log>, 8) = 8", 'openat(AT_FDCWD</x>, "/var/log", O_WRONLY|O_APPEND) = 7</var/log>',
        'rename("/a", "/b") = 0', "fsync(3</var/lib/edge-agent>) = 0", "12345 ftruncate(3</x>, 0) = 0",
    ]  # fmt: skip
    assert changes("\n".join(harmless)) == []
    assert changes("\n".join(harmful)) == harmful


def test_nothing_is_written_while_all_is_well(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    strace = needs("strace", "strace")
    config = write_config(edge_agent.folder, mosquitto.port, {"source": "synthetic", "fps": 15}, {"source": "synthetic", "fps": 5})
    trace = edge_agent.folder / "trace"
    with subscribed(mosquitto.port) as heard, terminated(edge_agent.start("run", "-c", config)) as agent:
        wait_until(lambda: len(heard.on("/health")) >= 4)
        wait_until(lambda: heard.on("/health")[-1].json["verdict"] == "ok")
        before, beats, served = written_bytes(agent.pid), len(heard.on("/health")), len(heard.on("/detections"))
        command = [strace, "-ff", "-y", "-e", f"trace={CHANGES},{WRITES}", "-o", str(trace), "-p", str(agent.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            began = time.monotonic()
            assert tracer.stderr is not None
            first = tracer.stderr.readline()
            if "not permitted" in first or "Could not attach" in first:
                pytest.skip(f"strace may not trace here: {first.strip()}")
            wait_until(lambda: time.monotonic() - began > TRACE_S and len(heard.on("/health")) >= beats + 5, 30)
            tracer.send_signal(signal.SIGINT)
            tracer.communicate(timeout=10)
        traced = "\n".join(file.read_text() for file in edge_agent.folder.glob("trace.*"))
        assert written_bytes(agent.pid) == before
        assert len(heard.on("/detections")) > served + 20, "it was at work"
    assert traced.count("write(") > 20, "and seen to be"
    assert changes(traced) == []
