"""What is published when: properties that any camera's life keeps, and the line that goes by them."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge_agent.capture import Capture
from edge_agent.config_delivery import CameraPublishSettings, PublishSettings
from edge_agent.detections import Classification, Detections
from edge_agent.encoding import encode, schemas
from edge_agent.errors import ConfigError
from edge_agent.events import DetectedObject, DetectionsEvent, LatencyParts, Message, ModelInfo
from edge_agent.models.base import Prediction, Thresholds, Timings
from edge_agent.payload import summed
from edge_agent.pipeline import Crew, Pipeline, PipelineContext
from edge_agent.publishing import Interval, OnChange, PublishRule, differs, rule_for, scene
from edge_agent.scheduler import Scheduler
from tests.conftest import make_config, wait_until
from tests.test_pipeline import Numbered, ScriptedModel

SIZE, THRESHOLD = (100, 100), 0.4
RULE = PublishRule("change", keep_alive_s=20, least_s=1, moved=0.05, confidence_change=0.2)
Thing = tuple[int, float, float, float]
"""Class, confidence, left, top; 20 x 20 pixels of a picture of 100 x 100."""


def seen(*things: Thing, classes: Sequence[tuple[int, float]] | None = None) -> Prediction:
    rows = sorted(things, key=lambda thing: -thing[1])
    boxes = np.array([[x, y, x + 20, y + 20] for _, _, x, y in rows], np.float32).reshape(-1, 4)
    found = Detections(boxes, np.array([r[1] for r in rows], np.float32), np.array([r[0] for r in rows], np.int32), ("a", "b", "c"))
    ranked = None
    if classes is not None:
        ranked = Classification(np.array([c for c, _ in classes], np.int32), np.array([s for _, s in classes], np.float32), ("a", "b", "c"))
    return Prediction(found, Timings(1, 2, 3), classes=ranked)


def changes(before: Prediction, now: Prediction) -> bool:
    return differs(scene(before, *SIZE), scene(now, *SIZE), RULE, THRESHOLD)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([(0, 0.9, 10, 10)], [(0, 0.9, 10, 10)], False),
        ([], [], False),
        ([(0, 0.9, 10, 10)], [(1, 0.9, 10, 10)], True),  # another class
        ([(0, 0.9, 10, 10)], [], True),
        ([], [(0, 0.9, 10, 10)], True),
        ([], [(0, 0.49, 10, 10)], False),  # appears, though only near the threshold
        ([(0, 0.9, 10, 10)], [(0, 0.9, 14.9, 10)], False),
        ([(0, 0.9, 10, 10)], [(0, 0.9, 15.1, 10)], True),  # moved by more than 5 of 100
        ([(0, 0.9, 10, 10)], [(0, 0.71, 10, 10)], False),
        ([(0, 0.9, 10, 10)], [(0, 0.69, 10, 10)], True),
        ([(0, 0.9, 10, 10), (0, 0.8, 60, 60)], [(0, 0.9, 60, 60), (0, 0.8, 10, 10)], False),  # two change places in the list only
        ([(0, 0.9, 10, 10)], [(0, 0.9, 10, 10), (0, 0.45, 60, 60)], False),
        ([(0, 0.9, 10, 10)], [(0, 0.9, 10, 10), (0, 0.6, 60, 60)], True),
        ([(0, 0.9, 10, 10), (0, 0.45, 60, 60)], [(0, 0.9, 10, 10)], True),  # what was told of has gone, however unsure it was
    ],
)  # fmt: skip
def test_what_counts_as_a_change(before: list[Thing], now: list[Thing], expected: bool) -> None:
    assert changes(seen(*before), seen(*now)) is expected


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([(0, 0.5), (1, 0.4)], [(1, 0.45), (0, 0.44)], False),  # two that are equally likely take turns
        ([(0, 0.5), (1, 0.4)], [(1, 0.7), (0, 0.2)], True),
        ([(0, 0.5)], [(0, 0.75)], True),
        ([(0, 0.5)], [(0, 0.65)], False),
        ([(0, 0.5)], [], True),
    ],
)
def test_a_picture_changes_with_its_class(before: list[tuple[int, float]], now: list[tuple[int, float]], expected: bool) -> None:
    assert changes(seen(classes=before), seen(classes=now)) is expected


things = st.tuples(st.integers(0, 2), st.floats(0.4, 1), st.floats(0, 80), st.floats(0, 80))
frames = st.lists(st.tuples(st.floats(0.01, 30), st.lists(things, max_size=3)), min_size=1, max_size=40)


@given(frames)
@settings(max_examples=200)
def test_silence_means_that_nothing_changed_and_messages_keep_their_distance(life: list[tuple[float, list[Thing]]]) -> None:
    rule, now, told, told_at = OnChange(RULE), 100.0, None, 0.0
    for step, found in life:
        now += step
        prediction = seen(*found)
        why = rule.withholds(prediction, SIZE, now, THRESHOLD)
        if why is None:
            assert told is None or now - told_at >= RULE.least_s
            told, told_at = prediction, now
            continue
        assert told is not None  # the first frame is always told
        assert now - told_at < RULE.keep_alive_s
        if why == "unchanged":
            assert not changes(told, prediction)
        else:
            assert why == "too_soon"
            assert now - told_at < RULE.least_s


@given(st.lists(st.lists(things, max_size=3), min_size=2, max_size=2), st.floats(0.01, 0.99))
def test_what_changes_too_soon_is_told_once_it_is_time_if_it_still_holds(pair: list[list[Thing]], soon: float) -> None:
    before, after = seen(*pair[0]), seen(*pair[1])
    rule = OnChange(RULE)
    assert rule.withholds(before, SIZE, 0.0, THRESHOLD) is None
    assert rule.withholds(after, SIZE, soon, THRESHOLD) == ("too_soon" if changes(before, after) else "unchanged")
    assert rule.withholds(after, SIZE, 1.0, THRESHOLD) == (None if changes(before, after) else "unchanged")


@given(frames, st.data())
def test_no_change_is_kept_from_a_consumer_for_longer_than_the_least_time(
    life: list[tuple[float, list[Thing]]], data: st.DataObject
) -> None:
    """Whenever somebody looks, what was told of is what is seen, or it changed no longer ago than that. And each frame is counted once."""
    rule, now, told, last, number = OnChange(RULE), 100.0, None, None, 0
    published, too_soon, unchanged = [], 0, 0
    for step, found in life:
        until = now + step
        for looked_at in sorted(data.draw(st.lists(st.floats(now, until), max_size=3))):
            if rule.is_over(looked_at) and (event_of := rule.take(looked_at)) is not None:
                told = last
                published.append(event_of.frame_id)
            assert told is None or last is None or not changes(told, last) or not rule.is_over(looked_at)
        now = until
        too_soon += rule.forget()
        last = seen(*found)
        why = rule.withholds(last, SIZE, now, THRESHOLD)
        if why is None:
            told = last
            published.append(number)
        elif why == "too_soon":
            rule.keep(event(number, *found))
        unchanged += why == "unchanged"
        number += 1
    if (event_of := rule.take(now)) is not None:
        told = last
        published.append(event_of.frame_id)
    assert told is not None
    assert last is not None
    assert not changes(told, last)
    assert rule.take(now) is None
    assert len(published) + too_soon + unchanged == number
    assert published == sorted(set(published))


def test_a_high_threshold_does_not_keep_what_is_sure_from_appearing() -> None:
    assert differs(scene(seen(), *SIZE), scene(seen((0, 0.98, 10, 10)), *SIZE), RULE, 0.95)
    assert not differs(scene(seen(), *SIZE), scene(seen((0, 0.96, 10, 10)), *SIZE), RULE, 0.95)


@given(st.lists(things, max_size=4))
def test_a_still_picture_is_told_of_at_the_keep_alive_only(found: list[Thing]) -> None:
    rule = OnChange(RULE)
    told = [t for t in range(100) if rule.withholds(seen(*found), SIZE, float(t), THRESHOLD) is None]
    assert told == [0, 20, 40, 60, 80]


def test_what_trembles_at_the_threshold_is_told_of_once_at_most() -> None:
    rule = OnChange(RULE)
    steady: Thing = (0, 0.9, 10, 10)
    lives = [seen(steady), seen(steady, (1, 0.42, 60, 60))] * 8
    assert [rule.withholds(each, SIZE, 1.0 + t, THRESHOLD) for t, each in enumerate(lives)].count(None) == 1


def event(number: int, *found: Thing) -> DetectionsEvent:
    boxes = [
        DetectedObject(c, "abc"[c], s, (x, y, x + 20, y + 20), (x / 100, y / 100, x / 100 + 0.2, y / 100 + 0.2)) for c, s, x, y in found
    ]
    moment = f"2026-11-23T00:00:{number % 60:02d}.000Z"
    return DetectionsEvent(
        "d", "c", "s", 0, number, moment, True, *SIZE, ModelInfo("m", "h", "int8", "r"), LatencyParts(1, 0, 0, 1, 0), boxes
    )


@given(st.lists(st.tuples(st.floats(0, 4), st.lists(things, max_size=3)), min_size=1, max_size=40))
def test_intervals_account_for_every_frame_once(life: list[tuple[float, list[Thing]]]) -> None:
    interval, now, told = Interval(10.0), 0.0, []
    for number, (step, found) in enumerate(life):
        now += step
        if interval.is_over(now):
            told.append(interval.take())
        interval.add(event(number, *found), now)
    told.append(interval.take())
    assert interval.take() is None
    summaries = [each[1] for each in told if each is not None]
    assert sum(each.frames for each in summaries) == len(life)
    rest = [found for _, found in life]
    for summary in summaries:
        mine, rest = rest[: summary.frames], rest[summary.frames :]
        for one in summary.classes:
            counts = [sum(thing[0] == one.class_id for thing in found) for found in mine]
            assert (one.most, one.frames) == (max(counts), sum(count > 0 for count in counts))
            assert one.mean == pytest.approx(sum(counts) / len(mine), abs=1e-4)
            assert one.best.confidence == max(thing[1] for found in mine for thing in found if thing[0] == one.class_id)
        assert {one.class_id for one in summary.classes} == {thing[0] for found in mine for thing in found}


def test_an_intervals_message_is_as_its_schema_says_and_a_detections_message_for_those_who_know_no_intervals() -> None:
    interval = Interval(10.0)
    for number in range(3):
        interval.add(event(number, (0, 0.5 + number / 10, 10, 10)), float(number))
    told = interval.take()
    assert told is not None
    payload = json.loads(encode(summed(*told, 7)).payload)
    Draft202012Validator(schemas()["detections"]).validate(payload)
    assert (payload["seq"], payload["frame_id"], len(payload["detections"])) == (7, 2, 1)
    summary = payload["interval"]
    assert (summary["frames"], summary["classes"][0]["mean"], summary["classes"][0]["best"]["frame_id"]) == (3, 1.0, 2)


def test_a_cameras_own_keys_go_before_the_common_ones() -> None:
    rule = rule_for(PublishSettings(when="change", keep_alive_s=30), CameraPublishSettings(keep_alive_s=5, least_s=0))
    assert (rule.when, rule.keep_alive_s, rule.least_s, rule.moved) == ("change", 5, 0, 0.05)
    assert rule_for(PublishSettings(), None) == PublishRule()


def test_wrong_keys_are_told_with_their_place() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"publish": {"when": "sometimes"}, "cameras": [{"id": "c", "source": "synthetic", "publish": {"moved": 7}}]})
    text = str(caught.value)
    assert "publish.when" in text
    assert "cameras[0].publish.moved" in text


class Still(ScriptedModel):
    """Sees the same box in each frame."""

    def __call__(self, image: Any, thresholds: Thresholds) -> Prediction:
        return seen((0, 0.9, 1, 1))


class Coming(ScriptedModel):
    """Sees one box in the first frame, and two from then on."""

    def __call__(self, image: Any, thresholds: Thresholds) -> Prediction:
        return seen((0, 0.9, 1, 1), *([(1, 0.9, 60, 60)] if image.bgr()[0, 0, 0] else []))


def run(rule: PublishRule, frames: int = 20, model: ScriptedModel | None = None) -> tuple[list[dict[str, Any]], Pipeline]:
    messages: list[Message] = []
    wake = threading.Condition()
    capture = Capture(make_config({"cameras": [{"id": "c", "source": "x.mp4"}]}).cameras[0], Numbered(frames), wake)
    context = PipelineContext("dev", "s", messages.append, lambda _: range(100, 10_000), lambda: True)
    thresholds, lanes = {"c": Thresholds(0.4, 0.45, 10)}, [model or Still()]
    crew = Crew(Scheduler([capture], wake), lanes, thresholds, ModelInfo("m", "h", "int8", "r"), rules={"c": rule})  # type: ignore[arg-type]
    pipeline = Pipeline(context, [crew])
    pipeline.start()
    capture.start()
    assert pipeline.finished.wait(20)
    capture.stop()
    assert pipeline.stop(5)
    assert capture.counts.served == frames
    return [json.loads(message.payload) for message in messages], pipeline


def test_the_line_publishes_a_still_camera_once_and_counts_the_rest() -> None:
    events, pipeline = run(PublishRule("change"))
    assert [(e["seq"], e["frame_id"]) for e in events] == [(100, 0)]
    flow = pipeline.flows["c"]
    assert (flow.published, dict(flow.withheld)) == (1, {"unchanged": 19})


def test_a_change_that_came_too_soon_is_told_of_when_its_time_comes_though_no_frame_does() -> None:
    gate = threading.Event()
    messages: list[Message] = []
    wake = threading.Condition()
    capture = Capture(make_config({"cameras": [{"id": "c", "source": "x.mp4"}]}).cameras[0], Numbered(3, gates={2: gate}), wake)
    context = PipelineContext("dev", "s", messages.append, lambda _: range(100, 10_000), lambda: True)
    rules = {"c": PublishRule("change", least_s=0.3)}
    crew = Crew(Scheduler([capture], wake), [Coming()], {"c": Thresholds(0.4, 0.45, 10)}, ModelInfo("m", "h", "int8", "r"), rules=rules)  # type: ignore[list-item]
    pipeline = Pipeline(context, [crew])
    pipeline.start()
    capture.start()
    wait_until(lambda: len(messages) == 2)
    gate.set()
    assert pipeline.finished.wait(20)
    capture.stop()
    assert pipeline.stop(5)
    told = [json.loads(message.payload) for message in messages]
    assert [(e["seq"], e["frame_id"], len(e["detections"])) for e in told] == [(100, 0, 1), (101, 1, 2)]
    assert (pipeline.flows["c"].published, dict(pipeline.flows["c"].withheld)) == (2, {"unchanged": 1})


def test_a_change_that_came_too_soon_is_told_of_at_the_end() -> None:
    events, pipeline = run(PublishRule("change", least_s=3600), model=Coming())
    assert [(e["seq"], e["frame_id"]) for e in events] == [(100, 0), (101, 19)]
    assert (pipeline.flows["c"].published, dict(pipeline.flows["c"].withheld)) == (2, {"too_soon": 18})


def test_the_line_tells_the_last_interval_when_a_file_ends() -> None:
    events, pipeline = run(PublishRule("interval", interval_s=3600))
    assert [(e["seq"], e["frame_id"], e["interval"]["frames"]) for e in events] == [(100, 19, 20)]
    assert (pipeline.flows["c"].published, dict(pipeline.flows["c"].withheld)) == (1, {"summed": 20})


def test_short_intervals_have_a_message_each_and_no_gap_in_seq() -> None:
    events, _ = run(PublishRule("interval", interval_s=1e-9))
    assert [e["seq"] for e in events] == list(range(100, 100 + len(events)))
    assert sum(e["interval"]["frames"] for e in events) == 20
    assert len(events) > 1
