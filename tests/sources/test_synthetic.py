"""The test pattern."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from edge_agent.errors import EndOfStream
from edge_agent.sources.synthetic import Config, SyntheticSource, build
from tests.sources.media import context


def test_its_frames_are_due_at_the_rate_asked_for() -> None:
    source = build(context("synthetic"), Config(fps=50, width=320, height=200))
    before = time.monotonic()
    info = source.open()
    assert (info.width, info.height, info.fps) == (320, 200, 50)
    dues = [source.read().not_before or 0.0 for _ in range(20)]
    assert np.diff(dues) == pytest.approx(np.full(19, 0.02), abs=1e-6)
    assert before <= dues[0] <= time.monotonic()


def test_it_ends_after_the_frames_asked_for_and_for_good() -> None:
    source = build(context("synthetic"), Config(frames=3))
    assert source.live
    assert source.finite, "its end is a finish, although it is live"
    source.open()
    for _ in range(3):
        source.read()
    for _ in range(2):
        with pytest.raises(EndOfStream):
            source.read()
    assert not build(context("synthetic"), Config()).finite


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1, 1), (7, 3), (1921, 1081)])
def test_any_size(width: int, height: int) -> None:
    source = build(context("synthetic"), Config(width=width, height=height))
    source.open()
    pixels = source.read().image.bgr()
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8


def test_the_clock_and_the_number_are_written_into_the_picture() -> None:
    source = SyntheticSource(Config(width=640, height=480), clock=lambda: 86399.9)
    source.open()
    for number in range(2):
        found = source.read().image.bgr()
        expected = source._background.copy()
        expected[:, number * 4 : number * 4 + 8] = 255
        cv2.putText(expected, f"23:59:59Z {number}", (8, 468), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
        assert np.array_equal(found, expected)


def test_frames_do_not_share_their_pixels() -> None:
    source = build(context("synthetic"), Config())
    source.open()
    first = source.read().image.bgr()
    kept = first.copy()
    source.read()
    assert np.array_equal(first, kept)
