"""The settings of one camera: its table in ``[[cameras]]``, with its ``motion``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, StrictInt

from edge_agent.config_delivery import CameraPublishSettings
from edge_agent.config_values import (
    ClassFilter,
    Count,
    Milliseconds,
    ModelName,
    Name,
    Polygon,
    Rate,
    Region,
    Seconds,
    Share,
    Table,
    Weight,
    not_bool,
)


class MotionSettings(Table):
    """Serve only frames in which something moves. Set (an empty table will do) to use it; masks and numbers: docs/scheduling.md."""

    enabled: bool | Literal["auto"] = "auto"
    """"auto": where the newest frame counts; with mode "every" (files) only if true."""
    threshold: Annotated[int, BeforeValidator(not_bool), Field(ge=2, le=60)] = 8
    """Levels of brightness, of 255, that a place must differ by. Lower sees fainter things, and more that is nothing."""
    least_area: Annotated[Share, Field(le=0.4)] = 0.0005
    """Share of the picture that must have changed in one place."""
    masks: Annotated[tuple[Polygon, ...], Field(examples=[[[[0.0, 0.0], [1.0, 0.0], [1.0, 0.1]]]])] = ()
    """Polygons of [x, y] in 0..1 of width and height, in which nothing counts: trees, a clock, a road behind the fence."""
    look_every_s: Seconds = 10
    """A frame is served this often whatever the gate says."""
    hold_s: Annotated[float, BeforeValidator(not_bool), Field(ge=0, allow_inf_nan=False)] = 2
    """Go on serving for so long after the last motion."""
    looks_per_s: Rate = 5
    """Frames looked at per second while nothing moves; between them the source may spare itself the decoding."""
    look_within_s: Annotated[float, BeforeValidator(not_bool), Field(ge=0, le=60)] = 0.9
    """A look may wait so long for a key frame where that spares a stream's decoding. 0: it never does."""


class CameraSettings(Table):
    """One camera, stream or file. The keys below fit every kind of source; each kind adds its own."""

    model_config = ConfigDict(extra="allow")

    id: Name
    """Name of the camera, in topics and payloads."""
    source: str | StrictInt
    """A device (0, "/dev/v4l/by-id/..."), "rtsp://...", a video file, a folder of images, or "synthetic"."""
    kind: Annotated[str | None, Field(examples=["rtsp"])] = None
    """Kind of source. Default: inferred from source."""
    enabled: bool = True
    """false keeps the entry but does not open the camera."""
    mode: Literal["auto", "freshest", "every"] = "auto"
    """"freshest": the newest frame whenever the model is free (live sources); "every": each frame, in order (files)."""
    max_fps: Annotated[Rate | None, Field(examples=[10])] = None
    """Serve at most this many frames per second of this camera."""
    interval_s: Annotated[Seconds | None, Field(examples=[60])] = None
    """Serve one frame in so many seconds (time lapse). Instead of max_fps."""
    staleness_ms: Annotated[Milliseconds | None, Field(examples=[500])] = None
    """A frame that is older than this when the model becomes free is skipped. Default: no limit; a fresher one always replaces it."""
    model: Annotated[ModelName | None, Field(examples=["faces"])] = None
    """Name of the [models.<name>] table of this camera's detector. Default: that of [model]."""
    weight: Weight = 1.0
    """Share of the model where cameras compete for it: one of weight 2 is served twice as often as one of weight 1."""
    roi: Annotated[Region | None, Field(examples=[[0.25, 0.0, 0.75, 1.0]])] = None
    """Region of interest [left, top, right, bottom] in 0..1 of width and height: the model sees only that. Default: all."""
    motion: MotionSettings | None = None
    """See [cameras.motion] below."""
    publish: CameraPublishSettings | None = None
    """See [cameras.publish] below."""
    isolation: Literal["auto", "thread", "process"] = "auto"
    """Where a driver or decoder may hang: "thread" (least memory), "process" (can be killed), "auto" (a process when it must be)."""
    snapshots: Annotated[bool | None, Field(examples=[True])] = None
    """As in [publish], for this camera."""
    confidence: Annotated[Share | None, Field(examples=[0.5])] = None
    """As in [model], for this camera."""
    iou: Annotated[Share | None, Field(examples=[0.45])] = None
    """As in [model], for this camera."""
    max_detections: Annotated[Count | None, Field(examples=[20])] = None
    """As in [model], for this camera."""
    classes: Annotated[ClassFilter | None, Field(examples=[["person"]])] = None
    """As in [model], for this camera."""
