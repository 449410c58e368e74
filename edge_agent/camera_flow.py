"""What the pipeline keeps about one camera: how its frames are judged, which results wait, and what it has come to so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edge_agent.events import ModelInfo
from edge_agent.models.base import Prediction, Thresholds
from edge_agent.payload import MaskForm
from edge_agent.publishing import Interval, OnChange
from edge_agent.scheduler import Job
from edge_agent.stats import RateMeter, ReasonCounter, Sketch

Outcome = Prediction | Literal["no_motion", "model_error", "unreadable"]
"""What came of a frame that was taken."""

STAGES = ("wait", "decode", "preprocess", "infer", "postprocess")


@dataclass
class CameraFlow:
    """What the pipeline keeps about one camera."""

    thresholds: Thresholds
    usual: Thresholds
    """By the settings; ``thresholds`` are what holds now."""
    sequence: range
    model: ModelInfo
    masks: MaskForm
    crew: int = 0
    """Which of the models looks at it."""
    publishing: OnChange | Interval | None = None
    """Which frames have a message of their own; None: every one."""
    published: int = 0
    withheld: ReasonCounter = field(default_factory=ReasonCounter)
    """Served frames without a message of their own: ``unchanged``, ``too_soon``, ``summed``."""
    sent: int = 0
    next_ticket: int = 0
    waiting: dict[int, tuple[Job, Outcome]] = field(default_factory=dict)
    """Results of frames before which another is still being inferred."""
    settled: list[tuple[Job, Outcome]] = field(default_factory=list)
    """Results in order that are not told yet."""
    held: bool = False
    """Too many results wait: no more of its frames are taken for now."""
    served_rate: RateMeter = field(default_factory=RateMeter)
    latency: Sketch = field(default_factory=Sketch)
    service: Sketch = field(default_factory=Sketch)
    """For how long a frame has taken the model, from the picture to what was seen."""
    stages: dict[str, Sketch] = field(default_factory=lambda: {stage: Sketch() for stage in STAGES})
