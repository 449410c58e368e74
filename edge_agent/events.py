"""What the world reads: the payloads of the MQTT contract, version 1, and their JSON Schemas.

The dataclasses below are both what is serialised and what the schemas are generated from (docs/schemas/). Within a
version fields are only added; consumers ignore those they do not know.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

VERSION = 1

Fraction = Annotated[float, Field(ge=0, le=1)]
Box = Annotated[tuple[float, float, float, float], Field(description="left, top, right, bottom")]
Percentiles = Annotated[dict[str, float], Field(description="p50, p95, p99 of the last 30 to 60 seconds")]
LOST_UPSTREAM = "of the camera, that never arrived, by its own sequence numbers or timestamps; not in captured"
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description="RFC 3339, UTC")]


class Kind(str, Enum):
    """What a message is about; decides topic, retention and how it is kept."""

    STATUS = "status"
    HEALTH = "health"
    CAMERA_STATUS = "camera_status"
    DETECTIONS = "detections"
    COMMAND_RESULT = "command_result"
    SNAPSHOT = "snapshot"

    @property
    def keeping(self) -> Literal["state", "event", "passing"]:
        """How long it is worth something: the last value, each one, or now or never (docs/decisions/0020-delivery.md)."""
        if self in {Kind.COMMAND_RESULT, Kind.SNAPSHOT}:
            return "passing"
        return "event" if self is Kind.DETECTIONS else "state"

    @property
    def is_state(self) -> bool:
        """State has a last value, which is retained and sent again on each connection. Events all count."""
        return self.keeping == "state"


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where who asked wants the answer, besides its own topic: MQTT 5's response topic and correlation data."""

    topic: str
    correlation: bytes | None


@dataclass(frozen=True, slots=True)
class Message:
    """Something to deliver, encoded once."""

    kind: Kind
    camera: str | None
    payload: bytes
    at: float = field(default_factory=time.monotonic, compare=False)
    """When it was handed over: monotonic seconds."""
    reply_to: ReplyTo | None = None


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """One detection."""

    class_id: int
    label: str
    confidence: Fraction
    xyxy: Annotated[Box, Field(description="left, top, right, bottom in pixels of the source frame")]
    xyxyn: Annotated[Box, Field(description="the same as fractions of width and height")]


@dataclass(frozen=True, slots=True)
class RunLengths:
    """Pixels of the source frame, as COCO's uncompressed run lengths."""

    size: Annotated[tuple[int, int], Field(description="height, width")]
    counts: Annotated[list[int], Field(description="column by column: so many pixels outside, so many inside, and so on")]


@dataclass(frozen=True, slots=True)
class Mask:
    """One object's pixels, in one of two forms."""

    polygons: Annotated[
        list[list[tuple[float, float]]] | None, Field(description="outer contours as x, y in pixels of the source frame")
    ] = None
    rle: RunLengths | None = None


@dataclass(frozen=True, slots=True)
class RichObject(DetectedObject):
    """One detection, with what the model's task adds. What it has not is absent, not null."""

    mask: Mask | None = None
    keypoints: Annotated[
        list[tuple[float, float, float]] | None,
        Field(description="x, y in pixels of the source frame, and a score; in the model's own order"),
    ] = None


@dataclass(frozen=True, slots=True)
class RankedClass:
    """One class of the whole picture."""

    class_id: int
    label: str
    confidence: Fraction


