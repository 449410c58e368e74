"""One event as it is on disk, with a checksum of its own, and what can go wrong with a disk."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from edge_agent.errors import EdgeAgentError
from edge_agent.events import Kind, Message

COLUMNS = "position, kind, camera, payload, at, shift, boot, crc"


class StoreError(EdgeAgentError):
    """The disk cannot be used now: full, read-only, gone. It is tried again later."""


class StoreDamaged(StoreError):
    """The disk works, but not the file on it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One event as it is on disk."""

    position: int
    message: Message
    shift: float
    """What the wall clock was ahead of the monotonic one when the event came: seconds."""
    boot: str
    """The boot whose monotonic clock ``message.at`` is of."""

    @property
    def size(self) -> int:
        """Of the payload."""
        return len(self.message.payload)


@dataclass(slots=True)
class Found:
    """What was on disk when it was opened."""

    events: int = 0
    size: int = 0
    last: int = 0
    damaged: int = 0
    """Events that were there, and could not be read."""
    quarantined: int = 0


def _crc(position: int, kind: object, camera: object, payload: bytes, clock: tuple[object, ...]) -> int:
    return zlib.crc32(payload, zlib.crc32(repr((position, kind, camera, *clock)).encode()))


def decoded(found: Sequence[object]) -> Row | None:
    """None: it is not what was written."""
    position, kind, camera, payload, at, shift, boot, crc = found
    with contextlib.suppress(ValueError, UnicodeDecodeError):
        if not (isinstance(position, int) and isinstance(payload, bytes) and isinstance(at, float) and isinstance(shift, float)):
            return None
        if not (isinstance(kind, bytes) and isinstance(boot, bytes) and (camera is None or isinstance(camera, bytes))):
            return None
        if _crc(position, kind, camera, payload, (at, shift, boot)) != crc:
            return None
        name = None if camera is None else camera.decode()
        return Row(position, Message(Kind(kind.decode()), name, payload, at), shift, boot.decode())
    return None


def encoded(row: Row) -> tuple[object, ...]:
    """As it is written; see :func:`decoded`."""
    message, boot = row.message, row.boot.encode()
    kind, camera = message.kind.value.encode(), None if message.camera is None else message.camera.encode()
    at, shift = float(message.at), float(row.shift)
    crc = _crc(row.position, kind, camera, message.payload, (at, shift, boot))
    return row.position, kind, camera, message.payload, at, shift, boot, crc
