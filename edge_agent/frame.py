"""A frame: one picture, and what is known of when and where it was taken."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.image import Image


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of one camera on its way down the line."""

    camera: str
    """The camera's id."""
    frame_id: int
    """Position in the source's order, from 0 when the agent started; gaps are frames that were skipped or dropped."""
    image: Image
    captured_at: float
    """When it arrived: seconds of the monotonic clock, for ages and latencies."""
    captured_utc: float
    """When it arrived: seconds since the epoch, for people and other machines."""
    pts_s: float | None = None
    """The container's own timestamp in seconds, where there is one."""
    decode_ms: float = 0.0
    """What the source's decoder took for it; 0 where decoding was put off."""
