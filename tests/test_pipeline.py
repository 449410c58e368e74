"""The loop with scripted detectors: order over lanes, one bad frame, many bad frames."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from typing_extensions import Self

from edge_agent.capture import Capture
from edge_agent.detections import Detections
from edge_agent.errors import EndOfStream, ModelError, PictureUnusable
from edge_agent.events import Message, ModelInfo
from edge_agent.image import BgrImage, Image
from edge_agent.models.base import Prediction, Thresholds, Timings
from edge_agent.pipeline import MAX_ERRORS_IN_A_ROW, TOLD_TOGETHER, Crew, Pipeline, PipelineContext
from edge_agent.scheduler import Scheduler
from edge_agent.sources.base import Reading, Source, StreamInfo
from tests.conftest import make_config, wait_until

THRESHOLDS = Thresholds(0.4, 0.45, 10)


class Numbered(Source):
    """So many frames, whose first pixel is their number."""

    live = False

    def __init__(self, frames: int, *, unpaced: bool = False, gates: dict[int, threading.Event] | None = None) -> None:
        self._numbers, self.unpaced, self._gates = iter(range(frames)), unpaced, gates or {}

    def open(self) -> StreamInfo:
        return StreamInfo(4, 2, None, "none")

    def read(self) -> Reading:
        number = next(self._numbers, None)
        if number in self._gates:
            assert self._gates[number].wait(10)
        if number is None:
            raise EndOfStream
        return Reading(BgrImage(np.full((2, 4, 3), number % 256, np.uint8)), 0.0)

    def close(self) -> None:
        pass


class ScriptedModel:
    """Sees one box whose confidence is the frame's number; fails where it is told to; ``gates`` hold frames back."""

    batch = 1

    def __init__(self, failing: dict[int, Exception] | None = None, gates: dict[int, threading.Event] | None = None) -> None:
        self.failing, self.gates = failing or {}, gates or {}

    def __call__(self, image: Image, _thresholds: Thresholds) -> Prediction:
        number = int(image.bgr()[0, 0, 0])
        if number in self.gates:
            assert self.gates[number].wait(10)
        if number in self.failing:
            raise self.failing[number]
        box = np.array([[1.5, 0, 4, 2]], np.float32)
        found = Detections(box, np.array([number / 256], np.float32), np.array([1], np.int32), ("a", "b"))
        return Prediction(found, Timings(1.0, 2.0, 3.0))


class Line:
    """A pipeline over one scripted camera."""

    def __init__(self, frames: int | Numbered, *lanes: ScriptedModel) -> None:
        self.messages: list[Message] = []
        wake = threading.Condition()
        config = make_config({"cameras": [{"id": "c", "source": "x.mp4"}]})
        self.capture = Capture(config.cameras[0], Numbered(frames) if isinstance(frames, int) else frames, wake)
        blocks = iter(range(0, 10_000, 7))
        context = PipelineContext(
            "dev",
            "s",
            self.messages.append,
            lambda _: range(first := next(blocks), first + 7),
            lambda: True,
        )
        crew = Crew(Scheduler([self.capture], wake), lanes, {"c": THRESHOLDS}, ModelInfo("m", "h", "int8", "r"))  # type: ignore[arg-type]
        self.pipeline = Pipeline(context, [crew])

    def __enter__(self) -> Self:
        self.pipeline.start()
        self.capture.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.capture.stop()
        assert self.pipeline.stop(5)

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(m.payload) for m in self.messages]


def test_events_carry_what_was_seen_and_when() -> None:
    with Line(3, ScriptedModel()) as line:
        assert line.pipeline.finished.wait(10)
    event = line.events[2]
    assert event["frame_id"] == 2
    assert event["detections"] == [
        {"class_id": 1, "label": "b", "confidence": 0.0078, "xyxy": [1.5, 0.0, 4.0, 2.0], "xyxyn": [0.375, 0.0, 1.0, 1.0]}
    ]
    latency = event["latency_ms"]
    assert isinstance(latency, dict)
    assert (latency["preprocess"], latency["infer"], latency["postprocess"]) == (1.0, 2.0, 3.0)


def test_sequence_numbers_go_on_over_reserved_blocks() -> None:
    with Line(30, ScriptedModel()) as line:
        assert line.pipeline.finished.wait(10)
    assert [e["seq"] for e in line.events] == list(range(30))


