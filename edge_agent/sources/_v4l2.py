"""What the kernel offers of Video4Linux, as plain values: one open node, and the structures of its ioctls.

After Linux ``include/uapi/linux/videodev2.h`` (64-bit layouts) and the kernel's "Video for Linux API" documentation.
Only capture is spoken, single- and multi-planar. Nothing here decides anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

_QUERYCAP, _ENUM_FMT, _ENUM_FRAMESIZES, _ENUM_FRAMEINTERVALS = 0x80685600, 0xC0405602, 0xC02C564A, 0xC034564B
_G_FMT, _S_FMT, _TRY_FMT, _G_PARM, _S_PARM = 0xC0D05604, 0xC0D05605, 0xC0D05640, 0xC0CC5615, 0xC0CC5616

_CAPABILITY = struct.Struct("16s32s32sIII12x")
_FMTDESC = struct.Struct("III32sI16x")
_FRAMESIZE = struct.Struct("III6I8x")
_FRAMEINTERVAL = struct.Struct("IIIII6I8x")
_PIX = struct.Struct("12I")
_PIX_MP = struct.Struct("5I")
_PLANE_FMT = struct.Struct("II12x")
_CAPTUREPARM = struct.Struct("IIIIII")
_FORMAT_AT = 8
"""Where the union of v4l2_format begins."""
_MP_PLANES_AT = _FORMAT_AT + _PIX_MP.size
_MP_TAIL_AT = _MP_PLANES_AT + 8 * _PLANE_FMT.size
_FORMAT_SIZE, _STREAMPARM_SIZE = 208, 204
_EXTENDED = 0xFEEDCAFE
"""V4L2_PIX_FMT_PRIV_MAGIC: asks for the fields behind ``priv``, which tell the colours."""

CAPTURE, CAPTURE_MPLANE = 1, 9
"""V4L2_BUF_TYPE_VIDEO_CAPTURE and its multi-planar twin."""
_CAP_CAPTURE, _CAP_CAPTURE_MPLANE = 0x1, 0x1000
_CAP_CODEC, _CAP_OUTPUT, _CAP_METADATA = 0x4000 | 0x8000, 0x2 | 0x2000, 0x800000 | 0x8000000
_CAP_TOUCH, _CAP_STREAMING, _CAP_DEVICE_CAPS = 0x10000000, 0x04000000, 0x80000000
_TIME_PER_FRAME = 0x1000
_MOST = 256
"""Of anything that is enumerated: a driver that never says "no more" must not hold us."""


class Ioctl(Protocol):
    """A node, or a recording of one."""

    def call(self, request: int, buffer: bytearray) -> None:
        """``ioctl(2)`` with a structure that the kernel may change. Raises OSError."""


class Node:
    """An open device node. Raises OSError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def call(self, request: int, buffer: bytearray) -> None:
        """As in :class:`Ioctl`; begun again after a signal."""
        while True:
            try:
                fcntl.ioctl(self._descriptor, request, buffer)
            except InterruptedError:
                continue
            return

    def fileno(self) -> int:
        """For poll and mmap."""
        return self._descriptor

    def close(self) -> None:
        """Never raises; may be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):  # the device is gone, and the descriptor too
                os.close(descriptor)


@dataclass(frozen=True)
class Capability:
    """What a node says it is (VIDIOC_QUERYCAP)."""

    driver: str
    card: str
    bus: str
    flags: int
    """Of this very node, not of its whole device."""

    @property
    def role(self) -> str:
        """``camera``, or what else: only a camera gives pictures."""
        if self.flags & _CAP_CODEC:
            return "codec"
        if self.flags & (_CAP_CAPTURE | _CAP_CAPTURE_MPLANE) and not self.flags & _CAP_TOUCH:
            return "camera" if self.flags & _CAP_STREAMING else "camera without streaming"
        if self.flags & _CAP_METADATA:
            return "metadata"
        return "output" if self.flags & _CAP_OUTPUT else "other"

    @property
    def buffer_type(self) -> int:
        """CAPTURE or CAPTURE_MPLANE: part of every later request."""
        return CAPTURE if self.flags & _CAP_CAPTURE else CAPTURE_MPLANE


@dataclass(frozen=True)
class PixelFormat:
    """One entry of VIDIOC_ENUM_FMT."""

    fourcc: str
    description: str
    emulated: bool
    """Converted by a library and not by the camera."""


@dataclass(frozen=True)
class SizeRange:
    """One entry of VIDIOC_ENUM_FRAMESIZES; a single size where both ends are the same. Pixels."""

    min_width: int
    max_width: int
    step_width: int
    min_height: int
    max_height: int
    step_height: int

    @property
    def is_single(self) -> bool:
        """Whether it is one size."""
        return (self.min_width, self.min_height) == (self.max_width, self.max_height)


@dataclass(frozen=True)
class PictureFormat:
    """What VIDIOC_S_FMT left, or what is asked of it."""

    fourcc: str
    width: int
    height: int
    planes: tuple[tuple[int, int], ...] = ((0, 0),)
    """Of each memory plane: bytes from one line to the next, and bytes in all."""
    colorspace: int = 0
    encoding: int = 0
    """V4L2_YCBCR_ENC_*; 0: follows from the colour space."""
    quantization: int = 0
    """1 full range, 2 limited; 0: follows from the colour space."""


def query(node: Ioctl) -> Capability:
    """VIDIOC_QUERYCAP. Raises OSError: ENOTTY for what is no video device at all."""
    buffer = bytearray(_CAPABILITY.size)
    node.call(_QUERYCAP, buffer)
    driver, card, bus, _version, capabilities, own = _CAPABILITY.unpack(buffer)
    return Capability(text(driver), text(card), text(bus), own if capabilities & _CAP_DEVICE_CAPS else capabilities)


def formats(node: Ioctl, buffer_type: int) -> Iterator[PixelFormat]:
    """VIDIOC_ENUM_FMT, in the driver's order. Raises OSError."""
    for buffer in _enumerate(node, _ENUM_FMT, _FMTDESC.size, lambda index: struct.pack("II", index, buffer_type)):
        _index, _type, flags, description, fourcc = _FMTDESC.unpack(buffer)
        yield PixelFormat(fourcc_text(fourcc), text(description), bool(flags & 2))


