"""A camera's controls by name: what it offers, whether a value can be, setting them in an order that works, reading them back.

Names are those of ``v4l2-ctl -L``: the driver's, in small letters with underscores. What ioctls do and flags mean is in
the kernel's "User Controls" and "Extended Controls API"; ``videodev2.h`` and ``v4l2-controls.h`` have the numbers.
"""

from __future__ import annotations

import difflib
import errno
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from edge_agent.sources._v4l2 import Ioctl, address_of, text

Value = bool | int | str

_QUERY_EXT_CTRL, _QUERYMENU, _G_CTRL, _S_CTRL = 0xC0E85667, 0xC02C5625, 0xC008561B, 0xC008561C
_G_EXT_CTRLS, _S_EXT_CTRLS = 0xC0205647, 0xC0205648
_QUERY = struct.Struct("II32sqqQqIIII144x")
_MENU = struct.Struct("=II32sI")
_EXT_CONTROL = struct.Struct("=IIIq")
_EXT_CONTROLS = struct.Struct("IIIiI4xQ")
_NEXT = 0x80000000
_DISABLED, _READ_ONLY, _UPDATE, _INACTIVE, _WRITE_ONLY, _VOLATILE, _PAYLOAD = 0x1, 0x4, 0x8, 0x10, 0x40, 0x80, 0x100
_MOST = 1000

_RENAMED = {
    "exposure_auto": 0x009A0901,
    "exposure_absolute": 0x009A0902,
    "exposure_auto_priority": 0x009A0903,
    "focus_auto": 0x009A090C,
    "white_balance_temperature_auto": 0x0098090C,
    "auto_exposure": 0x009A0901,
    "exposure_time_absolute": 0x009A0902,
    "exposure_dynamic_framerate": 0x009A0903,
    "focus_automatic_continuous": 0x009A090C,
    "white_balance_automatic": 0x0098090C,
}
"""uvcvideo took the framework's names in Linux 5.15: a configuration works on either side of it."""


class Kind(IntEnum):
    """V4L2_CTRL_TYPE_*, as far as they can be set by one value."""

    INTEGER = 1
    BOOLEAN = 2
    MENU = 3
    BUTTON = 4
    INTEGER64 = 5
    STRING = 7
    BITMASK = 8
    INTEGER_MENU = 9


@dataclass(frozen=True)
class Control:
    """One control of one camera."""

    id: int
    name: str
    kind: Kind
    minimum: int
    maximum: int
    step: int
    default: int
    flags: int = 0
    menu: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_inactive(self) -> bool:
        """It has no effect now: some automatic control rules it."""
        return bool(self.flags & _INACTIVE)

    @property
    def is_read_only(self) -> bool:
        """It can never be set."""
        return bool(self.flags & _READ_ONLY)

    @property
    def rules_others(self) -> bool:
        """Setting it may wake or silence others, as automatic exposure does."""
        return bool(self.flags & _UPDATE)

    def accepts(self) -> str:
        """The values that can be set, for people."""
        if self.kind is Kind.BOOLEAN:
            return "true or false"
        if self.kind is Kind.BUTTON:
            return "true (presses it)"
        if self.menu:
            return ", ".join(f'"{label}"' for label in self.menu.values())
        if self.kind is Kind.STRING:
            return f"a text of {self.minimum} to {self.maximum} characters"
        if self.kind is Kind.BITMASK:
            return f"a number of the bits {self.maximum & 0xFFFFFFFF:#x}"
        return f"{self.minimum} to {self.maximum}" + (f" in steps of {self.step}" if self.step > 1 else "")


class ControlRefused(Exception):
    """A control cannot be set as asked; the text says which, and what can be."""


