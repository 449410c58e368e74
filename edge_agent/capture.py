"""One camera's runner: its state, its reconnects, its counters, and who reads it.

A :class:`~edge_agent.reader.Reader` is the thread inside the source, a :class:`~edge_agent.slot.Slot` holds the frames that
wait for the model. This is what stands between them, and decides: what state the camera is in, when it is tried again, and
when a call into a source is given up (see docs/decisions/0007-threads-or-processes.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from edge_agent.camera_state import CameraState, CaptureStatus
from edge_agent.config import CameraConfig, CameraSettings
from edge_agent.errors import EndOfStream, SourceBroken, SourceError, SourceErrorCode, SourceUnavailable
from edge_agent.frame import Frame
from edge_agent.motion import MotionWatch
from edge_agent.reader import Call, Reader, Superseded
from edge_agent.redaction import redact
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.rhythm import Rhythm
from edge_agent.shared_image import SharedImage
from edge_agent.slot import Slot, SlotPolicy
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo
from edge_agent.stats import FrameCounts, RateMeter

__all__ = ["CameraState", "Capture", "CaptureStatus"]

log = logging.getLogger(__name__)

FILE_DEPTH = 8
"""Frames of a file that may wait, so that neither decoder nor model stands still for the other's unevenness."""
MOST_WAITING = 4
"""Frames of a live camera that may wait at most, where the model is fast enough for all of them."""
CAMERA_BACKOFF = BackoffPolicy(first_s=0.5, cap_s=4.0, stable_s=10.0)
"""With the cap and the time to open, frames resume within 5 s of a camera's return, however long it was away."""
SELDOM_S = 30.0
"""The cap after what the camera's return does not mend, and what trying often makes worse."""
SELDOM = frozenset({SourceErrorCode.AUTH_FAILED, SourceErrorCode.TLS, SourceErrorCode.UNSUPPORTED, SourceErrorCode.WEDGED})
"""Cameras lock out whoever fails to log in a few times; a call that hangs costs a thread or a process."""
MOST_LEFT_BEHIND = 3
"""Threads of one camera that hang at the same time, before it waits for one of them to come back."""
REPLACED_WITHIN_S = 5.0
"""How long a source that is replaced may take to close, before the next is opened all the same."""
HINT_S = 3.0
"""A source is told to leave out frames for so long at most, so that ``read`` comes back while the model is busy."""


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
        self.camera = camera
        self.source = source
        """The present one."""
        self.every = _is_every(camera.settings, source)
        self.unpaced = self.every and source.unpaced
        """Throughput counts here, and not the age of a frame."""
        depth = FILE_DEPTH if self.unpaced else 1
        self.slot = Slot(_policy(camera.settings, self.every, depth), wake)
        self.motion = _motion(camera.settings, self.every)
        """Its gate; None where it has none."""
        self.retired = False
        """Taken out of a running agent."""
        self.captured_rate = RateMeter()
        self._may_burst = self.motion is None and self.slot.policy.interval_s is None
        self.status = CaptureStatus(isolation=_isolation(source))
        self._wake = wake
        self._on_change = on_change
        self._backoff = backoff or Backoff(CAMERA_BACKOFF)
        self._another = another
        self._rhythm = rhythm or Rhythm()
        self._last_asked: float | None = None
        self._hearer: Source | None = source
        """Who is told which frames are wanted; nobody while the present source hangs."""
        self._wanted_at = self._hint_until = self._cheaper_by = 0.0
        self._stopping = self._paused = False
        self._onlookers: list[Callable[[Frame], None]] = []
        """Who is given the next frame too."""
        self._next_frame_id = self._sources = 0
        self._left_behind: list[Reader] = []
        self._reader = Reader(self, lambda: source, f"capture-{camera.id}")

    # -- for the line ---------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> FrameCounts:
        """The counters as they grow; ``snapshot`` gives those of one moment."""
        return self.slot.counts

    def start(self) -> None:
        """Begin to open the source, in a thread of its own."""
        self._reader.thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it does so at the source's next answer."""
        with self._wake:
            self._stopping = True
            self._reader.stop()
            self.slot.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False if it is still inside the source, or one that was left behind is."""
        reader = self._reader
        if reader.thread.ident is not None:
            reader.thread.join(timeout_s)
        return not reader.thread.is_alive() and not self.left_behind

    def beside(self, camera: CameraConfig, source: Source, another: Callable[[], Source]) -> Capture:
        """The runner of one more camera, not yet started, for the same lanes and listeners."""
        return Capture(camera, source, self._wake, self._on_change, another=another)

    def retire(self, timeout_s: float) -> None:
        """Stop for good while the others go on: close the source, count what was on its way, and say so."""
        self.stop()
        with self._wake:
            self._hurry()
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
            # In the longest of the usual intervals before, one almost surely comes.
            self._wanted_at = max(at, self.slot.due) - self._rhythm.usual_s
            self._cheaper_by = max(cheaper_by, self.slot.due) if cheaper_by else 0.0
            self._hint(now)

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
        return self._paused

    @property
    def muted(self) -> bool:
        """Whether ``mute`` was called, and ``unmute`` was not."""
        return self.slot.muted

    def pause(self) -> bool:
        """Stop reading: a camera is closed, a file stays where it is. False if the camera has ended."""
        with self._wake:
            if self.status.state is CameraState.ENDED:
                return False
            self._paused = True
            self.slot.hide(let_go=self.source.live)
            changed = self._enter(CameraState.PAUSED)
            self._reader.nudge()
        return self._say(changed)

    def resume(self) -> bool:
        """Read again; a camera is opened again. False if the camera has ended."""
        with self._wake:
            if self.status.state is CameraState.ENDED:
                return False
            was_paused, self._paused = self._paused, False
            self.slot.show()
            changed = was_paused and self._enter(CameraState.CONNECTING)
            self._reader.nudge()
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
            self._wanted_at = 0.0
            self._hint(time.monotonic())
            is_online = self.status.state in {CameraState.ONLINE, CameraState.MUTED}
            changed = is_online and self._enter(self._online_state())
        return self._say(changed)

    def configure(self, camera: CameraConfig) -> None:
        """Go by other settings from now on, as far as the source need not be opened anew for them; what ``set_pace`` set is void."""
        with self._wake:
            self.camera = camera
        self.set_pace(None)

    def replace_source(self, camera: CameraConfig, source: Source, another: Callable[[], Source]) -> None:
        """Go on with another source, and all of its settings; ``another`` as of the constructor.

        It is opened when the present one is closed, or has had some time for that. The counters go on.
        """
        with self._wake:
            if self._stopping:
                return
            before = self._reader
            before.stop()
            self._hurry()
            self.slot.let_go()
            self._left_behind = [each for each in self._left_behind if each.thread.is_alive()] + [before]
            if camera.settings.motion != self.camera.settings.motion or camera.settings.roi != self.camera.settings.roi:
                self.motion = _motion(camera.settings, _is_every(camera.settings, source))
            self.camera, self.source, self._another, self._hearer = camera, source, another, None
            self.every = _is_every(camera.settings, source)
            self.unpaced = self.every and source.unpaced
            self.slot.set_policy(_policy(camera.settings, self.every, FILE_DEPTH if self.unpaced else 1))
            self._may_burst = self.motion is None and self.slot.policy.interval_s is None
            self._rhythm, self._last_asked, self._wanted_at, self._hint_until = Rhythm(), None, 0.0, 0.0
            self.status.info, self.status.error = None, None

            def make() -> Source:
                before.thread.join(REPLACED_WITHIN_S)  # two cannot have one device
                return source

            self._sources += 1
            self._reader = Reader(self, make, f"capture-{camera.id}-new{self._sources}")
            self._reader.thread.start()
            changed = self._enter(CameraState.CONNECTING)
        self._say(changed)

    def set_pace(self, max_fps: float | None) -> None:
        """Serve at most so many frames per second from now on; None: as the camera's own settings say."""
        settings = self.camera.settings
        if max_fps is not None:
            settings = settings.model_copy(update={"max_fps": max_fps, "interval_s": None})
        with self._wake:
            self.slot.set_policy(_policy(settings, self.every, self.slot.policy.depth))
            self._may_burst = self.motion is None and self.slot.policy.interval_s is None
            if not self._may_burst:
                self.slot.make_room(1, 0.0)
            self._wanted_at = 0.0
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
            self._onlookers.append(onlooker)
            self._hurry()

    def look_away(self, onlooker: Callable[[Frame], None]) -> None:
        """It is not to be called any more."""
        with self._wake:
            if onlooker in self._onlookers:
                self._onlookers.remove(onlooker)

    def _online_state(self) -> CameraState:
        return CameraState.MUTED if self.slot.muted else CameraState.ONLINE

    # -- watching -------------------------------------------------------------------------------------------------------

    @property
    def left_behind(self) -> int:
        """Threads that hang inside a source that was given up."""
        return sum(reader.thread.is_alive() for reader in self._left_behind)

    def check(self, now: float) -> None:
        """Call now and then, from one thread, at monotonic ``now``: finds silence and calls that do not come back."""
        with self._wake:
            reader = self._reader
            call = reader.call
            if call is None or self._stopping:
                return
            since_s = now - call.began
            if since_s > reader.patience_s:
                changed = self._give_up(reader, call, since_s)
            else:
                changed = call.name == "read" and self._stalls(now - max(call.began, self._hint_until))
        self._say(changed)

    def _stalls(self, silent_s: float) -> bool:
        if self.status.state not in {CameraState.ONLINE, CameraState.MUTED} or silent_s <= self._rhythm.limit_s:
            return False
        log.warning("camera stalled camera=%s silent_for=%.1fs", self.camera.id, silent_s)
        return self._enter(CameraState.STALLED)

    def _give_up(self, reader: Reader, call: Call, since_s: float) -> bool:
        """A call has not returned: leave its thread behind, and go on with another source in another thread."""
        self._left_behind = [each for each in self._left_behind if each.thread.is_alive()]
        may = self._another is not None and len(self._left_behind) < MOST_LEFT_BEHIND
        if reader.wedged and not may:
            return False  # was said already
        status = self.status
        what = f"{call.name} of the source has not returned for {since_s:.0f} s"
        if may:
            what += "; the call was left behind and the source is opened anew"
        else:
            what += f"; {len(self._left_behind)} calls hang already, and this one is waited for"
        if not reader.wedged:
            status.wedged += 1
        reader.wedged = True
        self._backoff.down(time.monotonic())
        delay_s = self._note_failure(SourceUnavailable(what, SourceErrorCode.WEDGED))
        if may:
            self._replace(reader, delay_s)
        return self._enter(CameraState.BACKOFF)

    def _may_move(self) -> bool:
        """Whether the source that comes next would be in a process, and this one is not."""
        return self._another is not None and self.camera.settings.isolation == "auto" and not self.source.isolated and not self._stopping

    def _replace(self, reader: Reader, delay_s: float) -> None:
        another, position = self._another, self.source.position
        assert another is not None
        reader.stop()
        self._left_behind.append(reader)
        self._hearer = None

        def make() -> Source:
            source = another()
            source.position = position
            return source

        self._reader = Reader(self, make, f"capture-{self.camera.id}-{self.status.wedged}", delay_s)
        self._reader.thread.start()

    # -- for the reader -------------------------------------------------------------------------------------------------

    def made(self, reader: Reader, source: Source) -> None:
        """See Owner, as for all of these."""
        with self._wake:
            self._only_present(reader)
            self.source = self._hearer = source
            self.status.isolation = _isolation(source)

    def connecting(self, reader: Reader) -> None:
        with self._wake:
            self._only_present(reader)
            changed = self._enter(CameraState.CONNECTING)
        self._say(changed)

    def opened(self, reader: Reader, info: StreamInfo) -> None:
        with self._wake:
            self._only_present(reader)
            self.status.info = info
            self._last_asked = None

    def arrived(self, reader: Reader, reading: Reading, captured_at: float, left_out: int) -> None:
        now = time.monotonic()
        captured_utc = time.time() - (now - captured_at)
        with self._wake:
            self._only_present(reader)
            self._pass_by(left_out)
            self.status.lost_upstream += 0 if reader.source is None else reader.source.lost_upstream()
            self._beat(now, 1 + left_out)
            changed = self._come_online(reading, now)
            if (now < self._wanted_at or self.slot.muted) and not self._onlookers:
                self._hint(now)
            if not changed:
                self._put(reading, captured_at, captured_utc)
        if changed:  # told of before its first frame is
            self._on_change(self)
            with self._wake:
                self._only_present(reader)
                self._put(reading, captured_at, captured_utc)

    def unreadable(self, reader: Reader, error: FrameUnreadable, left_out: int) -> None:
        with self._wake:
            self._only_present(reader)
            self._pass_by(left_out)
            frame_id = self._next_frame_id
            self._next_frame_id += 1
            self.slot.spoil("unreadable")
        log.warning("frame lost camera=%s frame_id=%d reason=%s", self.camera.id, frame_id, error)

    def over(self, reader: Reader, left_out: int) -> None:
        with self._wake:
            self._only_present(reader)
            self._pass_by(left_out)
            self._backoff.down(time.monotonic())

    def failed(self, reader: Reader, error: SourceError) -> float:
        with self._wake:
            self._only_present(reader)
            self.status.wedged += error.code is SourceErrorCode.WEDGED
            delay_s = self._note_failure(error)
            changed = self._enter(CameraState.BACKOFF)
            # It saw by itself that a call hangs, and would go on to: only in a process of its own it can be opened anew.
            moves = error.code is SourceErrorCode.WEDGED and self._may_move()
            if moves:
                self._replace(reader, delay_s)
        self._say(changed)
        if moves:
            raise Superseded
        return delay_s

    def finished(self, reader: Reader, error: SourceBroken | EndOfStream) -> None:
        broken, early = isinstance(error, SourceBroken), error.code is not SourceErrorCode.ENDED
        _without_credentials(error)
        with self._wake:
            self._only_present(reader)
            self.status.error = error if broken else None
            self.status.last_error = error if broken or early else self.status.last_error
            self._paused = False
            self.slot.show()
            changed = self._enter(CameraState.ENDED)
            self._wake.notify_all()
        if broken:
            log.error("camera ended camera=%s code=%s reason=%s", self.camera.id, error.code.value, error)
        else:
            log.info("camera ended camera=%s frames=%d", self.camera.id, self.counts.captured)
            if early:
                log.warning("file ended early camera=%s reason=%s", self.camera.id, error)
        self._say(changed)

    # -- with the lock held ---------------------------------------------------------------------------------------------

    def _put(self, reading: Reading, captured_at: float, captured_utc: float) -> None:
        image = SharedImage(reading.image) if self._onlookers else reading.image
        frame = Frame(self.camera.id, self._next_frame_id, image, captured_at, captured_utc, reading.pts_s, reading.decode_ms)
        self._next_frame_id += 1
        while self._onlookers:
            self._onlookers.pop()(frame)
        if self._paused and not self.every:
            self.slot.pass_by("paused")
        else:
            self.slot.put(frame)
        self._last_asked = time.monotonic()

    def _only_present(self, reader: Reader) -> None:
        if reader is not self._reader:
            raise Superseded

    def _pass_by(self, left_out: int) -> None:
        if left_out:
            self._next_frame_id += left_out
            self.slot.pass_by("muted" if self.slot.muted else "not_decoded", left_out)

    def _beat(self, now: float, frames: int) -> None:
        """So many frames have come since the last time, and tell the camera's rhythm."""
        if self._last_asked is not None:
            self._rhythm.note((now - self._last_asked) / frames)
        self.status.last_frame_at = now
        self.captured_rate.tick(now, frames)

    def _come_online(self, reading: Reading, now: float) -> bool:
        status, state = self.status, self._online_state()
        if self._paused or status.state is state:
            return False
        self._backoff.up(now)
        self._reader.wedged = False
        info = status.info
        log.info(
            "camera online camera=%s size=%dx%d declared_fps=%s decoder=%r",
            self.camera.id, reading.image.width, reading.image.height, info and info.fps, info and info.decoder,
        )  # fmt: skip
        status.error = None
        return self._enter(state)

    def _note_failure(self, error: SourceError) -> float:
        _without_credentials(error)
        delay_s = self._backoff.next_delay(SELDOM_S if error.code in SELDOM else None)
        self.status.error = self.status.last_error = error
        self.status.reconnects += 1
        log.warning("source unavailable camera=%s code=%s retry_in=%.1fs reason=%s", self.camera.id, error.code.value, delay_s, error)
        return delay_s

    def _hurry(self) -> None:
        """None of the frames that come is to be left out: ``read`` comes back with the next."""
        if self._hearer is not None:
            self._hearer.skip_until(0.0)

    def _hint(self, now: float) -> None:
        wanted_at = float("inf") if self.slot.muted else self._wanted_at
        self._hint_until = min(wanted_at, now + HINT_S)
        if self._hearer is not None:
            self._hearer.skip_until(self._hint_until, self._cheaper_by)

    def _enter(self, state: CameraState) -> bool:
        """Several threads change the state: the reader, the one that watches, and those that command."""
        if self._paused and state is not CameraState.ENDED:
            state = CameraState.PAUSED
        if state is self.status.state and state is not CameraState.CONNECTING:
            return False
        self.status.state = state
        self.status.since_utc = time.time()
        return True

    def _say(self, changed: bool) -> bool:
        """Without the lock: tell of a change of state."""
        if changed:
            self._on_change(self)
        return True


def _without_credentials(error: SourceError) -> None:
    """It will be published, and may hold what a library, or a function of the user's, says of an address."""
    error.args = (redact(str(error)),)


def _is_every(camera: CameraSettings, source: Source) -> bool:
    return camera.mode == "every" or (camera.mode == "auto" and not source.live)


def _policy(camera: CameraSettings, every: bool, depth: int) -> SlotPolicy:
    staleness_s = None if camera.staleness_ms is None else camera.staleness_ms / 1e3
    if camera.max_fps is not None:
        return SlotPolicy(every, depth, 1 / camera.max_fps, "max_fps", staleness_s)
    return SlotPolicy(every, depth, camera.interval_s, "interval", staleness_s)


def _motion(camera: CameraSettings, every: bool) -> MotionWatch | None:
    settings = camera.motion
    if settings is None or not (not every if settings.enabled == "auto" else settings.enabled):
        return None
    return MotionWatch(settings, camera.roi)


def _isolation(source: Source) -> Literal["thread", "process"]:
    return "process" if source.isolated else "thread"
