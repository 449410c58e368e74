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

import av
import pytest

from edge_agent.camera_sources import build_source
from edge_agent.camera_state import CameraState
from edge_agent.capture import Capture
from edge_agent.errors import ConfigError, SourceErrorCode, SourceUnavailable
from edge_agent.image import JpegImage
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.sources import rtsp
from edge_agent.sources._ffmpeg import FfmpegSource
from edge_agent.sources._platform import decoder_nodes
from edge_agent.sources.base import Reading, Source
from tests.conftest import CLIP, free_port, make_config, wait_until
from tests.rtsp_server import FPS, RtspServer, access_units, python_with_gi
from tests.sources.media import context, self_signed

SIZE, LARGE = (320, 180), (640, 360)
SUFFIXES = {"jpeg": "mjpeg"}
VERIFIES = av.library_versions["libavformat"][0] >= 62
SOON = BackoffPolicy(first_s=0.1, least_s=0.05, cap_s=0.2, stable_s=1000.0)
ENCODERS = {
    "h264": ("-c:v", "libx264", "-preset", "veryfast", "-x264-params", "aud=1:keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0"),
    "h265": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "aud=1:keyint={gop}:bframes=0:log-level=none"),
    "jpeg": ("-c:v", "mjpeg", "-q:v", "5", "-pix_fmt", "yuvj420p"),
}


@pytest.fixture(scope="session")
def elementary(tmp_path_factory: pytest.TempPathFactory, ffmpeg: Callable[..., None]) -> Callable[..., Path]:
    """The clip as the server takes it: by codec, and frames from one key frame to the next."""
    folder = tmp_path_factory.mktemp("rtsp")

    def make(codec: str, gop: int, size: tuple[int, int] = SIZE) -> Path:
        path = folder / f"{gop}_{size[0]}.{SUFFIXES.get(codec, codec)}"
        if not path.exists():
            options = [option.format(gop=gop) for option in ENCODERS[codec]]
            ffmpeg("-i", CLIP, "-t", "8", "-vf", f"scale={size[0]}:{size[1]}", *options, path)
        return path

    return make


Serve = Callable[..., RtspServer]


