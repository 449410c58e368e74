"""What the machine tells of its supply and of limits that it sets itself: Raspberry Pi firmware, Jetson's power modes and rails."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntFlag
from pathlib import Path

from edge_agent.sysfs import Tree


class PiThrottled(IntFlag):
    """The bits of ``vcgencmd get_throttled``. The upper ones latch, but the kernel's own driver clears them every 2 s."""

    UNDER_VOLTAGE = 1 << 0
    FREQUENCY_CAPPED = 1 << 1
    THROTTLED = 1 << 2
    SOFT_TEMPERATURE_LIMIT = 1 << 3
    UNDER_VOLTAGE_OCCURRED = 1 << 16
    FREQUENCY_CAPPED_OCCURRED = 1 << 17
    THROTTLED_OCCURRED = 1 << 18
    SOFT_TEMPERATURE_LIMIT_OCCURRED = 1 << 19


_PI_BITS = 0xF000F
_THROTTLED_FILES = "sys/devices/platform/soc*/*firmware/get_throttled"


@dataclass(frozen=True)
class PowerReadings:
    """What could be read; None or empty where the machine does not tell."""

    pi_throttled: PiThrottled | None = None
    under_voltage: bool | None = None
    """Whether the supply is too weak now, or was within the last two seconds."""
    over_current_counts: dict[str, int] = field(default_factory=dict)
    """Jetson's events since boot: oc1 under-voltage, oc2 average current, oc3 instantaneous current."""
    mode: str | None = None
    """Jetson's power mode, such as "15W"."""


def read_power(tree: Tree) -> PowerReadings:
    """One look at everything but the rails."""
    throttled = _pi_throttled(tree)
    alarm = _pi_alarm(tree)
    voltage: bool | None = None
    if throttled is not None or alarm is not None:
        voltage = bool(alarm) or bool((throttled or 0) & PiThrottled.UNDER_VOLTAGE)
    return PowerReadings(throttled, voltage, _over_current_counts(tree), _mode(tree))


def read_rails(tree: Tree) -> dict[str, int]:
    """Milliwatts by rail, where the board measures them (INA3221 on Jetsons). Slow: each value is a transfer over I2C."""
    rails: dict[str, int] = {}
    for folder in _monitors(tree, "ina3221"):
        for path in tree.folders(f"{folder.relative_to(tree.root)}/in*_label"):
            name, channel = tree.text(path), path.name.removeprefix("in").removesuffix("_label")
            volts = tree.number(folder / f"in{channel}_input", 0, 60_000, scale=1e-3)
            milliamperes = tree.number(folder / f"curr{channel}_input", 0, 100_000)
            if name and volts is not None and milliamperes is not None:
                rails[name] = round(volts * milliamperes)
    return rails


def _monitors(tree: Tree, driver: str) -> list[Path]:
    folders = tree.folders("sys/class/hwmon/hwmon*")
    return [folder for folder in folders if tree.text(folder / "name") == driver]


def _pi_throttled(tree: Tree) -> PiThrottled | None:
    """Older kernels have ``soc/soc:firmware``, a Raspberry Pi 5 ``soc@107c000000``; some kernels have it not at all."""
    for path in tree.folders(_THROTTLED_FILES):
        word = tree.number(path, 0, 2**32 - 1, base=16)
        if word is not None and int(word) & ~_PI_BITS == 0:
            return PiThrottled(int(word))
        if word is not None:
            tree.refused += 1
    return None


def _pi_alarm(tree: Tree) -> bool | None:
    for folder in _monitors(tree, "rpi_volt"):
        alarm = tree.number(folder / "in0_lcrit_alarm", 0, 1)
        if alarm is not None:
            return bool(alarm)
    return None


def _over_current_counts(tree: Tree) -> dict[str, int]:
    counts: dict[str, int] = {}
    for folder in _monitors(tree, "soctherm_oc"):
        for path in tree.folders(f"{folder.relative_to(tree.root)}/oc*_event_cnt"):
            count = tree.number(path, 0, 2**63)
            if count is not None:
                counts[path.name.removesuffix("_event_cnt")] = int(count)
    return counts


def _mode(tree: Tree) -> str | None:
    """What nvpmodel was last set to, by the names in its own table."""
    match = re.search(r"pmode:0*(\d+)", tree.text(tree.root / "var/lib/nvpmodel/status") or "")
    if match is None:
        return None
    number = match.group(1)
    table = tree.text(tree.root / "etc/nvpmodel.conf", most_bytes=262_144) or ""
    named = re.search(rf"POWER_MODEL\s+ID=0*{number}\s+NAME=(\S+)", table)
    return named.group(1) if named else number
