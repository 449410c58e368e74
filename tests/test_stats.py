"""Counters that add up, percentiles, and rates."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.stats import FrameCounts, RateMeter, ReasonCounter, Window, merged

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1000)), st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1000)))
def test_captured_is_served_plus_skipped_plus_dropped_plus_in_flight(skipped: dict[str, int], dropped: dict[str, int]) -> None:
    counts = FrameCounts(5000, 7, ReasonCounter(skipped), ReasonCounter(dropped))
    assert counts.in_flight == 5000 - 7 - sum(skipped.values()) - sum(dropped.values())
    assert counts.skipped.sum == sum(skipped.values())


def test_a_reason_never_seen_counts_nothing_and_is_not_kept() -> None:
    counter = ReasonCounter()
    assert (counter["model_busy"], counter.sum, dict(counter)) == (0, 0, {})


@given(values)
def test_percentiles_are_in_order_and_within_the_values(measured: list[float]) -> None:
    window = Window()
    for value in measured:
        window.add(value)
    found = window.percentiles((0, 50, 95, 100))
    assert found is not None
    assert list(found) == ["p0", "p50", "p95", "p100"]
    assert found["p0"] == round(min(measured), 3)
    assert found["p100"] == round(max(measured), 3)
    assert list(found.values()) == sorted(found.values())


def test_percentiles_of_known_values() -> None:
    window = Window()
    for value in range(101):
        window.add(value)
    assert window.percentiles() == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


def test_a_window_without_values_has_no_percentiles_and_an_old_value_leaves_it() -> None:
    window = Window(size=3)
    assert window.percentiles() is None
    for value in (1000.0, 1.0, 1.0, 1.0):
        window.add(value)
    assert window.percentiles((100,)) == {"p100": 1.0}


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
