"""Which board this is, and what its memory-to-memory video nodes decode: told by the device tree and by the kernel.

Nothing here loads a library. A node is opened, asked and closed; that starts no decoder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Board = Literal["jetson", "pi3", "pi4", "pi5", "pi", "generic"]

_BY_CHIP: dict[str, Board] = {
    "brcm,bcm2835": "pi",
    "brcm,bcm2836": "pi",
    "brcm,bcm2837": "pi3",
    "brcm,bcm2711": "pi4",
    "brcm,bcm2712": "pi5",
}
_BY_MODEL: dict[str, Board] = {"3": "pi3", "Zero 2": "pi3", "4": "pi4", "400": "pi4", "5": "pi5", "500": "pi5"}
_MODEL = re.compile(r"Raspberry Pi (?:Compute Module )?(Zero 2|\d+)?")
_NODE = re.compile(r"video\d+")

_QUERYCAP = struct.Struct("16s32s32sII I 12x")
_FMTDESC = struct.Struct("III32sI 16x")
_VIDIOC_QUERYCAP, _VIDIOC_ENUM_FMT = 0x80685600, 0xC0405602
_M2M_MPLANE, _M2M, _DEVICE_CAPS = 0x4000, 0x8000, 0x80000000
_OUTPUT, _OUTPUT_MPLANE = 2, 10
_CODECS = {"H264": "h264", "HEVC": "hevc", "MJPG": "mjpeg", "JPEG": "mjpeg", "S264": "h264", "S265": "hevc"}
_STATELESS = {"S264", "S265"}


@dataclass(frozen=True)
class Platform:
    """The board."""

    board: Board
    model: str = ""
    """What the board calls itself, such as ``Raspberry Pi 4 Model B Rev 1.4``; may be empty."""

    @property
    def name(self) -> str:
        """For messages."""
        return self.model or {"jetson": "Jetson", "generic": "this machine"}.get(self.board, "Raspberry Pi")


@dataclass(frozen=True)
class DecoderNode:
    """A V4L2 memory-to-memory node that decodes ``codec`` (FFmpeg's name: h264, hevc, mjpeg)."""

    path: str
    codec: str
    stateless: bool
    """Needs a user of the request API (GStreamer's v4l2sl..., a patched FFmpeg): FFmpeg's ..._v4l2m2m cannot use it."""


def platform(root: Path = Path("/")) -> Platform:
    """The board, by its device tree; inside a container, where that is hidden, by what else tells. Never raises."""
    compatible = set(_text(root / "proc/device-tree/compatible").split("\0"))
    model = _text(root / "proc/device-tree/model").strip("\0 \n")
    if not model:
        found = re.search(r"^Model\s*:\s*(.+)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
        model = found[1].strip() if found else ""
    if any(name.startswith("nvidia,tegra") for name in compatible) or (root / "etc/nv_tegra_release").exists():
        return Platform("jetson", model)
    for chip, board in _BY_CHIP.items():
        if chip in compatible:
            return Platform(board, model)
    found = _MODEL.match(model)
    return Platform(_BY_MODEL.get(found[1] or "", "pi"), model) if found else Platform("generic", model)


def decoder_nodes(folder: Path = Path("/dev")) -> list[DecoderNode]:
    """Every codec that a memory-to-memory node here decodes. Nodes that cannot be opened are left out. Never raises."""
    nodes: list[DecoderNode] = []
    with contextlib.suppress(OSError):
        for path in sorted(entry.path for entry in os.scandir(folder) if _NODE.fullmatch(entry.name)):
            with contextlib.suppress(OSError):
                nodes += _asked(path)
    return nodes


def _asked(path: str) -> list[DecoderNode]:
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        reply = fcntl.ioctl(descriptor, _VIDIOC_QUERYCAP, bytes(_QUERYCAP.size))
        *_, capabilities, device_capabilities = _QUERYCAP.unpack(reply)
        offered = device_capabilities if capabilities & _DEVICE_CAPS else capabilities
        if not offered & (_M2M | _M2M_MPLANE):
            return []
        # What a decoder takes stands on its output queue: the application puts it out.
        formats = _formats(descriptor, _OUTPUT_MPLANE if offered & _M2M_MPLANE else _OUTPUT)
    finally:
        os.close(descriptor)
    return [DecoderNode(path, _CODECS[name], name in _STATELESS) for name in formats if name in _CODECS]


def _formats(descriptor: int, queue: int) -> list[str]:
    names: list[str] = []
    with contextlib.suppress(OSError):  # EINVAL ends the list
        for index in range(256):
            request = _FMTDESC.pack(index, queue, 0, b"", 0)
            fourcc = _FMTDESC.unpack(fcntl.ioctl(descriptor, _VIDIOC_ENUM_FMT, request))[4]
            names.append(struct.pack("<I", fourcc).decode("latin-1"))
    return names


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
