"""A chip that warms up: heat in proportion to the load, cooling to the air, and a firmware that slows it down at the trip point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.governor import Decision, Governor, Signs

READ_EVERY_S = 2.0
SLOWEST, SPEED_PER_S = 0.3, 0.05
"""The firmware goes down to 0.3 of the clock (a Raspberry Pi 4: 600 of 1800 MHz), a twentieth each second."""


@dataclass
class Chip:
    """A die on a heat sink: two time constants. Temperatures in Celsius, resistances in K for full load."""

    ambient_c: float = 25.0
    idle_k: float = 10.0
    sink_k: float = 40.0
    """What full load adds to the heat sink's temperature, in the end."""
    die_k: float = 8.0
    """And to the die above it."""
    sink_tau_s: float = 120.0
    die_tau_s: float = 3.0
    trip_c: float = 80.0
    sensor_step_c: float = 0.487
    power_exponent: float = 1.5
    """Of the clock: 1 where only the clock is lowered, towards 3 where the voltage is as well."""
    hysteresis_k: float = 3.0
    speed: float = field(init=False, default=1.0)
    sink_c: float = field(init=False)
    die_above_c: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.sink_c = self.ambient_c + self.idle_k

    @property
    def temperature_c(self) -> float:
        return self.sink_c + self.die_above_c

    @property
    def told_c(self) -> float:
        return round(self.temperature_c / self.sensor_step_c) * self.sensor_step_c

    @property
    def throttled(self) -> bool:
        return self.speed < 1.0

    def run(self, load: float, seconds: float) -> float:
        """One step; returns the work that was done, in seconds at full speed."""
        if self.temperature_c >= self.trip_c:
            self.speed = max(SLOWEST, self.speed - SPEED_PER_S * seconds)
        elif self.temperature_c < self.trip_c - self.hysteresis_k:
            self.speed = min(1.0, self.speed + SPEED_PER_S * seconds)
        power = load * self.speed**self.power_exponent
        sink_end = self.ambient_c + self.idle_k + self.sink_k * power
        self.sink_c += (sink_end - self.sink_c) * min(1.0, seconds / self.sink_tau_s)
        self.die_above_c += (self.die_k * power - self.die_above_c) * min(1.0, seconds / self.die_tau_s)
        return load * self.speed * seconds


@dataclass
class Story:
    """What became of a run."""

    work_s: float = 0.0
    throttled_s: float = 0.0
    hottest_c: float = -100.0
    changes: list[tuple[float, float]] = field(default_factory=list)
    """When the share changed, and to what."""
    shares: list[float] = field(default_factory=list)

    def changes_between(self, begin_s: float, end_s: float) -> int:
        return sum(begin_s <= at < end_s for at, _ in self.changes)


def play(
    chip: Chip,
    governor: Governor | None,
    seconds: float,
    *,
    demand: float = 1.0,
    told: Callable[[Chip], Signs] | None = None,
    weather: Callable[[float], float] | None = None,
    begin_s: float = 0.0,
    tell_busy: bool = True,
) -> Story:
    """Run the loop in steps of 0.5 s: the governor looks every 2 s, the lanes work for the share that it leaves them."""
    story, share, step = Story(), governor.decision.share if governor else 1.0, 0.5
    for tick in range(round(seconds / step)):
        now = begin_s + tick * step
        if weather is not None:
            chip.ambient_c = weather(now)
        if governor is not None and tick % round(READ_EVERY_S / step) == 0:
            signs = told(chip) if told else Signs(chip.told_c, chip.trip_c, throttled=chip.throttled)
            decision: Decision = governor.update(now, signs, min(share, demand) if tell_busy else None)
            if decision.share != share:
                story.changes.append((now, decision.share))
                share = decision.share
        story.work_s += chip.run(min(share, demand), step)
        story.throttled_s += step * chip.throttled
        story.hottest_c = max(story.hottest_c, chip.temperature_c)
        story.shares.append(share)
    return story
