"""How busy a GPU is that the kernel's devfreq scales: Jetsons, and boards with Mali."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge_agent.host_event import GpuHealth
from edge_agent.readers.base import ReaderContext, Readings
from edge_agent.sysfs import Tree

_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b|gb10b|mali|panfrost|v3d")
_TENTHS = re.compile(r"gpu|ga10b|gv11b|gp10b|gb10b")
"""NVIDIA's drivers tell tenths of a percent, and nothing else."""
_MALI_LOAD = re.compile(r"(\d{1,3})@\d+")


class Gpu:
    """Looks for it each time: on a Jetson the node may appear only after boot."""

    def __init__(self, context: ReaderContext) -> None:
        self._tree = context.tree

    def read(self, now: float, readings: Readings) -> Readings:
        folders = [folder for folder in self._tree.folders("sys/class/devfreq/*") if _GPU.search(folder.name)]
        part = _gpu(self._tree, folders[0]) if folders else None
        return replace(readings, host=replace(readings.host, gpu=part))

    def reasons(self) -> Sequence[str]:
        return ()


def _gpu(tree: Tree, folder: Path) -> GpuHealth:
    rates = [int(rate) for rate in (tree.text(folder / "available_frequencies") or "").split() if rate.isdigit() and len(rate) < 13]
    now = tree.number(folder / "cur_freq", 0, 1e11)
    return GpuHealth(
        name=folder.name,
        load_percent=_load(tree, folder),
        frequency_mhz=None if now is None else round(now / 1e6),
        most_frequency_mhz=round(max(rates) / 1e6) if rates else None,
    )


def _load(tree: Tree, folder: Path) -> float | None:
    for path in (folder / "device/load", folder / "load"):
        text = tree.text(path)
        if text is None:
            continue
        if (match := _MALI_LOAD.match(text)) and int(match[1]) <= 100:
            return float(match[1])
        if text.isascii() and text.isdigit() and _TENTHS.search(folder.name) and int(text[:9]) <= 1000:
            return int(text) / 10
        tree.refused += 1
    return None


def build(context: ReaderContext) -> Gpu:
    """For edge_agent/vitals.py."""
    return Gpu(context)
