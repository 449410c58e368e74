"""Streaming from a V4L2 node: a ring of the driver's buffers, waited for with a bound, copied out and given back at once.

Copied, because a picture must outlive the next read, the stream and the device, and because some drivers (v4l2loopback)
write over a buffer that a reader holds. A frame that nobody is going to want is given back without being copied.
The kernel's "Streaming I/O (Memory Mapping)" describes the ioctls.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import select
import struct
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.sources._gaps import SequenceGaps
from edge_agent.sources._v4l2 import CAPTURE, Node, address_of

_REQBUFS, _QUERYBUF, _QBUF, _DQBUF, _STREAMON, _STREAMOFF = 0xC0145608, 0xC0585609, 0xC058560F, 0xC0585611, 0x40045612, 0x40045613
_REQUEST = struct.Struct("IIII4x")
_BUFFER = struct.Struct("IIIII4xqq16xIIQI12x")
"""index, type, bytesused, flags, field, seconds, microseconds, sequence, memory, offset or planes, length"""
_PLANE = struct.Struct("IIQI44x")
"""bytesused, length, offset, data_offset"""
_MMAP = 1
_FLAG_ERROR, _FLAG_CLOCK, _FLAG_MONOTONIC = 0x40, 0xE000, 0x2000
_BUFFERS = 4
"""Asked for: one being filled, and some hundred milliseconds at camera rates in which our thread may be late."""
_MOST_PLANES = 8
_BELIEVABLE_S = 5.0
_GONE = frozenset({errno.ENODEV, errno.ENXIO})


class Lost(Exception):
    """The stream is over. ``gone``: so is the device; else opening it again may help."""

    def __init__(self, text: str, *, gone: bool = False) -> None:
        super().__init__(text)
        self.gone = gone


class Silent(Exception):
    """Nothing came within the time."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """What the driver filled, copied. ``planes`` of memory, each of uint8 [bytes]."""

    planes: tuple[NDArray[np.uint8], ...]
    arrived_at: float
    """Monotonic seconds: the kernel's timestamp where it is of that clock."""
    damaged: bool
    """The driver says that the data may be corrupt."""
    sequence: int


