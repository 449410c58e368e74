"""What the world reads: messages, and the payloads of the MQTT contract, version 1; the heartbeat's is in health_event.py.

The dataclasses are both what is serialised (encoding.py) and what the schemas are generated from (docs/schemas/). Within a
version fields are only added; consumers ignore those they do not know.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

VERSION = 1

Fraction = Annotated[float, Field(ge=0, le=1)]
Box = Annotated[tuple[float, float, float, float], Field(description="left, top, right, bottom")]
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
    clock_synced: Annotated[
        bool,
        Field(
            description=(
                "false: the device's clock was not set by NTP, captured_at may be far off; where it was set while the event waited, "
                "captured_at was corrected by the monotonic clock, and this is true"
            )
        ),
    ]
    width: Annotated[int, Field(gt=0, description="of the source frame")]
    height: Annotated[int, Field(gt=0, description="of the source frame")]
    model: ModelInfo
    latency_ms: LatencyParts
    detections: list[DetectedObject]
    pts_s: Annotated[float | None, Field(description="the container's timestamp, for files")] = None
    schema: Literal["edge_agent.detections/1"] = "edge_agent.detections/1"


@dataclass(frozen=True, slots=True)
class BestSight:
    """An object, or a class of the whole picture, in the frame in which it was surest."""

    confidence: Fraction
    frame_id: Annotated[int, Field(ge=0)]
    captured_at: Timestamp
    xyxy: Annotated[Box | None, Field(description="left, top, right, bottom in pixels of the source frame; null: all of it")] = None
    xyxyn: Annotated[Box | None, Field(description="the same as fractions of width and height")] = None


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """One class in an interval."""

    class_id: int
    label: str
    most: Annotated[int, Field(ge=1, description="the most of it in one frame")]
    mean: Annotated[float, Field(ge=0, description="over all frames of the interval, those without it too")]
    frames: Annotated[int, Field(ge=1, description="in which it was")]
    best: BestSight


@dataclass(frozen=True, slots=True)
class IntervalSummary:
    """What was seen since the message before (when = "interval")."""

    first_captured_at: Annotated[Timestamp, Field(description="of its first frame")]
    last_captured_at: Annotated[Timestamp, Field(description="of its last, which is the one that the rest of the message is about")]
    frames: Annotated[int, Field(ge=1, description="looked at")]
    classes: Annotated[list[ClassSummary], Field(description="seen in most frames first")]


@dataclass(frozen=True, slots=True)
class RichDetectionsEvent(DetectionsEvent):
    """One served frame. Topic: <base>/<device>/camera/<camera>/detections.

    What only some tasks have is optional, and absent, not null, where a model has it not (docs/decisions/0008-tasks.md).
    """

    detections: list[RichObject]  # type: ignore[assignment]  # each is a DetectedObject; nobody appends to a payload
    classes: Annotated[list[RankedClass] | None, Field(description="classification and zero-shot: of the whole picture, best first")] = None
    segments: Annotated[list[Segment] | None, Field(description="semantic segmentation: classes that occur, largest first")] = None
    interval: Annotated[
        IntervalSummary | None, Field(description='with [publish] when = "interval": the sum of all frames since the message before')
    ] = None


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


def timestamp(utc: float) -> str:
    """Seconds since the epoch as RFC 3339 with milliseconds."""
    moment = datetime.fromtimestamp(utc, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


STATUS_ONLINE = Message(Kind.STATUS, None, b"online")
STATUS_OFFLINE = Message(Kind.STATUS, None, b"offline")
