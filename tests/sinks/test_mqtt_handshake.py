"""Connections that hang, or fail, between the first packet and the broker's word: given up in time, and nothing left behind."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.errors import SinkUnavailable
from edge_agent.events import STATUS_ONLINE
from edge_agent.sinks.mqtt import TlsFiles, tls_context
from tests.broker import scripted
from tests.certificates import Authority, Certificate, authority
from tests.conftest import Mosquitto, wait_until
from tests.sinks.mqtt_parts import connected, make_sink


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def certificate(ours: Authority) -> Certificate:
    return ours.issue("server", "IP:127.0.0.1")


@contextlib.contextmanager
def peer(talk: Callable[[socket.socket], None]) -> Iterator[tuple[int, threading.Event]]:
    """A port where the handshake never gets anywhere, and whether the client has hung up."""
    gone = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                with accepted, contextlib.suppress(OSError):
                    talk(accepted)
                gone.set()

    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], gone
        listener.shutdown(socket.SHUT_RDWR)


def silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def _drip(connection: socket.socket, start: bytes, byte: bytes) -> None:
    """A byte at a time, so that every read of the client's succeeds."""
    connection.recv(4096)
    connection.sendall(start)
    connection.settimeout(0.02)
    while True:
        connection.sendall(byte)
        with contextlib.suppress(TimeoutError):
            if not connection.recv(4096):
                return


def dripping_tls(connection: socket.socket) -> None:
    """A record of 16 KiB."""
    _drip(connection, b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b"\x03")


def dripping_http(connection: socket.socket) -> None:
    """A header without an end."""
    _drip(connection, b"HTTP/1.1 101 Switching Protocols\r\nX: ", b"x")


@pytest.mark.parametrize(
    ("talk", "over_tls", "websocket"),
    [(silent, True, None), (dripping_tls, True, None), (silent, False, {}), (dripping_http, False, {})],
)
def test_a_handshake_that_hangs_is_broken_off_in_time_and_nothing_is_left_of_it(
    talk: Callable[[socket.socket], None], over_tls: bool, websocket: dict[str, str] | None
) -> None:
    tls = tls_context(TlsFiles(verify=False)) if over_tls else None
    with peer(talk) as (port, gone):
        sink = make_sink(port, tls=tls, websocket=websocket, connect_timeout_s=0.3)
        for _ in range(3):  # the next one is not held up by the one before
            gone.clear()
            began = time.monotonic()
            with pytest.raises(SinkUnavailable, match=r"took the connection but did not answer the handshake in 0\.3 s"):
                sink.connect()
            assert time.monotonic() - began < 5
            wait_until(gone.is_set, 5, "the connection to be given up")
            wait_until(lambda: not dialling(), 5, "its thread to end")


def dialling() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mqtt-dial"]


def test_a_connection_whose_handshake_failed_is_closed_at_once(certificate: Certificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.file, certificate.key)
    ended: list[str] = []

    def talk(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as wrapped:
                wrapped.recv(1)
        except OSError as error:
            ended.append(str(error))

    with peer(talk) as (port, gone):
        sink = make_sink(port, tls=tls_context(TlsFiles()))
        with pytest.raises(SinkUnavailable, match="certificate is not trusted"):
            sink.connect()
        wait_until(gone.is_set, 5, "the connection to be closed")
        assert "UNKNOWN_CA" in ended[0].upper()  # and the broker's log says why


def test_no_version_of_tls_in_common_is_said(ours: Authority, certificate: Certificate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.file, certificate.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ca_file = str(ours.certificate.file)
    with scripted(tls=context) as broker:
        with connected(make_sink(broker.port, tls=tls_context(TlsFiles(ca_file)))) as sink:
            assert sink.write([STATUS_ONLINE]) == [None]
        with pytest.raises(SinkUnavailable, match=r"no version of TLS in common: see \[mqtt.tls\] min_version"):
            make_sink(broker.port, tls=tls_context(TlsFiles(ca_file, min_version="1.3"))).connect()


@contextlib.contextmanager
def showing(folder: Path, certificate: Certificate, port: int | None = None) -> Iterator[Mosquitto]:
    """A mosquitto that shows that certificate."""
    lines = (f"certfile {certificate.file}", f"keyfile {certificate.key}", "allow_anonymous true")
    broker = Mosquitto(folder, lines=lines) if port is None else Mosquitto(folder, port, lines)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def test_plain_mqtt_to_a_tls_port_is_said(certificate: Certificate, tmp_path: Path) -> None:
    with showing(tmp_path, certificate) as broker, pytest.raises(SinkUnavailable, match="does it want TLS"):
        make_sink(broker.port).connect()


def test_a_broker_whose_certificate_was_renewed_is_connected_to_without_a_restart(
    ours: Authority, certificate: Certificate, tmp_path: Path
) -> None:
    late = ours.issue("late", "IP:127.0.0.1", from_days=-3, to_days=-1)
    with showing(tmp_path, late) as broker:
        sink = make_sink(broker.port, tls=tls_context(TlsFiles(str(ours.certificate.file))))
        with pytest.raises(SinkUnavailable, match="expired"):
            sink.connect()
    with showing(tmp_path, certificate, broker.port), connected(sink):
        assert sink.write([STATUS_ONLINE]) == [None]


def test_a_certificate_of_the_same_name_is_not_the_one_that_is_pinned(certificate: Certificate, ours: Authority, tmp_path: Path) -> None:
    double = authority(tmp_path / "double", "authority").issue("server", "IP:127.0.0.1")
    with showing(tmp_path, double) as broker:
        for pinned in (certificate, ours.certificate):
            with pytest.raises(SinkUnavailable, match="certificate is not trusted"):
                make_sink(broker.port, tls=tls_context(TlsFiles(str(pinned.file)))).connect()


def test_a_client_certificate_can_take_the_place_of_user_and_password(ours: Authority, certificate: Certificate, tmp_path: Path) -> None:
    """As docs/mqtt.md has it: the name in the certificate is the device's id, and decides where it may write."""
    (tmp_path / "acl").write_text("pattern write edge/%u/#\n")
    rules = ("require_certificate true", "use_identity_as_username true", f"acl_file {tmp_path}/acl", "allow_anonymous false")
    files = (f"cafile {ours.certificate.file}", f"certfile {certificate.file}", f"keyfile {certificate.key}")
    broker = Mosquitto(tmp_path, lines=(*files, *rules)).start()
    try:
        for name, allowed in (("dev", True), ("another", False)):
            client = ours.issue(name)
            tls = tls_context(TlsFiles(str(ours.certificate.file), str(client.file), str(client.key)))
            with connected(make_sink(broker.port, tls=tls)) as sink:
                (outcome,) = sink.write([STATUS_ONLINE])
                assert (outcome is None) == allowed, outcome
    finally:
        broker.stop()
