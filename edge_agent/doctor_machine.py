"""Looks at the board: memory, heat, power, clock and cameras."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_agent import devices, host
from edge_agent.doctor_finding import Finding
from edge_agent.machine import governing
from edge_agent.power import read_power
from edge_agent.sources._platform import platform
from edge_agent.sysfs import Tree
from edge_agent.thermal import read_thermal

SCARCE_BYTES = 300 << 20
"""Less than an agent with one camera of 1080p needs, with something to spare."""


def board(root: Path = Path("/")) -> Iterator[Finding]:
    """What it is."""
    here = platform(root)
    yield Finding("ok", "board", here.model or here.board)


def memory(root: Path = Path("/")) -> Iterator[Finding]:
    """Enough of it, and limits that hold."""
    readings = host.read_host(root)
    available = readings.memory_available_bytes
    if available is not None and available < SCARCE_BYTES:
        yield Finding(
            "wrong", "memory", f"{available >> 20} MB are available: an agent with one camera needs about 200", "stop other programs"
        )
    elif available is not None:
        yield Finding("ok", "memory", f"{available >> 20} MB available")
    controllers = _text(root / "sys/fs/cgroup/cgroup.controllers")
    legacy = (root / "sys/fs/cgroup/memory").is_dir()
    if "memory" not in controllers.split() and not legacy and (root / "sys/fs/cgroup").is_dir():
        yield Finding(
            "note", "memory limits", "the kernel was started without them: MemoryMax= of the service does nothing",
            "add cgroup_enable=memory to the line in /boot/firmware/cmdline.txt, and reboot",
        )  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def heat_and_power(root: Path = Path("/")) -> Iterator[Finding]:
    """What makes the chip slow."""
    tree = Tree(root)
    thermal, power = read_thermal(tree), read_power(tree)
    zone = governing(thermal.zones)
    if thermal.slowed_by:
        yield Finding(
            "slow", "heat", f"the chip is slowed down by {', '.join(thermal.slowed_by)}", "a heat sink, a fan, or [governor] target_c"
        )
    elif zone is not None:
        trip = "" if zone.trip_c is None else f", slowed down at {zone.trip_c:.0f}"
        yield Finding("ok", "heat", f"{zone.name} {zone.temperature_c:.0f} C{trip}")
    bits = power.pi_throttled
    if bits:
        yield Finding(
            "slow",
            "power",
            f"the firmware says: {str(bits).removeprefix('PiThrottled.')}",
            "the board's own power supply, and a short cable",
        )
    if power.under_voltage:
        yield Finding("wrong", "power", "the supply is too weak now", "the board's own power supply, and a short cable")
    if power.mode:
        yield Finding("ok", "power mode", power.mode)


def clock() -> Iterator[Finding]:
    """Times in messages."""
    if host.clock_synced():
        yield Finding("ok", "clock", "kept by the network")
    else:
        yield Finding(
            "note",
            "clock",
            "not kept by the network: captured_at may be wrong, and TLS may refuse certificates",
            "timedatectl set-ntp true",
        )


def cameras() -> Iterator[Finding]:
    """What is plugged in."""
    found = [each for each in devices.cameras() if each.device.captures]
    for each in found:
        if each.problem:
            yield Finding("wrong", f"camera {each.device.path}", each.problem)
        else:
            yield Finding("ok", f"camera {each.device.path}", f'{each.device.name}: {each.chosen}; source = "{each.source}"')
    for each in devices.cameras():
        if each.device.role == "unknown":
            yield Finding("wrong", f"video node {each.device.path}", each.problem)
    if not found:
        yield Finding("note", "cameras", "no V4L2 camera is plugged in")
