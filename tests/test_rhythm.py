"""How long a camera may be silent: by its own rhythm, whatever that is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.rhythm import Rhythm, RhythmPolicy

POLICY = RhythmPolicy()
intervals = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


def after(*intervals_s: float) -> Rhythm:
    rhythm = Rhythm()
    for interval_s in intervals_s:
        rhythm.note(interval_s)
    return rhythm


def test_a_usual_camera_is_stalled_after_a_second_or_two_and_a_slow_one_later() -> None:
    assert 1 <= after(*[1 / 30] * 20).limit_s <= 2
    assert after(*[60.0] * 4).limit_s > 60
    assert after().limit_s == POLICY.unknown_s
    assert after(0.2).limit_s < 5, "one interval tells already"


@given(intervals)
def test_the_limit_is_never_below_the_floor_nor_out_of_reach(given_s: list[float]) -> None:
    rhythm, longest = Rhythm(), 0.0
    for interval_s in given_s:
        before = rhythm.limit_s
        rhythm.note(interval_s)
        longest = max(longest, interval_s)
        assert rhythm.limit_s >= POLICY.floor_s
        assert rhythm.limit_s <= max(POLICY.floor_s, POLICY.times * min(longest, max(before, rhythm.limit_s / POLICY.times)))
        assert rhythm.limit_s <= POLICY.times * max(before, POLICY.floor_s), "it grows by its factor at most"


@given(st.floats(0.001, 600), st.lists(st.floats(0.0, 2.9), min_size=1, max_size=100))
def test_jitter_is_no_stall(period_s: float, jitter: list[float]) -> None:
    rhythm = after(*[period_s] * 20)
    for factor in jitter:
        assert period_s * factor <= rhythm.limit_s
        rhythm.note(period_s)


@given(st.floats(0.001, 0.2), st.integers(2, 50), st.floats(0.1, 5))
def test_bursts_are_no_stall(within_s: float, frames: int, pause_s: float) -> None:
    """Groups of pictures that come together, with a pause after each: no pause is longer than the limit once two were seen."""
    rhythm = after(*[pause_s, *[within_s] * frames] * 3)
    for _ in range(20):
        assert pause_s <= rhythm.limit_s
        rhythm.note(pause_s)
        for _ in range(frames):
            rhythm.note(within_s)


@given(st.floats(0.001, 0.4), st.floats(2, 1e6))
def test_one_outage_is_forgotten(period_s: float, outage_s: float) -> None:
    rhythm = after(*[period_s] * 30)
    usual = rhythm.limit_s
    rhythm.note(outage_s)
    assert rhythm.limit_s <= POLICY.times * usual
    for _ in range(POLICY.window):
        rhythm.note(period_s)
    assert rhythm.limit_s == usual


@given(st.floats(0.001, 0.1), st.floats(1, 3600))
def test_a_camera_that_has_become_slower_is_believed_after_a_few_frames(before_s: float, after_s: float) -> None:
    rhythm = after(*[before_s] * 30)
    stalls = 0
    for _ in range(30):
        stalls += after_s > rhythm.limit_s
        rhythm.note(after_s)
    assert stalls <= 8
    assert rhythm.limit_s > after_s


def test_the_usual_interval_is_as_long_as_nine_in_ten() -> None:
    rhythm = Rhythm()
    assert rhythm.usual_s == 0.0
    for interval in [0.03] * 16 + [0.04] * 3 + [0.9]:
        rhythm.note(interval)
    assert rhythm.usual_s == 0.04
