"""RTSP against a real server: GStreamer's, in a process of its own, looping the built-in clip."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.capture import CameraState, Capture
from edge_agent.errors import ConfigError, SourceErrorCode, SourceUnavailable
from edge_agent.preflight import build_source
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.sources import rtsp
from edge_agent.sources.base import Reading, Source
from tests.conftest import CLIP, free_port, make_config, wait_until
from tests.rtsp_server import RtspServer, python_with_gi
from tests.sources.media import context

SIZE = (320, 180)
SOON = BackoffPolicy(first_s=0.1, least_s=0.05, cap_s=0.2, stable_s=1000.0)
ENCODERS = {
    "h264": ("-c:v", "libx264", "-preset", "veryfast", "-x264-params", "aud=1:keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0"),
    "h265": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "aud=1:keyint={gop}:bframes=0:log-level=none"),
}


@pytest.fixture(scope="session")
def elementary(tmp_path_factory: pytest.TempPathFactory, ffmpeg: Callable[..., None]) -> Callable[[str, int], Path]:
    """The clip as the server takes it: by codec, and frames from one key frame to the next."""
    folder = tmp_path_factory.mktemp("rtsp")

    def make(codec: str, gop: int) -> Path:
        path = folder / f"{gop}.{codec}"
        if not path.exists():
            options = [option.format(gop=gop) for option in ENCODERS[codec]]
            ffmpeg("-i", CLIP, "-t", "8", "-vf", f"scale={SIZE[0]}:{SIZE[1]}", *options, path)
        return path

    return make


Serve = Callable[..., RtspServer]


@pytest.fixture
def serve(elementary: Callable[[str, int], Path]) -> Iterator[Serve]:
    """Starts servers, and stops them when the test is over."""
    if python_with_gi() is None:
        pytest.skip("needs GStreamer's RTSP server (Debian packages python3-gi, gir1.2-gst-rtsp-server-1.0)")
    servers: list[RtspServer] = []

    def start(*arguments: str, codec: str = "h264", gop: int = 15) -> RtspServer:
        server = RtspServer(elementary(codec, gop), free_port(), arguments, codec)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


def source_of(url: str, secret: str = "", **keys: Any) -> Source:
    return rtsp.build(context(url, secret), rtsp.Config(**keys))


@contextmanager
def opened(source: Source) -> Iterator[Source]:
    try:
        source.open()
        yield source
    finally:
        source.close()


def refused(source: Source) -> SourceUnavailable:
    with pytest.raises(SourceUnavailable) as caught:
        source.open()
    source.close()
    assert "\n" not in str(caught.value)
    return caught.value


def until_lost(source: Source) -> tuple[SourceUnavailable, float]:
    """How the stream was lost, and how long after its last picture."""
    last = time.monotonic()
    while True:
        try:
            source.read()
            last = time.monotonic()
        except SourceUnavailable as error:
            return error, time.monotonic() - last


def shows_the_clip(readings: list[Reading]) -> None:
    assert all((reading.image.width, reading.image.height) == SIZE for reading in readings)
    assert readings[-1].image.bgr().std() > 20, "a picture, and not a grey one"
    arrivals = [reading.captured_at for reading in readings]
    assert arrivals == sorted(arrivals)
    assert time.monotonic() - arrivals[-1] < 1


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("arguments", [(), ("--audio-first",)], ids=["video", "audio first"])
def test_frames_arrive(serve: Serve, transport: str, arguments: tuple[str, ...]) -> None:
    server = serve(*arguments)
    source = source_of(server.url, transport=transport)
    info = source.open()
    assert (info.width, info.height) == SIZE
    assert info.decoder.startswith("h264")
    shows_the_clip([source.read() for _ in range(20)])
    source.close()


def test_h265(serve: Serve) -> None:
    with opened(source_of(serve(codec="h265").url)) as source:
        shows_the_clip([source.read() for _ in range(20)])


def test_the_first_picture_does_not_wait_for_the_next_key_frame(serve: Serve) -> None:
    """Cameras send one every ten seconds; the one that the connection begins with must not be thrown away."""
    server = serve(gop=120)
    began = time.monotonic()
    with opened(source_of(server.url)) as source:
        source.read()
        took = time.monotonic() - began
    assert took < 4, "half of the time to the next key frame"


def test_a_scheme_in_capitals(serve: Serve) -> None:
    with opened(source_of(serve().url.replace("rtsp", "RTSP"))) as source:
        source.read()


# -- who may ------------------------------------------------------------------------------------------------------------

PASSWORD = "p@ss/w:rd%41#?"


def test_user_and_password_file(serve: Serve) -> None:
    server = serve("--auth", f"viewer:{PASSWORD}")
    with opened(source_of(server.url, PASSWORD, username="viewer", password_file="secret")) as source:
        source.read()


def test_the_password_file_is_read_when_the_source_is_built(serve: Serve, tmp_path: Path) -> None:
    server = serve("--auth", f"viewer:{PASSWORD}")
    (tmp_path / "secret").write_text(f"{PASSWORD}\nsecond line\n")
    camera = {"id": "front", "source": server.url, "username": "viewer", "password_file": "secret"}
    config = make_config({"cameras": [camera]}, path=tmp_path / "agent.toml")
    with opened(build_source(config, config.cameras[0])) as source:
        source.read()
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match="password_file"):
        build_source(config, config.cameras[0])


@pytest.mark.parametrize("given", ["none", "address", "file"])
def test_a_wrong_password_is_told_without_it(
    serve: Serve, given: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve("--auth", "viewer:right")
    url = server.url if given != "address" else server.url.replace("://", "://viewer:Wr0ngSecret@")
    keys = {"username": "viewer", "password_file": "secret"} if given == "file" else {}
    config = make_config({"cameras": [{"id": "front", "source": url}]})
    said: list[str] = []
    capture = Capture(
        config.cameras[0],
        source_of(url, "Wr0ngSecret", **keys),
        threading.Condition(),
        lambda changed: said.append(str(changed.status.error)),
        Backoff(SOON),
    )
    caplog.set_level(0)
    capture.start()
    wait_until(lambda: capture.status.reconnects >= 2)
    capture.stop()
    assert capture.join(10)
    error = capture.status.error
    assert error is not None
    assert error.code is SourceErrorCode.AUTH_FAILED
    printed = capfd.readouterr()
    for text in (str(error), repr(error), *said, caplog.text, printed.out, printed.err):
        assert "Wr0ngSecret" not in text
        assert "right" not in text


# -- who answers --------------------------------------------------------------------------------------------------------


def test_a_stream_that_the_server_does_not_have(serve: Serve) -> None:
    assert refused(source_of(serve().url + "2")).code is SourceErrorCode.NOT_FOUND


def test_nothing_listens() -> None:
    assert refused(source_of(f"rtsp://127.0.0.1:{free_port()}/")).code is SourceErrorCode.REFUSED


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_server_that_accepts_and_never_answers(transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        source = source_of(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/", transport=transport, open_timeout_s=0.5, read_timeout_s=30)
        error = refused(source)
        took = time.monotonic() - began
    assert error.code is SourceErrorCode.TIMEOUT
    assert "0.5 s" in str(error)
    assert took < 2


def test_a_server_that_talks_nonsense() -> None:
    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n<html>no camera</html>")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        error = refused(source_of(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/", open_timeout_s=2))
        thread.join()
    assert error.code in {SourceErrorCode.INVALID_DATA, SourceErrorCode.TIMEOUT, SourceErrorCode.FAILED}


def test_a_name_that_does_not_resolve() -> None:
    error = refused(source_of("rtsp://viewer:secret@no-such-camera.invalid/stream"))
    assert error.code is SourceErrorCode.UNREACHABLE
    assert "'no-such-camera.invalid' cannot be resolved" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "url", ["rtsp://", "rtsp:///stream", "rtsp://[::1/stream", "rtsp://host:port/", "rtsp://host:99999/", "rtsp://:554/"]
)
def test_addresses_that_make_no_sense(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        source_of(url)


# -- who stays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_a_stream_that_stops_without_closing_is_lost_within_the_read_timeout(serve: Serve, transport: str) -> None:
    server = serve()
    with opened(source_of(server.url, transport=transport, read_timeout_s=1)) as source:
        source.read()
        server.send(signal.SIGSTOP)
        error, after = until_lost(source)
    assert error.code is SourceErrorCode.TIMEOUT
    assert "1 s" in str(error)
    assert after < 2


def test_a_picture_that_stops_while_the_sound_goes_on_is_lost(serve: Serve) -> None:
    server = serve("--audio-first", "--stall-after", "10")
    with opened(source_of(server.url, read_timeout_s=1)) as source:
        error, after = until_lost(source)
    assert error.code is SourceErrorCode.TIMEOUT
    assert after < 2


@contextmanager
def watched(server: RtspServer, **keys: Any) -> Iterator[tuple[Capture, Callable[[], bool]]]:
    """A capture of the server's stream, and whether it has a new frame to serve."""
    config = make_config({"cameras": [{"id": "front", "source": server.url, **keys}]})
    wake = threading.Condition()
    capture = Capture(config.cameras[0], build_source(config, config.cameras[0]), wake, backoff=Backoff(SOON))
    capture.start()

    def serves() -> bool:
        with wake:
            frame = capture.take(time.monotonic())
        if frame is not None:
            capture.served()
        return frame is not None

    try:
        yield capture, serves
    finally:
        capture.stop()
        assert capture.join(10)
        capture.abandon()
        assert capture.snapshot().in_flight == 0


