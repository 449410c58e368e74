"""The structures of V4L2, read from what Linux 6.1 answered for vivid, for its multi-planar twin, and for v4l2loopback."""

from __future__ import annotations

import errno

import pytest

from edge_agent.sources import _v4l2 as kernel
from edge_agent.sources import _v4l2_controls as v4l2_controls
from edge_agent.sources import _v4l2_modes as modes
from edge_agent.sources._v4l2_controls import Kind
from tests.sources.v4l2_recording import Recording


def test_what_a_node_is() -> None:
    vivid = kernel.query(Recording("vivid"))
    assert (vivid.driver, vivid.card, vivid.bus, vivid.role) == ("vivid", "vivid", "platform:vivid-000", "camera")
    assert vivid.buffer_type == kernel.CAPTURE
    planar = kernel.query(Recording("vivid_mplane"))
    assert (planar.role, planar.buffer_type) == ("camera", kernel.CAPTURE_MPLANE)
    assert kernel.query(Recording("loopback")).card == "loop"


@pytest.mark.parametrize(
    ("flags", "role"),
    [
        (0x04200001, "camera"),
        (0x04A00000, "metadata"),  # uvcvideo's second node
        (0x05200002, "output"),
        (0x04204000, "codec"),  # bcm2835-codec, multi-planar
        (0x04008000, "codec"),
        (0x00200001, "camera without streaming"),
        (0x15200001, "other"),  # a touch panel
        (0x00010000, "other"),
    ],
)
def test_only_what_captures_and_streams_is_a_camera(flags: int, role: str) -> None:
    assert kernel.Capability("", "", "", flags).role == role


def test_formats_in_the_drivers_order() -> None:
    found = list(kernel.formats(Recording("vivid"), kernel.CAPTURE))
    assert found[0] == kernel.PixelFormat("YUYV", "YUYV 4:2:2", emulated=False)
    assert {"NV12", "GREY", "Y16", "BGR3"} <= {f.fourcc for f in found}
    assert [f.fourcc for f in kernel.formats(Recording("loopback"), kernel.CAPTURE)] == ["MJPG"]


def test_sizes_and_rates() -> None:
    recording = Recording("vivid")
    sizes = list(kernel.sizes(recording, "NV12"))
    assert [(s.max_width, s.max_height) for s in sizes][:4] == [(320, 180), (640, 360), (640, 480), (1280, 720)]
    assert all(size.is_single for size in sizes)
    assert kernel.rates(recording, "NV12", 1280, 720) == ((12.5, 10.0, 5.0, 4.0, 2.0, 1.0), None)


@pytest.mark.parametrize(("name", "fourcc", "planes"), [
    ("vivid", "YUYV", ((1280, 460800),)),
    ("vivid", "NV12", ((640, 345600),)),
    ("vivid_mplane", "NM12", ((640, 230400), (640, 115200))),
])  # fmt: skip
def test_what_came_of_a_format(name: str, fourcc: str, planes: tuple[tuple[int, int], ...]) -> None:
    recording = Recording(name)
    kind = kernel.query(recording).buffer_type
    given = kernel.set_format(recording, kind, kernel.PictureFormat(fourcc, 640, 360))
    assert (given.fourcc, given.width, given.height, given.planes) == (fourcc, 640, 360, planes)
    assert given.colorspace == 8  # sRGB


def test_the_rate_is_what_the_driver_says_and_not_what_was_asked() -> None:
    assert kernel.set_rate(Recording("vivid"), kernel.CAPTURE, 25) == 25
    assert kernel.set_rate(Recording("loopback"), kernel.CAPTURE, 25) is None


def test_controls_with_their_menus_and_ranges() -> None:
    recording = Recording("vivid")
    found = {control.name: control for control in v4l2_controls.controls(recording)}
    assert found["brightness"].accepts() == "0 to 255"
    assert (found["hue"].minimum, found["hue"].maximum) == (-128, 128)
    assert found["menu"].menu == {1: "Menu Item 1", 3: "Menu Item 3", 4: "Menu Item 4"}
    assert found["integer_menu"].menu[8] == "42"
    assert found["button"].kind is Kind.BUTTON
    assert found["gain"].is_inactive
    assert found["gain_automatic"].rules_others
    assert found["read_only_integer_32_bits"].is_read_only
    assert "u8_2x3x4x5_array" not in found  # cannot be told in one value
    assert v4l2_controls.read(recording, found["brightness"]) == 128
    assert v4l2_controls.shown(found["test_pattern"], 0) == '"75% Colorbar"'
    assert v4l2_controls.read(recording, found["bitmask"]) == 0x80002000


def test_the_mode_of_what_was_recorded() -> None:
    wanted = modes.Wanted(1280, 720, 30, budget=modes.FAST_BUS_BUDGET)
    recording = Recording("vivid")
    offered = [offer for fourcc in ("YUYV", "NV12") for offer in _offers(recording, fourcc)]
    assert str(modes.choose(offered, wanted)) == "NV12 1280x720 at 12.5/s"


def _offers(recording: Recording, fourcc: str) -> list[modes.Offer]:
    sizes = kernel.sizes(recording, fourcc)
    return [modes.Offer(fourcc, s.max_width, s.max_height, kernel.rates(recording, fourcc, s.max_width, s.max_height)[0]) for s in sizes]


class Refusing:
    """A driver that knows nothing, or whose device has gone."""

    def __init__(self, number: int) -> None:
        self.number = number

    def call(self, request: int, buffer: bytearray) -> None:
        raise OSError(self.number, "as made")


def test_a_driver_that_does_not_tell_is_no_error() -> None:
    for number in (errno.EINVAL, errno.ENOTTY):
        node = Refusing(number)
        assert not list(kernel.formats(node, kernel.CAPTURE))
        assert not list(kernel.sizes(node, "YUYV"))
        assert kernel.rates(node, "YUYV", 640, 480) == ((), None)
        assert kernel.set_rate(node, kernel.CAPTURE, 30) is None
        assert v4l2_controls.controls(node) == []


def test_a_device_that_has_gone_is_one() -> None:
    node = Refusing(errno.ENODEV)
    for ask in (lambda: list(kernel.formats(node, 1)), lambda: v4l2_controls.controls(node), lambda: kernel.set_rate(node, 1, 30)):
        with pytest.raises(OSError, match="as made"):
            ask()


class Endless:
    """A driver that never says that there is no more."""

    def call(self, request: int, buffer: bytearray) -> None:
        buffer[-1:] = b"\0"


def test_a_driver_without_end_does_not_hold_us() -> None:
    assert len(list(kernel.formats(Endless(), kernel.CAPTURE))) == 256
    assert v4l2_controls.controls(Endless()) == []


@pytest.mark.parametrize("name", ["MJPG", "YUYV", "Y16"])
def test_four_characters_there_and_back(name: str) -> None:
    assert kernel.fourcc_text(kernel.fourcc_code(name)) == name
    assert kernel.fourcc_text(kernel.fourcc_code(name) | 1 << 31) == name
