"""GStreamer's decoders: which to try on which board, how each is wired to the appsink, and which one is live.

The order is a table, and the reasons for it are in docs/decisions/0005-hardware-decoding.md. The wiring for Jetson and
Raspberry Pi follows their vendors' documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.sources._decoders import Candidate, Decode, Plan
from edge_agent.sources._gst_images import CAPS
from edge_agent.sources._platform import Board, Platform

CODECS = {
    "video/x-h264": "h264",
    "video/x-h265": "hevc",
    "image/jpeg": "mjpeg",
    "video/x-vp8": "vp8",
    "video/x-vp9": "vp9",
    "video/x-av1": "av1",
}
"""FFmpeg's name of a codec by GStreamer's name of its format."""

_PARSERS = {"h264": "h264parse", "hevc": "h265parse", "mjpeg": "jpegparse", "vp9": "vp9parse", "av1": "av1parse"}
_BOARDS: Mapping[Board, Mapping[str, Sequence[str]]] = {
    "jetson": dict.fromkeys(("h264", "hevc", "vp8", "vp9", "av1"), ("nvv4l2decoder",)) | {"mjpeg": ("nvv4l2decoder", "nvjpegdec")},
    "pi3": {"h264": ("v4l2h264dec",), "mjpeg": ("v4l2jpegdec",)},
    "pi4": {"h264": ("v4l2h264dec",), "hevc": ("v4l2slh265dec",), "mjpeg": ("v4l2jpegdec",)},
    "pi5": {"hevc": ("v4l2slh265dec",)},
    "pi": {"h264": ("v4l2h264dec",), "mjpeg": ("v4l2jpegdec",)},
}
_GENERIC: Mapping[str, Sequence[str]] = {
    "h264": ("vah264dec", "nvh264dec", "v4l2slh264dec", "v4l2h264dec", "qsvh264dec", "vaapih264dec"),
    "hevc": ("vah265dec", "nvh265dec", "v4l2slh265dec", "v4l2h265dec", "qsvh265dec", "vaapih265dec"),
    "mjpeg": ("vajpegdec", "nvjpegdec", "v4l2jpegdec", "qsvjpegdec", "vaapijpegdec"),
    "vp8": ("vavp8dec", "nvvp8dec", "v4l2slvp8dec", "v4l2vp8dec"),
    "vp9": ("vavp9dec", "nvvp9dec", "v4l2slvp9dec", "v4l2vp9dec"),
    "av1": ("vaav1dec", "nvav1dec", "v4l2slav1dec"),
}
_SOFTWARE: Mapping[str, Sequence[str]] = {
    "h264": ("avdec_h264", "openh264dec"),
    "hevc": ("avdec_h265", "libde265dec"),
    "mjpeg": ("jpegdec",),
    "vp8": ("vp8dec", "avdec_vp8"),
    "vp9": ("vp9dec", "avdec_vp9"),
    "av1": ("dav1ddec", "av1dec"),
}
_SHOWN = {"h264": "H.264", "hevc": "H.265", "mjpeg": "JPEG", "vp8": "VP8", "vp9": "VP9", "av1": "AV1"}
_HARDWARE_NAMES = ("nvv4l2", "nvjpeg", "omx", "v4l2", "va", "qsv", "msdk", "mpp", "imxvpu", "nvdec", "nvh26", "nvmpeg", "nvvp", "nvav1")
"""Beginnings of the names of hardware decoders; not all of them say "Hardware" of themselves (NVIDIA's do not)."""
_LAZY = 'JPEG stays as it came and is decoded when served, at the nearest reduced size; decode = "hardware" decodes every frame in hardware'

Exists = Callable[[str], bool]
HasProperty = Callable[[str, str], bool]


def plan(codec: str, decode: Decode, here: Platform, exists: Exists) -> Plan:
    """The elements for a codec, best first. ``exists`` tells whether GStreamer has an element."""
    shown = _SHOWN.get(codec, codec)
    software = [Candidate(name, hardware=False, engine="gstreamer") for name in _SOFTWARE.get(codec, ()) if exists(name)]
    if codec == "mjpeg":
        software = [Candidate("", hardware=False, engine="gstreamer")]
        if decode == "auto":
            return Plan(software, _LAZY)
    if decode == "software":
        return Plan(software, 'decode = "software"')
    wanted = _BOARDS.get(here.board, _GENERIC).get(codec, ())
    hardware = [Candidate(name, hardware=True, engine="gstreamer") for name in wanted if exists(name)]
    if hardware:
        return Plan(hardware + (software if decode == "auto" else []))
    if not wanted:
        return Plan(software if decode == "auto" else [], f"{here.name} has no decoder for {shown} in hardware")
    reason = f"no GStreamer element for {shown} in hardware here (looked for {', '.join(wanted)})"
    return Plan(software if decode == "auto" else [], reason)


@dataclass(frozen=True)
class Sizes:
    """What is known of a stream when its decoder is wired."""

    source: tuple[int, int] | None = None
    """Width and height."""
    model: tuple[int, int] | None = None

    @property
    def scaled(self) -> tuple[int, int] | None:
        """The size for hardware to resize to: the model's, where the camera's is larger. Even, as chroma wants it."""
        if self.source is None or self.model is None:
            return None
        width, height = (min(given, -(-wanted // 2) * 2) for given, wanted in zip(self.source, self.model, strict=True))
        return (width, height) if (width, height) != self.source else None


def wiring(codec: str, candidate: Candidate, sizes: Sizes, has: HasProperty, sink: str) -> str:
    """The description of a bin from a codec's stream to ``sink``, a description of the appsink.

    ``has`` tells whether an element has a property: vendors add and remove them. Frames stay in the decoder's memory up to
    the resize where the hardware resizes; nvvidconv has no BGR of three bytes, so four come out of it.
    """
    name = candidate.name
    if not name:  # JPEG as it came
        return sink if sizes.source else f"jpegparse ! {sink}"  # whose headers tell the size
    parser = _PARSERS.get(codec)
    parts = [parser] if parser else []
    caps = _size_caps(sizes.scaled)
    if name == "nvv4l2decoder":
        options = [("mjpeg", "1")] if codec == "mjpeg" else []
        parts += [_element(name, [*options, ("enable-max-performance", "1")], has), *nvidia_tail(sizes, has)]
    elif name.startswith("va") and not name.startswith("vaapi"):
        parts += [name, *(["vapostproc", f"video/x-raw,format=NV12{caps}"] if caps else [])]
    elif name.startswith("vaapi"):
        parts += [name, f"vaapipostproc ! video/x-raw,format=NV12{caps}"]
    else:
        parts += [name, "videoconvert"]  # passes through what the appsink takes as it is
    return " ! ".join([*parts, sink])


def nvidia_tail(sizes: Sizes, has: HasProperty) -> list[str]:
    """From a Jetson's device memory to the CPU's: resized on the way where the sizes are known, in NV12 where not."""
    caps = _size_caps(sizes.scaled)
    # Its default is the nearest pixel, which detectors do not see well with.
    convert = _element("nvvidconv", [("interpolation-method", "5")] if caps else [], has)
    return [convert, f"video/x-raw,format={'BGRx' if caps else 'NV12'}{caps}"]


def _size_caps(size: tuple[int, int] | None) -> str:
    return f",width={size[0]},height={size[1]}" if size else ""


def _element(name: str, options: Sequence[tuple[str, str]], has: HasProperty) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in options if has(name, key))])


def appsink(name: str, *, live: bool) -> str:
    """The description of the appsink that is read: the newest picture of what is live, every one of a file."""
    kept = "max-buffers=1 drop=true" if live else "max-buffers=4 drop=false"
    return f'appsink name={name} {kept} sync=false enable-last-sample=false caps="{CAPS}"'


def live_decoders(gst: Any, pipeline: Any) -> list[Candidate]:
    """The decoders for pictures that are in a pipeline now, those that were plugged in by themselves too."""
    found = []
    for element in elements(gst, pipeline):
        factory = element.get_factory()
        if factory is None:
            continue
        name, klass = factory.get_name(), factory.get_metadata("klass") or ""
        if is_decoder(klass):
            found.append(Candidate(name, hardware=is_hardware(name, klass), engine="gstreamer"))
    return found


def is_decoder(klass: str) -> bool:
    """Whether an element class such as ``Codec/Decoder/Video/Hardware`` decodes pictures, and does not only hold what does."""
    parts = klass.split("/")
    return "Decoder" in parts and ("Video" in parts or "Image" in parts) and "Bin" not in parts and "Generic" not in parts


def is_hardware(name: str, klass: str) -> bool:
    """By what the element says of itself, or by its name."""
    return "Hardware" in klass.split("/") or name.startswith(_HARDWARE_NAMES)


def elements(gst: Any, pipeline: Any) -> list[Any]:
    """Every element in a pipeline, at any depth."""
    found: list[Any] = []
    iterator = pipeline.iterate_recurse()
    while True:
        result, element = iterator.next()
        if result == gst.IteratorResult.OK:
            found.append(element)
        elif result == gst.IteratorResult.RESYNC:
            found.clear()
            iterator.resync()
        else:
            return found
