"""Frames that never arrived, told from a camera's own numbers; and nothing told where those cannot be relied on."""

from __future__ import annotations

import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources._gaps import SequenceGaps, TimestampGaps
from edge_agent.sources._v4l2 import CAPTURE
from edge_agent.sources._v4l2_stream import Stream
from tests.sources.test_v4l2_stream import Driver

losses = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@given(st.integers(0, 2**32 - 1), losses)
def test_a_sequence_that_jumps_by_so_many_lost_so_many_also_where_it_wraps(start: int, lost: list[int]) -> None:
    gaps, sequence = SequenceGaps(), start
    gaps.note(sequence)
    gaps.note(sequence := (sequence + 1) % 2**32)
    found = 0
    for count in lost:
        sequence = (sequence + 1 + count) % 2**32
        found += gaps.note(sequence)
    assert found == sum(lost)


@given(st.lists(st.just(0), min_size=2, max_size=50))
def test_a_driver_that_does_not_count_loses_nothing(numbers: list[int]) -> None:
    gaps = SequenceGaps()
    assert sum(map(gaps.note, numbers)) == 0


def test_a_driver_that_counts_fields_loses_a_frame_with_two_of_them() -> None:
    gaps = SequenceGaps()
    assert sum(gaps.note(2 * number) for number in range(40)) == 0
    assert gaps.note(2 * 41) == 1


def test_a_sequence_that_begins_again_lost_nothing() -> None:
    gaps = SequenceGaps()
    assert [gaps.note(number) for number in (100, 101, 0, 1, 2, 4)] == [0, 0, 0, 0, 0, 1]


@st.composite
def steady_streams(draw: st.DrawFn) -> tuple[list[float], int]:
    """Timestamps of a steady camera with some frames missing, never several gaps in a row, and how many are."""
    interval = draw(st.floats(1 / 120, 0.5))
    jitter = draw(st.floats(0, 0.08))
    stamps, now, lost = [0.0], 0.0, 0
    for _ in range(32):
        now += interval
        stamps.append(now)
    for missing in draw(st.lists(st.integers(1, 6), max_size=6)):
        now += interval * (1 + missing)
        stamps.append(now)
        lost += missing
        for _ in range(12):
            now += interval
            stamps.append(now)
    noise = draw(st.lists(st.floats(-1, 1), min_size=len(stamps), max_size=len(stamps)))
    return [stamp + jitter * interval * each for stamp, each in zip(stamps, noise, strict=True)], lost


def came(stamp: float | None) -> float:
    """Over no network at all."""
    return 0.0 if stamp is None else stamp


@given(st.floats(0.5, 9.5))
def test_a_clock_that_is_set_forward_is_no_loss(seconds: float) -> None:
    gaps = TimestampGaps()
    stamps = [(index / 25 + (seconds if index >= 100 else 0.0), index / 25) for index in range(200)]
    assert sum(gaps.note(stamp, now) for stamp, now in stamps) == 0


@given(steady_streams())
def test_of_a_steady_stream_each_missing_frame_is_counted(stream: tuple[list[float], int]) -> None:
    stamps, lost = stream
    gaps = TimestampGaps()
    assert sum(gaps.note(stamp, came(stamp)) for stamp in stamps) == lost


@given(st.integers(0, 2**32))
def test_of_a_variable_rate_nothing_is_called_lost(seed: int) -> None:
    chance, gaps, now, found = random.Random(seed), TimestampGaps(), 0.0, 0
    for _ in range(500):
        now += 1 / chance.uniform(5, 30)
        found += gaps.note(now, now)
    assert found == 0


def test_a_camera_that_halves_its_rate_at_night_lost_nothing() -> None:
    gaps, now, found = TimestampGaps(), 0.0, 0
    for index in range(400):
        now += 1 / 30 if index < 200 else 1 / 15
        found += gaps.note(now, now)
    assert found == 0


def test_twenty_five_frames_on_a_clock_of_thirty_are_no_loss() -> None:
    gaps = TimestampGaps()
    assert sum(gaps.note((index * 30 // 25) / 30, index / 25) for index in range(500)) == 0


def test_pictures_in_the_order_of_decoding_are_not_judged() -> None:
    order = [(4 * group + offset) / 25 for group in range(60) for offset in (0, 3, 1, 2)]
    gaps = TimestampGaps()
    assert sum(gaps.note(stamp, came(stamp)) for stamp in order) == 0


def test_a_clock_that_is_set_or_stands_still_and_a_long_silence_are_no_loss() -> None:
    gaps = TimestampGaps()
    steady = [index / 25 for index in range(50)]
    stamps: list[float | None] = [*steady, 2.0, 2.0, None, -50.0, *(500 + each for each in steady)]
    assert sum(gaps.note(stamp, came(stamp)) for stamp in stamps) == 0
    assert sum(gaps.note(stamp, came(stamp)) for stamp in (502.08, 502.12)) == 2  # 501.96 was the last


class CountingDriver(Driver):
    """A driver that counts its frames; ``lost`` of them before the next are not delivered."""

    sequence = 0
    lost = 0

    def _dqbuf(self, buffer: bytearray) -> None:
        super()._dqbuf(buffer)
        self.sequence += 1 + self.lost
        self.lost = 0
        struct.pack_into("I", buffer, 56, self.sequence)


def test_a_v4l2_stream_counts_what_the_driver_did_not_deliver_also_between_pictures_that_nobody_wanted() -> None:
    driver = CountingDriver()
    stream = Stream(driver, CAPTURE)
    for wanted, lost in ((True, 0), (True, 0), (False, 2), (True, 1), (False, 0)):
        driver.fill(b"x")
        driver.lost = lost
        assert (stream.next(1.0, 0.0 if wanted else float("inf")) is not None) is wanted
    assert stream.lost_upstream == 3
    stream.close()
    driver.close()