def sizes(node: Ioctl, fourcc: str) -> Iterator[SizeRange]:
    """VIDIOC_ENUM_FRAMESIZES: nothing where the driver does not tell. Raises OSError."""
    for buffer in _enumerate(node, _ENUM_FRAMESIZES, _FRAMESIZE.size, lambda index: struct.pack("II", index, fourcc_code(fourcc))):
        _index, _fourcc, kind, *numbers = _FRAMESIZE.unpack(buffer)
        if kind == 1:
            yield SizeRange(numbers[0], numbers[0], 1, numbers[1], numbers[1], 1)
        else:
            yield SizeRange(numbers[0], numbers[1], max(1, numbers[2]), numbers[3], numbers[4], max(1, numbers[5]))
            return


def rates(node: Ioctl, fourcc: str, width: int, height: int) -> tuple[tuple[float, ...], tuple[float, float] | None]:
    """VIDIOC_ENUM_FRAMEINTERVALS as frames per second: single rates, falling, or the lowest and highest of a range.

    Neither where the driver does not tell. Raises OSError.
    """
    single: set[float] = set()
    head = struct.pack("III", fourcc_code(fourcc), width, height)
    for buffer in _enumerate(node, _ENUM_FRAMEINTERVALS, _FRAMEINTERVAL.size, lambda index: struct.pack("I", index) + head):
        *_, kind, a, b, c, d, _e, _f = _FRAMEINTERVAL.unpack(buffer)
        if kind != 1:
            return (), (d / c if c else 0.0, b / a if a else 1000.0)
        if a:
            single.add(round(b / a, 3))
    return tuple(sorted(single, reverse=True)), None


def current_format(node: Ioctl, buffer_type: int) -> PictureFormat:
    """VIDIOC_G_FMT. Raises OSError."""
    buffer = bytearray(_FORMAT_SIZE)
    struct.pack_into("I", buffer, 0, buffer_type)
    node.call(_G_FMT, buffer)
    return _unpack_format(buffer)


