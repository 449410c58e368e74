"""How much of a live stream waits to be read, by the stream's own clock, on a simulated one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources._ffmpeg_times import Backlog


def behind(arrivals: list[tuple[float, float]], decode_s: float) -> list[float]:
    """``arrivals``: when each packet came, and its time in the stream. Each takes so long to decode before the next is asked for."""
    backlog, now, found = Backlog(), arrivals[0][0], []
    for came, stamp in arrivals:
        asked = now
        now = max(now, came)
        found.append(backlog.note(stamp, asked, now))
        now += decode_s
    return found


@given(st.floats(5, 60), st.floats(0, 0.95))
def test_who_keeps_up_is_never_behind(fps: float, share: float) -> None:
    assert max(behind([(100 + n / fps, 5000 + n / fps) for n in range(200)], share / fps)) <= 0.003


@given(st.floats(5, 60), st.floats(1.2, 10))
def test_who_does_not_keep_up_is_behind_by_what_is_missing(fps: float, share: float) -> None:
    found = behind([(100 + n / fps, n / fps) for n in range(200)], share / fps)
    assert found[-1] == pytest.approx(199 * (share - 1) / fps, rel=0.05)


@given(st.lists(st.floats(0, 3), min_size=5, max_size=50))
def test_what_a_network_holds_up_and_sends_at_once_is_no_backlog_of_ours(delays: list[float]) -> None:
    arrivals, latest = [], 100.0
    for number, delay in enumerate(delays):
        latest = max(latest, 100 + number / 25 + delay)
        arrivals.append((latest, number / 25))
    assert max(behind(arrivals, 0.001)) <= 0.01


def test_a_clock_that_jumps_begins_anew() -> None:
    backlog = Backlog()
    for now, stamp in ((1.0, 100.0), (1.04, 100.04), (1.08, 50.0), (1.12, 50.04), (1.16, 9000.0)):
        assert backlog.note(stamp, now, now) == pytest.approx(0.0, abs=0.001)
    assert backlog.note(None, 2.0, 2.0) == 0.0
