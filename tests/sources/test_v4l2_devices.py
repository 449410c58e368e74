"""Stable names and listings, from folders like udev's and the kernel's; with a real kernel: tests/lab/v4l2.sh."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from edge_agent import devices as listing
from edge_agent.config_file import load
from edge_agent.plugins import PluginKinds
from edge_agent.sources import _v4l2_devices as v4l2_devices
from edge_agent.sources import _v4l2_modes as modes
from edge_agent.sources._decoders import Candidate, Surveyed
from edge_agent.sources._v4l2 import Capability
from edge_agent.sources._v4l2_devices import Device, stable_name
from tests.conftest import needs

BY_ID, BY_PATH = "/dev/v4l/by-id/", "/dev/v4l/by-path/"


def camera(number: int, name: str = "C920", *links: str, role: str = "camera") -> Device:
    return Device(f"/dev/video{number}", name, "uvcvideo", f"usb-1.{number}", role, links)


def test_the_serial_number_is_the_better_name() -> None:
    one = camera(0, "C920", BY_ID + "usb-C920_SN1-video-index0", BY_PATH + "pci-usb-1-video-index0")
    other = camera(2, "C270", BY_PATH + "pci-usb-2-video-index0")
    bare = camera(4, "loop")
    everything = [one, camera(1, "C920", BY_ID + "usb-C920_SN1-video-index1", role="metadata"), other, bare]
    assert [stable_name(device, everything) for device in (one, other, bare)] == [one.links[0], other.links[0], "/dev/video4"]


def test_of_two_that_share_a_serial_number_each_is_named_by_its_socket() -> None:
    winner = camera(0, "Cheap", BY_ID + "usb-Cheap_0001-video-index0", BY_PATH + "pci-usb-1-video-index0")
    loser = camera(2, "Cheap", BY_PATH + "pci-usb-2-video-index0")
    assert stable_name(winner, [winner, loser]) == winner.links[1]
    assert stable_name(loser, [winner, loser]) == loser.links[0]
    told_apart = camera(2, "Cheap", BY_ID + "usb-Cheap_0002-video-index0", BY_PATH + "pci-usb-2-video-index0")
    assert stable_name(winner, [winner, told_apart]) == winner.links[0]


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /dev, and one in place of /sys beside it."""
    folder = tmp_path / "dev"
    (folder / "v4l/by-id").mkdir(parents=True)
    (folder / "v4l/by-path").mkdir()
    monkeypatch.setattr(v4l2_devices, "DEV", folder)
    monkeypatch.setattr(v4l2_devices, "SYS", tmp_path / "sys")
    return folder


def test_links_of_a_node_by_serial_number_first(dev: Path) -> None:
    for number in (0, 2, 10):
        (dev / f"video{number}").touch()
    (dev / "videonothing").touch()
    (dev / "v4l/by-path/pci-1-video-index0").symlink_to("../../video2")
    (dev / "v4l/by-id/usb-A-video-index0").symlink_to("../../video2")
    (dev / "v4l/by-id/usb-B-video-index0").symlink_to("../../video0")
    (dev / "v4l/by-id/usb-gone-video-index0").symlink_to("../../video9")
    names = [Path(link).name for link in v4l2_devices.links(str(dev / "video2"))]
    assert names == ["usb-A-video-index0", "pci-1-video-index0"]
    found = v4l2_devices.devices()  # files, and no devices: told, not raised
    assert [Path(device.path).name for device in found] == ["video0", "video2", "video10"]
    assert all(device.role == "unknown" and "no V4L2 device" in device.problem for device in found)


@pytest.mark.parametrize(
    ("bus", "speed", "budget"),
    [
        ("usb-0000:00:14.0-1", "480", modes.SLOW_BUS_BUDGET),
        ("usb-0000:00:14.0-1", "5000", modes.FAST_BUS_BUDGET),
        ("usb-0000:00:14.0-1", None, modes.SLOW_BUS_BUDGET),
        ("platform:vivid-000", None, modes.FAST_BUS_BUDGET),
    ],
)
def test_how_much_undecoded_a_bus_takes(dev: Path, tmp_path: Path, bus: str, speed: str | None, budget: float) -> None:
    usb = tmp_path / "sys/devices/usb1/1-2"
    (usb / "1-2:1.0").mkdir(parents=True)
    (tmp_path / "sys/class/video4linux/video3").mkdir(parents=True)
    (tmp_path / "sys/class/video4linux/video3/device").symlink_to(usb / "1-2:1.0")
    if speed:
        (usb / "speed").write_text(f"{speed}\n")
    (dev / "video3").touch()
    (dev / "link").symlink_to("video3")
    assert v4l2_devices.raw_budget(str(dev / "link"), Capability("uvcvideo", "x", bus, 1)) == budget


