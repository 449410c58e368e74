"""A source in a process of its own, which can be killed: the same calls, each with a bound that nothing inside can break.

Why, and when: docs/decisions/0007-threads-or-processes.md.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.errors import EndOfStream, SourceBroken, SourceError, SourceErrorCode, SourceUnavailable
from edge_agent.sources._child import PACKET_BYTES
from edge_agent.sources._shared import Receiver
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo

log = logging.getLogger(__name__)

START_S = 60.0
"""Longest time for Python to start and import, on a small board that is busy."""
LEAVE_S = 1.0
"""For the process to be gone after it was killed. One inside a driver that cannot be interrupted is not, and is left."""
_PROGRAM = "import sys; sys.path[:] = {path!r}; from edge_agent.sources._child import main; main({fd}, {parent})"
_NOT_AGAIN = {SourceErrorCode.WEDGED, SourceErrorCode.UNPLUGGED}
"""After these another process does better: a call hangs in there, as the source itself found out; or a library may still
hold the device that has gone (GStreamer's v4l2src does), and with it the place of the one that comes back."""
_KINDS: Mapping[str, type[SourceError]] = {"SourceUnavailable": SourceUnavailable, "SourceBroken": SourceBroken}


@dataclass(frozen=True)
class ProcessTarget:
    """What the process makes its source from: a camera's table."""

    camera: str
    kind: str
    source: str | int
    options: Mapping[str, Any]
    base_dir: Path
    model_size: Callable[[], tuple[int, int] | None] = lambda: None

    def request(self) -> dict[str, Any]:
        """As it goes over the socket."""
        size = self.model_size()
        return {
            "call": "make", "camera": self.camera, "kind": self.kind, "source": self.source, "options": dict(self.options),
            "base_dir": str(self.base_dir), "model_size": size,
        }  # fmt: skip


class _Running:
    """The process, and the way to it."""

    def __init__(self, camera: str) -> None:
        self._camera = camera
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = _PROGRAM.format(path=sys.path, fd=theirs.fileno(), parent=os.getpid())
        try:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-c", program], pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        except OSError as error:
            self._connection.close()
            raise SourceUnavailable(f"the process of camera {camera} cannot be started: {error.strerror}") from None
        finally:
            theirs.close()
        # A second handle on the same socket, which never waits: hints are given with a lock held that all cameras need.
        self._hints = self._connection.dup()
        self._hints.settimeout(0)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """By itself."""
        return self._process.poll() is not None

    def ask(self, request: Mapping[str, Any], within_s: float) -> tuple[dict[str, Any], bytes, list[int]]:
        """One request, one answer: its JSON, what follows it, and descriptors. Raises TimeoutError or SourceUnavailable."""
        try:
            self._connection.settimeout(within_s)
            self._connection.send(json.dumps(request).encode())
            packet, fds, _, _ = socket.recv_fds(self._connection, PACKET_BYTES, 4)
        except TimeoutError:
            raise
        except OSError:
            packet, fds = b"", []
        if not packet:
            raise SourceUnavailable(f"the process of camera {self._camera} {self._death()}")
        head, _, rest = packet.partition(b"\n")
        return json.loads(head), rest, fds

    def tell(self, message: Mapping[str, Any]) -> None:
        """Without an answer, from any thread, and lost if nobody takes it."""
        with contextlib.suppress(OSError):
            self._hints.send(json.dumps(message).encode())

    def _death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(LEAVE_S)
            if code >= 0:
                return f"ended (exit code {code})"
            with contextlib.suppress(ValueError):
                return f"was ended by {signal.Signals(-code).name}"
            return f"was ended by signal {-code}"
        return "does not answer"

    def end(self) -> bool:
        """Kill it; False if even that does not end it now."""
        self._connection.close()
        self._hints.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_S)
            return True
        return False


