"""The GStreamer source against a real RTSP server: what arrives, what is refused, and what is lost."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import EndOfStream, SourceErrorCode, SourceUnavailable
from edge_agent.sources import gstreamer
from edge_agent.sources.base import Source
from tests.conftest import CLIP, free_port, wait_until
from tests.rtsp_server import RtspServer, python_with_gi
from tests.sources.gst import needs_gstreamer
from tests.sources.media import context

pytestmark = needs_gstreamer
SIZE = (320, 180)
ENCODERS = {
    "h264": ("-c:v", "libx264", "-preset", "veryfast", "-x264-params", "aud=1:keyint=15:min-keyint=15:scenecut=0:bframes=0"),
    "h265": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "aud=1:keyint=15:bframes=0:log-level=none"),
}
Serve = Callable[..., RtspServer]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, ffmpeg: Callable[..., None]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gst-rtsp")
    for codec, options in ENCODERS.items():
        ffmpeg("-i", CLIP, "-t", "4", "-vf", f"scale={SIZE[0]}:{SIZE[1]}", *options, folder / f"clip.{codec}")
    return {codec: folder / f"clip.{codec}" for codec in ENCODERS}


@pytest.fixture
def serve(clips: dict[str, Path]) -> Iterator[Serve]:
    if python_with_gi() is None:
        pytest.skip("needs GStreamer's RTSP server (Debian packages python3-gi, gir1.2-gst-rtsp-server-1.0)")
    servers: list[RtspServer] = []

    def start(*arguments: str, codec: str = "h264", port: int = 0) -> RtspServer:
        servers.append(RtspServer(clips[codec], port or free_port(), arguments, codec))
        return servers[-1].start()

    yield start
    for server in servers:
        server.stop()


def source_of(url: str, secret: str = "", **keys: Any) -> Source:
    return gstreamer.build(context(url, secret), gstreamer.Config(**keys))


def refused(source: Source) -> SourceUnavailable:
    with pytest.raises(SourceUnavailable) as caught:
        source.open()
    source.close()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("codec", ["h264", "h265"])
@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("arguments", [(), ("--audio-first",)], ids=["video", "audio first"])
def test_frames_arrive(serve: Serve, codec: str, transport: str, arguments: tuple[str, ...]) -> None:
    source = source_of(serve(*arguments, codec=codec).url, transport=transport)
    info = source.open()
    assert (info.width, info.height) == SIZE
    assert info.decoder.endswith("(GStreamer, software)")
    assert info.decoder_reason
    readings = [source.read() for _ in range(10)]
    assert time.monotonic() - readings[-1].captured_at < 1
    source.close()
    assert all((reading.image.width, reading.image.height) == SIZE for reading in readings)
    assert readings[-1].image.bgr().std() > 20, "a picture, and not a grey one, also after the source was closed"
    arrivals = [reading.captured_at for reading in readings]
    assert arrivals == sorted(arrivals)


def test_a_wrong_password_is_said_and_not_shown(serve: Serve) -> None:
    url = serve("--auth", "viewer:s3cret").url
    for source in (
        source_of(url),
        source_of(url, "wr0ng", username="viewer", password_file="f"),
        source_of(url.replace("//", "//viewer:wr0ng@")),
    ):
        error = refused(source)
        assert error.code is SourceErrorCode.AUTH_FAILED
        assert "wr0ng" not in str(error)


def test_the_right_password_opens(serve: Serve) -> None:
    url = serve("--auth", "viewer:s3cret").url
    for source in (source_of(url, "s3cret", username="viewer", password_file="f"), source_of(url.replace("//", "//viewer:s3cret@"))):
        source.open()
        source.close()


def test_an_unknown_path_is_not_found(serve: Serve) -> None:
    assert refused(source_of(serve().url.replace("/cam", "/nothing"))).code is SourceErrorCode.NOT_FOUND


def test_nobody_there_is_refused_at_once() -> None:
    asked = time.monotonic()
    assert refused(source_of(f"rtsp://127.0.0.1:{free_port()}/cam")).code is SourceErrorCode.REFUSED
    assert time.monotonic() - asked < 3


def test_a_server_that_never_answers_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asked = time.monotonic()
        error = refused(source_of(f"rtsp://127.0.0.1:{listening.getsockname()[1]}/cam", open_timeout_s=1))
    assert error.code is SourceErrorCode.TIMEOUT
    assert time.monotonic() - asked < 4


def test_a_server_without_tls_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for _ in range(4):
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(10)
                    connection.sendall(b"RTSP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert refused(source_of(f"rtsps://127.0.0.1:{listening.getsockname()[1]}/cam")).code is SourceErrorCode.TLS
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def lost(source: Source) -> SourceUnavailable | EndOfStream:
    while True:
        try:
            source.read()
        except (SourceUnavailable, EndOfStream) as error:
            return error


def test_a_stream_that_stops_sending_is_lost_in_time(serve: Serve) -> None:
    server = serve()
    source = source_of(server.url, read_timeout_s=1)
    source.open()
    server.send(signal.SIGSTOP)
    asked = time.monotonic()
    assert lost(source).code is SourceErrorCode.TIMEOUT
    assert time.monotonic() - asked < 3
    asked = time.monotonic()
    source.close()
    assert time.monotonic() - asked < 3
    server.send(signal.SIGCONT)


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_a_server_that_comes_back_is_read_again_and_nothing_is_left_behind(serve: Serve, rounds: int) -> None:
    server = serve()
    source = source_of(server.url, read_timeout_s=2)
    counts = []
    for _ in range(rounds):
        source.open()
        source.read()
        server.stop()
        lost(source)
        source.close()
        assert refused(source).code is SourceErrorCode.REFUSED
        server.start()
        counts.append((len(os.listdir("/proc/self/fd")), threads()))
    server.stop()
    source.close()
    first, last = counts[1], counts[-1]
    assert last[0] <= first[0] + 2, f"descriptors, threads: {counts}"
    wait_until(lambda: threads() <= first[1] + 2, 10, f"threads to end; {counts}")
