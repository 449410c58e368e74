"""What a power cut may leave of a folder: worked out from the system calls that a real process made in it, as strace saw them.

The model is the worst that POSIX allows, which is worse than ext4: content counts as written only after fsync(2) of the file,
and names (a new file, a rename, an unlink, a new folder) only after fsync(2) of their folder. Until then each of them may be
there or not, in any combination, and content may be that of before, missing, half, or zeros.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CALL = re.compile(r"^(?:\d+ +)?([\d.]+) (\w+)\((.*)\) += (-?\d+)")
_FD = re.compile(r"^(\d+)<([^>]*)>")
_PATH = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True, eq=False)
class Call:
    """One system call that changed something, or said something on standard output."""

    name: str
    paths: tuple[str, ...]
    data: bytes = b""


def _text(escaped: str) -> str:
    return bytes.fromhex(escaped.replace("\\x", "")).decode()


def calls(traces: list[Path], root: Path) -> list[Call]:
    """From ``strace -ff -y -xx -s 100000 -ttt``, in their order; those that have nothing to do with ``root`` are left out."""
    found: list[tuple[float, Call]] = []
    for trace in traces:
        for line in trace.read_text().splitlines():
            match = _CALL.match(line)
            if match is None or int(match[4]) < 0:
                continue
            at, name, arguments = float(match[1]), match[2], match[3]
            call = _call(name, arguments, root)
            if call is not None:
                found.append((at, call))
    return [call for _, call in sorted(found, key=lambda item: item[0])]


def _call(name: str, arguments: str, root: Path) -> Call | None:
    strings = [_text(text) for text in _PATH.findall(arguments)]
    fd = _FD.match(arguments)
    inside = [text for text in strings if text.startswith(str(root))]
    if name in {"open", "openat"}:
        if inside and "O_CREAT" in arguments:
            return Call("create", (inside[0],))
    elif name in {"write", "pwrite64"} and fd is not None:
        raw = bytes.fromhex("".join(_PATH.findall(arguments)).replace("\\x", ""))
        if fd[1] == "1":
            return Call("said", (), raw)
        path = _fd_path(fd[2])
        return Call("write", (path,), raw) if path.startswith(str(root)) else None
    elif name in {"fsync", "fdatasync"} and fd is not None and _fd_path(fd[2]).startswith(str(root)):
        return Call("fsync", (_fd_path(fd[2]),))
    elif name == "ftruncate" and fd is not None and _fd_path(fd[2]).startswith(str(root)):
        return Call("truncate", (_fd_path(fd[2]),))
    elif name.startswith("rename") and len(inside) == 2:
        return Call("rename", tuple(inside))
    elif name.startswith("unlink") and inside:
        return Call("unlink", (inside[0],))
    elif name.startswith("mkdir") and inside:
        return Call("mkdir", (inside[0],))
    return None


def _fd_path(shown: str) -> str:
    return _text(shown) if shown.startswith("\\x") else shown


@dataclass
class _File:
    safe: bytes = b""
    written: bytes = b""

    def variants(self) -> list[bytes]:
        """What its content may be after a cut."""
        if self.safe == self.written:
            return [self.safe]
        half = self.written[: len(self.written) // 2]
        return list(dict.fromkeys([self.safe, b"", half, b"\0" * len(self.written), self.written]))


@dataclass
class Disk:
    """The folder ``root``, which is on the disk already, and what became of it."""

    root: str
    names: dict[str, _File | None] = field(default_factory=dict)
    """As the running system sees them; None: a folder."""
    safe: dict[str, _File | None] = field(default_factory=dict)
    pending: list[Call] = field(default_factory=list)
    """Changes of names that no fsync of their folder has followed."""

    def apply(self, call: Call) -> None:
        path = call.paths[0] if call.paths else ""
        if call.name == "create" and path not in self.names:
            self._change(call, _File())
        elif call.name == "mkdir":
            self._change(call, None)
        elif call.name in {"rename", "unlink"}:
            self._change(call, self.names.get(path))
        elif call.name == "write" and (file := self.names.get(path)) is not None:
            file.written += call.data
        elif call.name == "truncate" and (file := self.names.get(path)) is not None:
            file.written = b""
        elif call.name == "fsync":
            self._sync(path)

    def _change(self, call: Call, node: _File | None) -> None:
        self.pending.append(call)
        self._nodes[id(call)] = node
        _rename(self.names, call, node)

    _nodes: dict[int, _File | None] = field(default_factory=dict)

    def _sync(self, path: str) -> None:
        file = self.names.get(path)
        if file is not None:
            file.safe = file.written
            return
        for call in [call for call in self.pending if any(str(Path(each).parent) == path for each in call.paths)]:
            _rename(self.safe, call, self._nodes[id(call)])
            self.pending.remove(call)

    def after_cut(self) -> Iterator[dict[str, bytes | None]]:
        """Every folder that may be found at the next start: contents by path, None for folders."""
        seen: set[tuple[tuple[str, bytes | None], ...]] = set()
        for chosen in itertools.product([False, True], repeat=len(self.pending)):
            names = dict(self.safe)
            for call, happened in zip(self.pending, chosen, strict=True):
                if happened:
                    _rename(names, call, self._nodes[id(call)])
            reachable = {path: node for path, node in names.items() if self._is_reachable(path, names)}
            files = [(path, node) for path, node in reachable.items() if node is not None]
            folders: dict[str, bytes | None] = {path: None for path, node in reachable.items() if node is None}
            for contents in itertools.product(*(node.variants() for _, node in files)):
                found = {**folders, **{path: content for (path, _), content in zip(files, contents, strict=True)}}
                key = tuple(sorted(found.items()))
                if key not in seen:
                    seen.add(key)
                    yield found

    def _is_reachable(self, path: str, names: dict[str, _File | None]) -> bool:
        parent = str(Path(path).parent)
        return parent == self.root or (parent in names and self._is_reachable(parent, names))


def _rename(names: dict[str, _File | None], call: Call, node: _File | None) -> None:
    if call.name in {"rename", "unlink"}:
        names.pop(call.paths[0], None)
    if call.name == "rename":
        names[call.paths[1]] = node
    elif call.name in {"create", "mkdir"}:
        names[call.paths[0]] = node
