"""What GStreamer says, as recorded from its own messages, and what we make of it. Needs no GStreamer."""

from __future__ import annotations

import socket

import pytest

from edge_agent.errors import SourceErrorCode as Code
from edge_agent.sources._gst_errors import fault, network_fault, package_of
from tests.conftest import free_port

RESOURCE, STREAM, CORE = "gst-resource-error-quark", "gst-stream-error-quark", "gst-core-error-quark"


def debug(text: str) -> str:
    """As it comes: a place in GStreamer's source, the element's path, and on a line of its own what it is about."""
    return f"../sys/v4l2/v4l2_calls.c(608): gst_v4l2_open (): /GstPipeline:pipeline3/GstV4l2Src:v4l2src0:\n{text}"


@pytest.mark.parametrize(
    ("domain", "number", "message", "text", "code"),
    [
        (RESOURCE, 3, "Cannot identify device '/dev/video77'.", "system error: No such file or directory", Code.NOT_FOUND),
        (RESOURCE, 7, "Could not open device '/dev/video0' for reading and writing.", "system error: Permission denied", Code.PERMISSION),
        (RESOURCE, 4, "Device '/dev/video0' is busy", "Call to S_FMT failed for YUYV @ 640x360: Device or resource busy", Code.BUSY),
        (RESOURCE, 1, "Failed to allocate required memory.", "Buffer pool activation failed", Code.FAILED),
        (RESOURCE, 9, "Could not read from resource.", "poll error 1: No such device (19)", Code.UNPLUGGED),
        (RESOURCE, 15, "Unauthorized", "Unauthorized (401)", Code.AUTH_FAILED),
        (RESOURCE, 3, "Not found", "Not Found (404)", Code.NOT_FOUND),
        (RESOURCE, 7, "Could not open resource for reading and writing.", "Failed to connect. (Generic error)", Code.FAILED),
        (STREAM, 5, "This appears to be a text file", "ParseBin cannot parse plain text files", Code.INVALID_DATA),
        (STREAM, 4, "Stream contains no data.", "Can't typefind empty stream", Code.INVALID_DATA),
        (STREAM, 1, "Internal data stream error.", "streaming stopped, reason not-negotiated (-4)", Code.CODEC_UNSUPPORTED),
        (CORE, 12, "Your GStreamer installation is missing a plug-in.", "no suitable plugins found", Code.CODEC_UNSUPPORTED),
    ],
)
def test_recorded_messages_are_typed(domain: str, number: int, message: str, text: str, code: Code) -> None:
    found = fault(domain, number, message, debug(text), "/GstPipeline:pipeline3/GstV4l2Src:v4l2src0")
    assert found.code is code
    assert "v4l2_calls.c" not in found.reason
    assert "\n" not in found.reason


def test_credentials_are_taken_out() -> None:
    found = fault(RESOURCE, 5, "Could not connect", debug("rtsp://viewer:s3cret@10.0.0.7/x was refused"))
    assert "s3cret" not in found.reason
    assert found.code is Code.REFUSED


@pytest.mark.parametrize(
    ("element", "package"),
    [
        ("nvarguscamerasrc", "nvidia-l4t-gstreamer"),
        ("nvv4l2decoder", "nvidia-l4t-gstreamer"),
        ("libcamerasrc", "gstreamer1.0-libcamera"),
        ("avdec_h264", "gstreamer1.0-libav"),
        ("v4l2src", "gstreamer1.0-plugins-good"),
        ("v4l2h264dec", "gstreamer1.0-plugins-good"),
        ("v4l2slh265dec", "gstreamer1.0-plugins-bad"),
        ("h264parse", "gstreamer1.0-plugins-bad"),
        ("vah264dec", "gstreamer1.0-plugins-bad"),
        ("vaapih264dec", "gstreamer1.0-vaapi"),
        ("rtph265depay", "gstreamer1.0-plugins-good"),
        ("videoconvert", "gstreamer1.0-plugins-base"),
        ("uridecodebin3", "gstreamer1.0-plugins-base"),
        ("x264enc", "gstreamer1.0-plugins-ugly"),
        ("filesrc", "libgstreamer1.0-0"),
        ("nosuchelement", None),
    ],
)
def test_elements_name_their_debian_packages(element: str, package: str | None) -> None:
    assert package_of(element) == package


def test_a_network_is_asked_what_gstreamer_does_not_tell() -> None:
    refused = network_fault(f"rtsp://viewer:s3cret@127.0.0.1:{free_port()}/cam")
    assert refused is not None
    assert refused[0] is Code.REFUSED
    unknown = network_fault("rtsp://no-such-host.invalid/cam")
    assert unknown is not None
    assert unknown[0] is Code.UNREACHABLE
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert network_fault(f"rtsp://127.0.0.1:{listening.getsockname()[1]}/cam") is None
    assert network_fault("udp://127.0.0.1:5000") is None