def test_who_has_a_node_open(tmp_path: Path) -> None:
    node = tmp_path / "video0"
    node.touch()
    assert v4l2_devices.users(str(node)) == " by another program"
    with node.open() as opened, subprocess.Popen([needs("sleep", "coreutils"), "60"], stdin=opened) as sleeper:
        try:
            assert f"(process {sleeper.pid})" in v4l2_devices.users(str(node))
        finally:
            sleeper.kill()


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (errno.EBUSY, "busy", "is in use"),
        (errno.ENODEV, "unplugged", "unplugged?"),
        (errno.ENOTTY, "not_found", "no V4L2 device"),
        (errno.EIO, "not_found", "Input/output error"),
    ],
)
def test_what_an_error_of_the_kernel_means(number: int, code: str, text: str) -> None:
    error = v4l2_devices.refusal("/dev/video987", OSError(number, os.strerror(number)))
    assert error.code.value == code
    assert text in str(error)


LISTED = listing.Listed(
    camera(0, 'HD "Pro" Webcam: C920', BY_ID + "usb-046d_C920-video-index0"),
    BY_ID + "usb-046d_C920-video-index0",
    (modes.Offer("MJPG", 1280, 720, (30.0, 7.5)), modes.Offer("HEVC", 1280, 720, (30.0,))),
    (listing.Setting("brightness", "integer", "128", "100", "0 to 255", inactive=False, read_only=False),),
    "MJPG 1280x720 at 30/s",
)
OTHERS = [
    LISTED,
    listing.Listed(camera(1, 'HD "Pro" Webcam: C920', role="metadata"), "/dev/video1"),
    listing.Listed(camera(4, 'HD "Pro" Webcam: C920'), "/dev/video4", problem="/dev/video4 is in use"),
    listing.Listed(camera(5, "", role="unknown"), "/dev/video5", problem="/dev/video5 may not be opened by this user"),
]


H264 = Surveyed("H.264", "ffmpeg", (Candidate("h264", hardware=False),), "none in hardware")


def test_the_listing_can_be_pasted(tmp_path: Path) -> None:
    text = list(listing.as_text(OTHERS, [], controls=True))
    assert "    MJPG 1280x720 (30/7.5)" in text
    assert "    not read here: HEVC" in text
    assert "    brightness = 128    # 0 to 255; default 100" in text
    assert "    # opens as MJPG 1280x720 at 30/s" in text
    assert '/dev/video1: HD "Pro" Webcam: C920 (metadata: no camera)' in text
    assert "/dev/video5: /dev/video5 may not be opened by this user" in text
    pasted = "\n".join(line for line in text if line.startswith(("    [[", "    id", "    source", "    # ")))
    (tmp_path / "agent.toml").write_text(pasted)
    config = load(tmp_path / "agent.toml", PluginKinds())
    assert [(c.id, c.settings.source, c.kind) for c in config.cameras] == [
        ("hd-pro-webcam", LISTED.source, "v4l2"), ("hd-pro-webcam-2", "/dev/video4", "v4l2"),
    ]  # fmt: skip


def test_controls_are_counted_unless_asked_for() -> None:
    assert "    1 controls (--controls lists them)" in list(listing.as_text([LISTED], [H264], controls=False))


def test_nothing_there() -> None:
    assert list(listing.as_text([], [], controls=False)) == ["no V4L2 camera found (there is no /dev/video*)"]
    assert list(listing.as_text([], [H264], controls=False))[1:] == ["decoders:", f"    {H264}"]


def test_as_json() -> None:
    found = json.loads(listing.as_json(OTHERS, [H264]))
    assert found["cameras"][0]["formats"][0] == {
        "format": "MJPG", "read_here": True, "sizes": [{"width": 1280, "height": 720, "rates": [30.0, 7.5]}],
    }  # fmt: skip
    assert found["cameras"][0]["mode"] == "MJPG 1280x720 at 30/s"
    assert found["cameras"][3]["problem"].startswith("/dev/video5")
    assert found["decoders"][0]["decoders"] == [{"name": "h264", "hardware": False, "engine": "ffmpeg"}]


def test_listing_this_machine_never_fails() -> None:
    assert all(listed.device.path.startswith("/dev/video") for listed in listing.cameras())
    assert list(listing.as_text(listing.cameras(), listing.decoders(), controls=True))