def test_a_killed_server_that_comes_back_is_served_again(serve: Serve) -> None:
    server = serve()
    with watched(server, read_timeout_s=1) as (capture, serves):
        wait_until(serves)
        for _ in range(2):
            server.stop()
            wait_until(lambda: capture.status.error is not None and capture.status.error.code is SourceErrorCode.REFUSED)
            assert capture.status.state in {CameraState.BACKOFF, CameraState.CONNECTING}
            while serves():
                pass
            server.start()
            wait_until(serves, 10)
            wait_until(lambda: capture.status.state is CameraState.ONLINE)
            assert capture.status.error is None


def test_a_stream_that_the_camera_ends_is_opened_again(serve: Serve) -> None:
    server = serve("--end-after", "15")
    with watched(server, read_timeout_s=1) as (capture, serves):
        wait_until(lambda: serves() and capture.status.reconnects >= 2)
        assert capture.status.state is not CameraState.ENDED


def test_a_server_that_hangs_and_goes_on_is_served_again(serve: Serve) -> None:
    server = serve()
    with watched(server, read_timeout_s=1, open_timeout_s=1) as (capture, serves):
        wait_until(serves)
        server.send(signal.SIGSTOP)
        wait_until(lambda: capture.status.state is CameraState.BACKOFF)
        server.send(signal.SIGCONT)
        while serves():
            pass
        wait_until(serves, 15)


@pytest.mark.slow
def test_a_hundred_restarts_leak_nothing(serve: Serve) -> None:
    server = serve()

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    with watched(server, read_timeout_s=2) as (_, serves):
        wait_until(serves)
        before = (0, 0)
        for number in range(100):
            server.stop()
            while serves():
                pass
            server.start()
            back = time.monotonic()
            wait_until(serves, 5, f"frames within 5 s of return number {number}")
            assert time.monotonic() - back < 5
            before = held() if number == 0 else before
        descriptors, threads = held()
    assert descriptors <= before[0] + 2
    assert threads <= before[1]
