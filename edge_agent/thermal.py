"""How hot the machine is, from where on it slows itself down, and whether it does so now: /sys/class/thermal and cpufreq.

What the kernel tells is described in its Documentation/driver-api/thermal/sysfs-api.rst; which of it means that clocks
are lowered was learnt from Jetsons, Raspberry Pis and x86 (docs/decisions/0016-governor.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_agent.sysfs import Tree

COLDEST_C, HOTTEST_C = -40.0, 125.0
"""A chip that answers is between these; the rest, and exactly 0, is what sensors say that are broken or switched off."""
LOWEST_TRIP_C, HIGHEST_TRIP_C = 45.0, 125.0
RASPBERRY_PI_TRIP_C = 80.0
"""From here to 85 C the firmware slows the ARM cores down (Raspberry Pi documentation, frequency management). Its zone does not tell."""
BELOW_CRITICAL_C = 15.0
"""Where only the point of the emergency shutdown is known, slowing down is taken to begin so far below it."""

_ELSEWHERE = re.compile(
    r"pmic|batt|wifi|iwl|nvme|ssd|board|diode|ambient|skin|modem|charger|fan-est|pch|int3400|sen\d|ddr|usb", re.IGNORECASE
)
"""Zones that are not about the chip that infers. Some of them (a Jetson Nano's PMIC-Die: always 100 C) are not even measured."""
_CHIP = re.compile(r"cpu|gpu|soc|tj|pkg|package|core|acpitz|big|little|npu|center|bcm2", re.IGNORECASE)
_SLOWING = re.compile(r"cpufreq|devfreq|throttle-alert|thermal-idle|^processor$", re.IGNORECASE)
"""Cooling devices that lower clocks. Fans do not, nor does a Jetson's hot-surface-alert, a mere notice at 70 C."""


@dataclass(frozen=True)
class Zone:
    """One place where the chip's temperature is measured; ``trip_c`` is where its clocks begin to be lowered, if that is known."""

    name: str
    temperature_c: float
    trip_c: float | None = None


@dataclass(frozen=True)
class ThermalReadings:
    """What could be read; None or empty where the machine does not tell."""

    zones: tuple[Zone, ...] = ()
    slowed_by: tuple[str, ...] = ()
    """Cooling devices that lower clocks right now."""
    frequency_cap: float | None = None
    """The least share of its highest frequency that a processor may run at now, 0..1. Power modes lower it too."""
    gpu_frequency_cap: float | None = None
    throttle_counts: dict[str, int] = field(default_factory=dict)
    """How often each x86 package has been throttled for heat since it booted."""


def read_thermal(tree: Tree) -> ThermalReadings:
    """One look at everything."""
    return ThermalReadings(
        _zones(tree),
        _slowed_by(tree),
        _cap(tree, "sys/devices/system/cpu/cpufreq/policy*", "scaling_max_freq", "cpuinfo_max_freq"),
        _gpu_cap(tree),
        _throttle_counts(tree),
    )


def board_model(tree: Tree) -> str | None:
    """The board's name by its device tree, such as "Raspberry Pi 5 Model B Rev 1.0"."""
    paths = ("proc/device-tree/model", "sys/firmware/devicetree/base/model")
    return next((model for path in paths if (model := tree.text(tree.root / path))), None)


def _celsius(tree: Tree, path: Path) -> float | None:
    value = tree.number(path, COLDEST_C, HOTTEST_C, scale=1e-3, expected=True)
    if value is not None and round(value, 1) == 0:
        tree.refused += 1
        return None
    return value


def _zones(tree: Tree) -> tuple[Zone, ...]:
    """Where any zone tells where its chip is slowed down, no guess from another's shutdown is set beside it."""
    found = [zone for folder in tree.folders("sys/class/thermal/thermal_zone*") if (zone := _zone(tree, folder))]
    told = [zone for zone, _ in found] + _core_temperatures(tree)
    if any(zone.trip_c is not None for zone in told):
        return tuple(told)
    return tuple(replace(zone, trip_c=guess) for zone, guess in found) + tuple(told[len(found) :])


def _zone(tree: Tree, folder: Path) -> tuple[Zone, float | None] | None:
    """The zone, and a guess at its trip point where it does not tell it."""
    name = tree.text(folder / "type") or folder.name
    if _ELSEWHERE.search(name):
        return None
    temperature = _celsius(tree, folder / "temp")
    if temperature is None:
        return None
    passive, critical = _trips(tree, folder)
    guess = critical - BELOW_CRITICAL_C if critical is not None and _CHIP.search(name) else None
    return Zone(name, round(temperature, 1), _trip(tree, folder, name, passive)), guess


def _trip(tree: Tree, folder: Path, name: str, passive: dict[int, float]) -> float | None:
    """The lowest passive trip point that something which lowers clocks is bound to; on a Raspberry Pi what its firmware does."""
    bound, any_bound = _bound(tree, folder)
    if slowing := [passive[index] for index in bound if index in passive]:
        return min(slowing)
    if passive and not any_bound:
        return max(passive.values())  # rather too late than too early: what really happens corrects it
    is_pi = _CHIP.search(name) and (board_model(tree) or "").startswith("Raspberry Pi")
    return RASPBERRY_PI_TRIP_C if is_pi else None


def _trips(tree: Tree, folder: Path) -> tuple[dict[int, float], float | None]:
    """The passive trip points by number, and the critical one. Those that are switched off (0, -274) are left out, uncounted."""
    passive: dict[int, float] = {}
    critical: float | None = None
    for path in tree.folders(f"{folder.relative_to(tree.root)}/trip_point_*_type"):
        value = tree.number(path.with_name(path.name.replace("_type", "_temp")), -1e6, 1e6, scale=1e-3)
        kind = tree.text(path)
        if value is None or not LOWEST_TRIP_C <= value <= HIGHEST_TRIP_C:
            continue
        if kind == "passive":
            passive[int(path.name.split("_")[2])] = value
        elif kind == "critical":
            critical = value if critical is None else min(critical, value)
    return passive, critical


def _bound(tree: Tree, folder: Path) -> tuple[set[int], bool]:
    """The trip points that devices are bound to which lower clocks, and whether any device is bound at all."""
    bound: set[int] = set()
    links = tree.folders(f"{folder.relative_to(tree.root)}/cdev*_trip_point")
    for path in links:
        device = tree.text(path.with_name(path.name.removesuffix("_trip_point")) / "type") or ""
        index = tree.number(path, -1, 1000)
        if index is not None and index >= 0 and _SLOWING.search(device):
            bound.add(int(index))
    return bound, bool(links)


def _core_temperatures(tree: Tree) -> list[Zone]:
    """Intel's own sensors: a package throttles itself at ``crit``, which no thermal zone tells."""
    zones = []
    for folder in tree.folders("sys/class/hwmon/hwmon*"):
        if tree.text(folder / "name") != "coretemp":
            continue
        for path in tree.folders(f"{folder.relative_to(tree.root)}/temp*_label"):
            name = tree.text(path) or ""
            if not name.startswith("Package"):
                continue
            temperature = _celsius(tree, path.with_name(path.name.replace("_label", "_input")))
            trip = tree.number(path.with_name(path.name.replace("_label", "_crit")), LOWEST_TRIP_C, HIGHEST_TRIP_C, scale=1e-3)
            if temperature is not None:
                zones.append(Zone(name, round(temperature, 1), trip))
    return zones


def _slowed_by(tree: Tree) -> tuple[str, ...]:
    found = []
    for folder in tree.folders("sys/class/thermal/cooling_device*"):
        name = tree.text(folder / "type") or ""
        if _SLOWING.search(name) and (tree.number(folder / "cur_state", -1, 1e6) or 0) > 0:
            found.append(name)
    return tuple(dict.fromkeys(found))


def _cap(tree: Tree, pattern: str, now: str, highest: str) -> float | None:
    shares = []
    for folder in tree.folders(pattern):
        cap, most = tree.number(folder / now, 1, 1e12), tree.number(folder / highest, 1, 1e12)
        if cap is not None and most is not None:
            shares.append(min(1.0, cap / most))
    return round(min(shares), 3) if shares else None


def _gpu_cap(tree: Tree) -> float | None:
    shares = []
    for folder in tree.folders("sys/class/devfreq/*"):
        if not re.search(r"gpu|ga10b|gv11b|gp10b|gb10b|mali|panfrost|v3d", folder.name):
            continue
        rates = [int(rate) for rate in (tree.text(folder / "available_frequencies") or "").split() if rate.isdigit()]
        cap = tree.number(folder / "max_freq", 1, 1e12)
        if cap is not None and rates and max(rates) > 0:
            shares.append(min(1.0, cap / max(rates)))
    return round(min(shares), 3) if shares else None


def _throttle_counts(tree: Tree) -> dict[str, int]:
    counts: dict[str, int] = {}
    for folder in tree.folders("sys/devices/system/cpu/cpu[0-9]*"):
        count = tree.number(folder / "thermal_throttle/package_throttle_count", 0, 2**63)
        if count is not None:
            package = tree.number(folder / "topology/physical_package_id", 0, 1e6) or 0
            name = f"package{int(package)}"
            counts[name] = max(counts.get(name, 0), int(count))
    return counts