@dataclass(frozen=True, slots=True)
class Segment:
    """One class of a semantic segmentation."""

    class_id: int
    label: str
    share: Annotated[Fraction, Field(description="of the picture's area")]
    rle: RunLengths | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The detector that saw it."""

    name: str
    hash: Annotated[str, Field(description="SHA-256 of the model file")]
    precision: Annotated[str, Field(description="int8, float16 or float32")]
    runtime: str


@dataclass(frozen=True, slots=True)
class LatencyParts:
    """Milliseconds from capture to hand-over for publishing, and where they went."""

    total: Annotated[float, Field(description="of frames inferred together also what the others' preprocess and postprocess took")]
    wait: Annotated[float, Field(description="until the model took the frame, without decode")]
    preprocess: Annotated[float, Field(description="resize, colour, layout")]
    infer: Annotated[float, Field(description="the whole call's time, also where it inferred several frames together (batch)")]
    postprocess: float
    decode: Annotated[float, Field(description="from bytes to pixels, of this frame; of a file's, before its capture and not in total")] = (
        0.0
    )


@dataclass(frozen=True, slots=True)
class DetectionsEvent:
    """One served frame. Topic: <base>/<device>/camera/<camera>/detections."""

    device: str
    camera: str
    stream: Annotated[str, Field(description="changes each time the agent starts")]
    seq: Annotated[int, Field(ge=0, description="grows by one with each event of a camera within a stream; never reused")]
    frame_id: Annotated[int, Field(ge=0, description="position in the source's order; gaps are frames not served")]
    captured_at: Annotated[Timestamp, Field(description="when the frame arrived; RFC 3339, UTC")]
    clock_synced: Annotated[bool, Field(description="false: the device's clock was not set by NTP, captured_at may be far off")]
    width: Annotated[int, Field(gt=0, description="of the source frame")]
    height: Annotated[int, Field(gt=0, description="of the source frame")]
    model: ModelInfo
    latency_ms: LatencyParts
    detections: list[DetectedObject]
    pts_s: Annotated[float | None, Field(description="the container's timestamp, for files")] = None
    schema: Literal["edge_agent.detections/1"] = "edge_agent.detections/1"


@dataclass(frozen=True, slots=True)
class RichDetectionsEvent(DetectionsEvent):
    """One served frame. Topic: <base>/<device>/camera/<camera>/detections.

    What only some tasks have is optional, and absent, not null, where a model has it not (docs/decisions/0008-tasks.md).
    """

    detections: list[RichObject]  # type: ignore[assignment]  # each is a DetectedObject; nobody appends to a payload
    classes: Annotated[list[RankedClass] | None, Field(description="classification and zero-shot: of the whole picture, best first")] = None
    segments: Annotated[list[Segment] | None, Field(description="semantic segmentation: classes that occur, largest first")] = None


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why something does not work, for people and for programs."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CameraStatusEvent:
    """The state of one camera, retained. Topic: <base>/<device>/camera/<camera>/status."""

    device: str
    camera: str
    state: Literal["connecting", "online", "stalled", "backoff", "paused", "muted", "ended", "stopped"]
    since: Timestamp
    error: Annotated[ErrorInfo | None, Field(description="why it is not online now")]
    reconnects: Annotated[int, Field(description="how often it had to be opened again, failed attempts included")]
    last_frame_age_s: float | None
    width: int | None = None
    height: int | None = None
    decoder: Annotated[str | None, Field(description="what decodes, as confirmed after the start")] = None
    hardware: Annotated[bool | None, Field(description="whether that is hardware")] = None
    decoder_reason: Annotated[str | None, Field(description="why this decoder and not another")] = None
    mode: Annotated[str | None, Field(description="what was negotiated with a device: format, size, rate")] = None
    last_error: Annotated[ErrorInfo | None, Field(description="why it was not online, the last time it was not")] = None
    isolation: Annotated[Literal["thread", "process"], Field(description="where its driver and decoder run")] = "thread"
    wedged: Annotated[int, Field(description="calls into its driver or decoder that never came back, and were given up")] = 0
    hanging: Annotated[int, Field(description="threads that still hang in such calls")] = 0
    frames_captured_total: Annotated[int, Field(description="captured = served + skipped + dropped + in flight")] = 0
    frames_served_total: int = 0
    frames_skipped_total: Annotated[dict[str, int], Field(description="by policy, as in the heartbeat")] = field(default_factory=dict)
    frames_dropped_total: Annotated[dict[str, int], Field(description="lost, as in the heartbeat")] = field(default_factory=dict)
    frames_in_flight: int = 0
    frames_lost_upstream_total: Annotated[int, Field(description=LOST_UPSTREAM)] = 0
    schema: Literal["edge_agent.camera_status/1"] = "edge_agent.camera_status/1"


@dataclass(frozen=True, slots=True)
class MotionHealth:
    """A camera's motion gate."""

    state: Literal["moving", "still"]
    since: Timestamp
    gate_ms: Annotated[dict[str, float] | None, Field(description="CPU of one look, with making the small picture: p50, p95")]


@dataclass(frozen=True, slots=True)
class CameraHealth:
    """One camera in the heartbeat. captured = served + skipped + dropped + in_flight."""

    state: str
    frames_captured_total: int
    frames_served_total: int
    frames_skipped_total: Annotated[
        dict[str, int], Field(description="by policy: model_busy, max_fps, interval, stale, no_motion, not_decoded, muted, paused")
    ]
    frames_dropped_total: Annotated[dict[str, int], Field(description="lost: model_error, unreadable, shutdown")]
    frames_in_flight: int
    captured_fps: float
    served_fps: float
    latency_ms: Percentiles | None
    last_frame_age_s: float | None
    reconnects_total: int
    error: ErrorInfo | None
    decoder: str | None
    isolation: Annotated[Literal["thread", "process"], Field(description="where its driver and decoder run")] = "thread"
    wedged_total: Annotated[int, Field(description="calls into its driver or decoder that never came back, and were given up")] = 0
    threads_hanging: Annotated[int, Field(description="threads that still hang in such calls")] = 0
    frames_lost_upstream_total: Annotated[int, Field(description=LOST_UPSTREAM)] = 0
    stages_ms: Annotated[
        dict[str, Percentiles | None] | None,
        Field(description="wait, decode, preprocess, infer, postprocess, publish (from hand-over to the broker's acknowledgement)"),
    ] = None
    motion: Annotated[MotionHealth | None, Field(description="null where the camera has no motion gate")] = None


