"""Network interfaces that are hardware, and which of them leads out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge_agent.host_event import InterfaceHealth, NetworkHealth
from edge_agent.readers.base import ReaderContext, Readings
from edge_agent.sysfs import Tree

_RTF_UP, _RTF_REJECT = 0x1, 0x200


class Network:
    """From /sys/class/net, /proc/net/route, /proc/net/ipv6_route and /proc/net/wireless."""

    def __init__(self, context: ReaderContext) -> None:
        self._tree = context.tree

    def read(self, now: float, readings: Readings) -> Readings:
        tree = self._tree
        folders = tree.folders("sys/class/net/*")
        default = _default_route(tree)
        signals = _signals(tree)
        # Bridges, tunnels and containers' pairs have no device; who leads out is told of whatever it is.
        shown = [folder for folder in folders if (folder / "device").exists() or folder.name == default]
        part = NetworkHealth(default, {folder.name: _interface(tree, folder, signals) for folder in shown}) if folders else None
        return replace(readings, host=replace(readings.host, network=part))

    def reasons(self) -> Sequence[str]:
        return ()  # what a network is needed for says so itself: the broker, the cameras


def _interface(tree: Tree, folder: Path, signals: dict[str, float]) -> InterfaceHealth:
    state = tree.text(folder / "operstate") or "unknown"
    count = {name: int(tree.number(folder / "statistics" / name, 0, 2**64) or 0) for name in _COUNTERS}
    # An interface that is down answers with EINVAL, and a wireless one always does.
    wireless = (folder / "wireless").is_dir() or folder.name in signals
    speed = tree.number(folder / "speed", -1, 1e7) if state == "up" and not wireless else None
    return InterfaceHealth(
        state=state,
        wireless=wireless,
        speed_mbps=int(speed) if speed is not None and speed > 0 else None,
        signal_dbm=signals.get(folder.name),
        received_bytes_total=count["rx_bytes"],
        sent_bytes_total=count["tx_bytes"],
        errors_total=count["rx_errors"] + count["tx_errors"],
    )


_COUNTERS = ("rx_bytes", "tx_bytes", "rx_errors", "tx_errors")


def _default_route(tree: Tree) -> str | None:
    """The one with the least metric; IPv4 first."""
    found: list[tuple[int, int, str]] = []
    for line in (tree.text(tree.root / "proc/net/route", most_bytes=65536) or "").splitlines()[1:]:
        parts = line.split()
        if len(parts) >= 8 and parts[1] == parts[7] == "00000000" and _is_up(parts[3]) and parts[6].isdigit():
            found.append((0, int(parts[6]), parts[0]))
    for line in (tree.text(tree.root / "proc/net/ipv6_route", most_bytes=65536) or "").splitlines():
        parts = line.split()
        if len(parts) == 10 and parts[:2] == ["0" * 32, "00"] and _is_up(parts[8]) and parts[9] != "lo":
            found.append((1, _hex(parts[5]) or 0, parts[9]))
    return min(found)[2] if found else None


def _is_up(flags: str) -> bool:
    value = _hex(flags) or 0
    return bool(value & _RTF_UP) and not value & _RTF_REJECT


def _hex(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"[0-9a-fA-F]{1,8}", text) else None


def _signals(tree: Tree) -> dict[str, float]:
    """By interface, in dBm."""
    text = tree.text(tree.root / "proc/net/wireless") or ""
    lines = re.finditer(r"^\s*(\S+):\s+\S+\s+\S+\s+(-\d{1,3})\.?\s", text, re.MULTILINE)
    return {match[1]: float(match[2]) for match in lines}


def build(context: ReaderContext) -> Network:
    """For edge_agent/vitals.py."""
    return Network(context)
