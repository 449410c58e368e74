"""The other end of :mod:`edge_agent.sources._process`: a process that holds one source and does as it is told.

Requests and answers are single packets of a Unix socket: a line of JSON, and after it, of a picture, what
:mod:`edge_agent.sources._shared` makes of it. One thread does the calls; another one hears, so that hints get through to a
source that is reading, and the end of the parent, as the end of the socket, is noticed whatever the source does.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import queue
import signal
import socket
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_agent import credential_paths, logs, plugins
from edge_agent.credentials import read_secret
from edge_agent.errors import ConfigError, SourceError, SourceErrorCode
from edge_agent.sources._shared import Sender
from edge_agent.sources.base import Reading, Source, SourceContext

PACKET_BYTES = 1 << 16
IDLE_S = 90.0
"""Without a request for so long, while its source is closed, the process ends: a pause; another request starts a new one."""
_PR_SET_PDEATHSIG = 1


class Child:
    """Requests in, answers out."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._source: Source | None = None
        self._is_open = False
        self._sender = Sender()
        self._wanted_at = 0.0

    def run(self) -> None:
        """Until the parent has gone, or wants nothing."""
        threading.Thread(target=self._hear, daemon=True).start()
        while True:
            try:
                request = self._requests.get(timeout=None if self._is_open else IDLE_S)
            except queue.Empty:
                return
            answer, pickled, fds = self._answer(request)
            packet = json.dumps(answer).encode() + b"\n" + pickled
            if len(packet) > PACKET_BYTES:
                answer = {"error": "FrameUnreadable", "code": "", "message": f"a picture whose description has {len(packet)} bytes"}
                packet, fds = json.dumps(answer).encode() + b"\n", []
            with contextlib.suppress(OSError):  # the parent has gone, and _hear ends us
                socket.send_fds(self._connection, [packet], fds)
            for fd in fds:
                os.close(fd)

    def _hear(self) -> None:
        with contextlib.suppress(OSError):
            while packet := self._connection.recv(PACKET_BYTES):
                request = json.loads(packet)
                if request["call"] != "skip_until":
                    self._requests.put(request)
                    continue
                self._wanted_at = request["at"]
                if self._source is not None:
                    self._source.skip_until(self._wanted_at, request["cheaper_by"])
        os._exit(0)

    def _answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes, list[int]]:
        answer: dict[str, Any] = {"left_out": 0}
        pickled, fds = b"", list[int]()
        try:
            if request["call"] == "make":
                self._source = _made(request)
            elif self._source is not None and request["call"] == "open":
                self._source.position = request["position"]
                self._is_open = True
                answer["info"] = asdict(self._source.open())
                answer["patience_s"] = self._source.patience_s
            elif self._source is not None and request["call"] == "read":
                self._sender.freed(request["freed"])
                pickled, fds = self._read(self._source, answer)
            elif self._source is not None:
                self._is_open = False
                self._source.close()
        except SourceError as error:
            answer |= {"error": type(error).__name__, "code": error.code.value, "message": str(error)}
        except ConfigError as error:
            answer |= {"error": "SourceUnavailable", "code": SourceErrorCode.FAILED.value, "message": str(error)}
        except Exception as error:  # a defect in a source is told like any other failure
            logging.getLogger(__name__).exception("source failed unexpectedly")
            message = f"unexpected {type(error).__name__}: {error}"
            answer |= {"error": "SourceUnavailable", "code": SourceErrorCode.FAILED.value, "message": message}
        if self._source is not None:
            if request["call"] == "read":
                answer["left_out"] += self._source.left_out()
                answer["lost_upstream"] = self._source.lost_upstream()
            answer["position"] = self._source.position
        return answer, pickled, fds

    def _read(self, source: Source, answer: dict[str, Any]) -> tuple[bytes, list[int]]:
        """The next picture that is wanted. The others are not copied."""
        reading = source.read()
        while reading.not_before is None and reading.captured_at < self._wanted_at:
            answer["left_out"] += 1 + source.left_out()
            reading = source.read()
        return self._packed(reading, answer)

    def _packed(self, reading: Reading, answer: dict[str, Any]) -> tuple[bytes, list[int]]:
        parcel = self._sender.pack(reading.image)
        answer |= {"captured_at": reading.captured_at, "pts_s": reading.pts_s, "not_before": reading.not_before}
        answer["decode_ms"] = reading.decode_ms
        answer |= {"buffer": parcel.buffer, "layout": parcel.layout, "size": parcel.size}
        return parcel.pickled, [] if parcel.new_fd is None else [parcel.new_fd]


def _made(request: dict[str, Any]) -> Source:
    """The source, from the configuration that came with the request: not from the command line, which anyone may read."""
    base = Path(request["base_dir"])

    def resolve(path: str) -> Path:
        return (base / Path(credential_paths.expanded(path)).expanduser()).absolute()

    size = request["model_size"]
    context = SourceContext(
        request["camera"],
        request["source"],
        resolve,
        lambda path: read_secret(resolve(path), "password_file"),
        lambda: None if size is None else (size[0], size[1]),
    )
    module = plugins.load("sources", request["kind"])
    source: Source = module.build(context, module.Config(**request["options"]))
    return source


def main(descriptor: int, parent: int) -> None:
    """Serve the parent over this socket, and never outlive it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it died before we asked to be told
    # The parent decides when we end, also when a service manager or a terminal signals the whole group.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logs.setup("warning", "auto")  # without credentials, and without a flood
    Child(socket.socket(fileno=descriptor)).run()
    os._exit(0)  # threads inside a driver do not keep us
