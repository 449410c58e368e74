"""The motion gate, fed with planes of its own size and with real clips; and its place in the line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.capture import Capture
from edge_agent.config_camera import MotionSettings
from edge_agent.config_values import Region
from edge_agent.errors import ConfigError, EndOfStream
from edge_agent.image import BgrImage, Image, Pixels
from edge_agent.motion import ABSORB_S, LIGHT_LOOK_S, LIGHT_REST_S, SETTLE_S, MotionGate, MotionWatch, plane_size, watched_places
from edge_agent.slot import Slot, SlotPolicy
from edge_agent.sources.base import Reading, Source, StreamInfo
from tests.conftest import ASSETS, CLIP, TRUTH, make_config, wait_until

STEP_S = 0.2
STILL = MotionSettings(look_every_s=1e9)


def scene(seed: int = 0) -> Pixels:
    """Something with edges, flat parts and texture, uint8 [90, 160]."""
    rng = np.random.default_rng(seed)
    plane = np.full((90, 160), 110, np.float32)
    plane[:40] += 40
    plane[20:60, 30:60] -= 50
    plane[50:, 100:] += rng.normal(0, 15, (40, 60))
    return plane.clip(0, 255).astype(np.uint8)


@dataclass
class Camera:
    """Pictures at even times into one gate."""

    gate: MotionGate
    rng: np.random.Generator
    noise: float = 1.5
    now: float = 100.0

    def show(self, plane: Pixels, seconds: float, step_s: float = STEP_S) -> list[bool]:
        found = []
        for _ in range(round(seconds / step_s)):
            noisy = plane + self.rng.normal(0, self.noise, plane.shape)
            found.append(self.gate.passes(noisy.round().clip(0, 255).astype(np.uint8), self.now))
            self.now += step_s
        return found


def camera(config: MotionSettings = STILL, noise: float = 1.5, roi: Region | None = None) -> Camera:
    return Camera(MotionGate(config, roi), np.random.default_rng(1), noise)


def with_box(plane: Pixels, left: int, top: int, width: int, height: int, value: int = 220) -> Pixels:
    changed: Pixels = plane.copy()
    changed[top : top + height, left : left + width] = value
    return changed


def settled(cam: Camera, plane: Pixels) -> Camera:
    cam.show(plane, 20)
    assert not any(cam.show(plane, 10)), "a still scene is still"
    return cam


def test_the_first_frames_pass_and_then_a_still_scene_does_not() -> None:
    cam = camera()
    first = cam.show(scene(), 20)
    assert all(first[: round(SETTLE_S / STEP_S)])
    assert not any(first[-50:])
    assert not cam.gate.moving


@pytest.mark.parametrize("noise", [0, 1, 3, 6])
def test_noise_of_any_strength_becomes_usual(noise: float) -> None:
    cam = camera(noise=noise)
    cam.show(scene(), 40)
    assert not any(cam.show(scene(), 60))


def test_noise_that_begins_at_night_becomes_usual_and_does_not_hide_a_person() -> None:
    cam = settled(camera(), scene())
    cam.noise = 7
    cam.show(scene(), 60)
    assert not any(cam.show(scene(), 20))
    assert cam.show(with_box(scene(), 80, 30, 4, 10), STEP_S) == [True]


@pytest.mark.parametrize(("width", "height"), [(3, 4), (2, 7), (8, 20), (60, 60)])
@pytest.mark.parametrize("step_s", [1 / 30, 0.2, 1.0])
def test_what_appears_passes_in_its_first_frame_whatever_the_rate(width: int, height: int, step_s: float) -> None:
    cam = settled(camera(), scene())
    assert cam.show(with_box(scene(), 70, 8, width, height), step_s, step_s) == [True]
    assert cam.gate.moving


def test_what_stands_is_absorbed_after_a_while_and_its_leaving_is_motion_again() -> None:
    cam = settled(camera(), scene())
    standing = with_box(scene(), 70, 20, 6, 16)
    seen = cam.show(standing, 30)
    longest = ABSORB_S + STILL.hold_s + 1
    assert all(seen[: round(ABSORB_S / STEP_S)])
    assert not any(seen[round(longest / STEP_S) :])
    assert cam.show(scene(), STEP_S) == [True]


def test_what_creeps_is_seen_all_the_way() -> None:
    cam = settled(camera(), scene())
    passed = []
    for left in range(60, 100):  # one place, 12 pixels of 1080p, in three seconds
        passed += cam.show(with_box(scene(), left, 10, 8, 20), 3)
    assert all(passed)


def test_frames_pass_for_hold_s_after_the_last_motion() -> None:
    cam = settled(camera(MotionSettings(look_every_s=1e9, hold_s=4)), scene())
    cam.show(with_box(scene(), 70, 20, 6, 16), 0.4)
    assert sum(cam.show(scene(), 20)) in range(round(3.6 / STEP_S), round(4.4 / STEP_S) + 1)


def test_something_smaller_than_least_area_or_fainter_than_the_threshold_does_not_pass() -> None:
    cam = settled(camera(MotionSettings(look_every_s=1e9, least_area=0.01, threshold=20)), scene())
    assert not any(cam.show(with_box(scene(), 70, 20, 10, 13), 1))  # 130 of 14400 places
    assert not any(cam.show(scene(), 1))
    assert not any(cam.show(with_box(scene(), 70, 42, 20, 20, 110 + 12), 1))
    assert all(cam.show(with_box(scene(), 70, 10, 13, 13), 1))


@pytest.mark.parametrize("other", [lambda p: (p * 0.4).astype(np.uint8), lambda p: 255 - p, lambda p: p + np.uint8(60), np.fliplr])
def test_a_change_of_light_or_view_passes_for_a_moment_only(other: object) -> None:
    cam = settled(camera(), scene())
    lit = np.ascontiguousarray(other(scene()))  # type: ignore[operator]
    seen = cam.show(lit, 20)
    assert seen[0]
    assert sum(seen) * STEP_S <= ABSORB_S + STILL.hold_s + 1
    assert not any(seen[-50:])


def test_large_objects_that_follow_each_other_are_each_looked_at() -> None:
    """One fills more than half of what is watched, and so looks like another light."""
    cam = settled(camera(), scene())
    for _ in range(4):
        assert any(cam.show(with_box(scene(), 10, 5, 130, 70), 1.0)), "it was there for a second"
        cam.show(scene(), 2.0)


def test_a_light_that_flickers_for_ever_does_not_let_everything_pass() -> None:
    cam = settled(camera(), scene())
    dark = (scene() * 0.4).astype(np.uint8)
    passed = [shown for count in range(200) for shown in cam.show((dark, scene())[count % 2], 0.4)]
    assert 0 < sum(passed) / len(passed) <= (SETTLE_S + STEP_S) / LIGHT_REST_S + STEP_S / LIGHT_LOOK_S + 0.05


def test_an_exposure_that_hunts_and_daylight_that_fades_are_no_motion() -> None:
    cam = settled(camera(), scene())
    for count in range(300):
        drift = 5 * np.sin(count / 9) - count * 0.1
        assert not any(cam.show((scene() + drift).clip(0, 255).astype(np.uint8), STEP_S))


def test_a_camera_that_shakes_by_a_few_pixels_is_no_motion() -> None:
    large = cv2.resize(cv2.GaussianBlur(np.random.default_rng(3).integers(0, 255, (200, 340), np.uint8), (0, 0), 3), (2000, 1160))
    large = cv2.normalize(large, np.empty_like(large), 20, 235, cv2.NORM_MINMAX)
    rng = np.random.default_rng(5)
    cam = camera()

    def shaken() -> Pixels:
        x, y = rng.integers(0, 9, 2)
        return np.asarray(cv2.resize(large[y : y + 1080, x : x + 1920], (160, 90), interpolation=cv2.INTER_AREA), np.uint8)

    for _ in range(100):
        cam.show(shaken(), STEP_S)
    assert not any(any(cam.show(shaken(), STEP_S)) for _ in range(200))


def test_masks_and_what_is_outside_the_region_of_interest_do_not_count() -> None:
    mask = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
    masked = settled(camera(MotionSettings(look_every_s=1e9, masks=(mask,))), scene())
    assert not any(masked.show(with_box(scene(), 20, 5, 30, 10), 1))
    assert all(masked.show(with_box(scene(), 90, 5, 10, 10), 1))
    region = settled(camera(roi=(0.5, 0.0, 1.0, 0.5)), scene())
    assert not any(region.show(with_box(scene(), 100, 60, 20, 20, 0), 1))
    assert all(region.show(with_box(scene(), 100, 20, 10, 10), 1))


def test_everything_masked_is_no_motion_and_no_error() -> None:
    everything = MotionSettings(look_every_s=1e9, masks=(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),))
    assert not watched_places(160, 90, everything, None).any()
    cam = camera(everything)
    cam.show(scene(), 5)
    assert not any(cam.show(with_box(scene(), 20, 5, 60, 60), 5))


def test_another_size_begins_anew() -> None:
    cam = settled(camera(), scene())
    assert cam.show(np.full((120, 160), 90, np.uint8), 1) == [True] * 5


TIMES = st.lists(
    st.one_of(st.floats(0, 3), st.floats(-50, 0), st.floats(3, 500), st.just(0.0), st.just(0.25)), min_size=1, max_size=150
)  # steps: usual, back, a gap, standing still


@given(TIMES, st.sampled_from([0.25, 1.0, 7.5]))
@settings(max_examples=150, deadline=None)
def test_the_guaranteed_look_comes_exactly_once_in_each_look_every_s(steps: list[float], every_s: float) -> None:
    gate = MotionGate(MotionSettings(look_every_s=every_s, hold_s=0))
    plane = np.full((9, 16), 100, np.uint8)
    at = 0.0
    while gate.passes(plane, at) or at < SETTLE_S:
        at += 1 / 64
    last_pass_s = round(SETTLE_S * 64 - 1) / 64
    elapsed = at - last_pass_s  # of real time since the last that passed
    for step in steps:
        before, at = at, at + step
        elapsed += max(0.0, at - before)
        passed = gate.passes(plane, at)
        if abs(elapsed - every_s) > 1e-6:  # else the sums round one way or the other
            assert passed == (elapsed > every_s)
        elapsed = 0.0 if passed else elapsed


def test_lanes_that_are_late_are_waited_for_so_that_frames_are_seen_in_order() -> None:
    watch = MotionWatch(MotionSettings(look_every_s=1e9, hold_s=0))
    pictures = [BgrImage(np.full((90, 160, 3), 100, np.uint8)) for _ in range(40)]
    answers: dict[int, bool] = {}

    def lane(tickets: range) -> None:
        for ticket in tickets:
            answers[ticket] = watch.passes(pictures[ticket], ticket, ticket * 0.2)

    lanes = [threading.Thread(target=lane, args=(range(first, 40, 3),)) for first in (2, 1, 0)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join(10)
    # The first second, in which frames always pass, is the first second of the camera and not of whoever came first.
    assert [answers[n] for n in range(40)] == [n < 5 for n in range(40)]
    assert watch.status().state == "still"
    assert set(watch.status().gate_ms or {}) == {"p50", "p95"}


class Torn(Image):
    """What the camera sent cannot be decoded."""

    width, height = 64, 48

    def resized(self, width: int, height: int, order: str) -> Pixels:
        raise ValueError("cannot be decoded")

    def bgr(self) -> Pixels:
        raise ValueError("cannot be decoded")


def test_a_picture_that_cannot_be_decoded_is_left_to_the_model() -> None:
    watch = MotionWatch(MotionSettings())
    assert watch.passes(Torn(), 0, 0.0)
    assert watch.passes(BgrImage(np.zeros((90, 160, 3), np.uint8)), 1, 0.0)


def clip_planes(path: str) -> Iterator[tuple[Pixels, float]]:
    with av.open(path) as container:
        for frame in container.decode(video=0):
            y = frame.to_ndarray(format="gray")
            yield (
                np.asarray(cv2.resize(y, plane_size(y.shape[1], y.shape[0]), interpolation=cv2.INTER_AREA), np.uint8),
                float(frame.time or 0),
            )


def test_the_people_of_the_real_clip_pass_when_they_come_and_its_empty_frames_do_not() -> None:
    gate = MotionGate(MotionSettings(look_every_s=1e9, hold_s=0.5))
    planes = list(clip_planes(str(CLIP)))
    empty, empty_s = planes[0][0], planes[-1][1]
    for count in range(100):  # first, long enough, nothing but the wall
        gate.passes(empty, count * 0.2)
    passed = [gate.passes(plane, 20.2 + at) for plane, at in planes]
    truth = json.loads(TRUTH.read_text())
    assert empty_s > 9
    with_people = [bool(frame) for frame in _boxes(truth)]
    first, last = with_people.index(True), len(with_people) - with_people[::-1].index(True)
    fps = len(planes) / (empty_s + planes[1][1])
    assert True in passed[first : first + round(fps)], "within the first second"
    inside = passed[first + round(fps) // 2 : last - round(fps) // 2]
    assert sum(inside) >= 0.98 * len(inside)
    assert not any(passed[: max(0, first - 1)])


def _boxes(truth: dict[str, object]) -> list[object]:
    frames = truth["frames"]
    assert isinstance(frames, list)
    return [frame.get("boxes", frame.get("objects")) if isinstance(frame, dict) else frame for frame in frames]


class Still(Source):
    """A live camera in front of a wall, as fast as it is read."""

    def __init__(self, frames: int) -> None:
        self._left, self.hints, self.cheaper = frames, list[float](), list[float]()

    @property
    def finite(self) -> bool:
        return True

    def open(self) -> StreamInfo:
        return StreamInfo(160, 90, None, "none")

    def read(self) -> Reading:
        if not self._left:
            raise EndOfStream
        self._left -= 1
        return Reading(BgrImage(np.full((90, 160, 3), 100, np.uint8)), 0.0)

    def skip_until(self, at: float, cheaper_by: float = 0.0) -> None:
        self.hints.append(at)
        self.cheaper.append(cheaper_by)

    def close(self) -> None:
        pass


def gated_capture(source: Source, mode: str, motion: dict[str, object]) -> Capture:
    config = make_config({"cameras": [{"id": "c", "source": "synthetic", "mode": mode, "motion": motion}]})
    return Capture(config.cameras[0], source, threading.Condition())


def test_the_gate_is_off_where_every_frame_counts_unless_switched_on() -> None:
    assert gated_capture(Still(1), "freshest", {}).motion is not None
    assert gated_capture(Still(1), "freshest", {"enabled": False}).motion is None
    assert gated_capture(Still(1), "every", {}).motion is None
    assert gated_capture(Still(1), "every", {"enabled": True}).motion is not None
    config = make_config({"cameras": [{"id": "c", "source": "synthetic"}]})
    assert Capture(config.cameras[0], Still(1), threading.Condition()).motion is None


def test_while_nothing_moves_the_camera_is_wanted_a_few_times_a_second_only() -> None:
    source = Still(3)
    capture = gated_capture(source, "freshest", {"looks_per_s": 4, "look_every_s": 1000, "hold_s": 0})
    watch = capture.motion
    assert watch is not None
    for ticket in range(10):
        watch.passes(BgrImage(np.full((90, 160, 3), 100, np.uint8)), ticket, ticket * 0.5)
    capture.start()
    wait_until(lambda: capture.slot)
    with capture._wake:
        frame = capture.take(50.0)
    assert frame is not None
    assert not capture.moves(frame, 10, 50.0)
    capture.unmoved()
    assert capture.slot.due == 50.25
    assert source.hints[-1] <= 50.25
    assert source.cheaper[-1] == pytest.approx(50.9), "a look may wait for a picture that costs less to decode"
    counts = capture.snapshot()
    assert counts.skipped["no_motion"] == 1
    assert counts.captured == counts.served + counts.skipped.sum + counts.dropped.sum + counts.in_flight
    capture.stop()
    assert capture.join(5)


def test_what_is_overtaken_between_two_looks_is_skipped_for_want_of_motion_and_max_fps_is_not_used_up() -> None:
    now = [0.0]
    wake = threading.Condition()
    slot = Slot(SlotPolicy(every=False, interval_s=10, pace="interval"), wake, clock=lambda: now[0])
    capture_frames = [object() for _ in range(4)]
    with wake:
        slot.put(capture_frames[0])  # type: ignore[arg-type]
        assert slot.take(0.0) is capture_frames[0]
        slot.unmoved()
        slot.rest(0.2)
        slot.put(capture_frames[1])  # type: ignore[arg-type]
        slot.put(capture_frames[2])  # type: ignore[arg-type]
        assert slot.counts.skipped == {"no_motion": 2}
        assert slot.ready_at() == 0.2
        now[0] = 0.2
        assert slot.take(0.2) is capture_frames[2]
        slot.served()
        slot.put(capture_frames[3])  # type: ignore[arg-type]
        assert slot.ready_at() == pytest.approx(10.2)
        slot.put(capture_frames[0])  # type: ignore[arg-type]
        assert slot.counts.skipped == {"no_motion": 2, "interval": 1}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"roi": [0, 0, 1920, 1080]}, ("roi", "pixels")),
        ({"roi": [0.5, 0, 0.4, 1]}, ("roi", "left, top, right, bottom")),
        ({"roi": [0, 0, 0.001, 1]}, ("roi", "at least")),
        ({"roi": [0, 0, 1]}, ("roi",)),
        ({"roi": [0, 0, float("nan"), 1]}, ("roi", "0 to 1")),
        ({"motion": {"masks": [[[0, 0], [1, 1]]]}}, ("masks", "three")),
        ({"motion": {"masks": [[[0, 0], [1, 1], [0, 0]]]}}, ("masks", "three")),
        ({"motion": {"masks": [[[0, 0], [640, 0], [640, 480]]]}}, ("masks", "pixels")),
        ({"motion": {"masks": [[[0, 0], [float("inf"), 0], [1, 1]]]}}, ("masks", "0 to 1")),
        ({"motion": {"look_every_s": 0}}, ("look_every_s",)),
        ({"motion": {"treshold": 3}}, ("treshold", "threshold")),
    ],
)
def test_what_cannot_be_meant_is_refused_with_key_and_hint(keys: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"cameras": [{"id": "c", "source": "synthetic", **keys}]})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.skipif(not ASSETS.is_dir(), reason=f"no shared assets at {ASSETS}")
def test_people_in_real_footage_of_a_street_keep_it_moving() -> None:
    gate = MotionGate(MotionSettings(look_every_s=1e9))
    passed = [gate.passes(plane, at) for plane, at in clip_planes(str(ASSETS / "video" / "vtest_people_10fps_20s.mp4"))]
    assert sum(passed) >= 0.95 * len(passed)
