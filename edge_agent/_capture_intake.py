"""The side of a camera that its reader meets: what comes of each picture, each failure and the end.

And the watch over that reader: silence, and calls into the source that never come back
(see docs/decisions/0007-threads-or-processes.md).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from edge_agent._capture_asking import Asking
from edge_agent._capture_readers import Readers
from edge_agent._capture_standing import Standing
from edge_agent.camera_state import CameraState
from edge_agent.errors import EndOfStream, SourceBroken, SourceError, SourceErrorCode, SourceUnavailable
from edge_agent.frame import Frame
from edge_agent.reader import Call, Reader, Superseded
from edge_agent.shared_image import SharedImage
from edge_agent.slot import Slot
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo

log = logging.getLogger("edge_agent.capture")  # the name that whoever filters the log knows


class Intake:
    """A reader's :class:`~edge_agent.reader.Owner`. ``tell`` is called without the lock when the camera's state has changed."""

    def __init__(
        self, readers: Readers, slot: Slot, standing: Standing, asking: Asking, wake: threading.Condition, tell: Callable[[], None]
    ) -> None:
        self.onlookers: list[Callable[[Frame], None]] = []
        """Who is given the next frame too. With the lock held."""
        self._readers, self._slot, self._standing, self._asking = readers, slot, standing, asking
        self._wake, self._tell = wake, tell
        self._next_frame_id = 0
        readers.report_to(self)

    # -- for the reader -------------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """See Owner, as for all of these."""
        return self._standing.paused

    def made(self, reader: Reader, source: Source) -> None:
        with self._wake:
            self._readers.only_present(reader)
            self._readers.source = self._asking.hearer = source
            self._standing.runs_in(source)

    def connecting(self, reader: Reader) -> None:
        with self._wake:
            self._readers.only_present(reader)
            changed = self._standing.enter(CameraState.CONNECTING)
        self._say(changed)

    def opened(self, reader: Reader, info: StreamInfo) -> None:
        with self._wake:
            self._readers.only_present(reader)
            self._standing.status.info = info
            self._asking.asked(None)

    def arrived(self, reader: Reader, reading: Reading, captured_at: float, left_out: int) -> None:
        now = time.monotonic()
        captured_utc = time.time() - (now - captured_at)
        status = self._standing.status
        with self._wake:
            self._readers.only_present(reader)
            self._pass_by(left_out)
            status.lost_upstream += 0 if reader.source is None else reader.source.lost_upstream()
            status.last_frame_at = now
            self._asking.beat(now, 1 + left_out)
            changed = self._standing.come_online(reading, now, muted=self._slot.muted)
            if changed:
                reader.wedged = False
            if not self.onlookers:
                self._asking.remind(now)
            if not changed:
                self._put(reading, captured_at, captured_utc)
        if changed:  # told of before its first frame is
            self._tell()
            with self._wake:
                self._readers.only_present(reader)
                self._put(reading, captured_at, captured_utc)

    def unreadable(self, reader: Reader, error: FrameUnreadable, left_out: int) -> None:
        with self._wake:
            self._readers.only_present(reader)
            self._pass_by(left_out)
            frame_id = self._next_frame_id
            self._next_frame_id += 1
            self._slot.spoil("unreadable")
        log.warning("frame lost camera=%s frame_id=%d reason=%s", self._readers.camera.id, frame_id, error)

    def over(self, reader: Reader, left_out: int) -> None:
        with self._wake:
            self._readers.only_present(reader)
            self._pass_by(left_out)
            self._standing.backoff.down(time.monotonic())

    def failed(self, reader: Reader, error: SourceError) -> float:
        with self._wake:
            self._readers.only_present(reader)
            self._standing.status.wedged += error.code is SourceErrorCode.WEDGED
            delay_s = self._standing.fail(error)
            changed = self._standing.enter(CameraState.BACKOFF)
            # It saw by itself that a call hangs, and would go on to: only in a process of its own it can be opened anew.
            moves = error.code is SourceErrorCode.WEDGED and self._readers.may_move()
            if moves:
                self._leave_behind(delay_s)
        self._say(changed)
        if moves:
            raise Superseded
        return delay_s

    def finished(self, reader: Reader, error: SourceBroken | EndOfStream) -> None:
        with self._wake:
            self._readers.only_present(reader)
            changed = self._standing.end(error)
            self._slot.show()
            self._wake.notify_all()
        self._standing.tell_end(error, self._slot.counts.captured)
        self._say(changed)

    # -- watching the reader --------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """See :meth:`edge_agent.capture.Capture.check`."""
        with self._wake:
            reader = self._readers.present
            call = reader.call
            if call is None or self._readers.stopping:
                return
            since_s = now - call.began
            if since_s > reader.patience_s:
                changed = self._give_up(reader, call, since_s)
            else:
                silent_s = now - max(call.began, self._asking.hint_until)
                changed = call.name == "read" and self._standing.stall(silent_s, self._asking.rhythm.limit_s)
        self._say(changed)

    def _give_up(self, reader: Reader, call: Call, since_s: float) -> bool:
        """A call has not returned: leave its thread behind, and go on with another source in another thread."""
        may = self._readers.may_leave_behind()
        if reader.wedged and not may:
            return False  # was said already
        what = f"{call.name} of the source has not returned for {since_s:.0f} s"
        if may:
            what += "; the call was left behind and the source is opened anew"
        else:
            what += f"; {self._readers.left_behind} calls hang already, and this one is waited for"
        if not reader.wedged:
            self._standing.status.wedged += 1
        reader.wedged = True
        self._standing.backoff.down(time.monotonic())
        delay_s = self._standing.fail(SourceUnavailable(what, SourceErrorCode.WEDGED))
        if may:
            self._leave_behind(delay_s)
        return self._standing.enter(CameraState.BACKOFF)

    # -- with the lock held ---------------------------------------------------------------------------------------------

    def _leave_behind(self, delay_s: float) -> None:
        self._asking.hearer = None
        self._readers.leave_behind(self._standing.status.wedged, delay_s)

    def _put(self, reading: Reading, captured_at: float, captured_utc: float) -> None:
        image = SharedImage(reading.image) if self.onlookers else reading.image
        frame = Frame(self._readers.camera.id, self._next_frame_id, image, captured_at, captured_utc, reading.pts_s, reading.decode_ms)
        self._next_frame_id += 1
        while self.onlookers:
            self.onlookers.pop()(frame)
        if self._standing.paused and not self._slot.policy.every:
            self._slot.pass_by("paused")
        else:
            self._slot.put(frame)
        self._asking.asked(time.monotonic())

    def _pass_by(self, left_out: int) -> None:
        if left_out:
            self._next_frame_id += left_out
            self._slot.pass_by("muted" if self._slot.muted else "not_decoded", left_out)

    def _say(self, changed: bool) -> None:
        if changed:
            self._tell()
