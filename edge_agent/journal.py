"""The journal's own way in, which takes fields beside the text (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/)."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
_F_ADD_SEALS, _ALL_SEALS = 1033, 0xF
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def encoded(fields: Mapping[str, str]) -> bytes:
    """One entry as the journal reads it; names that it would refuse are left out. Text that is no UTF-8 becomes question marks."""
    parts = []
    for name, text in fields.items():
        if not _NAME.fullmatch(name):
            continue
        value = text.encode("utf-8", "replace")
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def field_name(key: str, prefix: str = "EDGE_") -> str:
    """A key of ours as the name of a field: ``camera`` is ``EDGE_CAMERA``."""
    return (prefix + re.sub(r"[^A-Z0-9_]", "_", key.upper()))[:64]


class Journal:
    """A socket to it. Thread-safe: each entry is one datagram. Never blocks: a journal that does not keep up is told by ``send``."""

    def __init__(self, path: str | None = None) -> None:
        """Raises OSError where there is no journal."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._path = path or SOCKET
        try:
            self._socket.connect(self._path)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    def send(self, fields: Mapping[str, str]) -> bool:
        """False where it could not be handed over, and somebody else has to be told."""
        data = encoded(fields)
        for again in (True, False):
            try:
                self._socket.send(data)
            except OSError as error:
                if error.errno in {errno.EMSGSIZE, errno.ENOBUFS}:
                    return self._send_large(data)
                if again and error.errno in {errno.ECONNREFUSED, errno.ENOTCONN, errno.EPIPE} and self._reconnected():
                    continue
                return False
            return True
        return False

    def _reconnected(self) -> bool:
        """The journal was restarted: what listens at its address is another socket."""
        try:
            self._socket.connect(self._path)
        except OSError:
            return False
        return True

    def _send_large(self, data: bytes) -> bool:
        """As a sealed file in memory, whose descriptor goes over."""
        try:
            handle = os.memfd_create("edge-agent-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return False
        try:
            with os.fdopen(os.dup(handle), "wb") as file:
                file.write(data)
            fcntl.fcntl(handle, _F_ADD_SEALS, _ALL_SEALS)
            self._socket.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [handle]).tobytes())])
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()
