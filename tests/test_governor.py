"""The governor in a simulated chip (``chip.py``), and against stories of signs. No clock runs here but the simulated one."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.governor import Cause, Governor, Policy, Signs
from tests.chip import Chip, Story, play

HOUR = 3600.0

chips = st.builds(
    Chip,
    ambient_c=st.floats(-10, 50),
    idle_k=st.floats(3, 15),
    sink_k=st.floats(10, 80),
    die_k=st.floats(2, 15),
    sink_tau_s=st.floats(30, 900),
    die_tau_s=st.floats(1, 8),
    trip_c=st.sampled_from([70.0, 80.0, 99.0]),
    sensor_step_c=st.sampled_from([0.001, 0.487, 1.0]),
    power_exponent=st.floats(1, 2),
)


def holds(chip: Chip, share: float) -> float:
    """The temperature that this chip comes to rest at, below its trip point."""
    return chip.ambient_c + chip.idle_k + share * (chip.sink_k + chip.die_k)


def share_for(chip: Chip, temperature_c: float) -> float:
    return (temperature_c - chip.ambient_c - chip.idle_k) / (chip.sink_k + chip.die_k)


@settings(max_examples=60, deadline=None)
@given(chip=chips, demand=st.floats(0.3, 1), tell_busy=st.booleans())
def test_any_chip_comes_to_rest_below_its_trip_point_at_the_rate_that_it_can_hold(chip: Chip, demand: float, tell_busy: bool) -> None:
    policy = Policy()
    target = chip.trip_c - policy.margin_c
    can_be_held = holds(chip, policy.least_share) < target - policy.band_c
    lower_end = share_for(chip, target - policy.band_c)
    governor = Governor(policy)
    first = play(chip, governor, HOUR, demand=demand, tell_busy=tell_busy)
    rest = play(chip, governor, 2 * HOUR, demand=demand, tell_busy=tell_busy, begin_s=HOUR)
    assert len(first.changes) <= 45
    assert rest.changes_between(HOUR, 2 * HOUR) <= 6
    assert rest.changes_between(2 * HOUR, 3 * HOUR) <= 3
    if can_be_held:
        assert rest.throttled_s == 0
        assert rest.hottest_c < chip.trip_c
        assert min(rest.shares[-1], demand) >= min(demand, lower_end) - 0.05
    elif holds(chip, policy.least_share) > target:  # in between, it may come to rest a little above
        assert rest.shares[-1] == policy.least_share


@settings(max_examples=30, deadline=None)
@given(chip=chips)
def test_it_recovers_when_it_cools_and_stays_there(chip: Chip) -> None:
    governor = Governor()
    play(chip, governor, HOUR)
    cool = chip.trip_c - 10 - chip.idle_k - chip.sink_k - chip.die_k
    later = play(chip, governor, 3 * HOUR, weather=lambda _: min(chip.ambient_c, cool), begin_s=HOUR)
    assert later.shares[-1] == 1.0
    assert governor.decision.cause is Cause.NONE
    assert later.changes_between(3 * HOUR, 4 * HOUR) == 0


@settings(max_examples=30, deadline=None)
@given(chip=chips)
def test_it_serves_nearly_what_a_chip_left_to_its_firmware_does_though_at_full_speed(chip: Chip) -> None:
    """Where only the clock is lowered; where the voltage is as well, see docs/decisions/0016-governor.md."""
    chip.power_exponent = 1.0
    left, twin = Chip(**_given(chip)), Chip(**_given(chip))
    alone, governed = play(left, None, 2 * HOUR), play(twin, Governor(), 2 * HOUR)
    held, firmware_holds = chip.trip_c - 5, chip.trip_c
    fair = 1.0 if alone.throttled_s == 0 and not governed.changes else max(0.0, share_for(chip, held) / share_for(chip, firmware_holds))
    if holds(chip, 0.3) < chip.trip_c - 5:  # neither is at the end of what it can do
        assert governed.work_s >= 0.93 * fair * alone.work_s
    assert governed.throttled_s <= max(180.0, 0.1 * alone.throttled_s) or holds(chip, 0.2) > chip.trip_c - 5


def _given(chip: Chip) -> dict[str, float]:
    names = ("ambient_c", "idle_k", "sink_k", "die_k", "sink_tau_s", "die_tau_s", "trip_c", "sensor_step_c", "power_exponent")
    return {name: getattr(chip, name) for name in names}


def test_a_day_and_a_night_move_it_slowly_and_not_to_and_fro() -> None:
    chip, governor = Chip(ambient_c=30, sink_k=45), Governor()
    story = play(chip, governor, 24 * HOUR, weather=lambda now: 30 + 12 * math.sin(2 * math.pi * now / 86_400))
    assert min(story.shares) < 0.8
    assert story.throttled_s == 0
    assert max(story.changes_between(h * HOUR, (h + 1) * HOUR) for h in range(24)) <= 15
    assert _turns(story) <= 24


def _turns(story: Story) -> int:
    """How often it changed its mind about the direction."""
    shares = [1.0] + [share for _, share in story.changes]
    ups = [b > a for a, b in pairwise(shares)]
    return sum(a != b for a, b in pairwise(ups))


def test_it_acts_before_the_trip_point_and_names_the_cause() -> None:
    chip, governor = Chip(ambient_c=35, sink_k=45), Governor()
    story = play(chip, governor, HOUR)
    assert story.throttled_s == 0
    assert story.hottest_c < 80
    assert governor.decision.share < 1
    assert governor.decision.cause is Cause.TEMPERATURE
    assert governor.decision.since == story.changes[-1][0]
    assert governor.decision.changes == len(story.changes)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            Signs,
            temperature_c=st.none() | st.floats(-40, 125),
            trip_c=st.none() | st.floats(45, 125),
            throttled=st.booleans(),
            capped=st.booleans(),
            under_voltage=st.booleans(),
            over_current=st.booleans(),
        ),
        max_size=300,
    ),
    st.lists(st.floats(-1, 4000), min_size=1),
    st.none() | st.floats(0, 1),
)
def test_whatever_is_told_the_share_is_one_that_can_be_served(story: list[Signs], pauses: list[float], busy: float | None) -> None:
    governor, now = Governor(), 0.0
    last = governor.decision
    for index, signs in enumerate(story):
        now += pauses[index % len(pauses)]  # also a clock that goes back
        decision = governor.update(now, signs, busy)
        assert 0.2 <= decision.share <= 1
        assert (decision.cause is Cause.NONE) == (decision.share == 1)
        assert decision.changes - last.changes == (decision.share != last.share)
        last = decision


@pytest.mark.parametrize(
    "signs",
    [Signs(), Signs(temperature_c=95.0), Signs(capped=True), Signs(temperature_c=110.0, capped=True), Signs(50.0, 80.0, capped=True)],
    ids=["nothing", "no trip point", "a cap alone", "a cap and no trip point", "a cap while cool"],
)
def test_a_machine_that_tells_no_limit_is_never_slowed(signs: Signs) -> None:
    governor = Governor()
    for second in range(0, 7200, 2):
        assert governor.update(float(second), signs, 1.0).share == 1.0


def test_a_single_false_reading_changes_nothing() -> None:
    governor = Governor()
    for second in range(0, 600, 2):
        false = second in {100, 300}
        assert governor.update(float(second), Signs(120.0 if false else 60.0, 80.0)).share == 1.0


def _feed(governor: Governor, begin: float, end: float, signs: Signs) -> list[float]:
    return [governor.update(begin + 2.0 * step, signs).share for step in range(round((end - begin) / 2))]


def test_throttling_is_answered_within_seconds_and_left_behind_after_a_calm_time() -> None:
    governor = Governor()
    _feed(governor, 0, 60, Signs(70.0, 80.0))
    shares = _feed(governor, 60, 90, Signs(76.0, 80.0, throttled=True))
    assert shares[0] == 0.8
    assert governor.decision.cause is Cause.THROTTLED
    assert shares[-1] < 0.6
    assert max(_feed(governor, 90, 110, Signs(60.0, 80.0))) <= shares[-1]
    assert _feed(governor, 110, 1500, Signs(50.0, 80.0))[-1] == 1.0


def test_where_it_throttles_is_learnt_from_three_looks_and_not_from_one() -> None:
    governor = Governor()
    _feed(governor, 0, 4, Signs(72.0, 80.0, throttled=True))
    assert governor.trip_c(80.0) == 80.0
    _feed(governor, 4, 10, Signs(72.0, 80.0))
    _feed(governor, 10, 16, Signs(72.0, 80.0, throttled=True))
    assert governor.trip_c(80.0) == 72.0
    assert governor.target_c(80.0) == 69.0


def test_a_chip_that_tells_no_trip_point_teaches_it() -> None:
    chip, governor = Chip(ambient_c=40, sink_k=50, die_k=10), Governor()
    play(chip, governor, HOUR, told=lambda c: Signs(c.told_c, None, throttled=c.throttled))
    assert governor.learned_trip_c == pytest.approx(chip.trip_c, abs=3)
    story = play(chip, governor, HOUR, told=lambda c: Signs(c.told_c, None, throttled=c.throttled), begin_s=HOUR)
    assert story.throttled_s == 0


@pytest.mark.parametrize("heat", [{"throttled": True, "under_voltage": True}, {"throttled": True, "temperature_c": 50.0}])
def test_what_heat_does_not_explain_is_not_learnt(heat: dict[str, bool | float]) -> None:
    governor = Governor()
    _feed(governor, 0, 60, replace(Signs(75.0, 80.0), **heat))  # type: ignore[arg-type]
    assert governor.learned_trip_c is None


def test_throttling_of_a_cool_chip_takes_no_more_than_half() -> None:
    governor = Governor()
    assert _feed(governor, 0, HOUR, Signs(35.0, 80.0, throttled=True))[-1] == 0.5
    assert _feed(Governor(), 0, HOUR, Signs(throttled=True))[-1] == 0.5


def test_a_lower_cap_while_hot_is_answered() -> None:
    governor = Governor()
    _feed(governor, 0, 60, Signs(76.0, 80.0))
    assert _feed(governor, 60, 80, Signs(76.0, 80.0, capped=True))[-1] < 1
    assert governor.decision.cause is Cause.FREQUENCY_CAP


@pytest.mark.parametrize(("sign", "cause"), [("under_voltage", Cause.UNDER_VOLTAGE), ("over_current", Cause.OVER_CURRENT)])
def test_a_weak_supply_takes_at_most_half_and_is_forgotten_slowly(sign: str, cause: Cause) -> None:
    governor, weak = Governor(), replace(Signs(50.0, 80.0), **{sign: True})
    assert _feed(governor, 0, 4, weak)[0] == 0.75
    assert governor.decision.cause is cause
    assert _feed(governor, 4, HOUR, weak)[-1] == 0.5
    assert _feed(governor, HOUR, HOUR + 280, Signs(50.0, 80.0))[-1] == 0.5
    assert _feed(governor, HOUR + 280, HOUR + 1800, Signs(50.0, 80.0))[-1] == 1.0


def test_a_supply_that_fails_now_and_then_does_not_make_it_swing() -> None:
    governor = Governor()
    changes = []
    for hour in range(6):
        before = governor.decision.changes
        for second in range(0, 3600, 2):
            now = hour * HOUR + second
            governor.update(now, Signs(50.0, 80.0, under_voltage=now % 420 < 4))
        changes.append(governor.decision.changes - before)
    assert max(changes) <= 12
    assert changes[-1] <= 6


def test_a_thermometer_that_falls_silent_holds_nothing_back_for_ever() -> None:
    chip, governor = Chip(ambient_c=40, sink_k=50), Governor()
    play(chip, governor, HOUR)
    share = governor.decision.share
    assert share < 1
    assert _feed(governor, HOUR, HOUR + 50, Signs())[-1] == share
    assert _feed(governor, HOUR + 50, 3 * HOUR, Signs())[-1] == 1.0


def test_a_target_of_ones_own_needs_no_trip_point() -> None:
    chip = Chip(ambient_c=25, sink_k=50)
    story = play(chip, Governor(Policy(target_c=60)), 2 * HOUR, told=lambda c: Signs(c.told_c, None))
    assert 57 < chip.temperature_c < 60.5
    assert story.changes_between(HOUR, 2 * HOUR) <= 3


def test_never_below_the_least_share() -> None:
    chip = Chip(ambient_c=70, sink_k=60)
    assert min(play(chip, Governor(Policy(least_share=0.4)), HOUR).shares) == 0.4


def test_where_the_lanes_are_half_idle_it_begins_from_what_they_do() -> None:
    governor = Governor()
    assert governor.update(0.0, Signs(76.0, 80.0, throttled=True), busy=0.5).share == 0.4


def test_a_clock_that_stands_still_or_jumps_back_is_borne() -> None:
    governor = Governor()
    for now in (100.0, 100.0, 50.0, 50.0, 102.0, 104.0):
        assert governor.update(now, Signs(70.0, 80.0)).share == 1.0


def test_what_was_learnt_on_a_hot_day_is_tried_again_a_degree_higher_after_hours_without_a_sign() -> None:
    governor, now = Governor(), 0.0
    for _ in range(6):
        governor.update(now, Signs(temperature_c=67.0, trip_c=80.0, throttled=True))
        now += 2.0
    learned = [governor.learned_trip_c]
    for _ in range(4 * 24 * 60):
        now += 60.0
        governor.update(now, Signs(temperature_c=60.0, trip_c=80.0))
    assert [*learned, governor.learned_trip_c] == [67.0, None]
    assert governor.decision.share == 1.0
