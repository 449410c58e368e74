"""How much of the time may be spent on inference, so that the chip stays below the point where it slows itself down.

Pure: told the time and what was seen, it answers with a share; the same story gives the same answers. It knows neither
the chip's time constant nor what a share costs in degrees, and must not swing with any of them, so:

- down, in steps sized by how far the temperature is, or within seconds will be, above the target; not while it falls;
- up, only from below a band under the target, only when the temperature has settled, and by no more than the whole rise
  above -20 C would allow if inference alone made it. That is always too little, so it approaches from below;
- each time a step up has to be taken back, the wait before the next one doubles, up to half an hour;
- a weak supply is waited for likewise: it must have been calm for five minutes, and longer each time it was not for good.

The decisions, and what they cost against a chip that is left to its firmware, are in docs/decisions/0016-governor.md.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

COLDEST_AMBIENT_C = -20.0
AHEAD_S = 20.0
"""A rise is expected to go on for so long when it is decided to slow down."""
AHEAD_UP_S = 60.0
"""And for so long when it is decided to speed up."""
TREND_S, TREND_UP_S = 20.0, 60.0
"""The times over which the slopes for that are taken."""
FALLING_C_PER_S, SETTLED_C_PER_S = -0.01, 0.02
DOWN_EVERY_S, DOWN_SOON_S = 15.0, 6.0
UP_EVERY_S, UP_SELDOM_S = 60.0, 1800.0
CALM_S, POWER_CALM_S = 30.0, 300.0
"""So long after the last sign of throttling, or of a weak supply, the rate may rise again."""
DOWN_LEAST, DOWN_MOST, UP_MOST, UP_LEAST = 0.05, 0.3, 0.25, 0.02
THROTTLED_FACTOR, POWER_FACTOR = 0.8, 0.75
COOL_FLOOR = 0.5
"""Signs that heat does not explain (a weak supply, throttling while cool) take no more than this: less load may not mend them."""
BLIND_AFTER_S = 60.0
FORGET_AFTER_S = 4 * 3600.0
UNLEARN_EVERY_S = 3 * 3600.0
LEARN_AFTER, LEARN_WITHIN_C, LEARN_ABOVE_C = 3, 25.0, 60.0


class Cause(str, Enum):
    """Why the rate is lower than it could be."""

    NONE = "none"
    TEMPERATURE = "temperature"
    THROTTLED = "throttled"
    FREQUENCY_CAP = "frequency_cap"
    UNDER_VOLTAGE = "under_voltage"
    OVER_CURRENT = "over_current"


@dataclass(frozen=True)
class Policy:
    """``target_c``: hold the chip there; None: ``margin_c`` below its trip point. ``band_c``: where nothing is changed."""

    margin_c: float = 3.0
    target_c: float | None = None
    least_share: float = 0.2
    band_c: float = 2.0


@dataclass(frozen=True)
class Signs:
    """What was seen at one moment."""

    temperature_c: float | None = None
    trip_c: float | None = None
    """Of the zone that is nearest to its own; None: unknown."""
    throttled: bool = False
    """The chip, its firmware or the kernel slows it down for heat now."""
    capped: bool = False
    """A processor may not run as fast as it could before. Of no meaning while it is cool: people choose power modes."""
    under_voltage: bool = False
    over_current: bool = False


@dataclass(frozen=True)
class Decision:
    """What holds since ``since`` (the clock of ``update``)."""

    share: float = 1.0
    cause: Cause = Cause.NONE
    since: float = 0.0
    changes: int = 0


@dataclass
class _Trend:
    """The last minute's temperatures."""

    samples: deque[tuple[float, float]] = field(default_factory=deque)
    seen_at: float | None = None

    def note(self, now: float, temperature_c: float) -> None:
        if self.samples and now <= self.samples[-1][0]:
            return  # a clock that stands still teaches nothing
        self.samples.append((now, temperature_c))
        self.seen_at = now
        while now - self.samples[0][0] > TREND_UP_S:
            self.samples.popleft()

    @property
    def temperature_c(self) -> float | None:
        """The median of the last three, so that one false reading decides nothing."""
        last = sorted(value for _, value in list(self.samples)[-3:])
        return last[len(last) // 2] if last else None

    def slope(self, span_s: float) -> float:
        """K/s by least squares over the last ``span_s``; 0 before three samples."""
        newest = self.samples[-1][0] if self.samples else 0.0
        points = [(at - newest, value) for at, value in self.samples if newest - at <= span_s]
        if len(points) < 3:
            return 0.0
        mean_t, mean_v = (sum(axis) / len(points) for axis in zip(*points, strict=True))
        spread = sum((at - mean_t) ** 2 for at, _ in points)
        return sum((at - mean_t) * (value - mean_v) for at, value in points) / spread if spread > 0 else 0.0


class Governor:
    """For one thread. ``update`` every few seconds; between two calls any time may pass."""

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy or Policy()
        self.decision = Decision()
        self.learned_trip_c: float | None = None
        """Where the chip was seen to slow down below the trip point that it told, or without telling one."""
        self._trend = _Trend()
        self._changed_at = self._started = -UP_SELDOM_S
        self._heat_sign_at = self._power_sign_at = -UP_SELDOM_S
        self._rose = False
        self._reversals = self._power_reversals = 0
        self._throttled_in_a_row = 0
        self._learned_at = 0.0

    def trip_c(self, told: float | None) -> float | None:
        """Where slowing down begins, as far as known: told, or learnt where that is lower."""
        known = [value for value in (told, self.learned_trip_c) if value is not None]
        return min(known) if known else None

    def target_c(self, trip_c: float | None) -> float | None:
        """What is held; None: the machine tells nothing to hold."""
        if self._policy.target_c is not None:
            return self._policy.target_c
        trip = self.trip_c(trip_c)
        return None if trip is None else trip - self._policy.margin_c

    def update(self, now: float, signs: Signs, busy: float | None = None) -> Decision:
        """``busy``: the share of their time that the lanes really spend on inference, if known: to go below it is what helps."""
        if signs.temperature_c is not None:
            self._trend.note(now, signs.temperature_c)
        if self.decision.share == 1.0 and now - self._changed_at > FORGET_AFTER_S:
            self._reversals = self._power_reversals = 0
        self._learn(now, signs)
        target = self.target_c(signs.trip_c)
        self._note_signs(now, signs, target)
        share, cause = (
            self._lower(now, signs, target, busy) or self._higher(now, signs, target) or (self.decision.share, self.decision.cause)
        )
        if share != self.decision.share:
            self._change(now, share, cause)
        return self.decision

    def _change(self, now: float, share: float, cause: Cause) -> None:
        rises = share > self.decision.share
        if not rises and self._rose:
            if cause in {Cause.UNDER_VOLTAGE, Cause.OVER_CURRENT}:
                self._power_reversals = min(self._power_reversals + 1, 4)
            else:
                self._reversals = min(self._reversals + 1, 5)
        self._rose = rises
        self._changed_at = now
        self.decision = Decision(share, Cause.NONE if share == 1.0 else cause, now, self.decision.changes + 1)

    def _learn(self, now: float, signs: Signs) -> None:
        """The chip slows down here: it will again. Not from a single reading, nor where heat is no likely reason.

        What was learnt once on a hot day is tried again a degree higher after hours without a sign.
        """
        if self.learned_trip_c is not None and now - max(self._heat_sign_at, self._learned_at) > UNLEARN_EVERY_S:
            self.learned_trip_c, self._learned_at = self.learned_trip_c + 1.0, now
            if signs.trip_c is not None and self.learned_trip_c >= signs.trip_c:
                self.learned_trip_c = None
        heat = signs.throttled and not (signs.under_voltage or signs.over_current)
        self._throttled_in_a_row = self._throttled_in_a_row + 1 if heat else 0
        temperature, known = self._trend.temperature_c, self.trip_c(signs.trip_c)
        if self._throttled_in_a_row != LEARN_AFTER or temperature is None or temperature < LEARN_ABOVE_C:
            return
        if known is None or known - LEARN_WITHIN_C < temperature < known:
            self.learned_trip_c, self._learned_at = temperature, now

    def _is_hot(self, target: float | None) -> bool:
        temperature = self._trend.temperature_c
        return temperature is not None and target is not None and temperature > target - self._policy.band_c

    def _note_signs(self, now: float, signs: Signs, target: float | None) -> None:
        if signs.throttled or (signs.capped and self._is_hot(target)):
            self._heat_sign_at = now
        if signs.under_voltage or signs.over_current:
            self._power_sign_at = now

    def _lower(self, now: float, signs: Signs, target: float | None, busy: float | None) -> tuple[float, Cause] | None:
        """A lower share and why, where one is due."""
        share = self.decision.share
        used = min(share, max(busy, self._policy.least_share)) if busy is not None else share
        waited = now - self._changed_at
        wanted: list[tuple[float, Cause]] = []
        if signs.throttled and waited >= DOWN_SOON_S and not self._falls():
            wanted.append((max(used * THROTTLED_FACTOR, self._floor(target)), Cause.THROTTLED))
        if signs.capped and self._is_hot(target) and waited >= DOWN_EVERY_S and not self._falls():
            wanted.append((max(used * THROTTLED_FACTOR, self._policy.least_share), Cause.FREQUENCY_CAP))
        if (signs.under_voltage or signs.over_current) and waited >= CALM_S:
            cause = Cause.UNDER_VOLTAGE if signs.under_voltage else Cause.OVER_CURRENT
            wanted.append((max(used * POWER_FACTOR, self._cool_floor()), cause))
        if target is not None and (step := self._too_hot(waited, signs, target, used)) is not None:
            wanted.append((step, Cause.TEMPERATURE))
        lower = [(round(value, 2), cause) for value, cause in wanted if round(value, 2) < share]
        return min(lower, default=None, key=lambda item: item[0])

    def _too_hot(self, waited: float, signs: Signs, target: float, used: float) -> float | None:
        temperature = self._trend.temperature_c
        if temperature is None or signs.temperature_c is None or not self._is_hot(target):
            return None
        slope = self._trend.slope(TREND_S)
        expected = temperature + min(max(0.0, slope) * AHEAD_S, self._policy.margin_c)
        trip = self.trip_c(signs.trip_c)
        urgent = trip is not None and temperature > trip - 1.0
        if expected <= target or (self._falls() and not urgent) or waited < (DOWN_SOON_S if urgent else DOWN_EVERY_S):
            return None
        excess = temperature + max(0.0, slope) * AHEAD_UP_S - (target - self._policy.band_c / 2)
        step = excess / self._kelvin_per_share(temperature, used)
        step = min(max(step, DOWN_LEAST * used), DOWN_MOST * used)
        return max(used - step, self._policy.least_share)

    def _falls(self) -> bool:
        return self._trend.slope(TREND_S) < FALLING_C_PER_S

    def _floor(self, target: float | None) -> float:
        """Heat may take all that it is allowed to; a sign of throttling from a chip that is cool, or tells no temperature, may not."""
        temperature = self._trend.temperature_c
        if temperature is not None and (target is None or temperature > target - LEARN_WITHIN_C) and temperature >= LEARN_ABOVE_C - 10:
            return self._policy.least_share
        return self._cool_floor()

    def _cool_floor(self) -> float:
        return max(self._policy.least_share, COOL_FLOOR)

    def _kelvin_per_share(self, temperature: float, share: float) -> float:
        """No share of the time costs more degrees than this."""
        return max(temperature - COLDEST_AMBIENT_C, 1.0) / max(share, 0.01)

    def _higher(self, now: float, signs: Signs, target: float | None) -> tuple[float, Cause] | None:
        """A higher share, where that is safe."""
        share, cause = self.decision.share, self.decision.cause
        calm_s = POWER_CALM_S * 2.0**self._power_reversals
        if share == 1.0 or now - self._heat_sign_at < CALM_S or now - self._power_sign_at < calm_s:
            return None
        temperature = self._trend.temperature_c
        if signs.temperature_c is None and self._trend.seen_at is not None and now - self._trend.seen_at < BLIND_AFTER_S:
            return None
        if temperature is None or target is None or signs.temperature_c is None:  # nothing is told, so nothing is held against it
            return self._raised(UP_MOST / 2, cause) if now - self._changed_at >= self._patience_s(None) else None
        slope = max(0.0, self._trend.slope(TREND_UP_S))
        expected = temperature + slope * AHEAD_UP_S
        if expected >= target - self._policy.band_c or slope > SETTLED_C_PER_S:
            return None
        gap = target - self._policy.band_c / 2 - expected
        if now - self._changed_at < self._patience_s(gap):
            return None
        return self._raised(min(gap / self._kelvin_per_share(temperature, share), UP_MOST), cause)

    def _raised(self, step: float, cause: Cause) -> tuple[float, Cause]:
        share = round(self.decision.share + max(step, UP_LEAST), 2)
        return (1.0 if share > 0.97 else share), cause

    def _patience_s(self, gap_c: float | None) -> float:
        """How long no step up follows a change: longer after each that was taken back, unless it has become much cooler since."""
        if gap_c is not None and gap_c > 15.0:
            self._reversals = min(self._reversals, 1)
        return min(UP_EVERY_S * 2.0**self._reversals, UP_SELDOM_S)
