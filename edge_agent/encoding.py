"""From a payload to the bytes that go over the wire, and the JSON Schemas, which are generated from the same dataclasses.

This is the one place that knows of encodings. A payload tells by its first byte which it is in, so nothing has to be kept
beside it: a JSON object begins with a brace, and a MessagePack map never does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

import msgspec
import numpy as np
from pydantic import TypeAdapter

from edge_agent.events import VERSION, CameraStatusEvent, DetectionsEvent, Kind, Mask, Message, RichDetectionsEvent, RichObject, Segment
from edge_agent.health_event import HealthEvent

Encoding = Literal["json", "msgpack"]

Payload = DetectionsEvent | CameraStatusEvent | HealthEvent
_KINDS: Mapping[type[Payload], Kind] = {
    DetectionsEvent: Kind.DETECTIONS,
    CameraStatusEvent: Kind.CAMERA_STATUS,
    HealthEvent: Kind.HEALTH,
}
_NOT_NULL = frozenset({"mask", "keypoints", "classes", "segments", "rle", "polygons", "interval"})
_EVENT_KEYS, _OBJECT_KEYS, _SEGMENT_KEYS, _MASK_KEYS = (
    tuple(field.name for field in fields(kind)) for kind in (RichDetectionsEvent, RichObject, Segment, Mask)
)


def _native(value: object) -> object:
    """NumPy's numbers, which some models' arithmetic leaves in a payload, as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a payload cannot hold {type(value).__name__}")


_JSON, _MSGPACK = msgspec.json.Encoder(enc_hook=_native), msgspec.msgpack.Encoder(enc_hook=_native)


def encode(event: Payload, encoding: Encoding = "json") -> Message:
    """The event as it goes over the wire. State is always JSON, so that whatever shows it can read it. From any thread."""
    kind = _KINDS.get(type(event), Kind.DETECTIONS)
    content = _rich(event) if isinstance(event, RichDetectionsEvent) else event
    encoder = _JSON if encoding == "json" or kind.is_state else _MSGPACK
    return Message(kind, getattr(event, "camera", None), encoder.encode(content))


def as_json(payload: bytes) -> bytes:
    """An event's payload, whatever it was encoded in, as JSON: the same bytes that ``encode`` would have made."""
    return payload if content_type(payload) == "application/json" else _JSON.encode(msgspec.msgpack.decode(payload))


def content_type(payload: bytes) -> str:
    """The media type of an event's payload."""
    return "application/json" if payload[:1] == b"{" else "application/msgpack"


def _rich(event: RichDetectionsEvent) -> dict[str, Any]:
    """Without those optional fields that tasks do not have; what is below is encoded as it is."""
    content = _present(event, _EVENT_KEYS)
    content["detections"] = [_rich_object(each) for each in event.detections]
    if event.segments is not None:
        content["segments"] = [_present(each, _SEGMENT_KEYS) for each in event.segments]
    return content


def _rich_object(each: RichObject) -> dict[str, Any]:
    content = _present(each, _OBJECT_KEYS)
    if each.mask is not None:
        content["mask"] = _present(each.mask, _MASK_KEYS)
    return content


def _present(item: object, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key in keys if (value := getattr(item, key)) is not None or key not in _NOT_NULL}


def _never_null(schema: Any) -> Any:
    """A JSON Schema in which those fields may be absent, but not null."""
    if isinstance(schema, list):
        return [_never_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _never_null(value) for key, value in schema.items()}
    for name in _NOT_NULL & schema.get("properties", {}).keys():
        field = schema["properties"][name]
        choices = [choice for choice in field.pop("anyOf", []) if choice != {"type": "null"}]
        field.pop("default", None)
        field.update(*choices)
    return schema


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of each payload by name, such as ``detections``."""
    found = {}
    for event, kind in _KINDS.items():
        whole = RichDetectionsEvent if event is DetectionsEvent else event  # one schema holds what any task may send
        text = json.dumps(_never_null(TypeAdapter(whole).json_schema(mode="serialization")))
        schema = json.loads(text.replace("RichObject", "DetectedObject").replace("RichDetectionsEvent", "DetectionsEvent"))
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["$id"] = f"urn:edge_agent:{kind.value}:{VERSION}"
        found[kind.value] = json.loads(json.dumps(schema))
    return found
