"""What a camera's settings and its source ask of its runner: which frames, how many may wait, and whether motion decides."""

from __future__ import annotations

from edge_agent.config_camera import CameraSettings
from edge_agent.motion import MotionWatch
from edge_agent.slot import SlotPolicy
from edge_agent.sources.base import Source

FILE_DEPTH = 8
"""Frames of a file that may wait, so that neither decoder nor model stands still for the other's unevenness."""


def is_every(settings: CameraSettings, source: Source) -> bool:
    """Whether every frame is served, as of a file, and not the latest only."""
    return settings.mode == "every" or (settings.mode == "auto" and not source.live)


def slot_policy(settings: CameraSettings, *, every: bool, depth: int) -> SlotPolicy:
    """Which frames wait for the model, and how often one may be taken."""
    staleness_s = None if settings.staleness_ms is None else settings.staleness_ms / 1e3
    if settings.max_fps is not None:
        return SlotPolicy(every, depth, 1 / settings.max_fps, "max_fps", staleness_s)
    return SlotPolicy(every, depth, settings.interval_s, "interval", staleness_s)


def motion_watch(settings: CameraSettings, *, every: bool) -> MotionWatch | None:
    """The camera's motion gate; None where it has none."""
    motion = settings.motion
    if motion is None or not (not every if motion.enabled == "auto" else motion.enabled):
        return None
    return MotionWatch(motion, settings.roi)
