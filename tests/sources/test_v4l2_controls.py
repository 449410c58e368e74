"""Controls by name, on a camera whose automatics rule others, as uvcvideo's do: what is refused, the order, the reading back."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources import _v4l2_controls as v4l2_controls
from edge_agent.sources._v4l2_controls import Control, ControlRefused, Kind, Value, apply, key, resolve

INACTIVE, UPDATE, READ_ONLY, WRITE_ONLY = 0x10, 0x8, 0x4, 0x40


@dataclass
class Knob:
    id: int
    name: str
    kind: Kind
    low: int = 0
    high: int = 1
    step: int = 1
    value: int = 0
    flags: int = 0
    menu: dict[int, str] = field(default_factory=dict)
    ruled_by: tuple[int, int] | None = None
    """Has no effect unless the control of that id has that value."""


@dataclass
class Camera:
    """Answers as the control framework does: a structure in, a structure or an errno out."""

    knobs: list[Knob]
    written: list[str] = field(default_factory=list)
    rounds_to: int = 1

    def call(self, request: int, buffer: bytearray) -> None:
        {0xC0E85667: self._query, 0xC02C5625: self._menu, 0xC008561B: self._get, 0xC008561C: self._set}[request](buffer)

    def _find(self, identity: int) -> Knob:
        found = next((knob for knob in self.knobs if knob.id == identity), None)
        if found is None:
            raise OSError(errno.EINVAL, "Invalid argument")
        return found

    def _query(self, buffer: bytearray) -> None:
        (identity,) = struct.unpack_from("I", buffer)
        if identity & 0x80000000:
            later = [knob.id for knob in self.knobs if knob.id > identity & 0x7FFFFFFF]
            identity = min(later, default=0)
        knob = self._find(identity)
        ruled = knob.ruled_by is not None and self._find(knob.ruled_by[0]).value != knob.ruled_by[1]
        flags = knob.flags | (INACTIVE if ruled else 0)
        buffer[:] = struct.pack(
            "II32sqqQqIIII144x", knob.id, knob.kind, knob.name.encode(), knob.low, knob.high, knob.step, knob.value, flags, 4, 1, 0
        )

    def _menu(self, buffer: bytearray) -> None:
        identity, index = struct.unpack_from("II", buffer)
        label = self._find(identity).menu.get(index)
        if label is None:
            raise OSError(errno.EINVAL, "Invalid argument")
        buffer[8:40] = label.encode().ljust(32, b"\0")

    def _get(self, buffer: bytearray) -> None:
        struct.pack_into("i", buffer, 4, self._find(struct.unpack_from("I", buffer)[0]).value)

    def _set(self, buffer: bytearray) -> None:
        identity, value = struct.unpack("Ii", buffer)
        knob = self._find(identity)
        if knob.ruled_by is not None and self._find(knob.ruled_by[0]).value != knob.ruled_by[1]:
            raise OSError(errno.EACCES, "Permission denied")  # uvcvideo since 5.16
        knob.value = value // self.rounds_to * self.rounds_to
        self.written.append(knob.name)


def webcam() -> Camera:
    """The controls of a C920, under the names of Linux 5.15 and later."""
    return Camera([
        Knob(0x00980900, "Brightness", Kind.INTEGER, 0, 255, value=128),
        Knob(0x0098090C, "White Balance, Automatic", Kind.BOOLEAN, value=1, flags=UPDATE),
        Knob(0x00980918, "Power Line Frequency", Kind.MENU, 0, 2, value=2, menu={0: "Disabled", 1: "50 Hz", 2: "60 Hz"}),
        Knob(0x0098091A, "White Balance Temperature", Kind.INTEGER, 2000, 6500, value=4000, ruled_by=(0x0098090C, 0)),
        Knob(0x009A0901, "Auto Exposure", Kind.MENU, 0, 3, value=3, flags=UPDATE, menu={1: "Manual Mode", 3: "Aperture Priority Mode"}),
        Knob(0x009A0902, "Exposure Time, Absolute", Kind.INTEGER, 3, 2047, value=250, ruled_by=(0x009A0901, 1)),
        Knob(0x009A090A, "Focus, Absolute", Kind.INTEGER, 0, 250, 5, ruled_by=(0x009A090C, 0)),
        Knob(0x009A090C, "Focus, Automatic Continuous", Kind.BOOLEAN, value=1, flags=UPDATE),
        Knob(0x009A0911, "Serial", Kind.INTEGER, 0, 9, flags=READ_ONLY),
    ])  # fmt: skip


def values(camera: Camera) -> dict[str, int]:
    return {key(knob.name): knob.value for knob in camera.knobs}


def test_automatics_first_then_what_they_ruled() -> None:
    camera = webcam()
    wanted: dict[str, Value] = {
        "exposure_time_absolute": 200, "focus_absolute": 30, "power_line_frequency": "50 Hz",
        "auto_exposure": "Manual Mode", "focus_automatic_continuous": False,
    }  # fmt: skip
    assert apply(camera, wanted) == []
    assert camera.written[:2] == ["Auto Exposure", "Focus, Automatic Continuous"]
    now = values(camera)
    assert (now["exposure_time_absolute"], now["focus_absolute"], now["power_line_frequency"], now["auto_exposure"]) == (200, 30, 1, 1)


def test_the_names_of_older_kernels_work_and_the_kernels_own_spelling() -> None:
    camera = webcam()
    assert apply(camera, {"exposure_auto": 1, "exposure_absolute": 100, "focus_auto": False, "Focus, Absolute": 10}) == []
    assert values(camera)["exposure_time_absolute"] == 100
    older = Camera([Knob(0x009A0901, "Exposure, Auto", Kind.MENU, 0, 3, menu={1: "Manual Mode"})])
    assert apply(older, {"auto_exposure": "manual mode"}) == []
    assert older.knobs[0].value == 1


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"brightnes": 3}, "no control 'brightnes'; did you mean brightness?"),
        ({"zoom": 3}, r"no control 'zoom' \(it has brightness, white_balance_automatic, .*\)"),
        ({"brightness": 256}, "brightness = 256 is not possible: it takes 0 to 255"),
        ({"brightness": -1}, "it takes 0 to 255"),
        ({"brightness": "bright"}, "it takes 0 to 255"),
        ({"brightness": True}, "it takes 0 to 255"),
        ({"focus_auto": False, "focus_absolute": 7}, "it takes 0 to 250 in steps of 5"),
        ({"power_line_frequency": "55 Hz"}, 'it takes "Disabled", "50 Hz", "60 Hz"'),
        ({"power_line_frequency": 7}, "it takes"),
        ({"power_line_frequency": True}, "it takes"),
        ({"focus_automatic_continuous": "yes"}, "it takes true or false"),
        ({"serial": 3}, "serial can only be read"),
        ({"exposure_time_absolute": 200}, r'another control rules it; set that too: .*auto_exposure \("Manual Mode", "Aperture'),
        ({"exposure_time_absolute": 200, "auto_exposure": 3}, "another control rules it"),
    ],
)
def test_what_is_refused_says_what_can_be(wanted: dict[str, Value], text: str) -> None:
    camera = webcam()
    with pytest.raises(ControlRefused, match=text):
        apply(camera, wanted)


def test_one_wrong_name_and_nothing_is_set() -> None:
    camera = webcam()
    with pytest.raises(ControlRefused):
        apply(camera, {"brightness": 3, "nonsense": 1})
    assert camera.written == []


def test_what_reads_otherwise_is_told() -> None:
    camera = webcam()
    camera.rounds_to = 10
    assert apply(camera, {"brightness": 137}) == ["control brightness was set to 137 and reads 130"]


class Broken(Camera):
    number = errno.EIO

    def _set(self, buffer: bytearray) -> None:
        raise OSError(self.number, "as made")


def test_a_driver_that_refuses_is_quoted_and_one_that_has_gone_is_not_our_business() -> None:
    camera = Broken(webcam().knobs)
    with pytest.raises(ControlRefused, match="does not take control brightness = 3: as made"):
        apply(camera, {"brightness": 3})
    camera.number = errno.ENODEV
    with pytest.raises(OSError, match="as made"):
        apply(camera, {"brightness": 3})


def test_nothing_asked_is_nothing_done() -> None:
    assert apply(Broken([]), {}) == []


@given(st.integers(-10, 300), st.integers(1, 60))
def test_numbers_are_taken_exactly_if_they_are_steps_from_the_lowest(value: int, step: int) -> None:
    control = Control(1, "x", Kind.INTEGER, 5, 250, step, 5)
    if value in range(5, 251, step):
        assert resolve([control], {"x": value}) == [(control, value)]
    else:
        with pytest.raises(ControlRefused):
            resolve([control], {"x": value})


@given(st.integers(-(2**33), 2**33))
def test_bits_outside_the_mask_are_refused(value: int) -> None:
    control = Control(1, "x", Kind.BITMASK, 0, -0x7FBFDFF0, 0, 0)  # vivid's 0x80402010, as the kernel tells it
    if value >= 0 and value & ~0x80402010 == 0:
        assert resolve([control], {"x": value}) == [(control, value)]
    else:
        with pytest.raises(ControlRefused):
            resolve([control], {"x": value})


@given(st.text(max_size=40))
def test_names_become_keys_that_toml_takes_bare(name: str) -> None:
    found = key(name)
    assert found == key(found)
    assert set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")


def test_keys_are_those_of_v4l2_ctl() -> None:
    assert key("Exposure Time, Absolute") == "exposure_time_absolute"
    assert key("White Balance, Automatic") == "white_balance_automatic"
    assert key("Pan (Absolute)") == "pan_absolute"


def test_a_control_in_words() -> None:
    menu = Control(1, "m", Kind.MENU, 0, 2, 1, 0, menu={0: "Off", 2: "50 Hz"})
    assert v4l2_controls.shown(menu, 2) == '"50 Hz"'
    assert v4l2_controls.shown(Control(1, "b", Kind.BOOLEAN, 0, 1, 1, 0), 1) == "true"
    assert v4l2_controls.shown(Control(1, "s", Kind.STRING, 0, 9, 1, 0), "abc") == '"abc"'
    assert Control(1, "s", Kind.STRING, 2, 9, 1, 0).accepts() == "a text of 2 to 9 characters"
