"""A source that is replaced is let go of, with all that it held: however often that happens, it costs no memory and no descriptor."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from edge_agent.camera_sources import patient_source
from edge_agent.capture import Capture
from edge_agent.config import AgentConfig
from edge_agent.sources.base import Source
from tests.conftest import make_config, wait_until


@contextmanager
def serving(config: AgentConfig) -> Iterator[tuple[Capture, Callable[[int], None], Callable[[], Source]]]:
    """Its first camera, what serves so many of its frames, and what makes its source."""
    camera, wake = config.cameras[0], threading.Condition()
    make = partial(patient_source, config, camera)
    capture = Capture(camera, make(), wake, another=make)

    def one() -> bool:
        with wake:
            frame = capture.take(time.monotonic())
        if frame is not None:
            capture.served()
        return frame is not None

    def serve(count: int) -> None:
        for _ in range(count):
            wait_until(one, 60)

    capture.start()
    try:
        yield capture, serve, make
    finally:
        capture.stop()
        assert capture.join(20)


def shared_pictures() -> int:
    """Of other processes, mapped into ours."""
    return Path("/proc/self/maps").read_text().count("/memfd:edge_agent")


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_sources_that_were_replaced_are_let_go_of(isolation: str) -> None:
    config = make_config({"cameras": [{"id": "front", "source": "synthetic", "fps": 30, "isolation": isolation}]})
    gc.collect()
    gc.disable()  # by counting references alone: a collection of the eldest may be hours away
    try:
        before = shared_pictures()
        with serving(config) as (capture, serve, make):
            serve(2)
            of_one = shared_pictures() - before
            gone: list[weakref.ref[Source]] = []
            for _ in range(3):
                gone.append(weakref.ref(capture.source))
                capture.replace_source(config.cameras[0], make(), make)
                serve(2)
            wait_until(lambda: not any(source() for source in gone), what="the end of sources that were replaced")
            wait_until(lambda: shared_pictures() - before <= max(of_one, 4), what="less shared memory")
            capture.retire(20)
        wait_until(lambda: shared_pictures() == before, what="an end of shared memory")  # while the capture is remembered
    finally:
        gc.enable()