def key(name: str) -> str:
    """The name of a control in configuration: "Exposure Time, Absolute" becomes exposure_time_absolute."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def controls(node: Ioctl) -> list[Control]:
    """All that can be told in one value, in the driver's order. Raises OSError only if the device has gone."""
    found = []
    identity = 0
    for _ in range(_MOST):
        answer = _query(node, identity | _NEXT)
        if answer is None or answer[0] <= identity:  # the last one, or a driver that goes round in circles
            break
        identity, kind, name, low, high, step, default, flags, _size, elements, dimensions = answer
        if kind not in iter(Kind) or flags & _DISABLED or elements > 1 or dimensions:
            continue
        kind = Kind(kind)
        menu = dict(_menu(node, identity, kind, range(low, high + 1))) if kind in {Kind.MENU, Kind.INTEGER_MENU} else {}
        found.append(Control(identity, key(text(name)), kind, low, high, step, default, flags, menu))
    return found


def _query(node: Ioctl, identity: int) -> tuple[Any, ...] | None:
    buffer = bytearray(_QUERY.size)
    struct.pack_into("I", buffer, 0, identity)
    try:
        node.call(_QUERY_EXT_CTRL, buffer)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOTTY}:
            return None
        raise
    return _QUERY.unpack(buffer)


def _menu(node: Ioctl, identity: int, kind: Kind, indices: range) -> Iterator[tuple[int, str]]:
    for index in indices[:_MOST]:
        buffer = bytearray(_MENU.pack(identity, index, b"", 0))
        try:
            node.call(_QUERYMENU, buffer)
        except OSError as error:
            if error.errno == errno.EINVAL:  # a hole in the menu
                continue
            raise
        label = _MENU.unpack(buffer)[2]
        yield index, text(label) if kind is Kind.MENU else str(struct.unpack("=q24x", label)[0])


def resolve(offered: list[Control], wanted: Mapping[str, Value]) -> list[tuple[Control, int | str]]:
    """Controls and raw values for what the configuration says, those that rule others first. Raises ControlRefused. No I/O."""
    found = [(_named(offered, name), name, value) for name, value in wanted.items()]
    resolved = [(control, _raw(control, name, value)) for control, name, value in found]
    return sorted(resolved, key=lambda pair: (not pair[0].rules_others, pair[0].kind not in {Kind.BOOLEAN, Kind.MENU}))


