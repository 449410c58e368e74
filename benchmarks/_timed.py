"""Cameras for the benchmarks whose frames arrive at times that are known beforehand."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Iterator

import numpy as np

from edge_agent.errors import SourceUnavailable
from edge_agent.image import BgrImage, Pixels
from edge_agent.sources.base import Reading, Source, StreamInfo

HEIGHT, WIDTH = 720, 1280


def steady(fps: float) -> Iterator[float]:
    """Arrival times from 0."""
    return (count / fps for count in itertools.count())


def bursty(fps: float, together: int = 3, apart_s: float = 0.002) -> Iterator[float]:
    """So many at a time, as when a network holds packets back."""
    return (count // together * together / fps + count % together * apart_s for count in itertools.count())


def variable(slowest: float, fastest: float, seed: int = 5) -> Iterator[float]:
    """Another rate about every second, anywhere between the two, as exposure follows the light."""
    dice, at = random.Random(seed), 0.0
    while True:
        fps = slowest * (fastest / slowest) ** dice.random()
        for _ in range(max(1, round(fps * 0.8))):
            yield at
            at += 1 / fps


class TimedSource(Source):
    """Frames that arrive at known times, each complete in itself as MJPEG's are. One that is not wanted is not decoded."""

    def __init__(self, declared: float, arrivals: Iterator[float], hang_after_s: float = math.inf) -> None:
        self.arrived: list[float] = []
        """Monotonic seconds of every frame so far, by its number."""
        self.decoded_at: list[float] = []
        self._declared, self._arrivals, self._hang_after_s = declared, arrivals, hang_after_s
        self._picture: Pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        self._begun: float | None = None
        self._skip_until, self._left_out = 0.0, 0
        self._closed = threading.Event()

    def open(self) -> StreamInfo:
        if self._begun is not None:
            raise SourceUnavailable("was opened already")
        self._begun = time.monotonic() + 0.05
        return StreamInfo(WIDTH, HEIGHT, self._declared, "none (benchmark)")

    def read(self) -> Reading:
        assert self._begun is not None
        while True:
            after = next(self._arrivals)
            if after > self._hang_after_s:
                self._closed.wait()
            at = self._begun + after
            time.sleep(max(0.0, at - time.monotonic()))
            self.arrived.append(at)
            if at >= self._skip_until:
                break
            self._left_out += 1
        self.decoded_at.append(at)
        return Reading(BgrImage(self._picture), at)

    def skip_until(self, at: float, cheaper_by: float = 0.0) -> None:
        self._skip_until = at

    def left_out(self) -> int:
        count, self._left_out = self._left_out, 0
        return count

    def close(self) -> None:
        """Nothing to let go of."""

    def release(self) -> None:
        """Let a call that hangs come back, at the end."""
        self._closed.set()