class ProcessSource(Source):
    """``inner`` tells what kind of source it is and is never opened; its like is opened in the process."""

    isolated = True

    def __init__(self, target: ProcessTarget, inner: Source) -> None:
        self.live, self.unpaced, self.position = inner.live, inner.unpaced, inner.position
        self._inner, self._target = inner, target
        self._running: _Running | None = None
        self._receiver = Receiver()
        self._left_out = self._lost_upstream = 0
        self._is_open = False
        self._read_s = 0.0
        """What the opened source says of its reads: a picture that is asked for every few seconds takes longer than a stream's."""

    @property
    def finite(self) -> bool:
        return self._inner.finite

    @property
    def patience_s(self) -> float:  # type: ignore[override] # grows with that of the other
        """Seconds, with what it takes to start a process and to end one."""
        return self._within_s(self.position) + START_S + 2 * LEAVE_S

    def _within_s(self, position: int = 0) -> float:
        """Longest time for one call. To open a file at a ``position`` takes longer than to read on there."""
        self._inner.position = position
        return self._inner.patience_s

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._running.pid if self._running else None

    def open(self) -> StreamInfo:
        self.close()
        if self._running is not None and self._running.has_ended:  # in a long pause
            self._end()
        if self._running is None:
            self._running = _Running(self._target.camera)
            self._call(self._target.request(), START_S)
        self._is_open = True
        answer, _, _ = self._call({"call": "open", "position": self.position}, self._within_s(self.position))
        self._read_s = answer["patience_s"]
        return StreamInfo(**answer["info"])

    def read(self) -> Reading:
        answer, pickled, fds = self._call({"call": "read", "freed": self._receiver.freed()}, max(self._within_s(), self._read_s))
        try:
            for fd in fds:
                self._receiver.map(answer["buffer"], fd, answer["size"])
            image = self._receiver.unpack(pickled, answer["buffer"], answer["layout"])
        except (ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise FrameUnreadable(f"the process of camera {self._target.camera} sent no picture: {error}") from None
        return Reading(image, answer["captured_at"], answer["pts_s"], answer["not_before"], decode_ms=answer["decode_ms"])

    def skip_until(self, at: float, cheaper_by: float = 0.0) -> None:
        running = self._running
        if running is not None:
            running.tell({"call": "skip_until", "at": at, "cheaper_by": cheaper_by})

    def left_out(self) -> int:
        count, self._left_out = self._left_out, 0
        return count

    def lost_upstream(self) -> int:
        count, self._lost_upstream = self._lost_upstream, 0
        return count

    def close(self) -> None:
        if self._is_open and self._running is not None:
            with contextlib.suppress(SourceError):
                self._call({"call": "close"}, self._within_s())
        self._is_open = False

    def dispose(self) -> None:
        self._end()

    def _call(self, request: Mapping[str, Any], within_s: float) -> tuple[dict[str, Any], bytes, list[int]]:
        running, began = self._running, time.monotonic()
        if running is None:
            raise SourceUnavailable(f"the process of camera {self._target.camera} has ended")
        try:
            answer, rest, fds = running.ask(request, within_s)
        except TimeoutError:
            raise self._wedged(str(request["call"]), time.monotonic() - began) from None
        except SourceUnavailable:
            self._end()
            raise
        self._left_out += answer.get("left_out", 0)
        self._lost_upstream += answer.get("lost_upstream", 0)
        self.position = answer.get("position", self.position)
        if "error" not in answer:
            return answer, rest, fds
        kind, message = answer["error"], answer["message"]
        if kind == "EndOfStream":
            end = EndOfStream(message)
            end.code = SourceErrorCode(answer["code"])  # the end of a file that was cut short has one of its own
            raise end
        if kind == "FrameUnreadable":
            raise FrameUnreadable(message)
        code = SourceErrorCode(answer["code"])
        if code in _NOT_AGAIN:
            self._end()
        raise _KINDS.get(kind, SourceUnavailable)(message, code)

    def _wedged(self, call: str, after_s: float) -> SourceUnavailable:
        pid, gone = self.pid, self._end()
        fate = "was killed" if gone else "cannot be killed while it is inside a driver, and was left behind"
        message = f"{call} of the source has not returned for {after_s:.0f} s; its process {pid} {fate}"
        return SourceUnavailable(message, SourceErrorCode.WEDGED)

    def _end(self) -> bool:
        running, self._running, self._is_open = self._running, None, False
        self._receiver = Receiver()  # its memory goes with the last picture, however long we are remembered
        return running is None or running.end()
