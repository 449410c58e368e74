"""Memory that is given back to the system."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import numpy as np

from edge_agent.camera_state import CameraState
from edge_agent.capture import Capture
from edge_agent.errors import SourceUnavailable
from edge_agent.memory import give_back
from edge_agent.sources.base import Reading, Source, StreamInfo
from tests.conftest import make_config, wait_until

PAGE = 4096


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def test_what_was_freed_between_things_that_live_on_is_given_back() -> None:
    small = 100_000  # below what the C library maps on its own
    made = [np.ones(small, np.uint8) for _ in range(1000)]
    kept = made[::10]
    before = resident()
    del made
    assert give_back()
    assert before - resident() > 50_000_000
    assert sum(int(one[0]) for one in kept) == 100


class Decoder:
    """Something large."""


class Lost(Source):
    """Is lost while its decoder is in use."""

    def __init__(self) -> None:
        self.decoders: list[weakref.ref[Decoder]] = []

    def open(self) -> StreamInfo:
        return StreamInfo(4, 2, None, "none")

    def read(self) -> Reading:
        decoder = Decoder()
        self.decoders.append(weakref.ref(decoder))
        try:
            raise OSError("gone")
        except OSError as error:
            raise SourceUnavailable(f"lost: {error}") from None

    def close(self) -> None:
        pass


def test_a_cameras_last_error_keeps_nothing_of_the_decoder_that_was_lost() -> None:
    source = Lost()
    (camera,) = make_config({"cameras": [{"id": "c", "source": "synthetic"}]}).cameras
    capture = Capture(camera, source, threading.Condition())
    gc.disable()  # what only a collection would find is found late, or after the memory has run out
    try:
        capture.start()
        wait_until(lambda: capture.status.last_error is not None and capture.status.state is CameraState.BACKOFF)
        wait_until(lambda: source.decoders[0]() is None)
    finally:
        gc.enable()
        capture.stop()
    assert capture.join(5)
