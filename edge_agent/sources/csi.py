"""Cameras on a board's ribbon cable: nvarguscamerasrc on a Jetson, libcamerasrc on a Raspberry Pi.

Their /dev/video nodes give raw sensor data that nothing here can show; the vendor's GStreamer element runs the image
processor in between. On a Jetson the pictures stay in its memory until they have the model's size.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field

from edge_agent.config_values import Rate, Seconds, Table
from edge_agent.errors import ConfigError, SourceErrorCode, SourceUnavailable
from edge_agent.libraries import gstreamer
from edge_agent.sources._gst import GstSource, Launch
from edge_agent.sources._gst_decoders import HasProperty, Sizes, appsink, nvidia_tail
from edge_agent.sources._gst_errors import missing_element
from edge_agent.sources._gst_pipeline import SINK, has_property, parse
from edge_agent.sources._platform import Platform, platform
from edge_agent.sources.base import Pixels, Source, SourceContext

_ADDRESS = re.compile(r"csi://(\d{1,2}|/[^\s\"]+)?")


class Config(Table):
    """Keys of a CSI camera."""

    width: Pixels = 1280
    """Pixels. The sensor's nearest mode is scaled to it by the board's image processor."""
    height: Pixels = 720
    """Pixels."""
    fps: Rate = 30
    """Frames per second."""
    flip: Annotated[int, Field(ge=0, le=7, examples=[2])] = 0
    """Only on a Jetson: flip-method of nvvidconv (2: turned by 180°)."""
    open_timeout_s: Seconds = 5
    """Longest wait for the first picture; a Jetson's camera service takes some seconds."""
    read_timeout_s: Seconds = 5
    """Longest wait for the next picture."""


def claims(source: str | int) -> bool:
    """csi://0, csi://1, and csi:// with a libcamera name (csi:///base/soc/i2c0mux/i2c@1/imx219@10)."""
    return isinstance(source, str) and source.lower().startswith("csi://")


def build(context: SourceContext, config: Config) -> Source:
    """A source for one CSI camera. Raises ConfigError for a bad address, and for an element that is missing."""
    shown = str(context.source)
    found = _ADDRESS.fullmatch("csi://" + shown[len("csi://") :])
    if found is None:
        raise ConfigError(f"{shown!r} is no CSI camera; it should look like csi://0")
    camera, here = found[1] or "0", platform()
    gst = gstreamer()
    element = element_for(here)
    if gst.ElementFactory.find(element) is None:
        raise ConfigError(missing_element(element))
    on_jetson = element == "nvarguscamerasrc"
    sizes = Sizes((config.width, config.height), context.model_size() if on_jetson else None)
    parse(gst, describe(camera, config, sizes, on_jetson=on_jetson, has=lambda _element, _key: False))

    def described(gst: Any) -> str:
        sizes = Sizes((config.width, config.height), context.model_size())
        name = camera if on_jetson or not camera.isdigit() else _libcamera_name(gst, int(camera), shown)
        return describe(name, config, sizes, on_jetson=on_jetson, has=lambda element, key: has_property(gst, element, key))

    launch = Launch(
        described,
        shown,
        live=True,
        open_timeout_s=config.open_timeout_s,
        read_timeout_s=config.read_timeout_s,
        source_size=(config.width, config.height) if on_jetson else None,
        exclusive=True,
    )
    return GstSource(launch, context.camera)


def element_for(here: Platform) -> str:
    """The element that reads a CSI camera on a board."""
    return "nvarguscamerasrc" if here.board == "jetson" else "libcamerasrc"


def describe(camera: str, config: Config, sizes: Sizes, *, on_jetson: bool, has: HasProperty) -> str:
    """The pipeline. ``camera`` is a sensor's number on a Jetson, else a libcamera name, or empty or "0" for the first."""
    size = f"width={config.width},height={config.height},framerate={round(config.fps)}/1"
    sink = appsink(SINK, live=True)
    if on_jetson:
        tail = nvidia_tail(sizes, has)
        if config.flip:
            tail[0] += f" flip-method={config.flip}"
        return " ! ".join([f"nvarguscamerasrc sensor-id={camera}", f"video/x-raw(memory:NVMM),format=NV12,{size}", *tail, sink])
    named = "" if camera in {"", "0"} else f' camera-name="{camera}"'
    return f"libcamerasrc{named} ! video/x-raw,format=NV12,{size} ! queue max-size-buffers=2 leaky=downstream ! {sink}"


def _libcamera_name(gst: Any, number: int, shown: str) -> str:
    """The name that libcamera knows a camera by; the number counts those that it lists."""
    if number == 0:
        return ""
    factory = gst.DeviceProviderFactory.find("libcameraprovider")
    devices = factory.get().get_devices() if factory is not None else []
    if number >= len(devices):
        raise SourceUnavailable(f"{shown}: libcamera lists {len(devices)} cameras, counted from 0", SourceErrorCode.NOT_FOUND)
    return str(devices[number].get_display_name())
