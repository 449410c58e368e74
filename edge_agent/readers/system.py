"""Board, kernel, boot and memory of the machine, and how busy its processors are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from edge_agent import host
from edge_agent.host_event import CpuHealth, MemoryHealth, SystemHealth
from edge_agent.readers.base import ReaderContext, Readings
from edge_agent.sysfs import Tree
from edge_agent.thermal import board_model

_MADE_UP = re.compile(r"to be filled|default string|system product name|not specified", re.IGNORECASE)
"""What firmware says where nobody filled it in."""


class System:
    """See the fields of ``host`` in the heartbeat."""

    def __init__(self, context: ReaderContext) -> None:
        self._tree = context.tree
        self._busy: tuple[int, int] | None = None
        """Of /proc/stat: jiffies that were busy, and all of them."""
        self._os = _os(self._tree)
        self._board = _board(self._tree)

    def read(self, now: float, readings: Readings) -> Readings:
        found = host.read_host(self._tree.root)
        part = replace(
            readings.host,
            load1=found.load1,
            memory_available_bytes=found.memory_available_bytes,
            temperature_c=found.temperature_c,
            system=self._system(),
            cpu=self._cpu(),
            memory=_memory(self._tree),
        )
        return replace(readings, host=part)

    def reasons(self) -> Sequence[str]:
        return ()

    def _system(self) -> SystemHealth | None:
        root = self._tree.root / "proc"
        kernel, boot = self._tree.text(root / "sys/kernel/osrelease"), self._tree.text(root / "sys/kernel/random/boot_id")
        uptime = _first_float(self._tree.text(root / "uptime"))
        found = SystemHealth(self._board, self._os, kernel, boot, uptime)
        return found if any((self._board, self._os, kernel, boot, uptime)) else None

    def _cpu(self) -> CpuHealth | None:
        text = self._tree.text(self._tree.root / "proc/stat", most_bytes=65536)
        if text is None:
            return None
        cores = len(re.findall(r"^cpu\d", text, re.MULTILINE))
        percent = None
        if line := re.match(r"cpu\s+([\d ]+)", text):
            times = [int(part) for part in line[1].split()][:8]  # what follows are guests, which user and nice hold already
            total, idle = sum(times), sum(times[3:5])
            before, self._busy = self._busy, (total - idle, total)
            if before is not None and total > before[1]:
                percent = round(min(100.0, max(0.0, 100 * (total - idle - before[0]) / (total - before[1]))), 1)
        return CpuHealth(cores, percent, *_frequencies(self._tree)) if cores else None


def _frequencies(tree: Tree) -> tuple[int | None, int | None]:
    """Now and at most, in MHz, of the fastest cores."""
    now, most = [], []
    for folder in tree.folders("sys/devices/system/cpu/cpufreq/policy*"):
        if (value := tree.number(folder / "scaling_cur_freq", 1, 1e8)) is not None:
            now.append(round(value / 1000))
        if (value := tree.number(folder / "cpuinfo_max_freq", 1, 1e8)) is not None:
            most.append(round(value / 1000))
    return max(now, default=None), max(most, default=None)


def _memory(tree: Tree) -> MemoryHealth | None:
    text = tree.text(tree.root / "proc/meminfo", most_bytes=16384) or ""
    found = {match[1]: int(match[2]) * 1024 for match in re.finditer(r"^(\w+):\s+(\d{1,15}) kB", text, re.MULTILINE)}
    if "MemTotal" not in found:
        return None
    return MemoryHealth(found["MemTotal"], found.get("SwapTotal", 0), found.get("SwapFree", 0))


def _first_float(text: str | None) -> float | None:
    match = re.match(r"\d{1,12}(\.\d{1,6})?", text or "")
    return float(match[0]) if match else None


def _board(tree: Tree) -> str | None:
    if model := board_model(tree):
        return model
    parts = [tree.text(tree.root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")]
    return " ".join(part for part in parts if part and not _MADE_UP.search(part)) or None


def _os(tree: Tree) -> str | None:
    text = tree.text(tree.root / "etc/os-release") or tree.text(tree.root / "usr/lib/os-release") or ""
    match = re.search(r"^PRETTY_NAME=(\"?)(.*?)\1$", text, re.MULTILINE)
    return match[2] if match and match[2] else None


def build(context: ReaderContext) -> System:
    """For edge_agent/vitals.py."""
    return System(context)