def set_format(node: Ioctl, buffer_type: int, wanted: PictureFormat, *, only_try: bool = False) -> PictureFormat:
    """VIDIOC_S_FMT (or TRY_FMT): what the driver made of it. Raises OSError: EBUSY while somebody streams."""
    buffer = bytearray(_FORMAT_SIZE)
    code = fourcc_code(wanted.fourcc)
    struct.pack_into("I", buffer, 0, buffer_type)
    if buffer_type == CAPTURE:
        _PIX.pack_into(buffer, _FORMAT_AT, wanted.width, wanted.height, code, 0, 0, 0, 0, _EXTENDED, 0, 0, 0, 0)
    else:
        _PIX_MP.pack_into(buffer, _FORMAT_AT, wanted.width, wanted.height, code, 0, 0)
    node.call(_TRY_FMT if only_try else _S_FMT, buffer)
    return _unpack_format(buffer)


def _unpack_format(buffer: bytearray) -> PictureFormat:
    if struct.unpack_from("I", buffer)[0] == CAPTURE:
        width, height, code, _field, line, size, space, priv, _flags, encoding, quantization, _ = _PIX.unpack_from(buffer, _FORMAT_AT)
        if priv != _EXTENDED:
            encoding = quantization = 0
        return PictureFormat(fourcc_text(code), width, height, ((line, size),), space, encoding, quantization)
    width, height, code, _field, space = _PIX_MP.unpack_from(buffer, _FORMAT_AT)
    count, _flags, encoding, quantization = struct.unpack_from("BBBB", buffer, _MP_TAIL_AT)
    planes = (_PLANE_FMT.unpack_from(buffer, _MP_PLANES_AT + index * _PLANE_FMT.size) for index in range(min(count, 8)))
    return PictureFormat(fourcc_text(code), width, height, tuple((line, size) for size, line in planes), space, encoding, quantization)


def set_rate(node: Ioctl, buffer_type: int, fps: float | None) -> float | None:
    """VIDIOC_S_PARM, and what the driver made of it; None where it has no say in the rate. ``fps`` None only asks."""
    buffer = bytearray(_STREAMPARM_SIZE)
    struct.pack_into("I", buffer, 0, buffer_type)
    try:
        if fps is not None:
            _CAPTUREPARM.pack_into(buffer, 4, 0, 0, 1000, round(fps * 1000), 0, 0)
            node.call(_S_PARM, buffer)
        node.call(_G_PARM, buffer)
    except OSError as error:
        if error.errno in {errno.ENOTTY, errno.EINVAL}:
            return None
        raise
    capability, _mode, numerator, denominator, _, _ = _CAPTUREPARM.unpack_from(buffer, 4)
    return round(denominator / numerator, 3) if capability & _TIME_PER_FRAME and numerator and denominator else None


def fourcc_code(name: str) -> int:
    """The number of a four-character code."""
    return int.from_bytes(name.encode("ascii").ljust(4)[:4], "little")


def fourcc_text(code: int) -> str:
    """The characters of a code, without the padding; the big-endian flag is left out."""
    return (code & 0x7FFFFFFF).to_bytes(4, "little").decode("ascii", "replace").rstrip()


def text(raw: bytes) -> str:
    """A string of the kernel's."""
    return raw.split(b"\0")[0].decode(errors="replace")


def address_of(buffer: bytearray) -> tuple[int, object]:
    """Where a buffer's bytes are, for structures that point to others; keep the second value while the first is used."""
    holder = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    return ctypes.addressof(holder), holder


class _Head(Protocol):
    def __call__(self, index: int, /) -> bytes: ...


def _enumerate(node: Ioctl, request: int, size: int, head: _Head) -> Iterator[bytearray]:
    for index in range(_MOST):
        buffer = bytearray(head(index).ljust(size, b"\0"))
        try:
            node.call(request, buffer)
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.ENOTTY}:  # no more of them, or the driver does not tell
                return
            raise
        yield buffer
