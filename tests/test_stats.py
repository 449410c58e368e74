"""Counters that add up, percentiles, and rates."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.stats import FEWEST, GROWTH, FrameCounts, RateMeter, ReasonCounter, Sketch, merged, percentiles


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1000)), st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1000)))
def test_captured_is_served_plus_skipped_plus_dropped_plus_in_flight(skipped: dict[str, int], dropped: dict[str, int]) -> None:
    counts = FrameCounts(5000, 7, ReasonCounter(skipped), ReasonCounter(dropped))
    assert counts.in_flight == 5000 - 7 - sum(skipped.values()) - sum(dropped.values())
    assert counts.skipped.sum == sum(skipped.values())


def test_a_reason_never_seen_counts_nothing_and_is_not_kept() -> None:
    counter = ReasonCounter()
    assert (counter["model_busy"], counter.sum, dict(counter)) == (0, 0, {})


def filled(measured: Sequence[float]) -> Sketch:
    sketch = Sketch()
    for value in measured:
        sketch.add(value)
    return sketch


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60), st.lists(st.integers(0, 100), min_size=1, max_size=5, unique=True))
def test_percentiles_are_in_order_and_each_within_one_percent_of_a_value_of_that_rank(measured: list[float], which: list[int]) -> None:
    found = filled(measured).percentiles(which)
    assert found is not None
    assert set(found) == {f"p{name}" for name in which}
    assert list(found.values()) == sorted(found.values())
    ordered = sorted(measured)
    for name in which:
        rank = math.floor(name * (len(ordered) - 1) / 100)
        assert math.isclose(found[f"p{name}"], ordered[rank], rel_tol=math.sqrt(GROWTH) - 1 + 1e-6, abs_tol=0.001)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9, 1e12, math.inf])
def test_what_cannot_be_is_kept_at_the_ends(value: float) -> None:
    found = filled([value]).percentiles((50,))
    assert found is not None
    assert found["p50"] == 0.0 if value < 1 else found["p50"] > 9e6


def test_percentiles_of_known_values_and_their_mean() -> None:
    sketch = filled(range(1, 102))
    found = sketch.percentiles()
    assert found is not None
    assert found == pytest.approx({"p50": 51, "p95": 96, "p99": 100}, rel=0.01)
    assert sketch.mean() == pytest.approx(51, rel=0.01)


def test_without_values_there_is_nothing_to_tell() -> None:
    assert (Sketch().percentiles(), Sketch().mean(), percentiles([]), percentiles([Sketch(), Sketch()])) == (None, None, None, None)


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=30), st.lists(st.floats(0.01, 1e5), min_size=1, max_size=30))
def test_several_sketches_tell_what_one_of_all_values_would(one: list[float], other: list[float]) -> None:
    assert percentiles([filled(one), filled(other)]) == filled(one + other).percentiles()


def test_what_is_older_than_two_halves_is_forgotten() -> None:
    now = [0.0]
    sketch = Sketch(half_s=30, clock=lambda: now[0])
    for _ in range(FEWEST):
        sketch.add(1000.0)
    for step in range(3 * FEWEST):
        now[0] = 31.0 + step
        sketch.add(1.0)
        if step == 5:
            assert sketch.percentiles((99,)) == pytest.approx({"p99": 1000}, rel=0.01)  # the older half still counts
    assert sketch.percentiles((100,)) == pytest.approx({"p100": 1.0}, rel=0.01)


def test_of_a_slow_camera_more_than_a_minute_is_kept() -> None:
    now = [0.0]
    sketch = Sketch(half_s=30, clock=lambda: now[0])
    for minute in range(50):
        now[0] = 60.0 * minute
        sketch.add(float(minute + 1))
    assert FEWEST <= sum(sketch.counts()) <= 2 * FEWEST + 1


def test_threads_lose_no_value() -> None:
    sketch = Sketch()

    def work() -> None:
        for _ in range(5000):
            sketch.add(5.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(sketch.counts()) == 20000


@given(st.floats(0.5, 200), st.floats(0, 1e6), st.integers(2, 300))
def test_a_steady_rate_is_measured_as_it_is(fps: float, start: float, events: int) -> None:
    meter = RateMeter(span_s=1e9)
    for index in range(events):
        meter.tick(start + index / fps)
    span = (events - 1) / fps
    # A burst of a few frames at the start is no rate yet.
    assert math.isclose(meter.rate(start + span), fps if span >= 0.25 else (events - 1) / 0.25, rel_tol=0.01, abs_tol=0.02)


@given(st.lists(st.floats(0.001, 3), min_size=2, max_size=50), st.lists(st.floats(0, 30), min_size=2, max_size=10))
def test_a_rate_is_never_negative_and_ends_at_none(gaps: list[float], waits: list[float]) -> None:
    meter = RateMeter(span_s=10)
    now = 0.0
    for gap in gaps:
        now += gap
        meter.tick(now)
    rates = [meter.rate(now + wait) for wait in sorted(waits)]
    assert all(rate >= 0 for rate in rates)
    assert meter.rate(now + 11) == 0.0


def test_a_rate_falls_step_by_step_once_a_camera_is_silent() -> None:
    meter = RateMeter(span_s=10)
    for index in range(11):
        meter.tick(index / 10)
    rates = [meter.rate(1.0 + silent) for silent in (0, 0.1, 1, 5, 8.9)]
    assert rates[:2] == [10.0, 10.0]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1.5


@pytest.mark.parametrize("ticks", [[], [5.0], [5.0, 5.0]])
def test_too_little_to_tell_a_rate(ticks: list[float]) -> None:
    meter = RateMeter()
    for tick in ticks:
        meter.tick(tick)
    assert meter.rate(5.0) == 0.0


def test_only_the_span_counts() -> None:
    meter = RateMeter(span_s=1)
    for tick in (0.0, 0.001, 0.002, 9.0, 9.5):
        meter.tick(tick)
    assert meter.rate(9.5) == 2.0


def test_merged_is_sorted_and_a_copy() -> None:
    counter = ReasonCounter({"b": 1, "a": 2})
    plain = merged(counter)
    counter["a"] = 9
    assert list(plain.items()) == [("a", 2), ("b", 1)]


@given(st.floats(1, 60), st.floats(0.01, 3))
def test_events_that_are_told_of_in_lumps_are_no_faster_than_they_came(fps: float, seconds: float) -> None:
    meter, now, lump = RateMeter(), 1000.0, max(1, int(fps * seconds))
    for _ in range(max(3, int(12 * fps / lump))):
        now += lump / fps
        meter.tick(now, lump)
    assert meter.rate(now) == pytest.approx(fps, rel=0.03, abs=0.05)
