"""The ring of buffers, over a driver of a few lines: what is copied and given back, what ends a stream, and what does not."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_agent.sources import _v4l2_stream as streaming
from edge_agent.sources._v4l2 import CAPTURE, CAPTURE_MPLANE, Node
from edge_agent.sources._v4l2_stream import Lost, Silent, Stream

PAGE = 4096
MONOTONIC, ERROR = 0x2000, 0x40


class Driver(Node):
    """Four buffers in a memory file. ``fill`` is what a camera does; the ioctls are what the kernel does."""

    def __init__(self, kind: int = CAPTURE, planes: int = 1) -> None:
        self._descriptor = os.memfd_create("driver")
        os.ftruncate(self._descriptor, 8 * PAGE)
        self.kind, self.planes = kind, planes
        self.queued: deque[int] = deque()
        self.filled: deque[tuple[int, bytes]] = deque()
        self.fails: dict[int, int] = {}
        """Errno for each of the next calls of a request."""
        self.streaming = False

    def call(self, request: int, buffer: bytearray) -> None:
        number = self.fails.get(request)
        if number is not None:
            raise OSError(number, os.strerror(number))
        actions: dict[int, Callable[[bytearray], None]] = {
            0xC0145608: self._reqbufs, 0xC0585609: self._querybuf, 0xC058560F: self._qbuf, 0xC0585611: self._dqbuf,
            0x40045612: self._streamon, 0x40045613: self._streamoff,
        }  # fmt: skip
        actions[request](buffer)

    def _reqbufs(self, buffer: bytearray) -> None:
        assert struct.unpack_from("III", buffer)[1:] == (self.kind, 1)

    def _querybuf(self, buffer: bytearray) -> None:
        (index,) = struct.unpack_from("I", buffer)
        if self.kind == CAPTURE:
            struct.pack_into("QI", buffer, 64, index * PAGE, PAGE)
        else:
            struct.pack_into("I", buffer, 72, self.planes)
            for plane in range(self.planes):
                self._plane(buffer, plane, struct.pack("IIQI", 0, PAGE, (self.planes * index + plane) * PAGE, 0))

    def _plane(self, buffer: bytearray, plane: int, raw: bytes) -> None:
        import ctypes

        ctypes.memmove(struct.unpack_from("Q", buffer, 64)[0] + 64 * plane, raw, len(raw))

    def _qbuf(self, buffer: bytearray) -> None:
        self.queued.append(struct.unpack_from("I", buffer)[0])

    def fill(self, data: bytes, stamp: float | None = None, flags: int = MONOTONIC, skip: int = 0) -> None:
        """The next queued buffer gets ``data``, ``skip`` bytes into each of its planes."""
        index = self.queued.popleft()
        for plane in range(self.planes):
            os.pwrite(self._descriptor, data, (self.planes * index + plane) * PAGE + skip)
        stamp = time.monotonic() if stamp is None else stamp
        head = struct.pack("IIIII4xqq", index, self.kind, len(data), flags, 1, int(stamp), round(stamp % 1 * 1e6))
        self.filled.append((len(data) + skip, head + struct.pack("I", skip)))

    def _dqbuf(self, buffer: bytearray) -> None:
        if not self.filled:
            raise OSError(errno.EAGAIN, "try again")
        used, head = self.filled.popleft()
        buffer[: len(head) - 4] = head[:-4]
        if self.kind == CAPTURE_MPLANE:
            struct.pack_into("I", buffer, 72, self.planes)
            for plane in range(self.planes):
                self._plane(buffer, plane, struct.pack("IIQ", used, PAGE, 0) + head[-4:])

    def _streamon(self, buffer: bytearray) -> None:
        self.streaming = True

    def _streamoff(self, buffer: bytearray) -> None:
        self.streaming = False


QBUF, DQBUF, STREAMON = 0xC058560F, 0xC0585611, 0x40045612


@pytest.fixture
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.close()


def data_of(buffer: streaming.Buffer | None) -> bytes:
    assert buffer is not None
    return buffer.planes[0].tobytes()


def test_a_picture_outlives_the_next_and_the_stream(driver: Driver) -> None:
    stream = Stream(driver, CAPTURE)
    states = [driver.streaming]
    driver.fill(b"first")
    first = stream.next(1, 0)
    for _ in range(9):
        driver.fill(b"other")
        assert data_of(stream.next(1, 0)) == b"other"
    stream.close()
    stream.close()
    assert data_of(first) == b"first"
    assert [*states, driver.streaming] == [True, False]
    assert first is not None
    first.planes[0][0] = 1  # memory of its own


def test_what_nobody_wants_is_given_back_uncopied(driver: Driver) -> None:
    stream = Stream(driver, CAPTURE)
    for _ in range(9):
        driver.fill(b"x")
        assert stream.next(1, time.monotonic() + 60) is None
    driver.fill(b"wanted")
    assert data_of(stream.next(1, time.monotonic() - 0.001)) == b"wanted"
    stream.close()


def test_the_kernels_stamp_counts_where_it_is_of_our_clock(driver: Driver) -> None:
    stream = Stream(driver, CAPTURE)
    now = time.monotonic()
    for stamp, flags, believed in [
        (now - 0.25, MONOTONIC, True),
        (now - 0.25, 0, False),  # of an unknown clock
        (now - 0.25, 0x4000, False),  # copied from whoever wrote it: v4l2loopback
        (now - 100, MONOTONIC, False),
        (now + 100, MONOTONIC, False),
    ]:
        driver.fill(b"x", stamp, flags)
        got = stream.next(1, 0)
        assert got is not None
        assert (abs(got.arrived_at - stamp) < 1e-5) is believed
        assert believed or now <= got.arrived_at <= time.monotonic()
    stream.close()


def test_a_damaged_buffer_says_so(driver: Driver) -> None:
    stream = Stream(driver, CAPTURE)
    driver.fill(b"x", flags=MONOTONIC | ERROR)
    driver.fill(b"x")
    damaged, whole = stream.next(1, 0), stream.next(1, 0)
    assert damaged is not None
    assert whole is not None
    assert (damaged.damaged, whole.damaged) == (True, False)
    stream.close()


def test_an_empty_buffer_is_an_empty_picture(driver: Driver) -> None:
    stream = Stream(driver, CAPTURE)
    driver.fill(b"")
    assert data_of(stream.next(1, 0)) == b""
    stream.close()


def test_silence_has_an_end(driver: Driver) -> None:
    stream = Stream(driver, CAPTURE)
    before = time.monotonic()
    with pytest.raises(Silent, match=r"sent nothing for 0\.05 s"):
        stream.next(0.05, 0)
    assert time.monotonic() - before < 5
    driver.fill(b"late")
    assert data_of(stream.next(1, 0)) == b"late"
    stream.close()


@pytest.mark.parametrize(("number", "gone"), [(errno.EIO, False), (errno.ENODEV, True), (errno.ENXIO, True)])
def test_what_ends_a_stream(driver: Driver, number: int, gone: bool) -> None:
    stream = Stream(driver, CAPTURE)
    driver.fails[DQBUF] = number
    with pytest.raises(Lost) as caught:
        stream.next(1, 0)
    assert caught.value.gone is gone
    stream.close()


def test_a_buffer_that_is_not_taken_back_is_offered_again(driver: Driver) -> None:
    stream = Stream(driver, CAPTURE)
    driver.fill(b"one")
    assert data_of(stream.next(1, 0)) == b"one"
    driver.fails[QBUF] = errno.EINVAL
    driver.fill(b"two")
    assert data_of(stream.next(1, 0)) == b"two"
    assert len(driver.queued) == 2
    del driver.fails[QBUF]
    driver.fill(b"three")
    assert data_of(stream.next(1, 0)) == b"three"
    assert len(driver.queued) == 3
    stream.close()


def test_a_driver_that_takes_none_back_ends_the_stream(driver: Driver) -> None:
    stream = Stream(driver, CAPTURE)
    driver.fails[QBUF] = errno.EINVAL
    for _ in range(4):
        driver.fill(b"x")
        stream.next(1, 0)
    with pytest.raises(Lost, match="Invalid argument"):
        stream.next(1, 0)
    stream.close()


def test_a_start_that_fails_leaves_nothing(driver: Driver) -> None:
    driver.fails[STREAMON] = errno.ENOSPC
    with pytest.raises(OSError, match="No space"):
        Stream(driver, CAPTURE)
    assert not driver.streaming


def test_several_planes_with_what_precedes_the_data_in_each() -> None:
    driver = Driver(CAPTURE_MPLANE, planes=2)
    stream = Stream(driver, CAPTURE_MPLANE)
    driver.fill(b"planes", skip=16)
    got = stream.next(1, 0)
    assert got is not None
    assert [plane.tobytes() for plane in got.planes] == [b"planes", b"planes"]
    assert all(plane.dtype == np.uint8 for plane in got.planes)
    stream.close()
    driver.close()
