"""How one camera stands: its state, what it was that took it away, and when it is tried again."""

from __future__ import annotations

import logging
import time

from edge_agent.camera_state import CameraState, CaptureStatus
from edge_agent.errors import EndOfStream, SourceBroken, SourceError, SourceErrorCode
from edge_agent.redaction import redact
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.sources.base import Reading, Source

log = logging.getLogger("edge_agent.capture")  # the name that whoever filters the log knows

CAMERA_BACKOFF = BackoffPolicy(first_s=0.5, cap_s=4.0, stable_s=10.0)
"""With the cap and the time to open, frames resume within 5 s of a camera's return, however long it was away."""
SELDOM_S = 30.0
"""The cap after what the camera's return does not mend, and what trying often makes worse."""
SELDOM = frozenset({SourceErrorCode.AUTH_FAILED, SourceErrorCode.TLS, SourceErrorCode.UNSUPPORTED, SourceErrorCode.WEDGED})
"""Cameras lock out whoever fails to log in a few times; a call that hangs costs a thread or a process."""


class Standing:
    """The state of one camera and its passages. Everything wants the wake lock held; nothing here tells anybody but the log."""

    def __init__(self, camera_id: str, source: Source, backoff: Backoff) -> None:
        self.status = CaptureStatus()
        self.paused = False
        """By a command, until another."""
        self.backoff = backoff
        self._camera_id = camera_id
        self.runs_in(source)

    def runs_in(self, source: Source) -> None:
        """Note where the present source runs."""
        self.status.isolation = "process" if source.isolated else "thread"

    def enter(self, state: CameraState) -> bool:
        """Whether that is a change. Several threads change the state: the reader, the one that watches, and those that command."""
        if self.paused and state is not CameraState.ENDED:
            state = CameraState.PAUSED
        if state is self.status.state and state is not CameraState.CONNECTING:
            return False
        self.status.state = state
        self.status.since_utc = time.time()
        return True

    def mute(self, *, muted: bool) -> bool:
        """Whether that changes the state: what is not online becomes muted when it comes online."""
        is_online = self.status.state in {CameraState.ONLINE, CameraState.MUTED}
        return is_online and self.enter(_online(muted=muted))

    def come_online(self, reading: Reading, now: float, *, muted: bool) -> bool:
        """A picture came at monotonic ``now``: whether the camera was not online before."""
        status, state = self.status, _online(muted=muted)
        if self.paused or status.state is state:
            return False
        self.backoff.up(now)
        info = status.info
        log.info(
            "camera online camera=%s size=%dx%d declared_fps=%s decoder=%r",
            self._camera_id, reading.image.width, reading.image.height, info and info.fps, info and info.decoder,
        )  # fmt: skip
        status.error = None
        return self.enter(state)

    def stall(self, silent_s: float, limit_s: float) -> bool:
        """Whether a silence of so many seconds, where ``limit_s`` are usual, takes a camera that was online away."""
        if self.status.state not in {CameraState.ONLINE, CameraState.MUTED} or silent_s <= limit_s:
            return False
        log.warning("camera stalled camera=%s silent_for=%.1fs", self._camera_id, silent_s)
        return self.enter(CameraState.STALLED)

    def fail(self, error: SourceError) -> float:
        """Note why the camera is away; seconds until it is tried again. The state is the caller's to enter."""
        _without_credentials(error)
        delay_s = self.backoff.next_delay(SELDOM_S if error.code in SELDOM else None)
        self.status.error = self.status.last_error = error
        self.status.reconnects += 1
        log.warning("source unavailable camera=%s code=%s retry_in=%.1fs reason=%s", self._camera_id, error.code.value, delay_s, error)
        return delay_s

    def end(self, error: SourceBroken | EndOfStream) -> bool:
        """Nothing more will come, for that reason: whether that is a change."""
        is_broken = isinstance(error, SourceBroken)
        _without_credentials(error)
        self.status.error = error if is_broken else None
        if is_broken or _is_early(error):
            self.status.last_error = error
        self.paused = False
        return self.enter(CameraState.ENDED)

    def tell_end(self, error: SourceBroken | EndOfStream, frames: int) -> None:
        """Write it to the log, after so many frames. The lock need not be held."""
        if isinstance(error, SourceBroken):
            log.error("camera ended camera=%s code=%s reason=%s", self._camera_id, error.code.value, error)
            return
        log.info("camera ended camera=%s frames=%d", self._camera_id, frames)
        if _is_early(error):
            log.warning("file ended early camera=%s reason=%s", self._camera_id, error)


def _is_early(error: SourceError) -> bool:
    return error.code is not SourceErrorCode.ENDED


def _online(*, muted: bool) -> CameraState:
    return CameraState.MUTED if muted else CameraState.ONLINE


def _without_credentials(error: SourceError) -> None:
    """It will be published, and may hold what a library, or a function of the user's, says of an address."""
    error.args = (redact(str(error)),)
