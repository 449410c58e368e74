"""A test pattern: a moving bar and a burned-in clock. Needs no hardware; lives at the rate asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import Field

from edge_agent.config_values import Count, Rate, Table
from edge_agent.errors import EndOfStream
from edge_agent.image import BgrImage, Pixels
from edge_agent.libraries import ensure
from edge_agent.sources.base import Pixels as PixelCount
from edge_agent.sources.base import Reading, Source, SourceContext, StreamInfo


class Config(Table):
    """Keys of the test pattern."""

    width: PixelCount = 640
    """Pixels."""
    height: PixelCount = 480
    """Pixels."""
    fps: Rate = 30
    """Frames per second."""
    frames: Annotated[Count | None, Field(examples=[300])] = None
    """End after so many. Default: never."""


def claims(source: str | int) -> bool:
    """The word "synthetic"."""
    return source == "synthetic"


class SyntheticSource(Source):
    """Colour bars, a bar that moves with the frame number, and the time of day."""

    live = True

    @property
    def finite(self) -> bool:
        return self._config.frames is not None

    def __init__(self, config: Config, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._count = 0
        self._due = 0.0
        self._background = self._bars()

    def _bars(self) -> Pixels:
        colours = np.array([[255, 255, 255], [0, 255, 255], [255, 255, 0], [0, 255, 0], [255, 0, 255], [0, 0, 255], [255, 0, 0]], np.uint8)
        columns = np.arange(self._config.width) * len(colours) // self._config.width
        bars: Pixels = np.broadcast_to(colours[columns] // 2, (self._config.height, self._config.width, 3)).copy()
        return bars

    def open(self) -> StreamInfo:
        ensure("cv2")
        self._due = time.monotonic()
        config = self._config
        return StreamInfo(config.width, config.height, config.fps, "none (synthetic)")

    def read(self) -> Reading:
        if self._config.frames is not None and self._count >= self._config.frames:
            raise EndOfStream("the test pattern has ended")
        now = time.monotonic()
        # A pause of the reader's is not caught up with.
        due = self._due if self._due > now - 1 else now
        self._due = due + 1 / self._config.fps
        reading = Reading(BgrImage(self._draw()), now, not_before=due)
        self._count += 1
        return reading

    def _draw(self) -> Pixels:
        import cv2

        pixels: Pixels = self._background.copy()
        x = self._count * 4 % self._config.width
        pixels[:, x : x + 8] = 255
        text = f"{time.strftime('%H:%M:%S', time.gmtime(self._clock()))}Z {self._count}"
        cv2.putText(pixels, text, (8, self._config.height - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1)
        return pixels

    def close(self) -> None:
        """Nothing to let go of."""


def build(context: SourceContext, config: Config) -> Source:
    """A test pattern."""
    return SyntheticSource(config)
