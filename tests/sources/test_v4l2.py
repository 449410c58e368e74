"""Webcams without a webcam: what is claimed and asked for, and what is said of nodes that are none. The rest runs in tests/lab."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.errors import ConfigError, SourceError, SourceErrorCode, SourceUnavailable
from edge_agent.sources import _v4l2_modes as modes
from edge_agent.sources import v4l2
from edge_agent.sources._v4l2 import Capability
from edge_agent.sources.base import SourceContext
from tests.sources.media import context


@pytest.mark.parametrize(("source", "path"), [(0, "/dev/video0"), ("3", "/dev/video3"), ("/dev/v4l/by-id/x", "/dev/v4l/by-id/x")])
def test_numbers_nodes_and_links(source: str | int, path: str) -> None:
    assert v4l2.claims(source)
    built = v4l2.build(SourceContext("front", source, Path, str), v4l2.Config())
    assert isinstance(built, v4l2.V4l2Source)
    assert built._path == path
    assert built.live
    assert built.exclusive


@pytest.mark.parametrize("source", ["video.mp4", "rtsp://host/", "dev/video0", "", "-1", "synthetic", "1.5"])
def test_what_is_no_webcam(source: str) -> None:
    assert not v4l2.claims(source)


def test_what_was_written_is_meant_exactly_and_the_rest_is_a_wish() -> None:
    usb = Capability("uvcvideo", "HD Webcam", "usb-0000:01:00.0-1.2", 0x04200001)
    plain = v4l2.V4l2Source("/dev/video987", v4l2.Config())._wanted(usb)
    assert plain == modes.Wanted(1280, 720, 30, "auto", frozenset(), modes.SLOW_BUS_BUDGET)
    given = v4l2.V4l2Source("/dev/video987", v4l2.Config(width=640, fps=30, format="NV12"))._wanted(usb)
    assert given.exact == {"width", "fps"}
    assert given.format == "NV12"


def test_every_format_that_is_read_can_be_asked_for() -> None:
    for name in modes.FORMATS:
        assert v4l2.Config.model_validate({"format": name}).format == name


def test_a_path_that_can_be_none() -> None:
    with pytest.raises(ValueError, match="NUL"):
        v4l2.build(context("/dev/video\0"), v4l2.Config())


@pytest.mark.parametrize("source", [-1, "rtsp://joe:s3cret@10.0.0.1/x"])
def test_what_is_no_webcam_whatever_is_plugged_in(source: str | int) -> None:
    with pytest.raises(ConfigError, match="is no webcam") as caught:
        v4l2.build(SourceContext("front", source, Path, str), v4l2.Config())
    assert "s3cret" not in str(caught.value)


def refused(path: str | Path) -> SourceError:
    source = v4l2.build(context(path), v4l2.Config())
    with pytest.raises(SourceUnavailable) as caught:
        source.open()
    source.close()
    source.close()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_missing_node() -> None:
    error = refused("/dev/video987")
    assert error.code is SourceErrorCode.NOT_FOUND
    assert "does not exist; is the camera plugged in?" in str(error)


def test_a_link_whose_camera_is_away(tmp_path: Path) -> None:
    link = tmp_path / "usb-046d_C920-video-index0"
    link.symlink_to("/dev/video987")
    error = refused(link)
    assert error.code is SourceErrorCode.NOT_FOUND
    assert "leads nowhere; is the camera plugged in?" in str(error)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_a_node_that_is_no_camera(path: str) -> None:
    error = refused(path)
    assert error.code is SourceErrorCode.NOT_FOUND
    assert "is no usable camera: it is no V4L2 device" in str(error)


def test_a_directory() -> None:
    error = refused("/dev")
    assert error.code is SourceErrorCode.NOT_FOUND
    assert "is a directory" in str(error)


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """Without root's rights, if we have them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def closed_node() -> Iterator[Path]:
    """A file like /dev/video0 of Debian: root's, and of a group that may use it. Outside of tmp_path, which only root may enter."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    node = Path(f"/tmp/edge-agent-test-node-{os.getpid()}")
    node.touch()
    os.chown(node, 0, 44)
    node.chmod(0o660)
    yield node
    node.unlink()


def test_a_node_without_permission_names_the_group_that_owns_it(closed_node: Path, request: pytest.FixtureRequest) -> None:
    import grp

    request.getfixturevalue("ordinary_user")
    error = refused(closed_node)
    assert error.code is SourceErrorCode.PERMISSION
    assert f"it belongs to the group {grp.getgrgid(44).gr_name!r}: sudo usermod -aG {grp.getgrgid(44).gr_name} " in str(error)


def test_a_node_of_no_group_asks_for_a_rule(closed_node: Path, request: pytest.FixtureRequest) -> None:
    closed_node.chmod(0o600)
    request.getfixturevalue("ordinary_user")
    error = refused(closed_node)
    assert error.code is SourceErrorCode.PERMISSION
    assert "nor by any group (mode 0600): a udev rule" in str(error)
