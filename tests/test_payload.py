"""What tasks other than boxes look like on the wire, and that boxes look as they always did."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from edge_agent.detections import Classification, Detections, Masks, Segmentation
from edge_agent.encoding import encode, schemas
from edge_agent.events import DetectionsEvent, LatencyParts, ModelInfo
from edge_agent.models.base import Prediction, Timings
from edge_agent.payload import MaskForm, enriched, is_plain, objects

TIMINGS = Timings(1, 2, 3)
BOXES = Detections(
    np.array([[1.26, 0, 4, 2], [0, 0, 3, 3]], np.float32), np.array([0.91236, 0.5], np.float32), np.array([1, 0], np.int32), ("a", "b")
)


def event(prediction: Prediction, form: MaskForm = "polygon", **more: Any) -> dict[str, Any]:
    """The payload that one frame comes to, which must be as the schema says."""
    plain = DetectionsEvent(
        *("d", "c", "s", 1, 2, "2026-11-23T00:00:00Z", True, 8, 4),
        ModelInfo("m", "h", "int8", "r"),
        LatencyParts(1, 0, 0, 1, 0),
        objects(prediction, 8, 4),
        **more,
    )
    payload: dict[str, Any] = json.loads(encode(plain if is_plain(prediction) else enriched(plain, prediction, form)).payload)
    Draft202012Validator(schemas()["detections"]).validate(payload)
    return payload


PLAIN = event(Prediction(BOXES, TIMINGS), pts_s=0.5)


def test_boxes_alone_are_what_they_were_to_the_byte() -> None:
    assert list(PLAIN) == [
        *("device", "camera", "stream", "seq", "frame_id", "captured_at", "clock_synced", "width", "height"),
        *("model", "latency_ms", "detections", "pts_s", "schema"),
    ]
    first = PLAIN["detections"][0]
    assert list(first) == ["class_id", "label", "confidence", "xyxy", "xyxyn"]
    assert first == {"class_id": 1, "label": "b", "confidence": 0.9124, "xyxy": [1.3, 0, 4, 2], "xyxyn": [0.1575, 0, 0.5, 0.5]}


def without_additions(payload: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in payload.items() if key not in {"classes", "segments"}}
    found["detections"] = [{k: v for k, v in d.items() if k not in {"mask", "keypoints"}} for d in found["detections"]]
    return found


POINTS = np.array([[[1.26, 2, 0.5], [3, 4, 0.123456]]] * 2, np.float32)
MASKS = Masks(8, 4, [(2, 1, np.ones((3, 4), bool)), (0, 0, np.zeros((0, 0), bool))])


@pytest.mark.parametrize("form", ["polygon", "rle", "none"])
def test_who_reads_boxes_finds_them_as_before_in_every_task(form: MaskForm) -> None:
    rich = Prediction(replace(BOXES, keypoints=POINTS, masks=MASKS), TIMINGS, None, None)
    payload = event(rich, form, pts_s=0.5)
    assert without_additions(payload) == PLAIN
    assert payload["detections"][0]["keypoints"] == [[1.3, 2, 0.5], [3, 4, 0.1235]]
    assert ("mask" in payload["detections"][0]) == (form != "none")


def test_a_mask_is_polygons_or_run_lengths() -> None:
    rich = Prediction(replace(BOXES, masks=MASKS), TIMINGS)
    first, second = (d["mask"] for d in event(rich)["detections"])
    assert list(first) == ["polygons"]
    assert sorted(first["polygons"][0]) == [[2, 1], [2, 3], [5, 1], [5, 3]]
    assert second == {"polygons": []}
    first, second = (d["mask"] for d in event(rich, "rle")["detections"])
    assert first == {"rle": {"size": [4, 8], "counts": [9, 3, 1, 3, 1, 3, 1, 3, 8]}}
    assert second == {"rle": {"size": [4, 8], "counts": [32]}}


def test_what_a_task_has_not_is_absent_and_not_null() -> None:
    payload = event(Prediction(replace(BOXES, keypoints=POINTS), TIMINGS))
    assert "mask" not in payload["detections"][0]
    assert not {"classes", "segments"} & payload.keys()
    assert payload["pts_s"] is None  # as it always was


def test_classes_of_the_whole_picture() -> None:
    ranked = Classification(np.array([2, 0], np.int32), np.array([0.7, 0.2], np.float32), ("a", "b"))
    payload = event(Prediction(Detections.empty(), TIMINGS, ranked))
    assert payload["detections"] == []
    assert payload["classes"] == [{"class_id": 2, "label": "2", "confidence": 0.7}, {"class_id": 0, "label": "a", "confidence": 0.2}]


def test_segments_have_shares_and_their_places_on_request() -> None:
    found = Segmentation(np.array([[0, 1], [1, 1]], np.int32), 8, 4, ("a", "b"))
    prediction = Prediction(Detections.empty(), TIMINGS, segmentation=found)
    assert event(prediction)["segments"] == [{"class_id": 1, "label": "b", "share": 0.75}, {"class_id": 0, "label": "a", "share": 0.25}]
    first = event(prediction, "rle")["segments"][1]
    assert first["rle"]["size"] == [4, 8]
    assert first["rle"]["counts"] == [0, 2, 2, 2, 2, 2, 2, 2, 18]


def test_a_picture_of_which_no_class_is_sure_says_so() -> None:
    nothing = Classification(np.empty(0, np.int32), np.empty(0, np.float32))
    assert event(Prediction(Detections.empty(), TIMINGS, nothing))["classes"] == []
