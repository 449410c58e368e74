"""Webcams without a webcam: what is claimed, and what is said of nodes that are none. The rest runs in tests/lab."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import SourceError, SourceErrorCode, SourceUnavailable
from edge_agent.image import BgrImage, JpegImage, YuyvImage
from edge_agent.sources import v4l2
from edge_agent.sources.base import FrameUnreadable, SourceContext
from tests.sources.media import context


@pytest.mark.parametrize(("source", "path"), [(0, "/dev/video0"), ("3", "/dev/video3"), ("/dev/v4l/by-id/x", "/dev/v4l/by-id/x")])
def test_numbers_nodes_and_links(source: str | int, path: str) -> None:
    assert v4l2.claims(source)
    built = v4l2.build(SourceContext("front", source, Path, str), v4l2.Config())
    assert isinstance(built, v4l2.V4l2Source)
    assert built._path == path
    assert built.live


@pytest.mark.parametrize("source", ["video.mp4", "rtsp://host/", "dev/video0", "", "-1", "synthetic", "1.5"])
def test_what_is_no_webcam(source: str) -> None:
    assert not v4l2.claims(source)


def refused(path: str | Path) -> SourceError:
    source = v4l2.build(context(path), v4l2.Config())
    with pytest.raises(SourceUnavailable) as caught:
        source.open()
    source.close()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_missing_node() -> None:
    error = refused("/dev/video987")
    assert error.code is SourceErrorCode.NOT_FOUND
    assert "plugged in" in str(error)


@pytest.mark.parametrize("path", ["/dev/null", "/dev", "/dev/zero"])
def test_a_node_that_is_no_camera(path: str) -> None:
    error = refused(path)
    assert error.code is SourceErrorCode.NOT_FOUND
    assert "no usable camera" in str(error)


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


@pytest.mark.usefixtures("ordinary_user")
def test_a_node_without_permission_names_the_group() -> None:
    # A node that exists wherever there is a kernel, and that only root may write.
    error = refused("/dev/kmsg")
    assert error.code is SourceErrorCode.PERMISSION
    assert "group 'video'" in str(error)


def test_listing_devices_never_fails() -> None:
    for device in v4l2.devices():
        assert device.path.startswith("/dev/video")
        assert device.name


@pytest.mark.parametrize(
    ("given", "shape", "kind"), [("MJPG", (1, 5000), JpegImage), ("YUYV", (1, 2 * 48 * 64), YuyvImage), ("RGB3", (48, 64, 3), BgrImage)]
)
def test_buffers_are_taken_as_the_driver_gives_them(given: str, shape: tuple[int, ...], kind: type) -> None:
    source = v4l2.V4l2Source("/dev/video0", v4l2.Config())
    source._size, source._format = (64, 48), given
    image = source._image(np.zeros(shape, np.uint8))
    assert isinstance(image, kind)
    assert (image.width, image.height) == (64, 48)


def test_a_short_buffer_is_one_lost_frame() -> None:
    source = v4l2.V4l2Source("/dev/video0", v4l2.Config())
    source._size, source._format = (64, 48), "YUYV"
    with pytest.raises(FrameUnreadable, match="100 bytes of 6144"):
        source._image(np.zeros((1, 100), np.uint8))


def test_a_kernel_timestamp_is_used_where_it_is_on_our_clock() -> None:
    now = time.monotonic()
    assert v4l2.V4l2Source._arrival(now - 0.05) == now - 0.05
    for other in (0.0, now + 100, now - 100, -1.0):
        assert v4l2.V4l2Source._arrival(other) >= now
