"""JPEG pictures over HTTP: real servers on loopback, friendly and hostile."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import parse_http_list, parse_keqv_list

import cv2
import numpy as np
import pytest

from edge_agent.errors import ConfigError, EndOfStream, SourceErrorCode, SourceUnavailable
from edge_agent.image import JpegImage
from edge_agent.plugins import PluginKinds
from edge_agent.sources import http
from edge_agent.sources._jpeg import jpeg_size
from edge_agent.sources._multipart import MAX_HEADERS, MAX_PART, MultipartError, MultipartReader
from edge_agent.sources.base import FrameUnreadable, Reading, Source
from tests.conftest import free_port
from tests.sources.media import context, self_signed

PASSWORD = "p@ss/w:rd%41#?"


def jpeg(number: int, width: int = 64, height: int = 48) -> bytes:
    done, data = cv2.imencode(".jpg", np.full((height, width, 3), number, np.uint8))
    assert done
    return data.tobytes()


class Camera(BaseHTTPRequestHandler):
    """An MJPEG stream at /video.mjpg and its newest picture at /snapshot.jpg; the class attributes say how."""

    pictures: tuple[bytes, ...] = tuple(jpeg(20 * number) for number in range(8))
    boundary = "frame"
    delimiter = "--frame"
    kind = 'multipart/x-mixed-replace; boundary="frame"'
    with_length = True
    user = ""
    scheme = "basic"
    asked = 0

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Not to stderr."""

    def do_GET(self) -> None:
        if self.user and not self._may():
            return
        with contextlib.suppress(ConnectionError):
            if self.path.startswith("/snapshot"):
                type(self).asked += 1
                self._snapshot()
            elif self.path.startswith("/video"):
                self._stream()
            elif self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/video.mjpg")
                self.end_headers()
            else:
                self.send_error(404)

    def _snapshot(self) -> None:
        data = self.pictures[self.asked % len(self.pictures)]
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", self.kind)
        self.end_headers()
        for data in self.pictures:
            length = f"Content-Length: {len(data)}\r\n" if self.with_length else ""
            self.wfile.write(f"{self.delimiter}\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode() + data + b"\r\n")
        self.wfile.write(f"{self.delimiter}--\r\n".encode())

    def _may(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.scheme == "basic":
            import base64

            expected = "Basic " + base64.b64encode(f"{self.user}:{PASSWORD}".encode()).decode()
            good, challenge = given == expected, 'Basic realm="camera"'
        else:
            good, challenge = self._digest(given), 'Digest realm="camera", nonce="abc", qop="auth", algorithm=MD5'
        if not good:
            self.send_response(401)
            self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return good

    def _digest(self, given: str) -> bool:
        """RFC 7616, 3.4.1, for MD5 and qop=auth."""
        from hashlib import md5

        if not given.startswith("Digest "):
            return False
        fields = parse_keqv_list(parse_http_list(given[7:]))
        one = md5(f"{self.user}:camera:{PASSWORD}".encode()).hexdigest()
        two = md5(f"GET:{self.path}".encode()).hexdigest()
        whole = f"{one}:abc:{fields.get('nc')}:{fields.get('cnonce')}:auth:{two}"
        return fields.get("username") == self.user and fields.get("response") == md5(whole.encode()).hexdigest()


@contextmanager
def camera(tls: ssl.SSLContext | None = None, **attributes: Any) -> Iterator[str]:
    """The address of a camera of that kind."""
    handler = type("ThisCamera", (Camera,), attributes)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that has seen enough breaks connections off
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def saying(*pieces: bytes, pause_s: float = 0.0, stay: bool = True) -> Iterator[str]:
    """A server that answers anything with ``pieces``, again and again the last one while ``pause_s`` is set, and then stays connected."""
    stop = threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for piece in pieces:
                    connection.sendall(piece)
                while pause_s and not stop.wait(pause_s):
                    connection.sendall(pieces[-1])
                if stay:
                    stop.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/video"
        stop.set()
        listener.close()
        thread.join()


def source_of(url: str, secret: str = "", **keys: Any) -> Source:
    return http.build(context(url, secret), http.Config(**keys))


def read_all(source: Source) -> list[Reading]:
    readings = []
    with contextlib.suppress(EndOfStream):
        while True:
            readings.append(source.read())
    source.close()
    return readings


def refused(source: Source) -> SourceUnavailable:
    """Why it cannot be opened and read."""
    with pytest.raises(SourceUnavailable) as caught:
        play(source)
    source.close()
    assert "\n" not in str(caught.value)
    return caught.value


def play(source: Source) -> None:
    """Until it raises."""
    source.open()
    while True:
        with contextlib.suppress(FrameUnreadable):
            source.read()


# -- streams ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.parametrize(
    ("kind", "delimiter"),
    [
        ('multipart/x-mixed-replace; boundary="frame"', "--frame"),
        ("multipart/x-mixed-replace;boundary=--frame", "--frame"),
        ("Multipart/X-Mixed-Replace; boundary=other", "--frame"),
        ("multipart/x-mixed-replace", "----frame"),
    ],
)
def test_each_part_is_a_lazy_picture(with_length: bool, kind: str, delimiter: str) -> None:
    with camera(with_length=with_length, kind=kind, delimiter=delimiter) as address:
        source = source_of(f"{address}/video.mjpg")
        assert source.live
        info = source.open()
        assert (info.width, info.height, info.fps) == (64, 48, None)
        readings = read_all(source)
    assert len(readings) == 8
    assert all(isinstance(reading.image, JpegImage) for reading in readings)
    assert [round(float(reading.image.bgr().mean()), -1) for reading in readings] == [20 * number for number in range(8)]
    stamps = [reading.captured_at for reading in readings]
    assert stamps == sorted(stamps)
    assert time.monotonic() - stamps[0] < 5


def test_a_size_that_changes_is_followed() -> None:
    with camera(pictures=(jpeg(1), jpeg(2, 96, 32))) as address:
        source = source_of(f"{address}/video.mjpg")
        source.open()
        assert [(r.image.width, r.image.height) for r in read_all(source)] == [(64, 48), (96, 32)]


def test_the_end_of_a_stream_is_a_loss_and_no_finish() -> None:
    with camera() as address:
        source = source_of(f"{address}/video.mjpg")
        assert not source.finite
        for _ in range(3):
            source.open()
            assert len(read_all(source)) == 8


def test_a_redirect_is_followed() -> None:
    with camera() as address:
        source = source_of(f"{address}/moved")
        source.open()
        assert len(read_all(source)) == 8


@pytest.mark.parametrize("path", ["/video/Überwachung.mjpg", "/video?name=a%20b&x=1", "/video#top"])
def test_addresses_beyond_ascii(path: str) -> None:
    with camera() as address:
        source = source_of(address + path)
        source.open()
        assert len(read_all(source)) == 8


def test_a_part_that_is_no_picture_costs_itself_only() -> None:
    with camera(pictures=(jpeg(1), b"<html>busy</html>", b"", jpeg(3))) as address:
        source = source_of(f"{address}/video.mjpg")
        source.open()
        source.read()
        for _ in range(2):
            with pytest.raises(FrameUnreadable):
                source.read()
        assert source.read().image.width == 64
        source.close()


def test_single_pictures_are_asked_for_at_the_rate_given() -> None:
    with camera() as address:
        source = source_of(f"{address}/snapshot.jpg", fps=20)
        info = source.open()
        assert info.fps == 20
        began = time.monotonic()
        readings = [source.read() for _ in range(5)]
        took = time.monotonic() - began
        source.close()
    assert 4 / 20 - 0.06 <= took < 2
    assert len({reading.image.bgr().tobytes() for reading in readings}) == 5
    assert readings[-1].captured_at - readings[0].captured_at >= 3 / 20


# -- who may ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["basic", "digest"])
@pytest.mark.parametrize("path", ["video.mjpg", "snapshot.jpg"])
def test_users_and_passwords(scheme: str, path: str) -> None:
    with camera(user="viewer", scheme=scheme) as address:
        source = source_of(f"{address}/{path}?channel=1", PASSWORD, username="viewer", password_file="secret", fps=50)
        source.open()
        for _ in range(3):
            source.read()
        source.close()
        in_address = source_of(f"{address}/{path}".replace("://", "://viewer:p%40ss%2Fw%3Ard%2541%23%3F@"), fps=50)
        in_address.open()
        in_address.read()
        in_address.close()


@pytest.mark.parametrize("scheme", ["basic", "digest"])
@pytest.mark.parametrize("given", ["none", "address", "file"])
def test_a_wrong_password_is_told_without_it(scheme: str, given: str) -> None:
    with camera(user="viewer", scheme=scheme) as address:
        url = f"{address}/video.mjpg"
        if given == "address":
            url = url.replace("://", "://viewer:Wr0ngSecret@")
        keys = {"username": "viewer", "password_file": "secret"} if given == "file" else {}
        error = refused(source_of(url, "Wr0ngSecret", **keys))
    assert error.code is SourceErrorCode.AUTH_FAILED
    assert "Wr0ngSecret" not in repr(error)
    assert ("set username" in str(error)) == (given == "none")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself."""
    return self_signed(tmp_path_factory.mktemp("tls") / "camera.pem")


def server_tls(certificate: Path) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return tls


def test_tls_with_a_certificate_that_is_trusted(certificate: Path) -> None:
    with camera(server_tls(certificate)) as address:
        for keys in ({"ca_file": str(certificate)}, {"tls_verify": False}):
            source = source_of(f"{address}/video.mjpg", **keys)
            source.open()
            assert len(read_all(source)) == 8


def test_tls_with_one_that_is_not(certificate: Path) -> None:
    with camera(server_tls(certificate)) as address:
        error = refused(source_of(f"{address}/video.mjpg"))
    assert error.code is SourceErrorCode.TLS
    assert "not trusted" in str(error)
    assert "ca_file" in str(error)


def test_tls_where_there_is_none() -> None:
    with camera() as address:
        assert refused(source_of(address.replace("http", "https"))).code is SourceErrorCode.TLS


def test_a_file_of_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "notes.pem").write_text("not a certificate")
    for name in ("notes.pem", "none.pem"):
        with pytest.raises(ConfigError, match=name):
            source_of("https://camera/", ca_file=str(tmp_path / name))


# -- who answers, and what ----------------------------------------------------------------------------------------------


def test_nothing_listens() -> None:
    assert refused(source_of(f"http://viewer:secret@127.0.0.1:{free_port()}/")).code is SourceErrorCode.REFUSED


def test_a_name_that_does_not_resolve() -> None:
    error = refused(source_of("http://viewer:secret@no-such-camera.invalid/video"))
    assert error.code is SourceErrorCode.UNREACHABLE
    assert "secret" not in str(error)


def test_a_page_that_is_not_there() -> None:
    with camera() as address:
        assert refused(source_of(f"{address}/none")).code is SourceErrorCode.NOT_FOUND


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
PICTURE = jpeg(1)
LENGTH = b"Content-Length: %d\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "pause_s", "code"),
    [
        ((b"",), 0.0, SourceErrorCode.TIMEOUT),
        ((b"HTTP/1.1 200 OK\r\nX: ", b"y"), 0.05, SourceErrorCode.TIMEOUT),
        ((b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), 0.001, None),
        ((b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,), 0.0, SourceErrorCode.INVALID_DATA),
        ((b"220 smtp.example.com ESMTP\r\n",), 0.0, SourceErrorCode.INVALID_DATA),
        ((b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>",), 0.0, SourceErrorCode.CODEC_UNSUPPORTED),
        ((b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",), 0.0, SourceErrorCode.BUSY),
        ((b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",), 0.0, SourceErrorCode.FAILED),
        ((HEAD,), 0.0, SourceErrorCode.TIMEOUT),
        ((HEAD, b"y" * 1000), 0.001, SourceErrorCode.INVALID_DATA),
        ((HEAD + b"--frame\r\n", b"X: y\r\n" * 500), 0.0001, SourceErrorCode.INVALID_DATA),
        ((HEAD + b"--frame\r\n" + LENGTH % 10_000_000_000 + PICTURE,), 0.0, SourceErrorCode.INVALID_DATA),
        ((HEAD + b"--frame\r\n" + LENGTH % 100_000 + PICTURE,), 0.0, SourceErrorCode.TIMEOUT),
        ((HEAD + b"--frame\r\n" + LENGTH % 100_000 + PICTURE, b"y"), 0.05, SourceErrorCode.TIMEOUT),
        ((HEAD + b"--frame\r\n\r\n" + PICTURE, b"y" * 1_000_000), 0.0001, None),
        ((HEAD + b"--frame\r\n" + LENGTH % 10 + PICTURE + b"\r\n--frame\r\n",), 0.0, None),
        ((HEAD + b"--frame\r\n\r\n" + b"text" + b"\r\n--frame\r\n\r\n",), 0.001, None),
        ((b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + PICTURE, b"y" * 1_000_000), 0.0001, None),
        ((b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + PICTURE, b"y"), 0.05, SourceErrorCode.TIMEOUT),
    ],
)
def test_a_hostile_server_is_a_typed_error_in_time(pieces: tuple[bytes, ...], pause_s: float, code: SourceErrorCode | None) -> None:
    with saying(*pieces, pause_s=pause_s) as address:
        source = source_of(address, open_timeout_s=0.7, read_timeout_s=0.7)
        began = time.monotonic()
        with pytest.raises((SourceUnavailable, EndOfStream)) as caught:
            play(source)
        took = time.monotonic() - began
        source.close()
    assert took < 4
    assert "\n" not in str(caught.value)
    if code is not None:
        assert caught.value.code is code


def test_a_stream_that_stops_without_closing_is_lost_within_the_read_timeout() -> None:
    with saying(HEAD + (b"--frame\r\n" + LENGTH % len(PICTURE) + PICTURE + b"\r\n") * 3) as address:
        source = source_of(address, read_timeout_s=0.5)
        source.open()
        for _ in range(3):
            source.read()
        began = time.monotonic()
        with pytest.raises(SourceUnavailable) as caught:
            source.read()
        took = time.monotonic() - began
        source.close()
    assert caught.value.code is SourceErrorCode.TIMEOUT
    assert "0.5 s" in str(caught.value)
    assert 0.4 < took < 2


@pytest.mark.parametrize("url", ["http://", "http:///video", "http://[::1/video", "http://host:port/", "http://host/a b", "http://ho\nst/"])
def test_addresses_that_make_no_sense(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        source_of(url)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("http://camera/video.mjpg", "http"),
        ("http://camera/axis-cgi/mjpg/video.cgi?resolution=640x480", "http"),
        ("HTTPS://camera/snapshot.jpg", "http"),
        ("http://viewer:secret@192.168.1.20:8080/", "http"),
        ("http://camera/clip.mp4", "file"),
        ("https://camera/clip.mkv?token=1", "file"),
        ("video.mjpg", "file"),
    ],
)
def test_whose_address_it_is(source: str, kind: str) -> None:
    assert PluginKinds().source_kind(source) == kind


# -- the parts ----------------------------------------------------------------------------------------------------------


def parts(*chunks: bytes) -> tuple[list[bytes], type[Exception]]:
    """What comes out of a body in these chunks, and how it ends."""
    waiting = list(chunks)
    reader = MultipartReader(lambda _: waiting.pop(0) if waiting else b"")
    found: list[bytes] = []
    try:
        while True:
            found.append(reader.next()[0])
    except (EOFError, MultipartError) as error:
        return found, type(error)


BODY = b"--f\r\nContent-Length: 3\r\n\r\nabc\r\n--f\r\n\r\nd\n--\ne\r\n"
BODY += b"--f\r\nContent-Length:0\r\n\r\n\r\n--f\ncontent-length : 1\n\nx\r\n--f--\r\n"


def test_parts_do_not_depend_on_where_the_network_cuts() -> None:
    for size in range(1, len(BODY) + 1):
        assert parts(*(BODY[at : at + size] for at in range(0, len(BODY), size))) == ([b"abc", b"d\n--\ne", b"", b"x"], EOFError)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", EOFError),
        (b"--f\r\n\r\nabc", EOFError),
        (b"--f\r\nContent-Length: 5\r\n\r\nabc", EOFError),
        (b"x" * (MAX_HEADERS + 1), MultipartError),
        (b"--f\r\n" + b"a: b\r\n" * 5000, MultipartError),
        (b"--f\r\nContent-Length: %d\r\n\r\n" % (MAX_PART + 1), MultipartError),
        (b"--f\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", EOFError),
        (b"--f\r\nContent-Length: -1\r\n\r\nabc", EOFError),
    ],
)
def test_bodies_that_are_none(body: bytes, error: type[Exception]) -> None:
    assert parts(body) == ([], error)


def test_a_part_without_length_that_does_not_end_is_given_up() -> None:
    taken = 0

    def read(_size: int) -> bytes:
        nonlocal taken
        taken += 1
        return b"y" * 1_000_000 if taken > 1 else b"--f\r\n\r\n"

    with pytest.raises(MultipartError, match="does not end"):
        MultipartReader(read).next()
    assert taken * 1_000_000 < MAX_PART + 4_000_000


def test_a_part_without_length_came_when_its_last_byte_came() -> None:
    times = iter([1.0, 2.0, 3.0, 4.0])
    chunks = [b"--f\r\n\r\n", b"abc", b"def\r\n", b"--f\r\n\r\n"]
    reader = MultipartReader(lambda _: chunks.pop(0) if chunks else b"", lambda: next(times))
    assert reader.next() == (b"abcdef", 3.0)


def test_sizes_of_pictures(ffmpeg: Callable[..., None], tmp_path: Path) -> None:
    assert jpeg_size(jpeg(1, 641, 3)) == (641, 3)
    progressive = cv2.imencode(".jpg", np.zeros((30, 50, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert jpeg_size(progressive) == (50, 30)
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=322x180", "-frames:v", "1", tmp_path / "one.jpg")
    assert jpeg_size((tmp_path / "one.jpg").read_bytes()) == (322, 180)
    whole = jpeg(1)
    for end in range(len(whole)):
        with contextlib.suppress(ValueError):
            assert jpeg_size(whole[:end]) == (64, 48)
    for data in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0\0\0" * 100):
        with pytest.raises(ValueError, match="JPEG"):
            jpeg_size(data)
