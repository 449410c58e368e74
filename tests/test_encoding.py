"""The bytes of payloads: what they were with pydantic, the same content in MessagePack, and never a failure over a label or a number."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from edge_agent.encoding import as_json, content_type, encode, schemas
from edge_agent.events import (
    CameraStatusEvent,
    DetectedObject,
    DetectionsEvent,
    Kind,
    LatencyParts,
    Mask,
    ModelInfo,
    RankedClass,
    RichDetectionsEvent,
    RichObject,
    RunLengths,
    Segment,
)  # fmt: skip

fractions = st.floats(0, 1).map(lambda value: round(value, 5))
pixels = st.floats(0, 1e4).map(lambda value: round(value, 1))
labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
boxes = st.builds(DetectedObject, st.integers(0, 90), labels, fractions, st.tuples(*[pixels] * 4), st.tuples(*[fractions] * 4))
plain = st.builds(
    DetectionsEvent, device=labels, camera=labels, stream=labels, seq=st.integers(0, 2**53), frame_id=st.integers(0, 2**53),
    captured_at=st.just("2026-11-23T00:00:00.000Z"), clock_synced=st.booleans(), width=st.integers(1, 9999), height=st.integers(1, 9999),
    model=st.builds(ModelInfo, labels, labels, labels, labels), latency_ms=st.builds(LatencyParts, pixels, pixels, pixels, pixels, pixels),
    detections=st.lists(boxes, max_size=5), pts_s=st.none() | pixels,
)  # fmt: skip
EVENT = DetectionsEvent(
    "d", "c", "s", 1, 2, "2026-11-23T00:00:00.000Z", True, 8, 4, ModelInfo("m", "h", "int8", "r"), LatencyParts(1.5, 0, 0, 1, 0), []
)
SCHEMA = Draft202012Validator(schemas()["detections"])


@given(plain)
def test_json_is_what_pydantic_wrote_to_the_byte(event: DetectionsEvent) -> None:
    payload = encode(event).payload
    assert payload == TypeAdapter(DetectionsEvent).dump_json(event)
    SCHEMA.validate(json.loads(payload))


@given(plain)
def test_messagepack_has_the_same_content_and_becomes_the_same_json(event: DetectionsEvent) -> None:
    packed, text = encode(event, "msgpack"), encode(event)
    assert json.loads(text.payload) == msgspec.msgpack.decode(packed.payload)
    assert as_json(packed.payload) == text.payload == as_json(text.payload)
    assert (content_type(packed.payload), content_type(text.payload)) == ("application/msgpack", "application/json")
    assert (packed.kind, packed.camera) == (Kind.DETECTIONS, event.camera)


def rich(**changes: Any) -> RichDetectionsEvent:
    common = {name: getattr(EVENT, name) for name in DetectionsEvent.__dataclass_fields__}
    return RichDetectionsEvent(**{**common, **changes})


def test_what_a_task_has_not_is_absent_at_every_level_in_both_encodings() -> None:
    box = RichObject(1, "b", 0.5, (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 0.5))
    masked = replace(box, mask=Mask(polygons=[[(1.0, 2.0)]])), replace(box, mask=Mask(rle=RunLengths((4, 8), [32]))), box
    event = rich(detections=[*masked], segments=[Segment(0, "road", 0.5)], classes=[RankedClass(1, "b", 0.5)])
    content = json.loads(encode(event).payload)
    assert content == msgspec.msgpack.decode(encode(event, "msgpack").payload)
    assert [each.get("mask") for each in content["detections"]] == [
        {"polygons": [[[1, 2]]]}, {"rle": {"size": [4, 8], "counts": [32]}}, None,
    ]  # fmt: skip
    assert "mask" not in content["detections"][2]
    assert content["segments"] == [{"class_id": 0, "label": "road", "share": 0.5}]
    assert content["pts_s"] is None  # null has always been its way to say that there is none
    assert not {"classes", "segments"} & json.loads(encode(rich()).payload).keys()
    SCHEMA.validate(content)


def test_numbers_of_numpy_are_numbers() -> None:
    event = replace(
        EVENT, pts_s=np.float64(0.25), detections=[DetectedObject(np.int64(3), "b", np.float32(0.5), (0, 0, 1, 1), (0, 0, 1, 1))]
    )
    content = json.loads(encode(event).payload)
    assert (content["pts_s"], content["detections"][0]["class_id"], content["detections"][0]["confidence"]) == (0.25, 3, 0.5)


def test_anything_else_that_is_no_payload_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="cannot hold object"):
        encode(replace(EVENT, pts_s=object()))  # type: ignore[arg-type]


def test_state_stays_json_so_that_whatever_shows_it_can_read_it() -> None:
    status = CameraStatusEvent("d", "c", "online", "2026-11-23T00:00:00.000Z", None, 0, 0.1)
    assert json.loads(encode(status, "msgpack").payload)["state"] == "online"
