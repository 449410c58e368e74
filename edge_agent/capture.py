"""Drives one source: its thread, its reconnects, its state, its counters, and the slot its frames wait in.

The slot is the first of the two places where a frame changes thread. A live source's slot is latest-wins: a frame
that is overtaken before the model is free is *skipped*. A file's slot is lossless and a few frames deep: the reader waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from edge_agent.config import CameraConfig
from edge_agent.errors import EndOfStream, SourceBroken, SourceError, SourceUnavailable
from edge_agent.frame import Frame
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo
from edge_agent.stats import FrameCounts, RateMeter, ReasonCounter

log = logging.getLogger(__name__)

FILE_DEPTH = 8
"""Frames of a file that may wait, so that neither decoder nor model stands still for the other's unevenness."""
CAMERA_BACKOFF = BackoffPolicy(first_s=0.5, cap_s=30.0, stable_s=10.0)


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


class Capture:
    """One camera's runner. ``take`` and the properties may be used from any thread."""

    def __init__(
        self,
        camera: CameraConfig,
        source: Source,
        wake: threading.Condition,
        on_change: Callable[[Capture], None] = lambda _: None,
        backoff: Backoff | None = None,
    ) -> None:
        self.camera = camera
        self.source = source
        self.every = camera.settings.mode == "every" or (camera.settings.mode == "auto" and not source.live)
        self.counts = FrameCounts()
        self.captured_rate = RateMeter()
        self.status = CaptureStatus()
        self._wake = wake
        self._on_change = on_change
        self._backoff = backoff or Backoff(CAMERA_BACKOFF)
        self._slot: deque[Frame] = deque()
        self._abandoned = False
        self._depth = FILE_DEPTH if self.every and source.unpaced else 1
        self._is_full = False
        """The reader waits for room."""
        self._slot_due = 0.0
        self._held_until = 0.0
        self._stopping = threading.Event()
        self._next_frame_id = 0
        self._thread = threading.Thread(target=self._run, name=f"capture-{camera.id}", daemon=True)

    def start(self) -> None:
        """Begin to open the source, in the runner's own thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it does so at the source's next answer."""
        self._stopping.set()
        with self._wake:
            self._wake.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False if it is still inside the source."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def ended(self) -> bool:
        """Nothing more will come, and nothing is waiting."""
        return self.status.state is CameraState.ENDED and not self._slot

    def ready_at(self) -> float | None:
        """Monotonic time from when a frame may be taken; None when none waits. Call with the wake lock held."""
        return self._slot_due if self._slot else None

    def take(self, now: float) -> Frame | None:
        """The waiting frame, which is then in the caller's hands. Call with the wake lock held."""
        frame = self._slot.popleft() if self._slot else None
        if frame is not None:
            if self.camera.settings.max_fps:
                # The schedule keeps its beat unless it fell behind by more than one interval.
                interval = 1 / self.camera.settings.max_fps
                self._slot_due = max(self._slot_due + interval, now) if self._slot_due > now - interval else now + interval
            if self._is_full and len(self._slot) <= self._depth // 2:
                self._is_full = False
                self._wake.notify_all()
        return frame

    def expect(self, at: float) -> None:
        """The next frame will be taken at ``at``, no sooner: the source may spare itself the ones before. Any thread."""
        if not self.every:
            self.source.skip_until(max(at, self._slot_due))

    def served(self) -> None:
        """The frame that was taken has become an event."""
        with self._wake:
            self.counts.served += not self._abandoned

    def lost(self, reason: str) -> None:
        """The frame that was taken has come to nothing."""
        with self._wake:
            if not self._abandoned:
                self.counts.dropped[reason] += 1

    def check_stall(self, now: float, after_s: float) -> None:
        """Call now and then, from one thread: says so when an online source has fallen silent."""
        with self._wake:
            status = self.status
            silent_s = now - max(status.last_frame_at or now, self._held_until)
            waits_for_us = self.every and bool(self._slot)
            if status.state is not CameraState.ONLINE or silent_s <= after_s or waits_for_us:
                return
            self._enter(CameraState.STALLED)
        log.warning("camera stalled camera=%s silent_for=%.1fs", self.camera.id, silent_s)
        self._on_change(self)

    def snapshot(self) -> FrameCounts:
        """The counters as of one moment, so that they add up."""
        with self._wake:
            counts = self.counts
            return FrameCounts(counts.captured, counts.served, ReasonCounter(counts.skipped), ReasonCounter(counts.dropped))

    def abandon(self) -> None:
        """Give up every frame that is on its way, and count them: the last word on what became of this camera's frames."""
        with self._wake:
            if self.counts.in_flight:
                self.counts.dropped["shutdown"] += self.counts.in_flight
            self._abandoned = True
            self._slot.clear()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._session()
                except EndOfStream as error:
                    if self.source.finite:
                        self._end(None)
                        return
                    self._wait_after(SourceUnavailable(str(error), error.code))
                except SourceBroken as error:
                    self._end(error)
                    return
                except SourceError as error:
                    self._wait_after(error)
                except Exception as error:  # a defect in a source must not take its camera away for ever
                    log.exception("source failed unexpectedly camera=%s", self.camera.id)
                    self._wait_after(SourceUnavailable(f"unexpected {type(error).__name__}: {error}"))
        finally:
            self.source.close()

    def _session(self) -> None:
        self._set(CameraState.CONNECTING)
        info = self.source.open()
        self.status.info = info
        try:
            while not self._stopping.is_set():
                try:
                    reading = self.source.read()
                except FrameUnreadable as error:
                    self._unreadable(error)
                    continue
                captured_at = self._arrival(reading)
                self._online(reading)
                self._offer(reading, captured_at)
        finally:
            self._backoff.down(time.monotonic())
            self.source.close()

    def _unreadable(self, error: FrameUnreadable) -> None:
        log.warning("frame lost camera=%s frame_id=%d reason=%s", self.camera.id, self._next_frame_id, error)
        self._next_frame_id += 1
        with self._wake:
            self.counts.captured += 1
            self.counts.dropped["unreadable"] += 1

    def _arrival(self, reading: Reading) -> float:
        """When the picture came; one with a time of its own comes then, and is waited for."""
        if reading.not_before is None:
            return reading.captured_at
        self._held_until = reading.not_before
        self._stopping.wait(max(0.0, reading.not_before - time.monotonic()))
        return max(reading.captured_at, reading.not_before)

    def _online(self, reading: Reading) -> None:
        now = time.monotonic()
        self.status.last_frame_at = now
        self.captured_rate.tick(now)
        if self.status.state is CameraState.ONLINE:
            return
        self._backoff.up(now)
        info = self.status.info
        assert info is not None
        log.info(
            "camera online camera=%s size=%dx%d declared_fps=%s decoder=%r",
            self.camera.id, reading.image.width, reading.image.height, info.fps, info.decoder,
        )  # fmt: skip
        self.status.error = None
        self._set(CameraState.ONLINE)

    def _offer(self, reading: Reading, captured_at: float) -> None:
        captured_utc = time.time() - (time.monotonic() - captured_at)
        frame = Frame(self.camera.id, self._next_frame_id, reading.image, captured_at, captured_utc, reading.pts_s)
        self._next_frame_id += 1
        with self._wake:
            if self._abandoned:
                return
            self.counts.captured += 1
            if self.every and len(self._slot) >= self._depth:
                # Filled again only once it is half empty: fewer changes between threads, and several frames in a row.
                self._is_full = True
                while self._is_full and not self._stopping.is_set():
                    self._wake.wait(1.0)
            if self._stopping.is_set():
                if not self._abandoned:
                    self.counts.dropped["shutdown"] += 1
                return
            if not self.every and self._slot:
                self._slot.clear()
                held_back = self._slot_due > time.monotonic()
                self.counts.skipped["max_fps" if held_back else "model_busy"] += 1
            self._slot.append(frame)
            self._wake.notify_all()

    def _wait_after(self, error: SourceError) -> None:
        delay = self._backoff.next_delay()
        self.status.error = self.status.last_error = error
        self.status.reconnects += 1
        log.warning("source unavailable camera=%s code=%s retry_in=%.1fs reason=%s", self.camera.id, error.code.value, delay, error)
        self._set(CameraState.BACKOFF)
        self._stopping.wait(delay)

    def _end(self, error: SourceError | None) -> None:
        self.status.error = error
        self.status.last_error = error or self.status.last_error
        if error:
            log.error("camera ended camera=%s code=%s reason=%s", self.camera.id, error.code.value, error)
        else:
            log.info("camera ended camera=%s frames=%d", self.camera.id, self.counts.captured)
        self._set(CameraState.ENDED)
        with self._wake:
            self._wake.notify_all()

    def _set(self, state: CameraState) -> None:
        with self._wake:
            changed = self._enter(state)
        if changed:
            self._on_change(self)

    def _enter(self, state: CameraState) -> bool:
        """Call with the wake lock held: two threads change the state, ours and the one that watches for stalls."""
        if state is self.status.state and state is not CameraState.CONNECTING:
            return False
        self.status.state = state
        self.status.since_utc = time.time()
        return True
