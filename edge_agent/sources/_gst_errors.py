"""GStreamer's error messages as the typed reasons of this package, and the Debian packages of its elements.

GStreamer tells the kind by a domain and a number (``GstResourceError``, ``GstStreamError``, ``GstCoreError``), often
only roughly; the rest stands in its debug text, and for a network in nothing but a connection of our own.
"""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from edge_agent.errors import SourceErrorCode
from edge_agent.redaction import redact

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_DIAGNOSIS_S = 1.0

Code = SourceErrorCode
_KINDS = {
    ("gst-resource-error-quark", 3): Code.NOT_FOUND,
    ("gst-resource-error-quark", 4): Code.BUSY,
    ("gst-resource-error-quark", 15): Code.AUTH_FAILED,
    ("gst-stream-error-quark", 4): Code.INVALID_DATA,  # TYPE_NOT_FOUND
    ("gst-stream-error-quark", 5): Code.INVALID_DATA,  # WRONG_TYPE
    ("gst-stream-error-quark", 6): Code.CODEC_UNSUPPORTED,  # CODEC_NOT_FOUND
    ("gst-stream-error-quark", 7): Code.INVALID_DATA,  # DECODE
    ("gst-stream-error-quark", 9): Code.INVALID_DATA,  # DEMUX
    ("gst-core-error-quark", 12): Code.CODEC_UNSUPPORTED,  # MISSING_PLUGIN
}
_TEXTS: tuple[tuple[str, SourceErrorCode], ...] = (
    # of ioctl and open, through v4l2src and filesrc
    (r"No such device|poll error 1", Code.UNPLUGGED),
    (r"Permission denied", Code.PERMISSION),
    (r"Device or resource busy|is busy|resource busy", Code.BUSY),
    (r"No such file or directory|No such file", Code.NOT_FOUND),
    # of servers
    (r"Unauthorized|\b401\b|Forbidden|\b403\b", Code.AUTH_FAILED),
    (r"Not Found|\b404\b", Code.NOT_FOUND),
    (r"certificate|TLS|SSL", Code.TLS),
    (r"refused", Code.REFUSED),
    (r"resolve|unreachable|No route", Code.UNREACHABLE),
    (r"[Tt]imed? ?out", Code.TIMEOUT),
    (r"not-negotiated|not-linked|not negotiated", Code.CODEC_UNSUPPORTED),
)