@pytest.fixture
def serve(elementary: Callable[..., Path]) -> Iterator[Serve]:
    """Starts servers, and stops them when the test is over."""
    if python_with_gi() is None:
        pytest.skip("needs GStreamer's RTSP server (Debian packages python3-gi, gir1.2-gst-rtsp-server-1.0)")
    servers: list[RtspServer] = []

    def start(*arguments: str, codec: str = "h264", gop: int = 15, clip: Path | None = None) -> RtspServer:
        server = RtspServer(clip or elementary(codec, gop), free_port(), arguments, codec)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself."""
    return self_signed(tmp_path_factory.mktemp("tls") / "camera.pem")


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


def shows_the_clip(readings: list[Reading], size: tuple[int, int] = SIZE) -> None:
    assert all((reading.image.width, reading.image.height) == size for reading in readings)
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


def test_motion_jpeg_is_not_decoded_before_it_is_served(serve: Serve, elementary: Callable[..., Path]) -> None:
    with opened(source_of(serve(clip=elementary("jpeg", 15, LARGE), codec="jpeg").url)) as source:
        readings = [source.read() for _ in range(20)]
    assert all(isinstance(reading.image, JpegImage) for reading in readings)
    shows_the_clip(readings, LARGE)


def test_a_size_that_changes_in_mid_stream_is_followed(serve: Serve, elementary: Callable[..., Path]) -> None:
    """As a camera does whose user changes its settings."""
    small, large = elementary("h264", 15), elementary("h264", 15, LARGE)
    both = small.with_name("both.h264")
    both.write_bytes(b"".join(access_units(small.read_bytes(), "h264")[:20]) + large.read_bytes())
    server = serve(clip=both)
    sizes: list[tuple[int, int]] = []
    with opened(source_of(server.url)) as source:
        while LARGE not in sizes or len(sizes) < 30:
            reading = source.read()
            sizes.append((reading.image.width, reading.image.height))
            assert reading.image.bgr().shape[1::-1] == sizes[-1]
    assert sizes[0] == SIZE


def test_a_stream_without_video(serve: Serve) -> None:
    error = refused(source_of(serve("--audio-only").url, open_timeout_s=2))
    assert error.code in {SourceErrorCode.INVALID_DATA, SourceErrorCode.FAILED}


def test_the_time_of_a_frame_is_when_it_came_and_not_when_ffmpeg_hands_it_out(serve: Serve) -> None:
    server = serve("--tell")
    with opened(source_of(server.url)) as source:
        came = {round((reading.pts_s or 0.0) * FPS): reading.captured_at for reading in (source.read() for _ in range(45))}
    sent = dict(server.sent() for _ in range(40))
    late = [came[number] - at for number, at in sent.items() if number in came and number > 20]
    assert len(late) > 10
    # The server tells after it has sent: on a busy machine the frame may be here sooner than its word.
    assert -0.01 < sorted(late)[len(late) // 2] < 0.5 / FPS, "well below one interval, which is what FFmpeg's parser holds back"


# -- what nobody is going to be served ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("gop", "decoded_share"), [(5, 0.6), (120, 1.0)])
def test_frames_that_are_not_decoded_are_counted(serve: Serve, gop: int, decoded_share: float) -> None:
    """Every fifth frame is wanted: with a key frame each time, the others cost nothing; where each depends on the one before, all do."""
    server = serve(gop=gop)
    readings, left_out = 0, 0
    with opened(source_of(server.url)) as source:
        assert isinstance(source, FfmpegSource)
        while readings + left_out < FPS * 3:
            reading = source.read()
            source.skip_until(time.monotonic() + 4.5 / FPS)
            readings += 1
            left_out += source.left_out()
        assert source.decoded_total <= readings + 1
    assert reading.image.bgr().std() > 20
    assert readings <= decoded_share * FPS * 3
    assert (left_out > 0) == (decoded_share < 1)


# -- what it is decoded with --------------------------------------------------------------------------------------------


def test_only_in_hardware_is_refused_where_there_is_none(serve: Serve) -> None:
    if any(node.codec == "h264" for node in decoder_nodes()):
        pytest.skip("this machine decodes H.264 in hardware")
    error = refused(source_of(serve().url, decode="hardware"))
    assert error.code is SourceErrorCode.CODEC_UNSUPPORTED
    assert "hardware" in str(error)


@pytest.mark.parametrize("decode", ["auto", "software"])
def test_the_decoder_and_the_reason_for_it_are_told(serve: Serve, decode: str) -> None:
    if any(node.codec == "h264" for node in decoder_nodes()):
        pytest.skip("this machine decodes H.264 in hardware")
    source = source_of(serve().url, decode=decode)
    info = source.open()
    source.close()
    assert info.decoder == "h264 (FFmpeg, software)"
    assert not info.hardware
    assert info.decoder_reason


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


@pytest.mark.parametrize("keys", [{"ca_file": True}, {"tls_verify": False}], ids=["trusted", "not verified"])
def test_tls(serve: Serve, certificate: Path, keys: dict[str, Any]) -> None:
    if "ca_file" in keys and not VERIFIES:
        pytest.skip("this PyAV verifies no certificate of rtsps")
    server = serve("--certificate", str(certificate))
    with opened(source_of(server.url, **{key: str(certificate) if key == "ca_file" else value for key, value in keys.items()})) as source:
        source.read()


def test_tls_with_a_certificate_that_is_not_trusted(serve: Serve, certificate: Path) -> None:
    error = refused(source_of(serve("--certificate", str(certificate)).url))
    assert error.code is SourceErrorCode.TLS
    assert "not trusted" in str(error) or not VERIFIES


def test_tls_where_there_is_none(serve: Serve) -> None:
    assert refused(source_of(serve().url.replace("rtsp", "rtsps"), open_timeout_s=2)).code in {SourceErrorCode.TLS, SourceErrorCode.TIMEOUT}


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


RESTARTS, SETTLED = 100, 9
"""What is held is compared from the tenth restart on: the first ones load libraries and fill caches."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_restarts_leak_nothing(serve: Serve) -> None:
    server = serve()

    def held() -> tuple[int, int, float]:
        """Descriptors, threads, and megabytes of memory."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir())), pages * 4096 / 1e6

    with watched(server, read_timeout_s=2) as (_, serves):
        wait_until(serves)
        before, took = (0, 0, 0.0), []
        for number in range(RESTARTS):
            server.stop()
            while serves():
                pass
            server.start()
            back = time.monotonic()
            wait_until(serves, 5, f"frames within 5 s of return number {number}")
            took.append(time.monotonic() - back)
            before = held() if number == SETTLED else before
        descriptors, threads, memory_mb = held()
    print(f"longest {max(took):.2f} s, descriptors {before[0]} to {descriptors}, threads {before[1]} to {threads},", end=" ")
    print(f"memory {before[2]:.1f} to {memory_mb:.1f} MB")
    assert descriptors <= before[0] + 2
    assert threads <= before[1]
    assert memory_mb <= before[2] + 10
