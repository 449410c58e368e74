"""What the agent knows of itself, told to whoever connects to a Unix socket: no broker, no network, no question to parse.

Each connection gets one JSON object and is closed. Who may connect is decided by the permissions of the socket and its folder:
``$RUNTIME_DIRECTORY`` (systemd: the group of the service), else the state directory (this user alone).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_agent.errors import EdgeAgentError, ExitCode

log = logging.getLogger(__name__)

NAME = "status.sock"
SERVICE_FOLDER = Path("/run/edge-agent")
"""Where the system's service has it."""
ANSWER_WITHIN_S = 5.0
"""Longest that a client may take to read; the others wait meanwhile."""
MAX_BYTES = 16 << 20


class StatusUnavailable(EdgeAgentError):
    """No agent answers at the socket."""

    exit_code = ExitCode.UNAVAILABLE


def socket_path(state_directory: Path, environ: Mapping[str, str] | None = None) -> Path:
    """Where this process's agent is to have it."""
    given = (os.environ if environ is None else environ).get("RUNTIME_DIRECTORY", "").split(":")[0]
    return (Path(given) if given else state_directory) / NAME


class StatusSocket:
    """Answers in one thread. ``report`` is called in it, once for each connection."""

    def __init__(self, path: Path, report: Callable[[], bytes]) -> None:
        self.path = path
        self._report = report
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="status", daemon=True)

    def start(self) -> None:
        """Listen. Where that is not possible, it is logged: the agent does its work without."""
        try:
            self._socket = self._listen()
        except OSError as error:
            log.warning("no status socket path=%s reason=%s", self.path, error.strerror or error)
            return
        self._thread.start()

    def stop(self) -> None:
        """Take the socket away. An answer on its way is left behind."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self.path.unlink()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which close would not
        self._socket.close()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(self.path.lstat().st_mode):
                    raise FileExistsError(17, "something that is no socket is there")
                self.path.unlink()  # of an agent that was killed: there is one agent for each state directory
            with _short(self.path) as short:
                listener.bind(short)
                # Under UMask=0077 it would be the user's alone; the folder's mode says whom else it lets in.
                os.chmod(short, 0o660)  # noqa: PTH101 - a path through /proc
            listener.listen(8)
        except BaseException:
            listener.close()
            raise
        return listener

    def _serve(self) -> None:
        assert self._socket is not None
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return  # stopped
            with client:
                client.settimeout(ANSWER_WITHIN_S)
                try:
                    client.sendall(self._report() + b"\n")
                except OSError:
                    continue  # who asked has gone
                except Exception:
                    log.exception("status could not be told")


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """The same place in a few characters: the kernel takes 107 of them."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def ask(path: Path, timeout_s: float = ANSWER_WITHIN_S) -> dict[str, Any]:
    """What the agent behind a socket says. Raises StatusUnavailable."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, _short(path) as short:
            client.settimeout(timeout_s)
            client.connect(short)
            data = b"".join(_received(client))
    except PermissionError:
        raise StatusUnavailable(
            f"{path}: this user may not ask; be root, or in the group of the service: sudo usermod -aG edge-agent $USER, then log in anew"
        ) from None
    except TimeoutError:
        raise StatusUnavailable(f"{path}: the agent does not answer within {timeout_s:g} s; is it stopped or hanging?") from None
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise StatusUnavailable(f"{path}: no agent is running there; see systemctl status edge-agent") from None
    except OSError as error:
        raise StatusUnavailable(f"{path}: {error.strerror or error}") from None
    try:
        told = json.loads(data)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise StatusUnavailable(f"{path}: what answers there is no edge-agent, or it was ended in the middle")
    return told


def _received(client: socket.socket) -> Iterator[bytes]:
    left = MAX_BYTES
    while left > 0 and (data := client.recv(min(left, 65536))):
        left -= len(data)
        yield data
