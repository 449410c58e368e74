"""What could decode a stream here, best first: the documented order per board (docs/decisions/0005-hardware-decoding.md).

A candidate is a promise of the probe, not a fact: whoever opens it falls to the next where it fails, says why, and
reports what turned out to be live.

The FFmpeg path uses it so::

    plan = candidates("h264", config.decode)
    for candidate in plan.candidates:  # empty: SourceUnavailable(plan.reason, SourceErrorCode.CODEC_UNSUPPORTED)
        ...  # open candidate.name; where that fails, remember plan.after(candidate, reason) and try the next
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_agent.errors import ConfigError
from edge_agent.libraries import gstreamer
from edge_agent.sources._platform import DecoderNode, Platform, decoder_nodes, platform

Decode = Literal["auto", "hardware", "software"]
Engine = Literal["ffmpeg", "gstreamer"]

_SHOWN = {"h264": "H.264", "hevc": "H.265", "mjpeg": "JPEG"}


@dataclass(frozen=True)
class Candidate:
    """One decoder that may be tried."""

    name: str
    """Of the FFmpeg decoder, such as ``h264_v4l2m2m`` or ``h264``, or of the GStreamer element, such as ``nvv4l2decoder``."""
    hardware: bool
    engine: Engine = "ffmpeg"

    def shown(self) -> str:
        """As ``StreamInfo.decoder`` says it: ``h264 (FFmpeg, software)``."""
        return f"{self.name} ({'FFmpeg' if self.engine == 'ffmpeg' else 'GStreamer'}, {'hardware' if self.hardware else 'software'})"


@dataclass(frozen=True)
class Plan:
    """The candidates, best first, and what there is to say about what is not among them."""

    candidates: Sequence[Candidate]
    """Empty only where the configuration allows none."""
    reason: str = ""
    """Why the first is not hardware, or why there is none; empty where it is hardware."""


def candidates(codec_name: str, decode: Decode = "auto", here: Platform | None = None, nodes: Sequence[DecoderNode] | None = None) -> Plan:
    """FFmpeg's decoders for ``codec_name`` (``h264``, ``hevc``, ``mjpeg``, ...), best first; never raises.

    ``here`` and ``nodes`` default to what this machine is and has. Loads PyAV.
    """
    software = Candidate(codec_name, hardware=False)
    if decode == "software":
        return Plan([software], 'decode = "software"')
    hardware, missing = _ffmpeg_hardware(codec_name, here or platform(), decoder_nodes() if nodes is None else nodes)
    if hardware is None:
        return Plan([software] if decode == "auto" else [], missing)
    return Plan([hardware, software] if decode == "auto" else [hardware])


def _ffmpeg_hardware(codec: str, here: Platform, nodes: Sequence[DecoderNode]) -> tuple[Candidate | None, str]:
    """The one decoder in hardware that FFmpeg can use, or why there is none."""
    name, shown = f"{codec}_v4l2m2m", _SHOWN.get(codec, codec)
    if here.board == "jetson":
        return None, f'PyAV cannot use the decoder of a Jetson; kind = "gstreamer" can, for {shown}'
    if not (mine := [node for node in nodes if node.codec == codec]):
        return None, f"{here.name} has no decoder for {shown} in hardware that can be opened"
    if all(node.stateless for node in mine):
        return None, f'PyAV cannot use {mine[0].path}, which decodes {shown} by the request API; kind = "gstreamer" can (v4l2codecs)'
    if not _in_pyav(name):
        return None, f"this PyAV was built without {name}"
    return Candidate(name, hardware=True), ""


def _in_pyav(name: str) -> bool:
    import av
    import av.codec

    try:
        av.codec.Codec(name, "r")
    except (ValueError, av.FFmpegError):  # UnknownCodecError is a ValueError
        return False
    return True


@dataclass(frozen=True)
class Surveyed:
    """What would decode one codec for the kinds of source that one engine serves: a line of ``edge-agent devices``."""

    codec: str
    """As people write it: H.264, H.265."""
    engine: Engine
    """``ffmpeg`` serves the kinds rtsp and file, ``gstreamer`` the kind gstreamer."""
    decoders: Sequence[Candidate]
    """Best first: what ``decode = "auto"`` tries. Empty: none."""
    reason: str
    """Why the first is not hardware, or why there is none."""

    def __str__(self) -> str:
        tried = ", then ".join(candidate.shown() for candidate in self.decoders) or "none"
        return f"{self.codec}: {tried}" + (f" - {self.reason}" if self.reason else "")


def survey(codecs: Sequence[str] = ("h264", "hevc")) -> list[Surveyed]:
    """What this machine has to decode with, in the order in which it is tried. Never raises.

    Loads PyAV and GStreamer where they are; the first look at GStreamer's plugins may take seconds on a small board.
    """
    here, nodes = platform(), decoder_nodes()
    plans = [(codec, candidates(codec, "auto", here, nodes)) for codec in codecs]
    found = [Surveyed(_SHOWN.get(codec, codec), "ffmpeg", plan.candidates, plan.reason) for codec, plan in plans]
    try:
        gst = gstreamer()
    except ConfigError as error:
        return [*found, *(Surveyed(_SHOWN.get(codec, codec), "gstreamer", (), str(error)) for codec in codecs)]
    from edge_agent.sources import _gst_decoders  # which knows this module

    for codec in codecs:
        plan = _gst_decoders.plan(codec, "auto", here, lambda element: gst.ElementFactory.find(element) is not None)
        found.append(Surveyed(_SHOWN.get(codec, codec), "gstreamer", plan.candidates, plan.reason))
    return found
