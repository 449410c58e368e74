"""Whose turn it is: fairness, pacing and order, on an injected clock."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.camera_state import CameraState
from edge_agent.capture import Capture
from edge_agent.frame import Frame
from edge_agent.image import BgrImage
from edge_agent.scheduler import Scheduler
from edge_agent.sources.base import Reading, Source, StreamInfo
from tests.conftest import make_config

PIXEL = BgrImage(np.zeros((1, 1, 3), np.uint8))


class Clock:
    """Time that moves only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class NoSource(Source):
    """The tests put frames into the slots themselves."""

    live = True

    def open(self) -> StreamInfo:
        raise NotImplementedError

    def read(self) -> Reading:
        raise NotImplementedError

    def close(self) -> None:
        pass


def captures(*cameras: dict[str, object]) -> tuple[list[Capture], threading.Condition]:
    wake = threading.Condition()
    tables = [{"id": f"c{i}", "source": "synthetic", **more} for i, more in enumerate(cameras)]
    return [Capture(camera, NoSource(), wake) for camera in make_config({"cameras": tables}).cameras], wake


def put(capture: Capture, clock: Clock, frame_id: int = 0) -> None:
    capture.slot._frames.clear()
    capture.slot._frames.append(Frame(capture.camera.id, frame_id, PIXEL, clock.now, 0.0))


def test_cameras_that_are_always_ready_take_turns() -> None:
    clock = Clock()
    cameras, wake = captures({}, {}, {})
    scheduler = Scheduler(cameras, wake, clock)
    taken = Counter[str]()
    for _ in range(300):
        for camera in cameras:
            put(camera, clock)
        job = scheduler.take(0)
        assert job is not None
        taken[job.frame.camera] += 1
    assert set(taken.values()) == {100}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=20, max_size=200))
def test_no_camera_gets_a_second_turn_while_another_waits(rounds: list[list[bool]]) -> None:
    """Of the cameras that wait, none is passed over twice by the same other one."""
    clock = Clock()
    cameras, wake = captures({}, {}, {}, {})
    scheduler = Scheduler(cameras, wake, clock)
    passed_over: dict[tuple[str, str], int] = {}
    for ready in rounds:
        for camera, is_ready in zip(cameras, ready, strict=True):
            if is_ready:
                put(camera, clock)
        waiting = [camera.camera.id for camera in cameras if camera.ready_at() is not None]
        job = scheduler.take(0)
        assert (job is not None) == bool(waiting)
        if job is not None:
            served = job.frame.camera
            for other in waiting:
                if other != served:
                    passed_over[other, served] = passed_over.get((other, served), 0) + 1
                    assert passed_over[other, served] <= 2
            passed_over = {pair: n for pair, n in passed_over.items() if pair[0] != served}


def test_a_camera_that_comes_back_does_not_claim_the_turns_it_missed() -> None:
    clock = Clock()
    cameras, wake = captures({}, {})
    scheduler = Scheduler(cameras, wake, clock)
    for _ in range(100):
        put(cameras[0], clock)
        assert scheduler.take(0) is not None
    served = Counter[str]()
    for _ in range(20):
        put(cameras[0], clock)
        put(cameras[1], clock)
        job = scheduler.take(0)
        assert job is not None
        served[job.frame.camera] += 1
    assert abs(served["c0"] - served["c1"]) <= 1


def test_max_fps_holds_a_camera_back_and_keeps_its_beat() -> None:
    clock = Clock()
    cameras, wake = captures({"max_fps": 4})
    scheduler = Scheduler(cameras, wake, clock)
    served = 0
    for _ in range(1000):  # ten seconds of a camera of 100 fps
        put(cameras[0], clock)
        served += scheduler.take(0) is not None
        clock.now += 0.01
    assert served == pytest.approx(40, abs=1)


def test_tickets_number_each_cameras_frames_without_gaps() -> None:
    clock = Clock()
    cameras, wake = captures({}, {})
    scheduler = Scheduler(cameras, wake, clock)
    tickets: dict[str, list[int]] = {"c0": [], "c1": []}
    for number in range(30):
        put(cameras[number % 3 % 2], clock)
        job = scheduler.take(0)
        assert job is not None
        tickets[job.frame.camera].append(job.ticket)
    assert all(found == list(range(len(found))) for found in tickets.values())


def test_finished_only_when_every_camera_has_ended_and_no_frame_waits() -> None:
    clock = Clock()
    cameras, wake = captures({}, {})
    scheduler = Scheduler(cameras, wake, clock)
    cameras[0].status.state = CameraState.ENDED
    assert not scheduler.finished()
    put(cameras[1], clock)
    cameras[1].status.state = CameraState.ENDED
    assert not scheduler.finished()
    assert scheduler.take(0) is not None
    assert scheduler.finished()


def test_a_waiting_lane_is_woken_by_a_frame() -> None:
    cameras, wake = captures({})
    scheduler = Scheduler(cameras, wake)
    found: list[object] = []
    lane = threading.Thread(target=lambda: found.append(scheduler.take(30)))
    lane.start()
    with wake:
        put(cameras[0], Clock())
        wake.notify_all()
    lane.join(5)
    assert not lane.is_alive()
    assert found[0] is not None


class Watching(NoSource):
    """Keeps what it was told about when the next frame is wanted."""

    def __init__(self) -> None:
        self.wanted_at: list[float] = []

    def skip_until(self, at: float, cheaper_by: float = 0.0) -> None:
        self.wanted_at.append(at)


def watched(count: int) -> tuple[list[Capture], list[Watching], Scheduler, Clock]:
    clock, wake = Clock(), threading.Condition()
    sources = [Watching() for _ in range(count)]
    tables = [{"id": f"c{i}", "source": "synthetic"} for i in range(count)]
    made = [Capture(camera, source, wake) for camera, source in zip(make_config({"cameras": tables}).cameras, sources, strict=True)]
    return made, sources, Scheduler(made, wake, clock), clock


def test_a_source_is_told_until_when_the_model_is_busy() -> None:
    cameras, (source,), scheduler, clock = watched(1)
    for _ in range(3):
        put(cameras[0], clock)
        assert scheduler.take(0)
        clock.now += 0.2
    assert source.wanted_at[0] == 1000.0, "nothing is known before the first inference ended"
    assert source.wanted_at[2] == pytest.approx(1000.4 + 0.2)


def test_a_source_is_told_that_the_others_go_first() -> None:
    cameras, sources, scheduler, clock = watched(3)
    for _ in range(9):
        for camera in cameras:
            put(camera, clock)
        assert scheduler.take(0)
        clock.now += 0.1
    assert max(source.wanted_at[-1] for source in sources) == pytest.approx(1000.8 + 3 * 0.1)


def test_with_a_free_lane_every_frame_is_wanted() -> None:
    cameras, (source,), scheduler, clock = watched(1)
    for lane in (0, 1, 0, 1):
        put(cameras[0], clock)
        assert scheduler.take(0, lane=lane)
        clock.now += 0.2
    put(cameras[0], clock)
    assert scheduler.take(0, lane=0)
    assert source.wanted_at[-1] == pytest.approx(1000.6 + 0.4), "when the other lane comes back"
    assert scheduler.take(0, lane=1) is None
    put(cameras[0], clock)
    assert scheduler.take(0, lane=0)
    assert source.wanted_at[-1] == clock.now, "the other lane waits"
