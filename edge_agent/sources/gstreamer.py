"""Anything that GStreamer can read: a pipeline that ends in an appsink, or an address or device it makes one for.

Uses the distribution's GStreamer and its Python bindings (Debian: python3-gi gir1.2-gst-plugins-base-1.0), which see
the decoders that boards have in hardware. For webcams and streams that need none of those, the kinds v4l2 and rtsp do
with less.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field

from edge_agent.config_values import Count, Rate
from edge_agent.errors import ConfigError, SourceErrorCode, SourceUnavailable
from edge_agent.libraries import gstreamer
from edge_agent.redaction import redact
from edge_agent.sources import _v4l2_modes as modes
from edge_agent.sources._gst import GstSource, Launch
from edge_agent.sources._gst_decoders import appsink
from edge_agent.sources._gst_errors import Fault
from edge_agent.sources._gst_pipeline import SINK, STREAMS, find_sink, parse
from edge_agent.sources._v4l2_devices import open_camera, refusal
from edge_agent.sources.base import DecodeConfig, NetworkConfig, Pixels, Source, SourceContext

_FILES = re.compile(r"\b(filesrc|multifilesrc|splitfilesrc|giosrc)\b|\bfile://")
_DEVICES = re.compile(r"\b(v4l2src|uvch264src|nvarguscamerasrc|nvv4l2camerasrc|libcamerasrc)\b")
_FORMATS = {"MJPG": "image/jpeg", "YUYV": "video/x-raw,format=YUY2", "NV12": "video/x-raw,format=NV12", "H264": "video/x-h264"}
_HTTP_FILES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".m2ts", ".mpg", ".mpeg", ".flv", ".ogv"})


class Config(NetworkConfig, DecodeConfig):
    """Keys of what GStreamer reads. Width, height, fps and format are for devices; transport and latency for RTSP."""

    pipeline: Annotated[str | None, Field(examples=["v4l2src device=/dev/video0 ! image/jpeg,width=1280,height=720 ! appsink"])] = None
    """A pipeline as gst-launch-1.0 takes it, that ends in an appsink. Default: made for source."""
    live: Annotated[bool | None, Field(examples=[True])] = None
    """Whether only the newest picture counts; false: every one, to the end. Default: false for files, else true."""
    width: Annotated[Pixels | None, Field(examples=[1280])] = None
    """Of a device's pictures. Default: the device's."""
    height: Annotated[Pixels | None, Field(examples=[720])] = None
    """Of a device's pictures. Default: the device's."""
    fps: Annotated[Rate | None, Field(examples=[30])] = None
    """Of a device. Default: the device's."""
    format: Annotated[Literal["MJPG", "YUYV", "NV12", "H264"] | None, Field(examples=["MJPG"])] = None
    """Of a device. Default: MJPG or raw, as GStreamer agrees with the device."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How an RTSP camera sends."""
    latency_ms: Count = 100
    """How long to wait for packets that come out of order, over UDP."""
    username: Annotated[str | None, Field(examples=["viewer"])] = None
    """User at the camera; or write it into the address."""
    password_file: Annotated[str | None, Field(examples=["front_password"])] = None
    """File whose first line is the password of username."""


def claims(source: str | int) -> bool:
    """Pipelines ("... ! appsink"), and the word "gstreamer" for one that is written in pipeline."""
    return isinstance(source, str) and (" ! " in source or source == "gstreamer")


@dataclass(frozen=True)
class _Origin:
    """What a source string turns into."""

    text: str
    shown: str
    live: bool
    settings: dict[str, dict[str, object]] = field(default_factory=dict)
    url: str = ""
    exclusive: bool = False
    explain: Callable[[Fault], SourceUnavailable | None] = lambda _: None


def build(context: SourceContext, config: Config) -> Source:
    """A source for one pipeline. Raises ConfigError where it cannot be read, and for bindings or elements that are missing."""
    origin = _origin(context, config)
    gst = gstreamer()
    _check(gst, origin)
    launch = Launch(
        lambda _: origin.text,
        origin.shown,
        live=origin.live if config.live is None else config.live,
        open_timeout_s=config.open_timeout_s,
        read_timeout_s=config.read_timeout_s,
        decode=config.decode,
        settings=origin.settings,
        url=origin.url,
        model_size=context.model_size,
        exclusive=origin.exclusive,
        explain=origin.explain,
    )
    return GstSource(launch, context.camera)


def _check(gst: Any, origin: _Origin) -> None:
    made = parse(gst, origin.text)
    if made.get_by_name(STREAMS) is None:
        find_sink(gst, made)
    scheme = origin.url.partition("://")[0]
    if scheme and not gst.uri_protocol_is_supported(gst.URIType.SRC, scheme):
        raise ConfigError(f"GStreamer reads no {scheme}:// here: {origin.shown!r}")


