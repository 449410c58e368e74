"""Which video nodes there are, what each is, its stable names, and why one cannot be used.

``/dev/videoN`` is handed out in the order in which cameras answer; udev's links under ``/dev/v4l`` follow the serial number
(by-id) or the socket (by-path), so they mean the same camera after a restart or a replug.
"""

from __future__ import annotations

import errno
import grp
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import SourceErrorCode, SourceUnavailable
from edge_agent.sources import _v4l2 as kernel
from edge_agent.sources import _v4l2_modes as modes

DEV, SYS = Path("/dev"), Path("/sys")
_USB3_MBIT = 5000


@dataclass(frozen=True)
class Device:
    """A V4L2 node and what the kernel says of it."""

    path: str
    name: str
    driver: str
    bus: str
    role: str
    """"camera", "metadata", "output", "codec", "other", or "unknown" for one that cannot be opened."""
    links: tuple[str, ...] = ()
    """Stable names under /dev/v4l, by-id first."""
    problem: str = ""
    """Why it cannot be opened, and what to do."""

    @property
    def captures(self) -> bool:
        """Whether it gives pictures."""
        return self.role == "camera"


def devices() -> list[Device]:
    """Every video node, in the order of their numbers. Never raises for what cannot be opened."""
    nodes = (node for node in DEV.glob("video*") if node.name[5:].isdigit())
    return [_device(str(node)) for node in sorted(nodes, key=lambda node: int(node.name[5:]))]


def _device(path: str) -> Device:
    try:
        node = kernel.Node(path)
    except OSError as error:
        return Device(path, _sysfs_name(path), "", "", "unknown", links(path), str(refusal(path, error)))
    try:
        capability = kernel.query(node)
    except OSError as error:
        return Device(path, _sysfs_name(path), "", "", "unknown", links(path), str(refusal(path, error)))
    finally:
        node.close()
    return Device(path, capability.card, capability.driver, capability.bus, capability.role, links(path))


def _sysfs_name(path: str) -> str:
    try:
        return (SYS / "class/video4linux" / Path(path).name / "name").read_text(errors="replace").strip()
    except OSError:
        return ""


def links(path: str) -> tuple[str, ...]:
    """The names that udev gave a node, the ones by serial number first."""
    real = os.path.realpath(path)
    folders = (DEV / "v4l/by-id", DEV / "v4l/by-path")
    found = (link for folder in folders if folder.is_dir() for link in sorted(folder.iterdir()))
    return tuple(str(link) for link in found if os.path.realpath(link) == real)


def stable_name(device: Device, everything: list[Device]) -> str:
    """What to write as ``source``: a link that means this camera and no other; else its node, which may change.

    Two cameras of one model without serial numbers fight for one by-id link, so such get theirs by socket.
    """
    twins = [d for d in everything if d.captures and d.path != device.path and d.name == device.name]
    by_path = [link for link in device.links if "/by-path/" in link]
    if by_path and any(not any("/by-id/" in link for link in twin.links) for twin in twins):
        return by_path[0]
    return next(iter(device.links), device.path)


def open_camera(path: str) -> tuple[kernel.Node, kernel.Capability]:
    """Open a node that gives pictures. ``path`` may be a link, which is followed now.

    Raises SourceUnavailable that says what the matter is, and which node is meant where this is a camera's other one.
    """
    node = None
    try:
        if Path(path).is_dir():
            raise SourceUnavailable(f"{path} is a directory, no camera{_suggestion()}", SourceErrorCode.NOT_FOUND)
        node = kernel.Node(path)
        capability = kernel.query(node)
    except OSError as error:
        if node is not None:
            node.close()
        refused = refusal(path, error)
        if refused.code is SourceErrorCode.NOT_FOUND:
            raise SourceUnavailable(f"{refused}{_suggestion()}", refused.code) from None
        raise refused from None
    if capability.role != "camera":
        node.close()
        raise SourceUnavailable(_no_camera(path, capability), SourceErrorCode.NOT_FOUND)
    return node, capability


