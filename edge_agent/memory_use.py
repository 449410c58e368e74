"""How much memory this process and its children use, and how much it may: from /proc and the cgroup, in bytes."""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass
from pathlib import Path

from edge_agent.sysfs import Tree

_UNLIMITED_BYTES = 1 << 60
"""Version 1 of cgroups writes a huge number where nothing is limited."""
_FILES = ("active_file", "inactive_file")
"""Of a cgroup's memory: what is a copy of files."""


def own_rss(tree: Tree) -> int | None:
    """Resident memory of this process."""
    return _statm(tree, "self", 1)


def children_of(tree: Tree) -> list[int]:
    """Of each child process: resident memory that it shares with nobody."""
    found: list[int] = []
    for folder in tree.folders("proc/self/task/*"):
        for child in _children(folder / "children"):
            resident, shared = _statm(tree, child, 1), _statm(tree, child, 2)
            if resident is not None and shared is not None:
                found.append(max(0, resident - shared))
    return found


def _children(path: Path) -> list[str]:
    """Empty for most threads, and gone for those that end meanwhile: neither is a fault."""
    try:
        return [part for part in path.read_text("ascii").split() if part.isdigit()]
    except (OSError, ValueError):
        return []


def _statm(tree: Tree, process: str, field: int) -> int | None:
    try:
        parts = (tree.root / "proc" / process / "statm").read_text().split()
        return int(parts[field]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return None


def total_memory(tree: Tree) -> int | None:
    """Of the machine."""
    match = re.search(r"^MemTotal:\s+(\d{1,15}) kB", tree.text(tree.root / "proc/meminfo", most_bytes=16384) or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


@dataclass(frozen=True)
class Cgroup:
    """The cgroup that we are in: where its memory is accounted."""

    folder: Path
    ancestors: tuple[Path, ...]
    """``folder`` and those above it that have limits too, the nearest first."""
    version: int

    def limit(self, tree: Tree, kind: str) -> int | None:
        """The least of ``max`` or ``high`` here and above; None where nothing is limited."""
        name = {"max": "memory.max", "high": "memory.high"}[kind] if self.version == 2 else _V1[kind]
        found = [_limit(tree, folder / name) for folder in self.ancestors]
        return min((value for value in found if value is not None), default=None)

    def used(self, tree: Tree) -> int | None:
        """What cannot be taken back, or not without harm: all but pages of files that nobody has mapped, and the like.

        Mapped files are programs and libraries: a kernel that takes those back brings everything to a crawl, and then kills.
        """
        current = tree.number(self.folder / ("memory.current" if self.version == 2 else "memory.usage_in_bytes"), 0, 2**63)
        text = tree.text(self.folder / "memory.stat", most_bytes=16384)
        if current is None or text is None:
            return None
        stat = {match[1]: int(match[2]) for match in re.finditer(r"^(\w+) (\d{1,18})$", text, re.MULTILINE)}
        prefix, mapped = ("", "file_mapped") if self.version == 2 else ("total_", "total_mapped_file")
        files = sum(stat.get(prefix + name, 0) for name in _FILES)
        clean = max(0, files - stat.get(mapped, 0)) + stat.get(prefix + "slab_reclaimable", 0)
        return max(0, int(current) - clean)


_V1 = {"max": "memory.limit_in_bytes", "high": "memory.soft_limit_in_bytes"}


def _limit(tree: Tree, path: Path) -> int | None:
    text = tree.text(path)
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 19 or int(text) >= _UNLIMITED_BYTES:
        return None  # "max" is no number
    return int(text)


def own_cgroup(tree: Tree) -> Cgroup | None:
    """None where memory is not accounted by cgroup: a Raspberry Pi boots without that unless its cmdline.txt asks for it."""
    text = tree.text(tree.root / "proc/self/cgroup", most_bytes=16384) or ""
    for pattern, mounts, version, mark in _HIERARCHIES:
        if (match := re.search(pattern, text, re.MULTILINE)) is None:
            continue
        for mount in mounts:
            parts = [part for part in match[1].split("/") if part and part != ".."]
            folders = [tree.root.joinpath(mount, *parts[:depth]) for depth in range(len(parts), -1, -1)]
            with_memory = [folder for folder in folders if (folder / mark).is_file()]
            if with_memory:
                return Cgroup(with_memory[0], tuple(with_memory), version)
    return None


_HIERARCHIES = (
    (r"^0::(/.*)$", ("sys/fs/cgroup",), 2, "memory.current"),
    (r"^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(/.*)$", ("sys/fs/cgroup/memory",), 1, "memory.usage_in_bytes"),
)
