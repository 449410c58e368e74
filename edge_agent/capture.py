"""One camera's runner: what the line, the commands and the watch want of it.

A :class:`~edge_agent.reader.Reader` is the thread inside the source, a :class:`~edge_agent.slot.Slot` holds the frames that
wait for the model. Between them stand the camera's intake (`_capture_intake.py`: what comes of each picture and each
failure), its standing (`_capture_standing.py`: its state, and when it is tried again), what its source is asked for
(`_capture_asking.py`), and its readers (`_capture_readers.py`: the present one, and those left behind).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edge_agent._capture_asking import Asking
from edge_agent._capture_intake import Intake
from edge_agent._capture_readers import Readers
from edge_agent._capture_settings import FILE_DEPTH, is_every, motion_watch, slot_policy
from edge_agent._capture_standing import CAMERA_BACKOFF, Standing
from edge_agent.camera_state import CameraState
from edge_agent.config import CameraConfig
from edge_agent.frame import Frame
from edge_agent.retry import Backoff
from edge_agent.rhythm import Rhythm
from edge_agent.slot import Slot
from edge_agent.sources.base import Source
from edge_agent.stats import FrameCounts

MOST_WAITING = 4
"""Frames of a live camera that may wait at most, where the model is fast enough for all of them."""


class Capture:
    """One camera's runner. Everything may be called from any thread.

    ``another`` makes the source that follows one whose call never came back; without it, that call is waited for.
    """

    def __init__(
        self,
        camera: CameraConfig,
        source: Source,
        wake: threading.Condition,
        on_change: Callable[[Capture], None] = lambda _: None,
        backoff: Backoff | None = None,
        *,
        another: Callable[[], Source] | None = None,
        rhythm: Rhythm | None = None,
    ) -> None:
        every = is_every(camera.settings, source)
        self.unpaced = every and source.unpaced
        """Throughput counts here, and not the age of a frame."""
        self.slot = Slot(slot_policy(camera.settings, every=every, depth=FILE_DEPTH if self.unpaced else 1), wake)
        self.motion = motion_watch(camera.settings, every=every)
        """Its gate; None where it has none."""
        self.retired = False
        """Taken out of a running agent."""
        self._standing = Standing(camera.id, source, backoff or Backoff(CAMERA_BACKOFF))
        self.status = self._standing.status
        self._asking = Asking(source, self.slot, rhythm or Rhythm())
        self.captured_rate = self._asking.rate
        self._readers = Readers(camera, source, another)
        self._intake = Intake(self._readers, self.slot, self._standing, self._asking, wake, lambda: on_change(self))
        self._wake = wake
        self._on_change = on_change

    @property
    def camera(self) -> CameraConfig:
        """Its settings, as they are now."""
        return self._readers.camera

    @property
    def source(self) -> Source:
        """The present one."""
        return self._readers.source

    @property
    def every(self) -> bool:
        """Every frame is served, and not the latest only."""
        return self.slot.policy.every

    # -- for the line ---------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> FrameCounts:
        """The counters as they grow; ``snapshot`` gives those of one moment."""
        return self.slot.counts

    def start(self) -> None:
        """Begin to open the source, in a thread of its own."""
        self._readers.present.thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it does so at the source's next answer."""
        with self._wake:
            self._readers.stop()
            self.slot.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False if it is still inside the source, or one that was left behind is."""
        return self._readers.join(timeout_s)

    def beside(self, camera: CameraConfig, source: Source, another: Callable[[], Source]) -> Capture:
        """The runner of one more camera, not yet started, for the same lanes and listeners."""
        return Capture(camera, source, self._wake, self._on_change, another=another)

    def retire(self, timeout_s: float) -> None:
        """Stop for good while the others go on: close the source, count what was on its way, and say so."""
        self.stop()
        with self._wake:
            self._asking.hurry()
        self.join(timeout_s)
        self.abandon()
        self.retired = True
        self._on_change(self)

    @property
    def ended(self) -> bool:
        """Nothing more will come, and nothing is waiting."""
        return self.status.state is CameraState.ENDED and not self.slot

    def ready_at(self, now: float | None = None) -> float | None:
        """Monotonic time from when a frame may be taken; None when none waits. Call with the wake lock held."""
        return self.slot.ready_at(now)

    def deadline(self) -> float:
        """Monotonic time when the frame that waits becomes stale. Call with the wake lock held."""
        return self.slot.deadline()

    def take(self, now: float) -> Frame | None:
        """The waiting frame, which is then in the caller's hands. Call with the wake lock held."""
        return self.slot.take(now)

    def expect(self, at: float, now: float | None = None, *, cheaper_by: float = 0.0, turn_s: float = 0.0) -> None:
        """The next frame will be taken at ``at``, no sooner: the source may spare itself all but the last one before that.

        One that costs less to decode is waited for until ``cheaper_by``. ``turn_s``: usual seconds from one turn of this camera
        to its next; where several fit into the time between two of its frames, as many that come in a burst may wait. Call
        with the wake lock held.
        """
        now = time.monotonic() if now is None else now
        if not self.every:
            if turn_s and self._may_burst:
                interval_s = self.captured_rate.interval_s(now) or 0.0
                self.slot.make_room(max(1, min(MOST_WAITING, int(interval_s / turn_s))), interval_s)
            self._asking.expect(at, now, cheaper_by)

    def served(self) -> None:
        """The frame that was taken has become an event."""
        with self._wake:
            self.slot.served()

    def lost(self, reason: str) -> None:
        """The frame that was taken has come to nothing."""
        with self._wake:
            self.slot.lost(reason)

    def moves(self, frame: Frame, ticket: int, taken_at: float) -> bool:
        """Whether the frame that was taken is worth the model; if not, ``unmoved`` is to follow in its turn.

        While nothing moves the camera's next frame is wanted later. Call once for each frame, from the lane that took it.
        """
        motion = self.motion
        if motion is None:
            return True
        # What is read as fast as it can be has a time of its own.
        at = frame.pts_s if self.unpaced and frame.pts_s is not None else frame.captured_at
        if motion.passes(frame.image, ticket, at):
            return True
        with self._wake:
            until = taken_at + motion.look_s
            self.slot.rest(until)
            self.expect(until, cheaper_by=max(until, taken_at + motion.patience_s))
        return False

    def unmoved(self) -> None:
        """The frame that was taken is left out, as nothing moves in it."""
        with self._wake:
            self.slot.unmoved()

    def snapshot(self) -> FrameCounts:
        """The counters as of one moment, so that they add up."""
        with self._wake:
            return self.slot.snapshot()

    def abandon(self) -> None:
        """Give up every frame that is on its way, and count them: the last word on what became of this camera's frames."""
        with self._wake:
            self.slot.abandon()

    # -- commands -------------------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether ``pause`` was called, and ``resume`` was not."""
        return self._standing.paused

    @property
    def muted(self) -> bool:
        """Whether ``mute`` was called, and ``unmute`` was not."""
        return self.slot.muted

    def pause(self) -> bool:
        """Stop reading: a camera is closed, a file stays where it is. False if the camera has ended."""
        with self._wake:
            if self.status.state is CameraState.ENDED:
                return False
            self._standing.paused = True
            self.slot.hide(let_go=self.source.live)
            changed = self._standing.enter(CameraState.PAUSED)
            self._readers.present.nudge()
        return self._say(changed)

    def resume(self) -> bool:
        """Read again; a camera is opened again. False if the camera has ended."""
        with self._wake:
            if self.status.state is CameraState.ENDED:
                return False
            was_paused, self._standing.paused = self._standing.paused, False
            self.slot.show()
            changed = was_paused and self._standing.enter(CameraState.CONNECTING)
            self._readers.present.nudge()
            self._wake.notify_all()
        return self._say(changed)

    def mute(self) -> bool:
        """Go on reading and serve nothing: frames are skipped as ``muted``. False if the camera has ended."""
        return self._mute(muted=True)

    def unmute(self) -> bool:
        """Serve again. False if the camera has ended."""
        return self._mute(muted=False)

    def _mute(self, *, muted: bool) -> bool:
        with self._wake:
            if self.status.state is CameraState.ENDED:
                return False
            self.slot.mute(muted)
            self._asking.whenever()
            self._asking.hint(time.monotonic())
            changed = self._standing.mute(muted=muted)
        return self._say(changed)

    def configure(self, camera: CameraConfig) -> None:
        """Go by other settings from now on, as far as the source need not be opened anew for them; what ``set_pace`` set is void."""
        with self._wake:
            self._readers.camera = camera
        self.set_pace(None)

    def replace_source(self, camera: CameraConfig, source: Source, another: Callable[[], Source]) -> None:
        """Go on with another source, and all of its settings; ``another`` as of the constructor.

        It is opened when the present one is closed, or has had some time for that. The counters go on.
        """
        with self._wake:
            if self._readers.stopping:
                return
            self._asking.hurry()
            self.slot.let_go()
            before, settings, every = self.camera.settings, camera.settings, is_every(camera.settings, source)
            if settings.motion != before.motion or settings.roi != before.roi:
                self.motion = motion_watch(settings, every=every)
            self.unpaced = every and source.unpaced
            self.slot.set_policy(slot_policy(settings, every=every, depth=FILE_DEPTH if self.unpaced else 1))
            self._asking.begin_anew()
            self.status.info, self.status.error = None, None
            self._readers.replace(camera, source, another)
            changed = self._standing.enter(CameraState.CONNECTING)
        self._say(changed)

    def set_pace(self, max_fps: float | None) -> None:
        """Serve at most so many frames per second from now on; None: as the camera's own settings say."""
        settings = self.camera.settings
        if max_fps is not None:
            settings = settings.model_copy(update={"max_fps": max_fps, "interval_s": None})
        with self._wake:
            self.slot.set_policy(slot_policy(settings, every=self.every, depth=self.slot.policy.depth))
            if not self._may_burst:
                self.slot.make_room(1, 0.0)
            self._asking.whenever()
            self._wake.notify_all()

    @property
    def max_fps(self) -> float | None:
        """The most frames served per second now; None: no limit."""
        interval_s = self.slot.policy.interval_s
        return None if interval_s is None else 1 / interval_s

    def show_next(self, onlooker: Callable[[Frame], None]) -> None:
        """Give the next frame that comes to ``onlooker`` too, whatever becomes of it in the line.

        It is called once, from the camera's thread and with the wake lock held: it returns at once. The frame's picture may
        then be read from any thread.
        """
        with self._wake:
            self._intake.onlookers.append(onlooker)
            self._asking.hurry()

    def look_away(self, onlooker: Callable[[Frame], None]) -> None:
        """It is not to be called any more."""
        with self._wake:
            if onlooker in self._intake.onlookers:
                self._intake.onlookers.remove(onlooker)

    # -- watching -------------------------------------------------------------------------------------------------------

    @property
    def left_behind(self) -> int:
        """Threads that hang inside a source that was given up."""
        return self._readers.left_behind

    def check(self, now: float) -> None:
        """Call now and then, from one thread, at monotonic ``now``: finds silence and calls that do not come back."""
        self._intake.check(now)

    @property
    def _may_burst(self) -> bool:
        return self.motion is None and self.slot.policy.interval_s is None

    def _say(self, changed: bool) -> bool:
        """Without the lock: tell of a change of state."""
        if changed:
            self._on_change(self)
        return True
