"""captured = served + skipped + dropped + in flight, whatever happens to a camera in whatever order.

The machine plays the reader, the lanes and whoever commands, on one real Capture with its slot, and keeps its own books: which
frames came, which are waiting at most, which are in a lane's hands. A reader that would wait for room is not asked to put.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.camera_state import CameraState
from edge_agent.capture import Capture
from edge_agent.detections import Detections
from edge_agent.errors import EndOfStream, SourceUnavailable
from edge_agent.frame import Frame
from edge_agent.image import BgrImage, JpegImage
from edge_agent.models.base import Prediction, Timings
from edge_agent.reader import Reader, Superseded
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.scheduler import Job, Scheduler
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo
from edge_agent.telling import latency
from tests.conftest import make_config

PICTURE = BgrImage(np.zeros((2, 2, 3), np.uint8))
INFO = StreamInfo(2, 2, 25.0, "none")
NEVER = BackoffPolicy(first_s=1000.0, least_s=1000.0, cap_s=1000.0)


class Idle(Source):
    """Is never read: the machine itself tells the capture what came."""

    def __init__(self, *, live: bool) -> None:
        self.live, self.unpaced = live, not live
        self.missing = 0

    def open(self) -> StreamInfo:
        return INFO

    def read(self) -> Reading:
        raise SourceUnavailable("nobody reads this")

    def lost_upstream(self) -> int:
        count, self.missing = self.missing, 0
        return count

    def close(self) -> None:
        pass


class Accounting(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.came = self.missing = 0
        self.hands: list[Job] = []
        self.before: Any = None

    @initialize(
        live=st.booleans(),
        pace=st.sampled_from([{}, {"max_fps": 1000.0}, {"max_fps": 0.5}, {"interval_s": 60.0}]),
        stale=st.sampled_from([{}, {"staleness_ms": 0.001}, {"staleness_ms": 60000.0}]),
        end_from=st.integers(0, 25),
    )
    def a_camera(self, live: bool, pace: dict[str, float], stale: dict[str, float], end_from: int) -> None:
        source = "rtsp://camera/" if live else "clip.mp4"
        config = make_config({"cameras": [{"id": "c", "source": source, **pace, **(stale if live else {})}]})
        self.wake = threading.Condition()
        self.source = Idle(live=live)
        self.capture = Capture(config.cameras[0], self.source, self.wake, backoff=Backoff(NEVER))
        self.now = 1000.0  # what is due or stale must not hang on how fast the machine runs
        self.capture.slot._clock = lambda: self.now
        self.scheduler = Scheduler([self.capture], self.wake, lambda: self.now)
        self.reader: Reader = self.capture._readers.present
        self.reader.source = self.source
        self.capture._intake.opened(self.reader, INFO)
        self.stopped = self.abandoned = False
        self.may_end_in = end_from  # else most runs would end before anything has happened

    def _would_wait(self) -> bool:
        slot = self.capture.slot
        return slot.policy.every and len(slot._frames) >= slot.policy.depth and not (self.stopped or self.capture.muted)

    @precondition(lambda self: not self._would_wait() and self.capture.status.state is not CameraState.ENDED)
    @rule(left_out=st.integers(0, 3), missing=st.integers(0, 2), age_s=st.sampled_from([0.0, 0.5, 100.0]))
    def a_picture_comes(self, left_out: int, missing: int, age_s: float) -> None:
        self.source.missing += missing
        self.capture._intake.arrived(self.reader, Reading(PICTURE, 0.0), self.now - age_s, left_out)
        self.now += 0.0004
        self.missing += missing
        self.came += 0 if self.abandoned else 1 + left_out

    @precondition(lambda self: self.capture.status.state is not CameraState.ENDED)
    @rule(left_out=st.integers(0, 3))
    def a_damaged_picture_comes(self, left_out: int) -> None:
        self.capture._intake.unreadable(self.reader, FrameUnreadable("torn"), left_out)
        self.came += 0 if self.abandoned else 1 + left_out

    @precondition(lambda self: self.capture.slot)
    @rule()
    def a_lane_takes(self) -> None:
        job = self.scheduler.take(0.0)
        if job is not None:
            self.hands.append(job)

    @precondition(lambda self: self.hands)
    @rule(data=st.data(), good=st.booleans())
    def a_lane_is_done(self, data: st.DataObject, good: bool) -> None:
        job = self.hands.pop(data.draw(st.integers(0, len(self.hands) - 1)))
        job.capture.served() if good else job.capture.lost("model_error")

    @precondition(lambda self: self.capture.status.state is not CameraState.ENDED)
    @rule(left_out=st.integers(0, 3))
    def it_is_lost_and_comes_back(self, left_out: int) -> None:
        self.capture._intake.over(self.reader, left_out)
        self.came += 0 if self.abandoned else left_out
        self.capture._intake.failed(self.reader, SourceUnavailable("gone"))
        self.capture._intake.connecting(self.reader)
        self.capture._intake.opened(self.reader, INFO)

    @rule(command=st.sampled_from(["pause", "resume", "mute", "unmute"]))
    def somebody_commands(self, command: str) -> None:
        getattr(self.capture, command)()

    @precondition(lambda self: self.may_end_in <= 0 and self.capture.status.state is not CameraState.ENDED)
    @rule()
    def it_ends(self) -> None:
        self.capture._intake.finished(self.reader, EndOfStream("over"))

    @precondition(lambda self: self.may_end_in <= 0)
    @rule()
    def it_is_stopped(self) -> None:
        self.capture.stop()
        self.stopped = True

    @precondition(lambda self: self.stopped)
    @rule()
    def it_is_abandoned(self) -> None:
        self.capture.abandon()
        self.abandoned = True

    @precondition(lambda self: self.hands and self.may_end_in <= 0)
    @rule(good=st.booleans())
    def the_end_comes_while_a_lane_infers(self, good: bool) -> None:
        self.capture.stop()
        self.capture.abandon()
        self.stopped = self.abandoned = True
        job = self.hands.pop()
        job.capture.served() if good else job.capture.lost("model_error")

    @precondition(lambda self: not self.abandoned)
    @rule()
    def another_reader_has_no_say(self) -> None:
        other = Reader(self.capture._intake, lambda: self.source, "left behind")
        with pytest.raises(Superseded):
            self.capture._intake.arrived(other, Reading(PICTURE, 0.0), self.now, 2)

    @invariant()
    def it_adds_up(self) -> None:
        if not hasattr(self, "capture"):
            return
        counts = self.capture.snapshot()
        assert counts.captured == self.came
        assert counts.captured == counts.served + counts.skipped.sum + counts.dropped.sum + counts.in_flight
        # in flight is what waits and what lanes hold, and no remainder
        waiting = len(self.capture.slot._frames)
        assert counts.in_flight == (0 if self.abandoned else waiting + len(self.hands))
        assert min([counts.served, *counts.skipped.values(), *counts.dropped.values()]) >= 0
        assert self.capture.status.lost_upstream == self.missing

    @invariant()
    def nothing_is_taken_back(self) -> None:
        if not hasattr(self, "capture"):
            return
        self.may_end_in -= 1
        counts, before = self.capture.snapshot(), self.before
        if before is not None:
            assert counts.captured >= before.captured
            assert counts.served >= before.served
            assert all(counts.skipped[reason] >= count for reason, count in before.skipped.items())
            assert all(counts.dropped[reason] >= count for reason, count in before.dropped.items())
        self.before = counts


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)


def taken(source: str, reading: Reading, waited_s: float) -> Job:
    """A frame that waited so long for its lane."""
    config = make_config({"cameras": [{"id": "c", "source": source}]})
    capture = Capture(config.cameras[0], Idle(live=source.startswith("rtsp")), threading.Condition())
    frame = Frame("c", 0, reading.image, reading.captured_at, 0.0, decode_ms=reading.decode_ms)
    return Job(capture, frame, 0, reading.captured_at + waited_s)


@pytest.mark.parametrize(
    ("source", "decode_ms", "put_off_ms", "expected"),
    [
        ("rtsp://camera/", 4.0, 0.0, {"wait": 6.0, "decode": 4.0, "preprocess": 3.0}),  # decoded while it waited
        ("rtsp://camera/", 0.0, 2.0, {"wait": 10.0, "decode": 2.0, "preprocess": 1.0}),  # a JPEG: decoded when it was taken
        ("rtsp://camera/", 40.0, 0.0, {"wait": 0.0, "decode": 40.0, "preprocess": 3.0}),  # with pictures that it depends on
        ("clip.mp4", 4.0, 0.0, {"wait": 10.0, "decode": 4.0, "preprocess": 3.0}),  # a file's frame is captured when it is decoded
    ],
)
def test_the_parts_of_a_latency_do_not_overlap(source: str, decode_ms: float, put_off_ms: float, expected: dict[str, float]) -> None:
    job = taken(source, Reading(PICTURE, 100.0, decode_ms=decode_ms), 0.010)
    nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), ())
    parts = latency(job, Prediction(nothing, Timings(3.0, 5.0, 1.0, put_off_ms)), 100.020)
    assert {name: getattr(parts, name) for name in expected} == expected
    assert (parts.total, parts.infer, parts.postprocess) == (20.0, 5.0, 1.0)


def test_a_jpeg_tells_what_its_decoding_took_and_only_when_it_was_decoded() -> None:
    import cv2

    image = JpegImage(cv2.imencode(".jpg", np.zeros((480, 640, 3), np.uint8))[1].tobytes(), 640, 480)
    assert image.decode_ms == 0
    image.resized(160, 120, "RGB")
    first = image.decode_ms
    assert first > 0
    image.bgr()
    assert image.decode_ms > first
    assert PICTURE.decode_ms == 0
