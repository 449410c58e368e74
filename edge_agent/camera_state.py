"""What a camera is doing, and what is known of it: what status messages and the heartbeat tell."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from edge_agent.errors import SourceError
from edge_agent.sources.base import StreamInfo


class CameraState(str, Enum):
    """What a camera is doing."""

    CONNECTING = "connecting"
    ONLINE = "online"
    STALLED = "stalled"
    BACKOFF = "backoff"
    PAUSED = "paused"
    MUTED = "muted"
    ENDED = "ended"


@dataclass
class CaptureStatus:
    """A snapshot of one camera, for status messages and the heartbeat."""

    state: CameraState = CameraState.CONNECTING
    since_utc: float = field(default_factory=time.time)
    error: SourceError | None = None
    """Why it is not online."""
    last_error: SourceError | None = None
    """Why it was not online the last time it was not."""
    reconnects: int = 0
    """How often it had to be opened again, attempts that failed included."""
    info: StreamInfo | None = None
    last_frame_at: float | None = None
    """Monotonic seconds."""
    wedged: int = 0
    """How often a call into the source had to be given up."""
    lost_upstream: int = 0
    """Frames of the camera's that never arrived, as far as its own numbers or timestamps tell."""
    isolation: Literal["thread", "process"] = "thread"
    """Where its source runs now."""
