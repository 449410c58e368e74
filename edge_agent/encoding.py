"""From a payload to the bytes that go over the wire, and the JSON Schemas, which are generated from the same dataclasses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from edge_agent.events import VERSION, CameraStatusEvent, DetectionsEvent, Kind, Message, RichDetectionsEvent
from edge_agent.health_event import HealthEvent

Payload = DetectionsEvent | CameraStatusEvent | HealthEvent
_ADAPTERS: Mapping[type[Payload], TypeAdapter[Any]] = {
    event: TypeAdapter(event) for event in (DetectionsEvent, CameraStatusEvent, HealthEvent)
}
_KINDS: Mapping[type[Payload], Kind] = {
    DetectionsEvent: Kind.DETECTIONS,
    CameraStatusEvent: Kind.CAMERA_STATUS,
    HealthEvent: Kind.HEALTH,
}


_RICH: TypeAdapter[RichDetectionsEvent] = TypeAdapter(RichDetectionsEvent)
_NOT_NULL = frozenset({"mask", "keypoints", "classes", "segments", "rle", "polygons"})


def _without_nulls(value: Any) -> Any:
    """Without those optional fields that tasks do not have."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None or key not in _NOT_NULL}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


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


def encode(event: Payload) -> Message:
    """The event as it goes over the wire: UTF-8 JSON."""
    kind = type(event)
    if isinstance(event, RichDetectionsEvent):
        content = _without_nulls(_RICH.dump_python(event, mode="json", warnings=False))
        return Message(Kind.DETECTIONS, event.camera, json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
    payload = _ADAPTERS[kind].dump_json(event, warnings=False)
    return Message(_KINDS[kind], getattr(event, "camera", None), payload)


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of each payload by name, such as ``detections``."""
    found = {}
    for event, adapter in _ADAPTERS.items():
        whole = _RICH if event is DetectionsEvent else adapter  # one schema holds what any task may send
        text = json.dumps(_never_null(whole.json_schema(mode="serialization")))
        schema = json.loads(text.replace("RichObject", "DetectedObject").replace("RichDetectionsEvent", "DetectionsEvent"))
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["$id"] = f"urn:edge_agent:{_KINDS[event].value}:{VERSION}"
        found[_KINDS[event].value] = json.loads(json.dumps(schema))
    return found
