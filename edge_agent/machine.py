"""What the machine tells of heat and power, made into the signs that the governor decides by. Remembers what does not last."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.governor import Signs
from edge_agent.power import PiThrottled, PowerReadings, read_power
from edge_agent.sysfs import Tree
from edge_agent.thermal import ThermalReadings, Zone, read_thermal

_LOWER_BY = 0.01

# Of a Jetson's counters, oc1 (under-voltage) and oc2 (average current) count here; oc3 (instantaneous current) is seen to
# run on healthy boards, several times a second.


@dataclass(frozen=True)
class Seen:
    """One look, and what is remembered of earlier ones."""

    signs: Signs = field(default_factory=Signs)
    zone: Zone | None = None
    """The one that is nearest to its trip point; where none has one, the hottest."""
    thermal: ThermalReadings = field(default_factory=ThermalReadings)
    power: PowerReadings = field(default_factory=PowerReadings)
    pi_throttled_latched: PiThrottled | None = None
    """Every bit that was ever seen since this process began, and those that the firmware had latched before."""
    under_voltage_seen: bool | None = None
    """None: this machine cannot tell."""
    over_current_seen: bool | None = None
    refused: int = 0
    """Values that made no sense, since the start."""
    slowed_by: tuple[str, ...] = ()
    """What lowers clocks for heat now: cooling devices, x86 packages, a Raspberry Pi's firmware."""


class MachineWatch:
    """For one thread. ``root`` is another folder in tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._tree = Tree(root)
        self._most_cap: float | None = None
        self._counts: dict[str, int] = {}
        self._latched: PiThrottled | None = None
        self._under_voltage_seen: bool | None = None
        self._over_current_seen: bool | None = None

    def look(self) -> Seen:
        """Read everything. Never raises: what cannot be read is left out, and what makes no sense is counted."""
        thermal, power = read_thermal(self._tree), read_power(self._tree)
        rising = self._rising(thermal.throttle_counts | power.over_current_counts)
        under_voltage = bool(power.under_voltage) or "oc1" in rising
        self._remember(power, rising, under_voltage=under_voltage)
        slowed_by = self._slowed_by(thermal, power, rising, under_voltage=under_voltage)
        zone = governing(thermal.zones)
        signs = Signs(
            temperature_c=zone.temperature_c if zone else None,
            trip_c=zone.trip_c if zone else None,
            throttled=bool(slowed_by),
            capped=self._capped(thermal.frequency_cap),
            under_voltage=under_voltage,
            over_current="oc2" in rising,
        )
        return Seen(
            signs, zone, thermal, power, self._latched, self._under_voltage_seen, self._over_current_seen, self._tree.refused, slowed_by
        )

    def _rising(self, counts: dict[str, int]) -> set[str]:
        """Counters that grew since the last look. The first look only learns where they stand."""
        grown = {name for name, count in counts.items() if name in self._counts and count > self._counts[name]}
        self._counts |= counts
        return grown

    def _remember(self, power: PowerReadings, rising: set[str], *, under_voltage: bool) -> None:
        if power.pi_throttled is not None:
            self._latched = (self._latched or PiThrottled(0)) | power.pi_throttled
            now = PiThrottled(int(power.pi_throttled) & 0xF)
            self._latched |= PiThrottled(int(now) << 16)
        counts = power.over_current_counts
        if power.under_voltage is not None or "oc1" in counts:
            before = bool(self._under_voltage_seen) or counts.get("oc1", 0) > 0
            latched = bool((self._latched or 0) & PiThrottled.UNDER_VOLTAGE_OCCURRED)
            self._under_voltage_seen = before or under_voltage or latched
        if "oc2" in counts:
            self._over_current_seen = bool(self._over_current_seen) or counts["oc2"] > 0 or "oc2" in rising

    def _capped(self, cap: float | None) -> bool:
        """Below the highest cap of this run: the power mode it began with is no sign of heat."""
        if cap is None:
            return False
        self._most_cap = cap if self._most_cap is None else max(cap, self._most_cap)
        return cap < self._most_cap - _LOWER_BY

    def _slowed_by(self, thermal: ThermalReadings, power: PowerReadings, rising: set[str], *, under_voltage: bool) -> tuple[str, ...]:
        """What lowers clocks for heat now. A weak supply also sets a Raspberry Pi's bits; then it is the supply."""
        found = list(thermal.slowed_by) + sorted(rising & thermal.throttle_counts.keys())
        word = power.pi_throttled or PiThrottled(0)
        if not under_voltage and word & (PiThrottled.THROTTLED | PiThrottled.FREQUENCY_CAPPED):
            found.append("firmware")
        return tuple(found)


def governing(zones: tuple[Zone, ...]) -> Zone | None:
    """The zone that is nearest to its trip point; where none has one, the hottest."""
    limited = [zone for zone in zones if zone.trip_c is not None]
    if limited:
        return min(limited, key=lambda zone: (zone.trip_c or 0.0) - zone.temperature_c)
    return max(zones, key=lambda zone: zone.temperature_c, default=None)
