"""The runner of a source, driven by a scripted one: what becomes of frames, states, errors and stops."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent._capture_asking import HINT_S
from edge_agent._capture_standing import CAMERA_BACKOFF
from edge_agent.camera_state import CameraState
from edge_agent.capture import Capture
from edge_agent.config import CameraConfig
from edge_agent.errors import ConfigError, EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.frame import Frame
from edge_agent.image import BgrImage
from edge_agent.reader import MAX_UNREADABLE
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo
from tests.conftest import make_config, wait_until

PIXELS = np.zeros((4, 6, 3), np.uint8)
INFO = StreamInfo(6, 4, 25.0, "none (scripted)")
AT_ONCE = BackoffPolicy(first_s=0.002, least_s=0.001, cap_s=0.002, stable_s=1000.0)
NEVER = BackoffPolicy(first_s=1000.0, least_s=1000.0, cap_s=1000.0)

Step = BaseException | Callable[[], Reading]


def frame(not_before: float | None = None) -> Callable[[], Reading]:
    return lambda: Reading(BgrImage(PIXELS), time.monotonic(), not_before=not_before)


class ScriptedSource(Source):
    """Answers each ``read`` with the next step, and each ``open`` with the next of ``openings``, else well.

    With ``gated``, each read waits for a permit; ``waiting`` says that one does.
    """

    def __init__(self, steps: Sequence[Step], *, live: bool = True, openings: Sequence[BaseException] = (), gated: bool = False) -> None:
        self.live = live
        self.steps = list(steps)
        self.openings = list(openings)
        self.opened = self.reads = self.closed = 0
        self.gated = gated
        self.permits = threading.Semaphore(0)
        self.waiting = threading.Event()
        self.wanted_at: list[float] = []
        self.leaving_out: list[int] = []

    def open(self) -> StreamInfo:
        self.opened += 1
        if self.openings:
            raise self.openings.pop(0)
        return INFO

    def read(self) -> Reading:
        if self.gated:
            self.waiting.set()
            self.permits.acquire()
            self.waiting.clear()
        self.reads += 1
        step = self.steps.pop(0) if self.steps else SourceBroken("the script is over")
        if isinstance(step, BaseException):
            raise step
        return step()

    def allow(self, reads: int = 1) -> None:
        """Let so many reads through, and wait until the next one waits."""
        for _ in range(reads):
            assert self.waiting.wait(10)
            self.waiting.clear()
            self.permits.release()
        assert self.waiting.wait(10)

    def skip_until(self, at: float, cheaper_by: float = 0.0) -> None:
        self.wanted_at.append(at)

    def left_out(self) -> int:
        return self.leaving_out.pop(0) if self.leaving_out else 0

    def close(self) -> None:
        self.closed += 1


def camera(**keys: Any) -> CameraConfig:
    config = make_config({"cameras": [{"id": "front", "source": "synthetic", **keys}]})
    return config.cameras[0]


@dataclass
class Rig:
    """A capture at work and what it said."""

    source: ScriptedSource
    config: CameraConfig = field(default_factory=camera)
    policy: BackoffPolicy = AT_ONCE
    uniform: Callable[[float, float], float] = lambda _low, high: high

    def __post_init__(self) -> None:
        self.wake = threading.Condition()
        self.said: list[CameraState] = []
        self.capture = Capture(self.config, self.source, self.wake, self._changed, Backoff(self.policy, self.uniform))

    def _changed(self, capture: Capture) -> None:
        self.said.append(capture.status.state)

    def take(self) -> Frame | None:
        with self.wake:
            return self.capture.take(time.monotonic())

    def state(self) -> CameraState:
        return self.capture.status.state

    def wait_for(self, state: CameraState) -> None:
        wait_until(lambda: self.capture.status.state is state, 10, f"{state}; it is {self.capture.status.state}")


@contextmanager
def running(rig: Rig) -> Iterator[Rig]:
    rig.capture.start()
    try:
        yield rig
    finally:
        rig.source.gated = False
        rig.source.permits.release(1000)
        rig.capture.stop()
        assert rig.capture.join(5), "the capture's thread does not end"
        assert rig.source.closed > 0, "the source was left open"


def lost(code: SourceErrorCode = SourceErrorCode.TIMEOUT) -> SourceUnavailable:
    return SourceUnavailable("gone", code)


# -- accounting ---------------------------------------------------------------------------------------------------------

EVENTS = st.lists(st.sampled_from(["frame", "frame", "frame", "unreadable", "lost", "defect", "end"]), max_size=40)


@given(EVENTS, st.booleans(), st.lists(st.booleans(), min_size=60, max_size=60), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_frame_is_accounted_for(events: list[str], live: bool, served: list[bool], greedy: bool) -> None:
    """Whatever happens: captured = served + skipped + dropped + in flight, counted here independently."""
    makers: dict[str, Callable[[], Step]] = {
        "frame": frame,
        "unreadable": lambda: FrameUnreadable("damaged"),
        "lost": lost,
        "defect": lambda: ZeroDivisionError("a defect"),
        "end": EndOfStream,
    }
    usable = [event for event in events if live or event != "end"]  # a file's end is the end
    rig = Rig(ScriptedSource([*(makers[event]() for event in usable), SourceBroken("over")], live=live))
    capture, taken, fates = rig.capture, [], iter(served * 2)
    tally = {True: 0, False: 0}
    with running(rig):
        while not (capture.status.state is CameraState.ENDED and (not greedy or capture.ended)):
            got = rig.take() if greedy or not live else None
            if got is not None:
                taken.append(got.frame_id)
                fate = next(fates)
                tally[fate] += 1
                if fate:
                    capture.served()
                else:
                    capture.lost("model_error")
            counts = capture.snapshot()
            assert 0 <= counts.in_flight <= 2  # one in the slot, and one whose reader waits for the slot
    capture.abandon()
    counts = capture.snapshot()
    frames, unreadable = usable.count("frame"), usable.count("unreadable")
    assert counts.captured == frames + unreadable
    assert counts.in_flight == 0
    assert counts.served == tally[True]
    assert counts.dropped["model_error"] == tally[False]
    assert counts.dropped["unreadable"] == unreadable
    assert counts.skipped.sum + len(taken) + counts.dropped["shutdown"] == frames
    assert taken == sorted(set(taken)), "frames come in the order of the source, once"
    if not live:
        assert counts.skipped.sum == 0, "a file's frames are never skipped"


# -- the slot -----------------------------------------------------------------------------------------------------------


def test_of_a_live_source_the_newest_frame_waits() -> None:
    source = ScriptedSource([frame()] * 5, gated=True)
    with running(Rig(source)) as rig:
        source.allow(4)
        got = rig.take()
        assert got is not None
        assert got.frame_id == 3
        assert rig.take() is None
        counts = rig.capture.snapshot()
        assert (counts.captured, dict(counts.skipped), counts.in_flight) == (4, {"model_busy": 3}, 1)


@pytest.mark.parametrize(("live", "mode"), [(False, "auto"), (True, "every"), (False, "every")])
def test_where_every_frame_counts_the_reader_waits(live: bool, mode: str) -> None:
    source = ScriptedSource([*[frame()] * 50, SourceBroken("over")], live=live)
    with running(Rig(source, camera(mode=mode))) as rig:
        taken: list[int] = []

        def drained() -> bool:
            while (got := rig.take()) is not None:
                taken.append(got.frame_id)
                rig.capture.served()
            return rig.capture.ended

        wait_until(drained)
        assert taken == list(range(50))
        counts = rig.capture.snapshot()
        assert (counts.captured, counts.served, counts.skipped.sum, counts.dropped.sum) == (50, 50, 0, 0)


def test_the_reader_of_a_file_is_never_more_than_one_frame_ahead() -> None:
    source = ScriptedSource([frame()] * 10, live=False)
    with running(Rig(source)) as rig:
        wait_until(lambda: source.reads == 2)
        assert rig.take() is not None
        wait_until(lambda: source.reads == 3)
        assert rig.capture.snapshot().in_flight == 3


def test_a_file_can_be_read_freshest_first() -> None:
    source = ScriptedSource([*[frame()] * 10, EndOfStream()], live=False)
    with running(Rig(source, camera(mode="freshest"))) as rig:
        rig.wait_for(CameraState.ENDED)
        got = rig.take()
        assert got is not None
        assert got.frame_id == 9


def test_frames_above_max_fps_are_skipped_by_that_name() -> None:
    source = ScriptedSource([frame()] * 6, gated=True)
    with running(Rig(source, camera(max_fps=0.001))) as rig:
        source.allow(1)
        assert rig.take() is not None
        source.allow(3)
        with rig.wake:
            due = rig.capture.ready_at()
        assert due is not None
        assert due > time.monotonic() + 500
        assert dict(rig.capture.snapshot().skipped) == {"max_fps": 2}


def test_a_frame_that_waits_at_the_end_is_dropped_by_name() -> None:
    source = ScriptedSource([frame()] * 3, live=False)
    with running(Rig(source)) as rig:
        wait_until(lambda: source.reads == 2)
    rig.capture.abandon()
    rig.capture.abandon()
    counts = rig.capture.snapshot()
    assert (counts.captured, dict(counts.dropped), counts.in_flight) == (2, {"shutdown": 2}, 0)


def test_an_unreadable_frame_keeps_its_place_in_the_order(caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedSource([frame(), FrameUnreadable("b.jpg is no picture"), frame(), EndOfStream()], live=False)
    with running(Rig(source)) as rig:
        ids: list[int] = []

        def drained() -> bool:
            got = rig.take()
            ids.extend([] if got is None else [got.frame_id])
            return rig.capture.ended

        wait_until(drained)
    assert ids == [0, 2]
    assert source.opened == 1, "one damaged picture is no reason to open the source again"
    assert "b.jpg" in caplog.text


# -- time ---------------------------------------------------------------------------------------------------------------


def test_a_frame_is_not_handed_on_before_its_time() -> None:
    due = time.monotonic() + 0.2
    with running(Rig(ScriptedSource([frame(due), frame(due - 5), EndOfStream()], live=False))) as rig:
        first = wait_until(rig.take)
        assert time.monotonic() >= due
        assert first.captured_at == due
        assert abs(first.captured_utc - time.time()) < 5
        second = wait_until(rig.take)
        assert second.captured_at >= due, "one that is late comes at once, and was captured when it was read"


def test_utc_and_monotonic_name_the_same_moment() -> None:
    before = time.time()
    with running(Rig(ScriptedSource([frame()], gated=True))) as rig:
        rig.source.allow(1)
        got = wait_until(rig.take)
    assert before - 0.1 <= got.captured_utc <= time.time() + 0.1
    assert time.monotonic() - got.captured_at == pytest.approx(time.time() - got.captured_utc, abs=0.1)


# -- states -------------------------------------------------------------------------------------------------------------


def test_the_states_of_a_camera_that_comes_goes_and_comes_back() -> None:
    refused = SourceUnavailable("nobody there", SourceErrorCode.REFUSED)
    source = ScriptedSource([frame(), frame(), lost(), frame(), EndOfStream()], openings=[refused])
    rig = Rig(source, policy=AT_ONCE)
    with running(rig):
        wait_until(lambda: source.opened == 4)
    names = [state.value for state in rig.said[:8]]
    assert names == ["connecting", "backoff", "connecting", "online", "backoff", "connecting", "online", "backoff"]
    assert rig.capture.status.info == INFO


def test_the_error_is_shown_until_frames_come_again() -> None:
    source = ScriptedSource([frame()], openings=[lost(SourceErrorCode.AUTH_FAILED)], gated=True)
    rig = Rig(source, policy=NEVER)
    with running(rig):
        rig.wait_for(CameraState.BACKOFF)
        failed = rig.capture.status
        assert isinstance(failed.error, SourceUnavailable)
        assert failed.error.code is SourceErrorCode.AUTH_FAILED
        assert failed.reconnects == 1
    source = ScriptedSource([frame()], openings=[lost()], gated=True)
    with running(Rig(source)) as rig:
        source.allow(1)
        assert rig.state() is CameraState.ONLINE
        assert rig.capture.status.error is None


@pytest.mark.parametrize(("error", "shown"), [(EndOfStream(), None), (SourceBroken("no video"), SourceBroken)])
def test_a_file_ends_with_an_error_or_without(error: Exception, shown: type | None) -> None:
    with running(Rig(ScriptedSource([frame(), error], live=False))) as rig:
        rig.wait_for(CameraState.ENDED)
        assert not rig.capture.ended, "its last frame still waits"
        assert rig.take() is not None
        wait_until(lambda: rig.capture.ended)
        status = rig.capture.status
        assert status.error is None if shown is None else isinstance(status.error, shown)
        assert rig.source.opened == 1
    assert rig.said[-1] is CameraState.ENDED


def test_a_file_that_ends_early_is_a_finish_with_a_warning() -> None:
    early = EndOfStream("clip.mp4 ends early")
    early.code = SourceErrorCode.INVALID_DATA
    with running(Rig(ScriptedSource([frame(), early], live=False))) as rig:
        rig.wait_for(CameraState.ENDED)
        assert rig.take() is not None
        assert rig.capture.status.error is None
        assert rig.capture.status.last_error is early


def test_a_camera_that_ends_its_stream_is_opened_again() -> None:
    source = ScriptedSource([frame(), EndOfStream("the stream ended")] * 500)
    rig = Rig(source)
    with running(rig):
        wait_until(lambda: source.opened >= 3)
        assert CameraState.ENDED not in rig.said
        wait_until(lambda: rig.capture.status.reconnects >= 2)


def test_the_end_of_a_camera_is_told_as_an_error() -> None:
    with running(Rig(ScriptedSource([frame(), EndOfStream("the stream ended")]), policy=NEVER)) as rig:
        rig.wait_for(CameraState.BACKOFF)
        error = rig.capture.status.error
        assert isinstance(error, SourceUnavailable)
        assert (str(error), error.code) == ("the stream ended", SourceErrorCode.ENDED)


@pytest.mark.parametrize("kind", [SourceUnavailable, SourceBroken, RuntimeError])
def test_what_is_published_of_an_error_holds_no_credentials(kind: type[Exception]) -> None:
    rig = Rig(ScriptedSource([kind("no way to rtsp://joe:s3cret@10.0.0.1/x with password=s3cret")]), policy=NEVER)
    with running(rig):
        wait_until(lambda: rig.capture.status.error is not None)
        assert "rtsp://***@10.0.0.1/x" in str(rig.capture.status.error)
        assert "s3cret" not in f"{rig.capture.status.error} {rig.capture.status.last_error}"


@pytest.mark.parametrize("defect", [ValueError("x"), RuntimeError("x"), MemoryError(), AssertionError(), SystemExit(3)])
@pytest.mark.parametrize("while_opening", [True, False])
def test_a_defect_in_a_source_does_not_cost_its_camera(
    defect: BaseException, while_opening: bool, caplog: pytest.LogCaptureFixture
) -> None:
    source = ScriptedSource(
        [frame()] if while_opening else [frame(), defect, frame()], openings=[defect] if while_opening else [], gated=False
    )
    source.steps.append(EndOfStream())
    rig = Rig(source)
    with running(rig):
        wait_until(lambda: source.opened >= 3 - while_opening)
        wait_until(lambda: not source.steps)
    assert rig.capture.snapshot().captured == 2 - while_opening
    assert "failed unexpectedly" in caplog.text


def test_a_camera_that_sends_only_damage_is_opened_again_and_is_no_hot_loop() -> None:
    source = ScriptedSource([*[FrameUnreadable("damaged") for _ in range(MAX_UNREADABLE)], frame()])
    rig = Rig(source, policy=NEVER)
    with running(rig):
        rig.wait_for(CameraState.BACKOFF)
        error = rig.capture.status.error
        assert error is not None
        assert error.code is SourceErrorCode.INVALID_DATA
        assert f"{MAX_UNREADABLE} damaged pictures in a row; the last: damaged" in str(error)
    assert dict(rig.capture.snapshot().dropped) == {"unreadable": MAX_UNREADABLE}


def test_a_library_that_is_missing_is_told_in_a_line_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedSource([frame()], openings=[ConfigError("the library gi cannot be loaded")], gated=True)
    with running(Rig(source)) as rig:
        source.allow(1)
        assert rig.state() is CameraState.ONLINE
        assert "the library gi cannot be loaded" in str(rig.capture.status.last_error)
    assert "Traceback" not in caplog.text


def test_a_time_in_the_future_is_not_believed() -> None:
    source = ScriptedSource([lambda: Reading(BgrImage(PIXELS), time.monotonic() + 100)], gated=True)
    with running(Rig(source)) as rig:
        source.allow(1)
        got = wait_until(rig.take)
        assert got.captured_at <= time.monotonic()


# -- stalls -------------------------------------------------------------------------------------------------------------


def test_a_silent_camera_is_stalled_and_back_with_its_next_frame() -> None:
    source = ScriptedSource([frame()] * 4, gated=True)
    with running(Rig(source)) as rig:
        rig.capture.check(time.monotonic() + 5)
        assert rig.state() is CameraState.CONNECTING, "what was never online is not stalled"
        source.allow(2)
        rig.capture.check(time.monotonic())
        assert rig.state() is CameraState.ONLINE
        rig.capture.check(time.monotonic() + 4)
        rig.capture.check(time.monotonic() + 5)
        assert rig.said[-2:] == [CameraState.ONLINE, CameraState.STALLED], "said once, although its last frame still waits"
        source.allow(1)
        assert rig.said[-1] is CameraState.ONLINE


def test_a_file_whose_frame_waits_for_the_model_is_not_stalled() -> None:
    with running(Rig(ScriptedSource([frame()] * 3, live=False))) as rig:
        wait_until(lambda: rig.source.reads == 2)
        rig.capture.check(time.monotonic() + 100)
        assert rig.state() is CameraState.ONLINE


def test_a_picture_that_is_held_back_on_purpose_is_no_stall() -> None:
    due = time.monotonic() + 1000
    with running(Rig(ScriptedSource([frame(), frame(due)], live=False))) as rig:
        wait_until(rig.take)
        wait_until(lambda: rig.source.reads == 2)
        rig.capture.check(due + 100)
        assert rig.state() is CameraState.ONLINE


def test_while_nothing_is_wanted_a_source_that_leaves_frames_out_is_not_stalled() -> None:
    source = ScriptedSource([frame()] * 4, gated=True)
    source.patience_s = 1000
    with running(Rig(source)) as rig:
        source.allow(3)
        now = time.monotonic()
        rig.capture.expect(now + 60, now)
        assert now <= source.wanted_at[-1] <= now + HINT_S, "for a short while at a time, so that read comes back"
        rig.capture.check(now + HINT_S + 1.4)
        assert rig.state() is CameraState.ONLINE
        source.allow(1)
        assert source.wanted_at[-1] > now, "told again, while the model is still busy"
        rig.capture.check(time.monotonic() + HINT_S + 2)
        assert rig.state() is CameraState.STALLED


def test_the_last_frame_before_the_next_one_is_taken_is_wanted() -> None:
    source = ScriptedSource([frame()] * 4, gated=True)
    with running(Rig(source)) as rig:
        source.allow(3)
        usual = rig.capture._asking.rhythm.usual_s
        now = time.monotonic()
        rig.capture.expect(now + 0.5, now)
        assert usual > 0
        assert source.wanted_at[-1] == pytest.approx(now + 0.5 - 1.05 * usual)


# -- frames that were left out ------------------------------------------------------------------------------------------


def test_frames_that_were_left_out_are_counted_and_have_numbers() -> None:
    source = ScriptedSource([frame()] * 3, gated=True)
    source.leaving_out = [4, 0, 2]
    with running(Rig(source)) as rig:
        source.allow(1)
        first = rig.take()
        source.allow(1)
        second = rig.take()
        assert first is not None
        assert second is not None
        assert (first.frame_id, second.frame_id) == (4, 5)
        counts = rig.capture.snapshot()
        assert (counts.captured, dict(counts.skipped), counts.in_flight) == (6, {"not_decoded": 4}, 2)
    counts = rig.capture.snapshot()
    assert counts.skipped["not_decoded"] == 6, "those before the end too"


# -- pause and mute -----------------------------------------------------------------------------------------------------


def test_a_paused_camera_is_closed_and_opened_again() -> None:
    source = ScriptedSource([frame()] * 9, gated=True)
    with running(Rig(source)) as rig:
        source.allow(1)
        assert rig.capture.pause()
        assert rig.state() is CameraState.PAUSED, "at once, although the source is being read"
        assert rig.take() is None
        source.permits.release()
        wait_until(lambda: source.closed == 1)
        assert rig.state() is CameraState.PAUSED
        assert dict(rig.capture.snapshot().skipped) == {"paused": 2}, "what waited and what came after"
        rig.capture.check(time.monotonic() + 100)
        assert rig.state() is CameraState.PAUSED
        assert rig.capture.resume()
        wait_until(lambda: source.opened == 2)
        source.allow(1)
        assert rig.state() is CameraState.ONLINE
        assert rig.take() is not None
    assert rig.said[:6] == [
        CameraState.CONNECTING, CameraState.ONLINE, CameraState.PAUSED, CameraState.CONNECTING, CameraState.CONNECTING, CameraState.ONLINE,
    ]  # fmt: skip


def test_a_pause_during_backoff_ends_it_and_resuming_tries_at_once() -> None:
    source = ScriptedSource([frame()] * 9, openings=[lost()], gated=True)
    with running(Rig(source, policy=NEVER)) as rig:
        rig.wait_for(CameraState.BACKOFF)
        rig.capture.pause()
        rig.capture.resume()
        source.allow(1)
        assert rig.state() is CameraState.ONLINE


def test_a_paused_file_stays_where_it_is_and_loses_nothing() -> None:
    source = ScriptedSource([*[frame()] * 10, EndOfStream()], live=False)
    with running(Rig(source)) as rig:
        wait_until(lambda: source.reads == 2)
        rig.capture.pause()
        assert rig.take() is None
        rig.capture.resume()
        ids: list[int] = []

        def drained() -> bool:
            got = rig.take()
            ids.extend([] if got is None else [got.frame_id])
            return rig.capture.ended

        wait_until(drained)
        assert ids == list(range(10))
        assert source.opened == 1
        assert rig.capture.snapshot().skipped.sum == 0
        assert not rig.capture.pause(), "what has ended is not paused"


@pytest.mark.parametrize("live", [True, False])
def test_a_muted_camera_is_read_and_not_served(live: bool) -> None:
    source = ScriptedSource([frame()] * 20, live=live, gated=True)
    with running(Rig(source)) as rig:
        source.allow(1)
        rig.capture.mute()
        assert rig.state() is CameraState.MUTED
        source.allow(3)
        assert rig.take() is None
        counts = rig.capture.snapshot()
        assert (counts.captured, dict(counts.skipped), counts.in_flight) == (4, {"muted": 4}, 0)
        rig.capture.unmute()
        assert rig.state() is CameraState.ONLINE
        assert source.wanted_at[-1] <= time.monotonic(), "and every frame is wanted again"
        source.allow(1)
        got = rig.take()
        assert got is not None
        assert got.frame_id == 4


def test_muting_lets_a_reader_go_that_waits_for_room() -> None:
    source = ScriptedSource([*[frame()] * 10, EndOfStream()], live=False)
    with running(Rig(source)) as rig:
        wait_until(lambda: source.reads == 2)
        rig.capture.mute()
        rig.wait_for(CameraState.ENDED)
        assert dict(rig.capture.snapshot().skipped) == {"muted": 10}


def test_a_muted_camera_that_is_lost_says_so_and_comes_back_muted() -> None:
    source = ScriptedSource([frame(), lost(), frame()], gated=True)
    with running(Rig(source)) as rig:
        rig.capture.mute()
        source.allow(1)
        assert rig.state() is CameraState.MUTED
        source.allow(1)
        wait_until(lambda: CameraState.BACKOFF in rig.said)
        source.allow(1)
        assert rig.state() is CameraState.MUTED


# -- backoff ------------------------------------------------------------------------------------------------------------


def ceilings(stable_s: float, source: ScriptedSource) -> list[float]:
    """The upper ends of the delays that were drawn over the first six failures; every wait is a millisecond."""
    drawn: list[float] = []

    def uniform(_low: float, high: float) -> float:
        drawn.append(high)
        return 0.0

    rig = Rig(source, policy=BackoffPolicy(first_s=1, least_s=0.001, cap_s=8, stable_s=stable_s), uniform=uniform)
    with running(rig):
        wait_until(lambda: len(drawn) >= 6)
    return drawn[:6]


def test_backoff_grows_to_its_cap_while_the_camera_is_away() -> None:
    assert ceilings(10, ScriptedSource([], openings=[lost() for _ in range(9)])) == [1, 2, 4, 8, 8, 8]


def test_one_frame_does_not_reset_the_backoff() -> None:
    assert ceilings(1000, ScriptedSource([frame(), lost()] * 9)) == [1, 2, 4, 8, 8, 8]


def test_having_been_up_for_long_enough_resets_the_backoff() -> None:
    assert ceilings(0, ScriptedSource([frame(), lost()] * 9)) == [1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("code", "highest"), [(SourceErrorCode.REFUSED, 4), (SourceErrorCode.ENDED, 4), (SourceErrorCode.AUTH_FAILED, 30)])
def test_a_camera_is_tried_soon_after_its_return_and_not_locked_out_by_it(code: SourceErrorCode, highest: float) -> None:
    drawn: list[float] = []

    def uniform(_low: float, high: float) -> float:
        drawn.append(high)
        return 0.0

    rig = Rig(ScriptedSource([], openings=[SourceUnavailable("no", code) for _ in range(20)]), policy=CAMERA_BACKOFF, uniform=uniform)
    with running(rig):
        wait_until(lambda: len(drawn) >= 8)
    assert drawn[:3] == [0.5, 1, 2]
    assert max(drawn) == highest


@pytest.mark.parametrize("answer", [lost(), EndOfStream(), ValueError("a defect")], ids=["lost", "end", "defect"])
def test_a_source_that_opens_and_yields_nothing_is_no_hot_loop(answer: Exception) -> None:
    source = ScriptedSource([answer for _ in range(1000)])
    started = time.monotonic()
    policy = BackoffPolicy(first_s=0.0, least_s=0.03, cap_s=0.0)
    with running(Rig(source, policy=policy)):
        wait_until(lambda: source.opened >= 5)
        opened, took = source.opened, time.monotonic() - started
    assert opened <= took / 0.03 + 1


# -- stop ---------------------------------------------------------------------------------------------------------------


def _stops(rig: Rig) -> None:
    rig.capture.stop()
    asked = time.monotonic()
    assert rig.capture.join(5)
    assert time.monotonic() - asked < 1
    assert rig.source.closed


def test_stopping_before_it_began() -> None:
    rig = Rig(ScriptedSource([]))
    rig.capture.stop()
    assert rig.capture.join(1)
    rig.capture.start()
    assert rig.capture.join(5)
    assert rig.source.opened == 0


def test_stopping_in_backoff() -> None:
    rig = Rig(ScriptedSource([], openings=[lost()]), policy=NEVER)
    rig.capture.start()
    rig.wait_for(CameraState.BACKOFF)
    _stops(rig)


def test_stopping_a_reader_that_waits_for_the_slot() -> None:
    rig = Rig(ScriptedSource([frame()] * 3, live=False))
    rig.capture.start()
    wait_until(lambda: rig.source.reads == 2)
    _stops(rig)


def test_stopping_while_a_picture_is_held_back() -> None:
    rig = Rig(ScriptedSource([frame(time.monotonic() + 1000)], live=False))
    rig.capture.start()
    wait_until(lambda: rig.source.reads == 1)
    _stops(rig)
    assert dict(rig.capture.snapshot().dropped) == {"shutdown": 1}


def test_stopping_after_the_end() -> None:
    rig = Rig(ScriptedSource([EndOfStream()], live=False))
    rig.capture.start()
    rig.wait_for(CameraState.ENDED)
    _stops(rig)


def test_stopping_online_and_stalled_waits_only_for_the_sources_next_answer() -> None:
    for stalled in (False, True):
        rig = Rig(ScriptedSource([frame()] * 5, gated=True))
        rig.capture.start()
        rig.source.allow(2)
        if stalled:
            rig.capture.check(time.monotonic() + 5)
        rig.capture.stop()
        assert not rig.capture.join(0.01), "it cannot end inside the source"
        rig.source.permits.release()
        _stops(rig)


def test_a_paused_camera_of_which_every_frame_counts_is_let_go_while_its_reader_waits_for_room() -> None:
    source = ScriptedSource([frame()] * 50)
    with running(Rig(source, camera(mode="every"))) as rig:
        wait_until(lambda: rig.capture.snapshot().captured == 2)  # one waits for the model, and one for room
        rig.capture.pause()
        wait_until(lambda: source.closed > 0)
        counts = rig.capture.snapshot()
        assert (counts.skipped["paused"], counts.in_flight) == (2, 0)
