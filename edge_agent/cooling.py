"""Closes the thermal loop: looks at the machine every few seconds, asks the governor, and tells the scheduler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from edge_agent.events import timestamp
from edge_agent.governor import Cause, Decision, Governor, Policy
from edge_agent.health_event import GovernorHealth, ThrottledBits
from edge_agent.machine import MachineWatch, Seen
from edge_agent.power import PiThrottled

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
LOG_EVERY_S = 10.0
UNDER_VOLTAGE_TOLD_FOR_S = 60.0


class Cooling:
    """``tick`` and the rest from the health thread only; ``slow_down`` is called in it, at each change of the share.

    ``busy`` tells what share of their time the lanes spend on inference now. ``policy`` None: only look and tell.
    """

    def __init__(
        self,
        policy: Policy | None,
        slow_down: Callable[[float], None],
        busy: Callable[[float], float | None] = lambda _: None,
        watch: MachineWatch | None = None,
        utc: Callable[[], float] = time.time,
    ) -> None:
        self._governor = Governor(policy) if policy else None
        self._slow_down, self._busy, self._utc = slow_down, busy, utc
        self._watch = watch or MachineWatch()
        self._seen = Seen()
        self._looked_at = self._logged_at = self._supply_at = -1e9
        self._logged_share = 1.0
        self._since_utc = utc()
        self._told_supply = False

    def tick(self, now: float) -> bool:
        """Look, if it is time to; whether the share changed. ``now`` is monotonic."""
        if now - self._looked_at < LOOK_EVERY_S:
            self._log(now)
            return False
        self._looked_at = now
        self._seen = self._watch.look()
        self._note_supply(now)
        if self._governor is None:
            return False
        before = self._governor.decision.share
        decision = self._governor.update(now, self._seen.signs, self._busy(now))
        changed = decision.share != before
        if changed:
            self._since_utc = self._utc()
            self._slow_down(decision.share)
        self._log(now)
        return changed

    def _note_supply(self, now: float) -> None:
        signs = self._seen.signs
        if signs.under_voltage or signs.over_current:
            self._supply_at = now
            if not self._told_supply:
                what = "under-voltage" if signs.under_voltage else "over-current"
                log.warning("the power supply is too weak: %s; use a stronger one, or a shorter and thicker cable", what)
            self._told_supply = True

    def _log(self, now: float) -> None:
        """One line for each change, and for those within a few seconds one together."""
        decision = self.decision
        if decision.share == self._logged_share or now - self._logged_at < LOG_EVERY_S:
            return
        level = logging.WARNING if decision.share < self._logged_share else logging.INFO
        cause, was = decision.cause.value, self._logged_share
        log.log(level, "inference takes share=%.2f of the time was=%.2f cause=%s %s", decision.share, was, cause, self._heat())
        self._logged_at, self._logged_share = now, decision.share

    def _heat(self) -> str:
        zone = self._seen.zone
        if zone is None:
            return "temperature=unknown"
        trip = self._trip_c()
        return f"temperature={zone.temperature_c:.1f}C trip={f'{trip:.1f}C' if trip is not None else 'unknown'} zone={zone.name!r}"

    def _trip_c(self) -> float | None:
        told = self._seen.signs.trip_c
        return self._governor.trip_c(told) if self._governor else told

    @property
    def decision(self) -> Decision:
        """What holds now."""
        return self._governor.decision if self._governor else Decision()

    def reasons(self, now: float) -> list[str]:
        """Why the agent is degraded by heat or power; empty where it is not."""
        reasons = []
        decision, zone = self.decision, self._seen.zone
        if decision.cause is not Cause.NONE:
            heat = f" at {zone.temperature_c:.0f} C" if zone else ""
            reasons.append(f"governor: inference takes {decision.share:.0%} of the time because of {_WORDS[decision.cause]}{heat}")
        elif self._seen.slowed_by:
            reasons.append(f"governor: the machine is throttled for heat ({', '.join(self._seen.slowed_by)})")
        if now - self._supply_at < UNDER_VOLTAGE_TOLD_FOR_S and decision.cause not in {Cause.UNDER_VOLTAGE, Cause.OVER_CURRENT}:
            reasons.append("power: the supply is too weak")
        return reasons

    def health(self) -> GovernorHealth:
        """All of it for the heartbeat."""
        seen, decision, trip = self._seen, self.decision, self._trip_c()
        latched = seen.pi_throttled_latched
        return GovernorHealth(
            enabled=self._governor is not None,
            share=decision.share,
            cause=decision.cause.value,
            since=timestamp(self._since_utc),
            changes_total=decision.changes,
            temperature_c=seen.zone.temperature_c if seen.zone else None,
            zone=seen.zone.name if seen.zone else None,
            trip_c=None if trip is None else round(trip, 1),
            target_c=_rounded(self._governor.target_c(seen.signs.trip_c)) if self._governor else None,
            throttled_by=list(seen.slowed_by),
            frequency_cap=seen.thermal.frequency_cap,
            gpu_frequency_cap=seen.thermal.gpu_frequency_cap,
            throttled=None if latched is None else _bits(seen.power.pi_throttled, latched),
            under_voltage=seen.signs.under_voltage if seen.under_voltage_seen is not None else None,
            under_voltage_seen=seen.under_voltage_seen,
            over_current_seen=seen.over_current_seen,
            power_mode=seen.power.mode,
            readings_refused_total=seen.refused,
        )


_WORDS = {
    Cause.TEMPERATURE: "its temperature",
    Cause.THROTTLED: "throttling",
    Cause.FREQUENCY_CAP: "a lower frequency cap while hot",
    Cause.UNDER_VOLTAGE: "under-voltage",
    Cause.OVER_CURRENT: "over-current",
}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _bits(now: PiThrottled | None, latched: PiThrottled) -> ThrottledBits:
    names = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
    return ThrottledBits(
        now=[name for bit, name in enumerate(names) if int(now or 0) >> bit & 1],
        seen=[name for bit, name in enumerate(names) if int(latched) >> bit + 16 & 1],
    )