def _origin(context: SourceContext, config: Config) -> _Origin:
    source = context.source
    text = config.pipeline or (source if isinstance(source, str) and claims(source) else None)
    if text == "gstreamer":
        raise ConfigError('source = "gstreamer" needs the key pipeline, such as "v4l2src device=/dev/video0 ! appsink"')
    if text is not None:
        return _Origin(text, "the pipeline", live=not _FILES.search(text), exclusive=bool(_DEVICES.search(text)))
    if isinstance(source, int) or source.isdigit():
        return _device(f"/dev/video{source}", config)
    if source.startswith("/dev/"):
        return _device(source, config)
    scheme, found, rest = source.partition("://")
    if not found or scheme.lower() == "file":
        path = unquote("/" + rest.partition("/")[2]) if found else str(context.resolve(source))
        if Path(path).is_dir():
            raise ConfigError(f'{path} is a folder; for a folder of pictures set kind = "images"')
        return _Origin(f"filesrc name=origin ! parsebin name={STREAMS}", path, False, {"origin": {"location": path}})
    return _address(f"{scheme.lower()}://{rest}", context, config)


def _device(path: str, config: Config) -> _Origin:
    """A V4L2 device: pixels and JPEG go to the appsink as they are, the rest to a decoder."""
    asked = [f"{key}={value}" for key, value in (("width", config.width), ("height", config.height)) if value]
    if config.fps:
        asked.append(f"framerate={_fraction(config.fps)}")
    forms = [_FORMATS[config.format]] if config.format else ["image/jpeg", "video/x-raw"]
    caps = "; ".join(",".join([form, *asked]) for form in forms)
    decoded = config.format == "H264" or (config.format == "MJPG" and config.decode == "hardware")
    end = f"parsebin name={STREAMS}" if decoded else appsink(SINK, live=True)
    text = f'v4l2src name=origin ! capsfilter caps="{caps}" ! {end}'
    return _Origin(text, path, True, {"origin": {"device": path}}, exclusive=True, explain=partial(_explain, path, config))


def _explain(path: str, config: Config, fault: Fault) -> SourceUnavailable | None:
    """What is the matter with a device that GStreamer could not open: whose it is, what it is, what it offers instead."""
    if fault.code in {SourceErrorCode.TIMEOUT, SourceErrorCode.WEDGED}:
        return None
    if fault.code is SourceErrorCode.BUSY:
        return refusal(path, OSError(errno.EBUSY, "busy"))
    exact = frozenset(config.model_fields_set & {"width", "height", "fps"})
    wanted = modes.Wanted(config.width or 1280, config.height or 720, config.fps or 30, config.format or "auto", exact)
    try:
        node, capability = open_camera(path)
        try:
            modes.choose(modes.offers(node, capability.buffer_type, wanted), wanted)
        finally:
            node.close()
    except modes.NotOffered as refused:
        return SourceUnavailable(f"{path} ({capability.card}) {refused}", SourceErrorCode.UNSUPPORTED)
    except SourceUnavailable as error:
        return error
    except OSError as error:
        return refusal(path, error)
    return None


def _fraction(rate: float) -> str:
    return f"{round(rate)}/1" if abs(rate - round(rate)) < 0.01 else f"{round(rate * 1001)}/1001"


def _address(url: str, context: SourceContext, config: Config) -> _Origin:
    shown, scheme = redact(url), url.partition("://")[0]
    if scheme == "csi":
        raise ConfigError(f'{shown!r} is a CSI camera: leave kind out, or set kind = "csi"')
    if not urlsplit(url).hostname and scheme in {"rtsp", "rtsps", "http", "https"}:
        raise ConfigError(f"{shown!r} is no address; it should look like {scheme}://192.168.1.20/stream1")
    origin: dict[str, object] = {"location": url}
    if config.username:
        origin |= {"user-id": config.username, "user-pw": context.secret(config.password_file) if config.password_file else ""}
    if scheme in {"rtsp", "rtsps"}:
        timeout_us = int(max(config.open_timeout_s, config.read_timeout_s) * 1e6)
        options = f"protocols={config.transport} latency={config.latency_ms} tcp-timeout={timeout_us} timeout={timeout_us}"
        return _Origin(f"rtspsrc name=origin {options} ! parsebin name={STREAMS}", shown, True, {"origin": origin}, url)
    if scheme in {"http", "https"}:
        live = PurePath(urlsplit(url).path).suffix.lower() not in _HTTP_FILES
        options = f"timeout={max(1, round(config.open_timeout_s))} is-live={str(live).lower()}"
        return _Origin(f"souphttpsrc name=origin {options} ! parsebin name={STREAMS}", shown, live, {"origin": origin}, url)
    return _Origin(f"urisourcebin name=origin ! parsebin name={STREAMS}", shown, True, {"origin": {"uri": url}}, url)