def _no_camera(path: str, capability: kernel.Capability) -> str:
    siblings = [d for d in devices() if d.captures and d.bus == capability.bus]
    folder = Path(path).parent
    hints = [next((link for link in d.links if Path(link).parent == folder), d.path) for d in siblings]
    hint = f"; the camera is {hints[0]}" if hints else _suggestion()
    return f"{path} ({capability.card}) gives no pictures: it is a node for {_MEANING.get(capability.role, capability.role)}{hint}"


_MEANING = {
    "metadata": "metadata",
    "output": "output (something else writes pictures to it first)",
    "codec": "coding and decoding",
    "other": "something else",
    "camera without streaming": "read() only",
}


def _suggestion() -> str:
    everything = devices()
    cameras = [stable_name(device, everything) for device in everything if device.captures]
    return f"; there is {', '.join(cameras)}" if cameras else ""


def refusal(path: str, error: OSError) -> SourceUnavailable:
    """What an error of opening or asking a node means for the one who named it. Looks at no other node."""
    if error.errno == errno.ENOENT:
        what = "leads nowhere" if Path(path).is_symlink() else "does not exist"
        return SourceUnavailable(f"{path} {what}; is the camera plugged in?", SourceErrorCode.NOT_FOUND)
    if error.errno in {errno.EACCES, errno.EPERM}:
        return SourceUnavailable(_forbidden(path), SourceErrorCode.PERMISSION)
    if error.errno == errno.EBUSY:
        return SourceUnavailable(f"{path} is in use{users(path)}", SourceErrorCode.BUSY)
    if error.errno in {errno.ENODEV, errno.ENXIO}:
        return SourceUnavailable(f"{path} has no device behind it any more: unplugged?", SourceErrorCode.UNPLUGGED)
    reason = "it is no V4L2 device" if error.errno in {errno.ENOTTY, errno.EINVAL} else error.strerror
    return SourceUnavailable(f"{path} is no usable camera: {reason}", SourceErrorCode.NOT_FOUND)


def _forbidden(path: str) -> str:
    """Who may open a node, from the node itself."""
    try:
        status = Path(path).stat()
    except OSError:
        return f"{path} may not be opened by this user: a folder on the way to it is closed"
    readable = status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP
    if not readable or status.st_gid == 0:
        return (
            f"{path} may not be opened by this user, nor by any group (mode {stat.S_IMODE(status.st_mode):04o}): a udev rule must set one"
        )
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    mine = status.st_gid in {os.getegid(), *os.getgroups()}
    mend = "a sandbox or container forbids it" if mine else f"sudo usermod -aG {group} USER, and log in again"
    return f"{path} may not be opened by this user; it belongs to the group {group!r}: {mend}"


def users(path: str) -> str:
    """`` by ffmpeg (process 123)``, of processes that have a node open, as far as this user may see them."""
    real = os.path.realpath(path)
    found = [f"{_name(process)} (process {process.name})" for process in _processes() if _has_open(process, real)]
    return f" by {', '.join(found[:3])}" if found else " by another program"


def _processes() -> Iterator[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid())


def _has_open(process: Path, real: str) -> bool:
    try:
        return any(str(entry.readlink()) == real for entry in (process / "fd").iterdir())
    except OSError:  # not ours to see, or gone meanwhile
        return False


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def raw_budget(path: str, capability: kernel.Capability) -> float:
    """Bytes a second of undecoded pixels that are welcome from this camera; see :mod:`edge_agent.sources._v4l2_modes`."""
    if not capability.bus.startswith("usb-"):
        return modes.FAST_BUS_BUDGET
    device = SYS / "class/video4linux" / Path(os.path.realpath(path)).name / "device"
    try:
        speed = float((device.resolve().parent / "speed").read_text())
    except (OSError, ValueError):
        return modes.SLOW_BUS_BUDGET
    return modes.FAST_BUS_BUDGET if speed >= _USB3_MBIT else modes.SLOW_BUS_BUDGET