class Stream:
    """One started stream; every method from one thread. Raises OSError when the driver refuses to start."""

    def __init__(self, node: Node, buffer_type: int) -> None:
        self._node, self._type = node, buffer_type
        self._maps: list[list[mmap.mmap]] = []
        self._idle: list[int] = []
        self.lost_upstream = 0
        """Frames that the driver counted and did not deliver, since this was last set to 0."""
        self._gaps = SequenceGaps()
        self._poll = select.poll()
        self._poll.register(node.fileno(), select.POLLIN | select.POLLERR)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        request = bytearray(_REQUEST.pack(_BUFFERS, self._type, _MMAP, 0))
        self._node.call(_REQBUFS, request)
        for index in range(_REQUEST.unpack(request)[0]):
            buffer, planes, _keep = self._structures(index)
            self._node.call(_QUERYBUF, buffer)
            self._maps.append([self._map(length, offset) for length, offset in self._lengths(buffer, planes)])
            self._queue(index)
        self._node.call(_STREAMON, bytearray(struct.pack("i", self._type)))

    def _map(self, length: int, offset: int) -> mmap.mmap:
        return mmap.mmap(self._node.fileno(), length, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset)

    def _structures(self, index: int) -> tuple[bytearray, bytearray, object]:
        """A v4l2_buffer, the planes that it points to where there are several, and what keeps their place."""
        planes = bytearray(_PLANE.size * _MOST_PLANES)
        place, keep = address_of(planes) if self._type != CAPTURE else (0, None)
        length = _MOST_PLANES if self._type != CAPTURE else 0
        return bytearray(_BUFFER.pack(index, self._type, 0, 0, 0, 0, 0, 0, _MMAP, place, length)), planes, keep

    def _lengths(self, buffer: bytearray, planes: bytearray) -> list[tuple[int, int]]:
        *_, offset, length = _BUFFER.unpack(buffer)
        if self._type == CAPTURE:
            return [(length, offset & 0xFFFFFFFF)]
        unpacked = (_PLANE.unpack_from(planes, index * _PLANE.size) for index in range(length))
        return [(plane[1], plane[2] & 0xFFFFFFFF) for plane in unpacked]

    def _queue(self, index: int) -> None:
        buffer, _planes, _keep = self._structures(index)
        self._node.call(_QBUF, buffer)

    def next(self, timeout_s: float, unwanted_before: float) -> Buffer | None:
        """The next picture; None for one that came before ``unwanted_before`` (monotonic), which was not copied.

        Raises Silent and Lost.
        """
        buffer, planes, _keep = self._structures(0)
        self._wait(buffer, timeout_s)
        index, _, used, flags, _, seconds, micros, sequence, *_, length = _BUFFER.unpack(buffer)
        self.lost_upstream += self._gaps.note(sequence)
        now = time.monotonic()
        stamp = seconds + micros / 1e6
        arrived = stamp if flags & _FLAG_CLOCK == _FLAG_MONOTONIC and 0 <= now - stamp < _BELIEVABLE_S else now
        try:
            if now < unwanted_before:  # by our clock: there are cameras whose timestamps lag
                return None
            if self._type == CAPTURE:
                parts = [(0, used)]
            else:
                found = (_PLANE.unpack_from(planes, plane * _PLANE.size) for plane in range(length))
                parts = [(skip, filled) for filled, _, _, skip in found]
            data = tuple(_copy(area, *part) for area, part in zip(self._maps[index], parts, strict=True))
            return Buffer(data, arrived, bool(flags & _FLAG_ERROR), sequence)
        finally:
            self._idle.append(index)

    def _wait(self, buffer: bytearray, timeout_s: float) -> None:
        """Dequeue into ``buffer``."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._give_back()
            events = dict(self._poll.poll(max(0.0, deadline - time.monotonic()) * 1e3))
            try:
                self._node.call(_DQBUF, buffer)
            except BlockingIOError:
                if any(event & ~select.POLLIN for event in events.values()):  # an error that never becomes a buffer
                    raise Lost("stopped streaming") from None
                if time.monotonic() >= deadline:
                    raise Silent(f"sent nothing for {timeout_s:g} s") from None
            except OSError as error:
                raise _lost(error) from None
            else:
                return

    def _give_back(self) -> None:
        """Queue what was read, and what the driver did not take the last time: one refusal does not end a stream, the last does."""
        refused = []
        for index in self._idle:
            try:
                self._queue(index)
            except OSError as error:
                refused.append(index)
                if len(refused) == len(self._maps) or error.errno in _GONE:
                    raise _lost(error) from None
        self._idle = refused

    def close(self) -> None:
        """Stop, and let go of the buffers. Never raises; may be called twice."""
        with contextlib.suppress(OSError):
            self._node.call(_STREAMOFF, bytearray(struct.pack("i", self._type)))
        maps, self._maps = self._maps, []
        for area in (area for areas in maps for area in areas):
            area.close()
        with contextlib.suppress(OSError):
            self._node.call(_REQBUFS, bytearray(_REQUEST.pack(0, self._type, _MMAP, 0)))


def _copy(area: mmap.mmap, skip: int, used: int) -> NDArray[np.uint8]:
    used = min(used, len(area))
    if used <= skip:
        return np.empty(0, np.uint8)
    view: NDArray[np.uint8] = np.frombuffer(area, np.uint8, used - skip, skip)
    copied: NDArray[np.uint8] = view.copy()
    return copied


def _lost(error: OSError) -> Lost:
    gone = error.errno in _GONE
    return Lost("was unplugged" if gone else f"stopped streaming: {error.strerror}", gone=gone)
