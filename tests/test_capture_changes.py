"""A camera's runner while its settings change under it: another source, another pace, and who looks at its next frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import _capture_readers
from edge_agent.camera_state import CameraState
from edge_agent.errors import SourceUnavailable
from edge_agent.frame import Frame
from edge_agent.image import BgrImage
from edge_agent.shared_image import SharedImage
from edge_agent.sources.base import Source
from tests.conftest import wait_until
from tests.test_capture import PIXELS, Rig, ScriptedSource, camera, frame, running


class Device(ScriptedSource):
    """One that only one can have open at a time."""

    holder: ScriptedSource | None = None

    def open(self) -> Any:
        assert Device.holder is None, "two have one device"
        Device.holder = self
        return super().open()

    def close(self) -> None:
        if Device.holder is self:
            Device.holder = None
        super().close()


@pytest.fixture(autouse=True)
def nobody_holds_it() -> Iterator[None]:
    Device.holder = None
    yield
    Device.holder = None


def endless(**keys: Any) -> ScriptedSource:
    return Device([frame() for _ in range(1000)], gated=True, **keys)


def replaced(rig: Rig, after: Source, **keys: Any) -> None:
    rig.capture.replace_source(camera(**keys), after, lambda: after)


def conserved(rig: Rig) -> bool:
    counts = rig.capture.snapshot()
    with rig.wake:
        waiting = len(rig.capture.slot._frames)
    return counts.captured == counts.served + counts.skipped.sum + counts.dropped.sum + waiting


def released(source: ScriptedSource) -> None:
    source.gated = False
    source.permits.release(1000)


def test_another_source_is_opened_when_the_one_before_is_closed_and_the_counters_go_on() -> None:
    before, after = endless(), endless()
    with running(Rig(before)) as rig:
        before.allow(3)
        replaced(rig, after, max_fps=5)
        assert rig.state() is CameraState.CONNECTING
        assert after.opened == 0, "the one before has not closed yet"
        released(before)
        after.allow(2)
        rig.wait_for(CameraState.ONLINE)
        assert before.closed > 0
        assert after.opened == 1
        assert rig.capture.snapshot().captured >= 5
        assert rig.capture.max_fps == 5
        assert rig.capture.status.reconnects == 0
        assert rig.capture.status.error is None
        assert rig.capture.left_behind == 0
        taken = rig.take()
        assert taken is not None
        assert taken.frame_id == rig.capture.snapshot().captured - 1
        rig.capture.served()
        assert conserved(rig)
        released(after)
    assert after.closed > 0


def test_one_that_hangs_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capture_readers, "REPLACED_WITHIN_S", 0.05)
    before, after = ScriptedSource([frame()] * 10, gated=True), ScriptedSource([frame()] * 1000, gated=True)
    rig = Rig(before)
    rig.capture.start()
    before.allow()
    replaced(rig, after)
    after.allow()
    rig.wait_for(CameraState.ONLINE)
    assert rig.capture.left_behind == 1, "it is told of"
    released(before)
    wait_until(lambda: rig.capture.left_behind == 0)
    assert before.closed > 0
    rig.capture.stop()
    released(after)
    assert rig.capture.join(5)


def test_a_paused_camera_stays_paused_with_its_new_source() -> None:
    before, after = endless(), endless()
    with running(Rig(before)) as rig:
        before.allow()
        rig.capture.pause()
        released(before)
        wait_until(lambda: before.closed)
        replaced(rig, after)
        assert rig.state() is CameraState.PAUSED
        assert after.opened == 0
        rig.capture.resume()
        after.allow()
        rig.wait_for(CameraState.ONLINE)
        released(after)


def test_a_source_that_leaves_out_what_is_not_wanted_is_told_to_come_back_when_it_is_to_go() -> None:
    before, after = endless(), endless()
    with running(Rig(before)) as rig:
        before.allow()
        rig.capture.mute()
        before.allow()
        assert before.wanted_at[-1] > 0
        replaced(rig, after)
        assert before.wanted_at[-1] == 0
        released(before)
        after.allow()
        rig.capture.retire(0.01)
        assert after.wanted_at[-1] == 0
        assert rig.capture.retired
        released(after)


def test_a_muted_camera_stays_muted_with_its_new_source() -> None:
    before, after = endless(), endless()
    with running(Rig(before)) as rig:
        before.allow()
        rig.capture.mute()
        replaced(rig, after)
        released(before)
        after.allow(2)
        rig.wait_for(CameraState.MUTED)
        assert rig.take() is None
        released(after)


def test_a_camera_that_has_ended_begins_anew() -> None:
    before, after = ScriptedSource([frame()]), endless()
    with running(Rig(before)) as rig:
        rig.wait_for(CameraState.ENDED)
        replaced(rig, after)
        after.allow(2)
        rig.wait_for(CameraState.ONLINE)
        assert rig.capture.status.error is None
        assert not rig.capture.ended
        released(after)


def test_a_reader_of_a_file_that_waits_for_room_lets_go() -> None:
    before, after = ScriptedSource([frame()] * 100, live=False), endless()
    with running(Rig(before)) as rig:
        wait_until(lambda: rig.capture.slot._is_full)
        replaced(rig, after)
        after.allow()
        wait_until(lambda: rig.capture.left_behind == 0)
        assert not rig.capture.every
        assert conserved(rig)
        released(after)


def test_one_in_backoff_is_replaced_at_once() -> None:
    before, after = ScriptedSource([], openings=[SourceUnavailable("no such host")]), endless()
    with running(Rig(before)) as rig:
        wait_until(lambda: rig.capture.status.reconnects == 1)
        replaced(rig, after)
        after.allow()
        rig.wait_for(CameraState.ONLINE)
        released(after)


def test_after_a_stop_nothing_is_begun() -> None:
    before, after = endless(), endless()
    with running(Rig(before)) as rig:
        before.allow()
        rig.capture.stop()
        replaced(rig, after)
        assert after.opened == 0


@given(st.lists(st.sampled_from(["replace", "pause", "resume", "mute", "unmute", "frame", "take", "pace", "look"]), max_size=25))
@settings(max_examples=30, deadline=None)
def test_whatever_is_changed_the_frames_are_accounted_for(steps: list[str]) -> None:
    sources = [ScriptedSource([frame()] * 10_000)]
    sources[0].gated = True
    rig = Rig(sources[0])
    rig.capture.start()
    actions: dict[str, Callable[[], object]] = {
        "pause": rig.capture.pause,
        "resume": rig.capture.resume,
        "mute": rig.capture.mute,
        "unmute": rig.capture.unmute,
        "pace": lambda: rig.capture.set_pace(3),
        "look": lambda: rig.capture.show_next(lambda _: None),
    }
    for step in steps:
        if step == "replace":
            sources.append(ScriptedSource([frame()] * 10_000, gated=True))
            sources[-2].permits.release(1)  # the one before may answer, and see that it is to end
            replaced(rig, sources[-1])
        elif step == "frame":
            sources[-1].permits.release(1)
        elif step == "take":
            if rig.take() is not None:
                rig.capture.served()
        else:
            actions[step]()
    assert conserved(rig)
    rig.capture.stop()
    for source in sources:
        released(source)
    wait_until(lambda: rig.capture.join(0.1))
    rig.capture.abandon()
    counts = rig.capture.snapshot()
    assert counts.captured == counts.served + counts.skipped.sum + counts.dropped.sum
    assert all(source.closed > 0 for source in sources if source.opened)


def test_whoever_looks_is_given_the_next_frame_once() -> None:
    source, seen = endless(), list[Frame]()
    with running(Rig(source)) as rig:
        source.allow()
        rig.capture.show_next(seen.append)
        assert source.wanted_at[-1] == 0.0, "the source is not to leave it out"
        source.allow(2)
        assert [each.frame_id for each in seen] == [1]
        taken = rig.take()
        assert taken is not None
        assert taken.frame_id == 2
        assert not isinstance(taken.image, SharedImage)
        released(source)


def test_whoever_looks_away_is_given_none() -> None:
    source, seen = endless(), list[Frame]()
    with running(Rig(source)) as rig:
        source.allow()
        rig.capture.show_next(seen.append)
        rig.capture.look_away(seen.append)
        rig.capture.look_away(seen.append)
        source.allow(2)
        assert seen == []
        released(source)


def test_a_shared_picture_is_read_by_one_at_a_time() -> None:
    class Watched(BgrImage):
        inside = most = 0

        def bgr(self) -> Any:
            Watched.inside += 1
            Watched.most = max(Watched.most, Watched.inside)
            time.sleep(0.001)
            Watched.inside -= 1
            return super().bgr()

    shared = SharedImage(Watched(PIXELS))

    def read() -> None:
        for _ in range(10):
            shared.bgr()

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Watched.most == 1


@pytest.mark.parametrize("broken", ["bgr", "resized", "luma"])
def test_a_shared_picture_that_cannot_be_read_lets_the_other_read_on(broken: str) -> None:
    class Broken(BgrImage):
        def bgr(self) -> Any:
            raise ValueError("damaged")

        def resized(self, *_: Any) -> Any:
            raise ValueError("damaged")

        def luma(self, *_: Any) -> Any:
            raise ValueError("damaged")

    shared = SharedImage(Broken(PIXELS))
    arguments: tuple[Any, ...] = {"bgr": (), "resized": (2, 2, "BGR"), "luma": (2, 2)}[broken]
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            getattr(shared, broken)(*arguments)