_PACKAGES = {  # the first whose words, which are patterns, match an element's whole name
    "nvidia-l4t-gstreamer": r"nvv4l2\w+ nvvidconv nvargus\w+ nvjpeg\w+ nvoverlay\w+ nvegl\w+ nvcompositor",
    "gstreamer1.0-libcamera": r"libcamera\w+",
    "gstreamer1.0-libav": r"av(dec|enc|mux|demux)_\w+",
    "gstreamer1.0-vaapi": r"vaapi\w+",
    "gstreamer1.0-plugins-good": r"v4l2(src|sink|h26|jpeg|vp|convert|mpeg)\w* rtspsrc rtp\w+ udpsrc souphttpsrc multifilesrc"
    r" (qt|avi|flv|matroska|multipart)demux jpegdec pngdec vp[89]dec video(crop|box|flip|balance) deinterlace imagefreeze",
    "gstreamer1.0-plugins-bad": r"(h26[45]|jpeg|vp9|av1|mpegvideo)parse openh264dec libde265dec av1dec v4l2sl\w+ va\w+ nv\w+ tsdemux"
    r" (srt|rtmp|hls|dash|webrtc|msdk|qsv|kms|wayland)\w+ rtspsrc2 uvch264src",
    "gstreamer1.0-plugins-base": r"videoconvert\w* videoscale videorate videotestsrc appsink appsrc (uri)?decodebin3? parsebin playbin3?"
    r" tcp\w+ giosrc",
    "gstreamer1.0-plugins-ugly": r"x264enc asfdemux rmdemux mpeg2dec",
    "libgstreamer1.0-0": r"filesrc queue2? capsfilter fakesink tee identity typefind multiqueue valve input-selector",
}
_DECODERS = {
    "video/x-h264": "gstreamer1.0-libav", "video/x-h265": "gstreamer1.0-libav", "video/mpeg": "gstreamer1.0-libav",
    "image/jpeg": "gstreamer1.0-plugins-good", "video/x-vp8": "gstreamer1.0-plugins-good", "video/x-vp9": "gstreamer1.0-plugins-good",
    "video/x-av1": "gstreamer1.0-plugins-bad",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What a pipeline said was wrong."""

    code: SourceErrorCode
    reason: str
    element: str = ""
    """The path of the element that said so, such as ``/GstPipeline:p/GstBin:b/GstV4l2H264Dec:d``."""


def package_of(element: str) -> str | None:
    """The Debian package that brings an element; None where we do not know."""
    for package, words in _PACKAGES.items():
        if any(re.fullmatch(word, element) for word in words.split()):
            return package
    return None


def missing_element(element: str) -> str:
    """What to do about an element that GStreamer does not have."""
    package = package_of(element)
    return f"GStreamer has no element {element!r} here; " + (
        f"apt install {package}" if package else "is its name right, and its plugin installed?"
    )


def missing_plugin(structure: Any) -> str:
    """The same from GStreamer's own "missing-plugin" message, which names an element or a format."""
    kind, name = structure.get_string("type"), structure.get_string("name") or ""
    detail = structure.get_value("detail")
    if kind == "element":
        return missing_element(str(detail))
    form = detail.get_structure(0).get_name() if hasattr(detail, "get_structure") else str(detail)
    package = _DECODERS.get(form) or "gstreamer1.0-libav gstreamer1.0-plugins-bad"
    return f"GStreamer has no {name or f'{kind} for {form}'} here; apt install {package}"


def fault(domain: str, number: int, message: str, debug: str, element: str = "") -> Fault:
    """One error message of a pipeline's bus. Credentials are taken out."""
    # "…/gstfilesrc.c(553): start (): /GstPipeline:…:\nwhat it is about": only the last part is for people.
    detail = debug.rpartition(":\n")[2] if ":\n" in debug else ""
    said = f"{message}\n{detail}"
    code = next((code for pattern, code in _TEXTS if re.search(pattern, said)), None)
    kind = _KINDS.get((domain, number))
    # What the kernel or the server said is closer to the truth than GStreamer's sorting, but for passwords and codecs.
    code = kind if kind in {Code.AUTH_FAILED, Code.CODEC_UNSUPPORTED, Code.BUSY} else code or kind or Code.FAILED
    parts = [part.strip().rstrip(".") for part in (message, detail.replace("system error: ", "")) if part.strip()]
    reason = ": ".join(dict.fromkeys(" ".join(part.split()) for part in parts if part.strip() not in {"system error", "Success"}))
    return Fault(code or Code.FAILED, redact(reason), element)


def network_fault(url: str) -> tuple[SourceErrorCode, str] | None:
    """What keeps us from a server, where GStreamer has only "Generic error" to say for it. Waits at most a second or two."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in _PORTS:
        return None
    try:
        with socket.create_connection((parts.hostname, parts.port or _PORTS[parts.scheme]), _DIAGNOSIS_S) as connection:
            if parts.scheme in {"rtsps", "https"}:
                ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname).close()
    except (OSError, ValueError) as error:
        return _network_reason(error, parts.hostname)
    return None


def _network_reason(error: Exception, host: str) -> tuple[SourceErrorCode, str]:
    if isinstance(error, ssl.SSLError):
        why = getattr(error, "verify_message", "") or error.reason or "handshake failed"
        return Code.TLS, f"the server's certificate or TLS is not accepted: {why}"
    if isinstance(error, socket.gaierror):
        return Code.UNREACHABLE, f"the name {host!r} cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return Code.REFUSED, "connection refused"
    if isinstance(error, TimeoutError):
        return Code.TIMEOUT, f"no answer within {_DIAGNOSIS_S:g} s"
    return Code.UNREACHABLE, redact(getattr(error, "strerror", None) or str(error))