def _named(offered: list[Control], name: str) -> Control:
    wanted = key(name)
    found = next((control for control in offered if control.name == wanted), None)
    if found is None and wanted in _RENAMED:
        found = next((control for control in offered if control.id == _RENAMED[wanted]), None)
    if found is not None:
        return found
    names = [control.name for control in offered if not control.is_read_only]
    near = difflib.get_close_matches(wanted, names, 1, 0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ControlRefused(f"has no control {name!r}{hint} (it has {', '.join(names) or 'none'})")


def _raw(control: Control, name: str, value: Value) -> int | str:
    if control.is_read_only:
        raise ControlRefused(f"control {name} can only be read")
    raw: int | str | None = None
    if control.menu:
        raw = _menu_index(control, value)
    elif control.kind is Kind.STRING:
        raw = value if isinstance(value, str) and control.minimum <= len(value) <= control.maximum else None
    elif control.kind is Kind.BUTTON:
        raw = 1 if value is True else None
    elif control.kind is Kind.BOOLEAN:
        raw = int(value) if isinstance(value, bool) or value in {0, 1} else None
    elif isinstance(value, int) and not isinstance(value, bool):
        raw = _number(control, value)
    if raw is None:
        raise ControlRefused(f"control {name} = {value!r} is not possible: it takes {control.accepts()}")
    return raw


def _menu_index(control: Control, value: Value) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value in control.menu else None
    return next((index for index, label in control.menu.items() if key(label) == key(value)), None)


def _number(control: Control, value: int) -> int | None:
    if control.kind is Kind.BITMASK:
        return value if 0 <= value <= 0xFFFFFFFF and not value & ~control.maximum & 0xFFFFFFFF else None
    return value if control.minimum <= value <= control.maximum and (value - control.minimum) % max(1, control.step) == 0 else None


def apply(node: Ioctl, wanted: Mapping[str, Value]) -> list[str]:
    """Set controls and read them back; what is told is, in words, each that then reads otherwise.

    Raises ControlRefused, and OSError if the device has gone.
    """
    if not wanted:
        return []
    for control, raw in resolve(controls(node), wanted):
        current = _query(node, control.id)  # anew: what was set before it may have woken it
        if current is not None and current[7] & _INACTIVE:
            raise ControlRefused(_silenced(node, control))
        try:
            _write(node, control, raw)
        except OSError as error:
            if error.errno in {errno.ENODEV, errno.ENXIO}:
                raise
            busy = " while somebody uses the camera" if error.errno == errno.EBUSY else ""
            raise ControlRefused(f"does not take control {control.name} = {shown(control, raw)}{busy}: {error.strerror}") from None
    return list(_differences(node, wanted))


def _silenced(node: Ioctl, control: Control) -> str:
    rulers = [f"{c.name} ({c.accepts()})" for c in controls(node) if c.rules_others and not c.is_inactive and c.kind is not Kind.BUTTON]
    hint = f"; set that too: {', '.join(rulers)}" if rulers else ""
    return f"control {control.name} has no effect while another control rules it{hint}"


def _differences(node: Ioctl, wanted: Mapping[str, Value]) -> Iterator[str]:
    for control, raw in resolve(controls(node), wanted):
        if control.kind is Kind.BUTTON or control.flags & (_WRITE_ONLY | _VOLATILE):
            continue
        now = read(node, control)
        if now is not None and now != raw:
            yield f"control {control.name} was set to {shown(control, raw)} and reads {shown(control, now)}"


def shown(control: Control, raw: int | str) -> str:
    """A raw value as a person would write it in agent.toml."""
    if control.menu:
        return f'"{control.menu.get(int(raw), raw)}"'
    if control.kind is Kind.BOOLEAN:
        return "true" if raw else "false"
    return f'"{raw}"' if isinstance(raw, str) else str(raw)


def read(node: Ioctl, control: Control) -> int | str | None:
    """The raw value, or None for what cannot be read. Raises OSError only if the device has gone."""
    if control.kind is Kind.BUTTON or control.flags & _WRITE_ONLY:
        return None
    try:
        if control.kind in {Kind.STRING, Kind.INTEGER64}:
            return _extended(node, control, None)
        buffer = bytearray(struct.pack("Ii", control.id, 0))
        node.call(_G_CTRL, buffer)
    except OSError as error:
        if error.errno in {errno.ENODEV, errno.ENXIO}:
            raise
        return None
    value = int(struct.unpack("Ii", buffer)[1])
    return value & 0xFFFFFFFF if control.kind is Kind.BITMASK else value


def _write(node: Ioctl, control: Control, raw: int | str) -> None:
    if control.kind in {Kind.STRING, Kind.INTEGER64}:
        _extended(node, control, raw)
        return
    number = int(raw) - (1 << 32) if int(raw) > 0x7FFFFFFF else int(raw)
    node.call(_S_CTRL, bytearray(struct.pack("Ii", control.id, number)))


def _extended(node: Ioctl, control: Control, raw: int | str | None) -> int | str:
    """Get (``raw`` None) or set what needs the extended structures: texts and long numbers."""
    is_text = control.kind is Kind.STRING
    encoded = raw.encode() if isinstance(raw, str) else b""
    room = bytearray(encoded.ljust(4 * control.maximum + 1, b"\0")) if is_text else bytearray(1)
    room_at, _keep_room = address_of(room)
    one = bytearray(_EXT_CONTROL.pack(control.id, len(room) if is_text else 0, 0, room_at if is_text else int(raw or 0)))
    one_at, _keep_one = address_of(one)
    request = _G_EXT_CTRLS if raw is None else _S_EXT_CTRLS
    node.call(request, bytearray(_EXT_CONTROLS.pack(control.id & 0x0FFF0000, 1, 0, 0, 0, one_at)))
    return text(bytes(room)) if is_text else int(_EXT_CONTROL.unpack(one)[3])
