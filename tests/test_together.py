"""Frames that are inferred together: whose, in which order, and what becomes of each; the loop, and the scheduler on a simulated clock."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.capture import Capture
from edge_agent.errors import ModelError
from edge_agent.events import Message, ModelInfo
from edge_agent.image import Image
from edge_agent.models.base import Prediction, Thresholds
from edge_agent.pipeline import MAX_ERRORS_IN_A_ROW, Crew, Pipeline, PipelineContext
from edge_agent.scheduler import Job, Scheduler
from tests.conftest import make_config, wait_until
from tests.test_pipeline import THRESHOLDS, Numbered, ScriptedModel
from tests.test_scheduler_simulated import START, Feed, World, steady


class TogetherModel(ScriptedModel):
    """As one at a time, and notes how many were inferred together; the call fails where one of its frames is in ``breaking``."""

    def __init__(
        self,
        batch: int,
        failing: dict[int, Exception] | None = None,
        breaking: frozenset[int] = frozenset(),
        gate: threading.Event | None = None,
    ) -> None:
        super().__init__(failing)
        self.batch = batch
        self.breaking, self.gate = breaking, gate
        self.sizes: list[int] = []
        self.thresholds: list[Thresholds] = []

    def __call__(self, image: Image, thresholds: Thresholds) -> Prediction:
        self._called([image])
        return super().__call__(image, thresholds)

    def together(self, images: Sequence[Image], thresholds: Sequence[Thresholds]) -> list[Prediction | Exception]:
        self._called(images)
        self.thresholds += thresholds
        return [self._one(image, own) for image, own in zip(images, thresholds, strict=True)]

    def _called(self, images: Sequence[Image]) -> None:
        if self.gate is not None:
            assert self.gate.wait(10)
        self.sizes.append(len(images))
        if self.breaking & {int(image.bgr()[0, 0, 0]) for image in images}:
            raise ModelError("the inference fails")

    def _one(self, image: Image, thresholds: Thresholds) -> Prediction | Exception:
        try:
            seen = super().__call__(image, thresholds)
        except Exception as error:
            return error
        return replace(seen, timings=replace(seen.timings, together=self.sizes[-1]))


class Cameras:
    """A pipeline over several scripted cameras, whose lanes wait until every camera has a frame ready."""

    def __init__(self, frames: Sequence[int], *lanes: TogetherModel, unpaced: bool = False) -> None:
        self.messages: list[Message] = []
        self.gate = threading.Event()
        for lane in lanes:
            lane.gate = self.gate
        wake = threading.Condition()
        tables = [{"id": f"c{index}", "source": "x.mp4"} for index in range(len(frames))]
        config = make_config({"cameras": tables})
        self.captures = [
            Capture(camera, Numbered(count, unpaced=unpaced), wake) for camera, count in zip(config.cameras, frames, strict=True)
        ]
        self.thresholds = {capture.camera.id: replace(THRESHOLDS, max_detections=index + 1) for index, capture in enumerate(self.captures)}
        crew = Crew(Scheduler(self.captures, wake), lanes, self.thresholds, ModelInfo("m", "h", "int8", "r"))  # type: ignore[arg-type]
        context = PipelineContext("dev", "s", self.messages.append, lambda _: range(10_000), lambda: True)
        self.pipeline = Pipeline(context, [crew])

    def run(self) -> None:
        for capture in self.captures:
            capture.start()
        wait_until(lambda: all(capture.slot for capture in self.captures))
        self.pipeline.start()
        self.gate.set()
        assert self.pipeline.finished.wait(20)
        for capture in self.captures:
            capture.stop()
        assert self.pipeline.stop(5)

    def events(self, camera: int) -> list[dict[str, object]]:
        return [event for message in self.messages if (event := json.loads(message.payload))["camera"] == f"c{camera}"]


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("unpaced", [False, True])
def test_each_camera_stays_in_its_order_and_every_frame_is_accounted_for(lanes: int, unpaced: bool) -> None:
    models = [TogetherModel(4) for _ in range(lanes)]
    cameras = Cameras([40, 25, 60], *models, unpaced=unpaced)
    cameras.run()
    for index, count in enumerate([40, 25, 60]):
        events = cameras.events(index)
        assert [event["frame_id"] for event in events] == list(range(count))
        assert [event["seq"] for event in events] == list(range(count))
        counts = cameras.captures[index].snapshot()
        assert (counts.captured, counts.served, counts.dropped.sum, counts.in_flight) == (count, count, 0, 0)
    sizes = [size for model in models for size in model.sizes]
    assert sum(sizes) == 40 + 25 + 60
    assert 2 <= max(sizes) <= 4
    assert max(model.sizes[0] for model in models) >= 3, "all that waited, at once"


def test_each_frame_has_its_cameras_thresholds() -> None:
    model = TogetherModel(3)
    cameras = Cameras([1, 1, 1], model)
    cameras.run()
    assert model.sizes == [3]
    assert model.thresholds == list(cameras.thresholds.values())


def test_of_one_file_the_next_in_order_are_inferred_together_and_told_what_the_call_took() -> None:
    model = TogetherModel(4)
    cameras = Cameras([12], model, unpaced=True)
    cameras.run()
    assert [event["frame_id"] for event in cameras.events(0)] == list(range(12))
    assert max(model.sizes) > 1
    latency = cameras.events(0)[0]["latency_ms"]
    assert isinstance(latency, dict)
    assert latency["infer"] == 2.0, "the whole call's"
    service = cameras.pipeline.flows["c0"].service.mean()
    assert service is not None
    assert service < 1 + 2 + 3, "its part of it"


def test_one_bad_frame_loses_itself_and_a_failing_inference_all_that_it_was_of() -> None:
    model = TogetherModel(3, {5: ModelError("torn"), 9: ValueError("a library's own")}, frozenset({13}))
    cameras = Cameras([20, 20, 20], model)
    cameras.run()
    assert cameras.pipeline.failure is None
    lost = Counter[str]()
    for index, capture in enumerate(cameras.captures):
        counts = capture.snapshot()
        assert counts.captured == 20 == counts.served + counts.dropped["model_error"]
        assert counts.in_flight == 0
        served = [int(str(event["frame_id"])) for event in cameras.events(index)]
        assert served == sorted(set(served) - {5, 9, 13})
        lost[f"c{index}"] = counts.dropped["model_error"]
    assert min(lost.values()) >= 3
    assert sum(lost.values()) <= 3 * 2 + 3 * 3, "three frames of 5, three of 9, and what was inferred together with those of 13"


def test_a_model_that_fails_on_everything_ends_the_pipeline() -> None:
    cameras = Cameras([100, 100], TogetherModel(4, breaking=frozenset(range(100))))
    cameras.run()
    assert f"{MAX_ERRORS_IN_A_ROW} frames in a row" in str(cameras.pipeline.failure)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("CRITICAL"):
        yield


class Together(World):
    """As :class:`World`, with a model that infers up to ``batch`` at once, in ``fixed_s`` and ``each_s`` for each frame."""

    def __init__(self, feeds: list[Feed], batch: int, service_s: Callable[[int], float], lanes: int = 1) -> None:
        self.batch, self.service_s = batch, service_s
        self.batches: list[list[Job]] = []
        super().__init__(feeds, lanes)

    def _serve(self) -> None:
        for lane in sorted(self._free):
            jobs = self.scheduler.take_together(self.batch, 0.0, lane=lane)
            if not jobs:
                with self._wake:
                    wakes = [due for c in self.captures if (due := c.ready_at(self.now)) is not None]
                if wakes and (later := max(min(wakes), self.scheduler._lanes[lane].rests_until)) > self.now:
                    self.at(later, lambda: None)
                continue
            self.batches.append(jobs)
            for job in jobs:
                self.outcomes[int(job.frame.camera[1:])].taken.append(job)
            self._free.discard(lane)
            self.at(self.now + self.service_s(len(jobs)), lambda lane=lane, jobs=jobs: self._all_done(lane, jobs))  # type: ignore[misc]

    def _all_done(self, lane: int, jobs: list[Job]) -> None:
        for job in jobs:
            job.capture.served()
        self._free.add(lane)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 3), st.floats(0.002, 0.1), st.lists(st.floats(0, 0.9), min_size=1, max_size=20))
def test_nothing_is_waited_for_and_every_frame_is_accounted_for(
    batch: int, cameras: int, lanes: int, service_s: float, jitter: list[float]
) -> None:
    rates = [5.0 + 7 * index for index in range(cameras)]
    world = Together([Feed(steady(fps, itertools.cycle(jitter)), lambda _: 0.0) for fps in rates], batch, lambda n: service_s * n, lanes)
    outcomes = world.run(5.0)
    for jobs in world.batches:
        names = [job.frame.camera for job in jobs]
        assert 1 <= len(jobs) <= batch
        assert max(Counter(names).values()) <= 2, "of a live camera there are the newest, and in a burst the one before"
        assert len({job.taken_at for job in jobs}) == 1
    for capture, outcome in zip(world.captures, outcomes, strict=True):
        counts = capture.snapshot()
        assert counts.captured == len(outcome.arrived) == counts.served + counts.skipped.sum + counts.in_flight
        assert [job.ticket for job in outcome.taken] == list(range(len(outcome.taken)))
        numbers = [job.frame.frame_id for job in outcome.taken]
        assert numbers == sorted(set(numbers)), "in the camera's order"
        for job in outcome.taken:
            assert job.frame.captured_at in [arrival for arrival in outcome.arrived if arrival <= job.taken_at][-2:]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=3, max_size=6), st.integers(2, 4), st.floats(0.01, 0.1))
def test_shares_hold_as_far_as_cameras_have_frames(weights: list[float], batch: int, service_s: float) -> None:
    """A camera has one frame for each batch at most, so none gets more than one of each; below that the weights decide."""
    fps = 5 / service_s
    world = Together([Feed(steady(fps), lambda _: 0.0, {"weight": weight}) for weight in weights], batch, lambda _: service_s)
    outcomes = world.run(200 * service_s)
    served = [len(outcome.taken) for outcome in outcomes]
    assert sum(served) >= 0.97 * 200 * min(batch, len(weights)) - batch
    for one, other in itertools.pairwise(sorted(range(len(weights)), key=weights.__getitem__)):
        assert served[one] <= served[other] + 2, "who weighs more is not served less"


def test_a_batch_lets_a_model_that_gains_from_it_serve_more() -> None:
    feeds = [Feed(steady(100), lambda _: 0.0) for _ in range(4)]
    alone = Together(feeds, 1, lambda n: 0.03 + 0.01 * n)
    alone.run(10.0)
    several = Together([Feed(steady(100), lambda _: 0.0) for _ in range(4)], 4, lambda n: 0.03 + 0.01 * n)
    outcomes = several.run(10.0)
    assert len(several.batches[-1]) == 4
    assert sum(map(len, several.batches)) >= 2 * sum(map(len, alone.batches))
    ages = [job.taken_at - job.frame.captured_at for outcome in outcomes for job in outcome.taken]
    assert max(ages) <= 0.01 + 1e-9, "and each is the freshest"
    assert several.scheduler.service_s("c0") == pytest.approx(0.07 / 4), "a frame's part of the call"


def test_a_frame_in_which_nothing_moves_leaves_the_others_their_batch() -> None:
    world = Together([Feed(iter([START]), lambda _: 0.0) for _ in range(3)], 3, lambda _: 0.3)
    world._free.clear()
    world.run(0.1)
    jobs = world.scheduler.take_together(3, 0.0)
    assert len(jobs) == 3
    world.scheduler.refund(jobs[1])
    world.now += 0.2
    assert world.scheduler.take_together(3, 0.0) == []
    taken = {job.frame.camera: world.scheduler.service_s(job.frame.camera) for job in jobs}
    assert taken.pop(jobs[1].frame.camera) == 0, "it tells nothing of how long an inference takes"
    assert list(taken.values()) == [pytest.approx(0.1)] * 2