def test_lanes_that_finish_out_of_order_publish_in_order() -> None:
    gates = {0: threading.Event()}
    with Line(20, ScriptedModel(gates=gates), ScriptedModel(gates=gates)) as line:
        wait_until(lambda: line.pipeline.flows["c"].waiting)
        assert line.messages == []
        gates[0].set()
        assert line.pipeline.finished.wait(10)
        wait_until(lambda: len(line.messages) == 20)
    assert [e["frame_id"] for e in line.events] == list(range(20))


def test_a_slow_lane_is_waited_for_before_the_end() -> None:
    gates = {4: threading.Event()}
    with Line(5, ScriptedModel(gates=gates), ScriptedModel(gates=gates)) as line:
        wait_until(lambda: len(line.messages) == 4)
        assert not line.pipeline.finished.wait(0.3)
        gates[4].set()
        assert line.pipeline.finished.wait(10)
    assert [e["frame_id"] for e in line.events] == list(range(5))


def test_results_of_a_file_are_told_together_but_never_later_than_there_is_nothing_else_to_do() -> None:
    gates = {TOLD_TOGETHER + 3: threading.Event()}
    with Line(Numbered(40, unpaced=True, gates=gates), ScriptedModel()) as line:
        wait_until(lambda: len(line.messages) == TOLD_TOGETHER + 3)  # the last three, with no fourth in sight
        assert line.capture.snapshot().served == TOLD_TOGETHER + 3
        gates[TOLD_TOGETHER + 3].set()
        assert line.pipeline.finished.wait(10)
    assert [e["frame_id"] for e in line.events] == list(range(40))
    assert line.capture.snapshot().served == 40


def test_results_that_wait_to_be_told_are_told_before_a_failure_ends_the_pipeline() -> None:
    failing: dict[int, Exception] = {n: ModelError("broken for good") for n in range(3, 100)}
    with Line(Numbered(100, unpaced=True), ScriptedModel(failing)) as line:
        assert line.pipeline.finished.wait(10)
    assert [e["frame_id"] for e in line.events] == [0, 1, 2]


def test_a_lane_that_hangs_lets_only_a_few_results_pile_up_and_every_frame_is_accounted_for() -> None:
    gates = {2: threading.Event()}
    line = Line(1000, ScriptedModel(gates=gates), ScriptedModel(gates=gates))
    line.pipeline.start()
    line.capture.start()
    wait_until(lambda: len(line.pipeline.flows["c"].waiting) == 4)
    assert not line.pipeline.stop(0.7)
    assert len(line.pipeline.flows["c"].waiting) == 4
    line.capture.stop()
    assert line.capture.join(5)
    line.capture.abandon()
    counts = line.capture.snapshot()
    assert counts.in_flight == 0
    assert (counts.served, counts.captured) == (2, 2 + counts.dropped["shutdown"])
    gates[2].set()
    assert line.pipeline.stop(5)
    assert line.capture.snapshot() == counts, "what comes too late changes nothing any more"


def test_giving_up_ends_with_the_reason() -> None:
    with Line(3, ScriptedModel()) as line:
        line.pipeline.give_up("an inference has not ended")
        assert line.pipeline.finished.is_set()
    assert "has not ended" in str(line.pipeline.failure)


@pytest.mark.parametrize("error", [ModelError("cannot"), RuntimeError("a library's own"), ValueError("odd")])
def test_one_bad_frame_is_counted_and_the_others_go_on(error: Exception) -> None:
    with Line(20, ScriptedModel({5: error, 9: error})) as line:
        assert line.pipeline.finished.wait(10)
    assert [e["frame_id"] for e in line.events] == [n for n in range(20) if n not in {5, 9}]
    assert [e["seq"] for e in line.events] == list(range(18))
    counts = line.capture.snapshot()
    assert (counts.captured, counts.served, counts.dropped["model_error"], counts.in_flight) == (20, 18, 2, 0)
    assert line.pipeline.failure is None


def test_a_model_that_fails_on_every_frame_ends_the_pipeline_with_the_reason() -> None:
    failing: dict[int, Exception] = {n: ModelError("broken for good") for n in range(100)}
    with Line(100, ScriptedModel(failing)) as line:
        assert line.pipeline.finished.wait(10)
    assert isinstance(line.pipeline.failure, ModelError)
    assert f"{MAX_ERRORS_IN_A_ROW} frames in a row" in str(line.pipeline.failure)
    assert "broken for good" in str(line.pipeline.failure)


