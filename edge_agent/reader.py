"""One thread inside one source: opens, reads, closes, and opens again, until it is stopped or left behind.

What comes of it, and how long to wait after a failure, is its owner's business (:class:`edge_agent.capture.Capture`).
The thread notes when each call into the source began, so that another one can tell when a call does not come back. Such a
reader is left behind, with its source: nobody touches that source again, as drivers and decoders do not survive being
closed by a second thread while a first is inside. Should the call return after all, the reader closes its source itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from edge_agent.errors import ConfigError, EndOfStream, SourceBroken, SourceError, SourceErrorCode, SourceUnavailable
from edge_agent.memory import give_back
from edge_agent.sources.base import PATIENCE_S, FrameUnreadable, Reading, Source, StreamInfo

log = logging.getLogger(__name__)

MAX_UNREADABLE = 100
"""Damaged pictures of a live source in a row, before it is opened again: it may fail for ever without taking any time."""

T = TypeVar("T")


class Superseded(Exception):
    """Raised by the owner: this reader was left behind, and is to end."""


class Call(NamedTuple):
    """A call into the source that has not returned yet."""

    name: str
    began: float
    """Monotonic seconds."""


class Owner(Protocol):
    """Whom a reader reports to, from its own thread. Each of these raises Superseded when the reader was left behind."""

    @property
    def paused(self) -> bool:
        """Nothing is to be read for now; Reader.nudge tells of changes."""

    def made(self, reader: Reader, source: Source) -> None:
        """The reader has its source now."""

    def connecting(self, reader: Reader) -> None:
        """The source is about to be opened."""

    def opened(self, reader: Reader, info: StreamInfo) -> None:
        """The source is open; nothing was read yet."""

    def arrived(self, reader: Reader, reading: Reading, captured_at: float, left_out: int) -> None:
        """A picture came, after ``left_out`` others. May wait for room."""

    def unreadable(self, reader: Reader, error: FrameUnreadable, left_out: int) -> None:
        """A damaged picture came, after ``left_out`` others."""

    def over(self, reader: Reader, left_out: int) -> None:
        """Nothing more will be read before the next opening; ``left_out`` came last."""

    def failed(self, reader: Reader, error: SourceError) -> float:
        """The source could not be opened, or was lost: seconds to wait."""

    def finished(self, reader: Reader, error: SourceBroken | EndOfStream) -> None:
        """Nothing more will ever come. The end of a file is no failure; with another code than ENDED it came too early."""


class Reader:
    """See the module. ``start``, ``stop`` and ``nudge`` may be called from any thread."""

    def __init__(self, owner: Owner, make: Callable[[], Source], name: str, delay_s: float = 0.0) -> None:
        self.source: Source | None = None
        self.call: Call | None = None
        """Written by the reader's thread only."""
        self.wedged = False
        """Its present call was found not to return; the owner's to write."""
        self.unreadable_in_a_row = 0
        self._owner, self._delay_s = owner, delay_s
        self._make: Callable[[], Source] | None = make
        self._stopping = threading.Event()
        self._nudged = threading.Event()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def patience_s(self) -> float:
        """Longest time that the present call may take. From any thread."""
        source = self.source
        return PATIENCE_S if source is None else source.patience_s

    def stop(self) -> None:
        """Ask the thread to end; it does so at the source's next answer."""
        self._stopping.set()
        self.nudge()

    def nudge(self) -> None:
        """Look again whether to pause, and do not wait to try again."""
        self._nudged.set()

    def _run(self) -> None:
        try:
            self._wait(self._delay_s)
            while self._may_go_on():
                delay_s = self._attempt()
                give_back()
                if delay_s is None:
                    return
                self._wait(delay_s)
        except Superseded:
            log.info("a thread that was left behind has ended thread=%s", self.thread.name)
        finally:
            if self.source is not None:
                self._called("close", self.source.close)
                self._called("close", self.source.dispose)
            self.source = self._make = None  # whoever remembers this reader is not to keep its pictures' memory with it

    def _attempt(self) -> float | None:
        """Open, read while it lasts, close. Seconds to wait before the next attempt; None: there is none."""
        failure: SourceError
        try:
            self._session()
        except Superseded:
            raise
        except SourceBroken as error:
            self._owner.finished(self, _bare(error))
            return None
        except EndOfStream as error:
            if self.source is not None and self.source.finite:
                self._owner.finished(self, _bare(error))
                return None
            failure = SourceUnavailable(str(error), error.code)
        except SourceError as error:
            failure = error
        except ConfigError as error:  # a library or a password file that is missing now
            failure = SourceUnavailable(str(error))
        except BaseException as error:  # neither a defect in a source nor a sys.exit() in it may take its camera away for ever
            log.exception("source failed unexpectedly thread=%s", self.thread.name)
            failure = SourceUnavailable(f"unexpected {type(error).__name__}: {error}")
        else:
            return 0.0
        self._nudged.clear()  # what comes from here on, when the failure is known, cuts the wait short
        return self._owner.failed(self, _bare(failure))

    def _session(self) -> None:
        self._owner.connecting(self)
        if self._make is not None:
            made = self._called("open", self._make)
            self.source, self._make = made, None  # it holds what came before, and that what came before it
            self._owner.made(self, made)
        source = self.source
        assert source is not None
        try:
            self._owner.opened(self, self._called("open", source.open))
            self.unreadable_in_a_row = 0
            while self._may_read(source):
                self._read(source)
        finally:
            self._owner.over(self, source.left_out())
            self._called("close", source.close)

    def _read(self, source: Source) -> None:
        try:
            reading = self._called("read", source.read)
        except FrameUnreadable as error:
            self._owner.unreadable(self, error, source.left_out())
            self.unreadable_in_a_row += 1
            if source.live and self.unreadable_in_a_row >= MAX_UNREADABLE:
                message = f"{self.unreadable_in_a_row} damaged pictures in a row; the last: {error}"
                raise SourceUnavailable(message, SourceErrorCode.INVALID_DATA) from None
            return
        self.unreadable_in_a_row = 0
        left_out = source.left_out()
        self._owner.arrived(self, reading, self._arrival(reading), left_out)

    def _arrival(self, reading: Reading) -> float:
        """When the picture came; one with a time of its own comes then, and is waited for."""
        if reading.not_before is None:
            return min(reading.captured_at, time.monotonic())
        self._stopping.wait(max(0.0, reading.not_before - time.monotonic()))
        return max(reading.captured_at, reading.not_before)

    def _called(self, name: str, function: Callable[[], T]) -> T:
        self.call = Call(name, time.monotonic())
        try:
            return function()
        finally:
            self.call = None

    def _may_go_on(self) -> bool:
        """Waits while there is a pause; False when it is time to end."""
        while self._owner.paused and not self._stopping.is_set():
            self._nudged.wait()
            self._nudged.clear()
        return not self._stopping.is_set()

    def _may_read(self, source: Source) -> bool:
        """A camera is let go for a pause. A file stays open, so that it goes on where it was."""
        if source.live:
            return not self._stopping.is_set() and not self._owner.paused
        return self._may_go_on()

    def _wait(self, delay_s: float) -> None:
        """So long, unless nudged: a pause begins now, and whoever ends one wants to see the camera."""
        if delay_s > 0 and not self._stopping.is_set() and not self._owner.paused:
            self._nudged.wait(delay_s)


E = TypeVar("E", bound=SourceError)


def _bare(error: E) -> E:
    """Without the calls that it came from: it is kept as the camera's last error, and they hold the decoder and its pictures."""
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error
