"""CSI cameras: the pipelines as text, for both families of boards, and what is said where there is neither."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.errors import ConfigError
from edge_agent.plugins import PluginKinds
from edge_agent.sources import csi
from edge_agent.sources._gst_decoders import Sizes
from edge_agent.sources._platform import Board, Platform
from tests.sources.gst import needs_gstreamer
from tests.sources.media import context

SINK = "appsink name=edge_agent max-buffers=1 drop=true sync=false enable-last-sample=false"


def described(camera: str, sizes: Sizes, *, on_jetson: bool, **keys: Any) -> str:
    text = csi.describe(camera, csi.Config(**keys), sizes, on_jetson=on_jetson, has=lambda _element, _key: True)
    head, found, _ = text.partition(SINK)
    assert found, "it ends in our appsink"
    return head.removesuffix(" ! ")


@pytest.mark.parametrize("source", ["csi://0", "CSI://1", "csi:///base/soc/i2c0mux/i2c@1/imx219@10", "csi://"])
def test_the_kind_is_inferred(source: str) -> None:
    assert PluginKinds().source_kind(source) == "csi"


def test_a_jetsons_pictures_stay_in_its_memory_until_they_have_the_models_size() -> None:
    assert described("1", Sizes((1280, 720), (416, 416)), on_jetson=True) == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),format=NV12,width=1280,height=720,framerate=30/1 ! "
        "nvvidconv interpolation-method=5 ! video/x-raw,format=BGRx,width=416,height=416"
    )


def test_a_jetsons_pictures_come_in_full_where_the_model_is_not_known_and_may_be_turned() -> None:
    assert described("0", Sizes((1920, 1080)), on_jetson=True, width=1920, height=1080, fps=60, flip=2) == (
        "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),format=NV12,width=1920,height=1080,framerate=60/1 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=NV12"
    )


@pytest.mark.parametrize(
    ("camera", "element"),
    [
        ("0", "libcamerasrc"),
        ("", "libcamerasrc"),
        ("/base/soc/i2c0mux/i2c@1/imx219@10", 'libcamerasrc camera-name="/base/soc/i2c0mux/i2c@1/imx219@10"'),
    ],
)
def test_a_pis_pictures_come_as_planes(camera: str, element: str) -> None:
    assert described(camera, Sizes((1280, 720), (416, 416)), on_jetson=False) == (
        f"{element} ! video/x-raw,format=NV12,width=1280,height=720,framerate=30/1 ! queue max-size-buffers=2 leaky=downstream"
    )


@pytest.mark.parametrize(("board", "element"), [("jetson", "nvarguscamerasrc"), ("pi5", "libcamerasrc"), ("generic", "libcamerasrc")])
def test_each_board_has_its_element(board: Board, element: str) -> None:
    assert csi.element_for(Platform(board)) == element


@pytest.mark.parametrize("source", ["csi://front", "csi://123", 'csi:///x"y', "csi:///a b"])
def test_a_bad_address_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="csi://0"):
        csi.build(context(source), csi.Config())


@needs_gstreamer
def test_without_the_element_its_package_is_named() -> None:
    with pytest.raises(ConfigError, match=r"apt install (gstreamer1\.0-libcamera|nvidia-l4t-gstreamer)"):
        csi.build(context("csi://0"), csi.Config())