def test_a_model_that_fails_on_every_frame_is_not_hidden_by_another_that_works() -> None:
    failing: dict[int, Exception] = {n: ModelError("broken for good") for n in range(256)}
    gate = threading.Event()
    wake = threading.Condition()
    config = make_config({"cameras": [{"id": "good", "source": "x.mp4"}, {"id": "bad", "source": "x.mp4"}]})
    captures = [Capture(camera, Numbered(200), wake) for camera in config.cameras]
    models = ScriptedModel(gates={190: gate}), ScriptedModel(failing)
    info = ModelInfo("m", "h", "int8", "r")
    crews = [
        Crew(Scheduler([capture], wake), [model], {capture.camera.id: THRESHOLDS}, info)  # type: ignore[list-item]
        for capture, model in zip(captures, models, strict=True)
    ]
    context = PipelineContext("dev", "s", lambda _: None, lambda _: range(1000), lambda: True)
    pipeline = Pipeline(context, crews)
    pipeline.start()
    for capture in captures:
        capture.start()
    assert pipeline.finished.wait(10)
    assert "broken for good" in str(pipeline.failure)
    gate.set()
    for capture in captures:
        capture.stop()
    assert pipeline.stop(5)


def crews_of(*parts: tuple[str, Numbered, list[ScriptedModel]]) -> tuple[Pipeline, list[Capture], list[dict[str, object]]]:
    """A model of its own for each camera."""
    wake, messages = threading.Condition(), list[dict[str, object]]()
    cameras = make_config({"cameras": [{"id": name, "source": "x.mp4"} for name, _, _ in parts]}).cameras
    captures = [Capture(camera, source, wake) for camera, (_, source, _) in zip(cameras, parts, strict=True)]
    info = ModelInfo("m", "h", "int8", "r")
    crews = [
        Crew(Scheduler([capture], wake), lanes, {capture.camera.id: THRESHOLDS}, info)  # type: ignore[arg-type]
        for capture, (_, _, lanes) in zip(captures, parts, strict=True)
    ]
    publish = lambda message: messages.append(json.loads(message.payload))  # noqa: E731
    return Pipeline(PipelineContext("dev", "s", publish, lambda _: range(1000), lambda: True), crews), captures, messages


def test_a_model_that_hangs_takes_nothing_from_the_cameras_of_another() -> None:
    gate = threading.Event()
    stuck = [ScriptedModel(gates={0: gate}), ScriptedModel(gates={0: gate})]
    pipeline, captures, messages = crews_of(("stuck", Numbered(100), stuck), ("free", Numbered(200), [ScriptedModel()]))
    pipeline.start()
    for capture in captures:
        capture.start()
    wait_until(lambda: sum(event["camera"] == "free" for event in list(messages)) == 200)
    assert len(pipeline.flows["stuck"].waiting) <= 4
    gate.set()
    assert pipeline.finished.wait(10)
    assert [e["frame_id"] for e in messages if e["camera"] == "stuck"] == list(range(100))


def test_damaged_pictures_are_the_cameras_fault_however_many_come() -> None:
    failing: dict[int, Exception] = {n: PictureUnusable("damaged") for n in range(5, 150)}
    with Line(200, ScriptedModel(failing)) as line:
        assert line.pipeline.finished.wait(10)
    assert line.pipeline.failure is None
    counts = line.capture.snapshot()
    assert (counts.served, counts.dropped["unreadable"], counts.dropped["model_error"]) == (55, 145, 0)


def test_the_last_results_of_a_file_are_told_while_another_camera_keeps_the_lane_at_work() -> None:
    wake, messages = threading.Condition(), list[Message]()
    cameras = make_config({"cameras": [{"id": "file", "source": "x.mp4"}, {"id": "other", "source": "x.mp4"}]}).cameras
    endless = Numbered(1_000_000)
    captures = [Capture(cameras[0], Numbered(11, unpaced=True), wake), Capture(cameras[1], endless, wake)]
    crew = Crew(Scheduler(captures, wake), [ScriptedModel()], dict.fromkeys(("file", "other"), THRESHOLDS), ModelInfo("m", "h", "i", "r"))  # type: ignore[list-item]
    context = PipelineContext("dev", "s", messages.append, lambda _: range(1_000_000), lambda: True)
    pipeline = Pipeline(context, [crew])
    pipeline.start()
    for capture in captures:
        capture.start()
    wait_until(lambda: captures[0].snapshot().served == 11)
    for capture in captures:
        capture.stop()
    assert pipeline.stop(5)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("CRITICAL"):
        yield