@dataclass(frozen=True, slots=True)
class DeliveryHealth:
    """The way to the broker."""

    connected: bool
    reconnects_total: int
    events_queued: int
    events_queued_bytes: int
    events_delivered_total: int
    events_dropped_total: Annotated[dict[str, int], Field(description="buffer_full: the oldest went; rejected: the broker refused")]
    error: str | None


@dataclass(frozen=True, slots=True)
class ProcessHealth:
    """This process."""

    cpu_percent: Annotated[float, Field(description="of one core, since the last heartbeat")]
    rss_bytes: int
    threads: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class HostHealth:
    """The machine."""

    load1: float
    memory_available_bytes: int | None
    temperature_c: Annotated[dict[str, float], Field(description="by thermal zone")]


@dataclass(frozen=True, slots=True)
class ThrottledBits:
    """A Raspberry Pi's get_throttled: under_voltage, frequency_capped, throttled, soft_temperature_limit."""

    now: list[str]
    seen: Annotated[list[str], Field(description="at any time since the agent started, or latched by the firmware before")]


@dataclass(frozen=True, slots=True)
class GovernorHealth:
    """Heat and power, and what is done about them. null: the machine does not tell."""

    enabled: bool
    share: Annotated[Fraction, Field(description="of the time, that may be spent on inference now; 1: no limit")]
    cause: Annotated[
        Literal["none", "temperature", "throttled", "frequency_cap", "under_voltage", "over_current"],
        Field(description="why it is below 1"),
    ]
    since: Annotated[Timestamp, Field(description="when the share changed last")]
    changes_total: int
    temperature_c: Annotated[float | None, Field(description="of the zone that is nearest to its trip point")]
    zone: str | None
    trip_c: Annotated[float | None, Field(description="where the chip is slowed down: told by it, or learnt")]
    target_c: Annotated[float | None, Field(description="what the governor holds")]
    throttled_by: Annotated[list[str], Field(description="what lowers clocks for heat now")]
    frequency_cap: Annotated[float | None, Field(description="of a processor's highest frequency, now allowed; power modes lower it too")]
    gpu_frequency_cap: float | None
    throttled: Annotated[ThrottledBits | None, Field(description="Raspberry Pi only")]
    under_voltage: Annotated[bool | None, Field(description="the power supply is too weak now")]
    under_voltage_seen: Annotated[bool | None, Field(description="or was, since boot as far as can be known")]
    over_current_seen: Annotated[bool | None, Field(description="Jetson only: limited by its supply since boot")]
    power_mode: Annotated[str | None, Field(description="Jetson only: as nvpmodel names it")]
    readings_refused_total: Annotated[int, Field(description="sensor values that could not be read or made no sense")]


@dataclass(frozen=True, slots=True)
class HealthEvent:
    """The heartbeat, retained. Topic: <base>/<device>/health."""

    device: str
    stream: str
    at: Timestamp
    clock_synced: bool
    agent_version: str
    uptime_s: float
    verdict: Annotated[
        Literal["ok", "degraded", "failing", "stopped"],
        Field(description="ok; some of it does not work; none of it does; the agent has ended"),
    ]
    reasons: list[str]
    model: ModelInfo
    accelerator: str
    stages_ms: Annotated[
        dict[str, Percentiles | None], Field(description="wait, decode, preprocess, infer, postprocess, publish, over all cameras")
    ]
    cameras: dict[str, CameraHealth]
    delivery: DeliveryHealth
    process: ProcessHealth
    host: HostHealth
    models: Annotated[list[ModelInfo], Field(description="all of them, where cameras have models of their own")] = field(
        default_factory=list
    )
    governor: GovernorHealth | None = None
    schema: Literal["edge_agent.health/1"] = "edge_agent.health/1"


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


def timestamp(utc: float) -> str:
    """Seconds since the epoch as RFC 3339 with milliseconds."""
    moment = datetime.fromtimestamp(utc, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


STATUS_ONLINE = Message(Kind.STATUS, None, b"online")
STATUS_OFFLINE = Message(Kind.STATUS, None, b"offline")
