"""The MQTT sink against a real mosquitto, and against brokers that misbehave as mosquitto never would."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config_delivery import MqttSettings
from edge_agent.errors import SinkUnavailable
from edge_agent.events import STATUS_OFFLINE, STATUS_ONLINE, Kind, Message
from edge_agent.sinks.mqtt import MqttContext, MqttSink, TlsFiles, tls_context
from tests.conftest import Mosquitto, free_port, needs, wait_until
from tests.subscriber import subscribed


def make_sink(port: int, password: str | None = None, tls: Any = None, client_id: str = "dev", **settings: Any) -> MqttSink:
    config = MqttSettings(host="127.0.0.1", port=port, **settings)
    return MqttSink(MqttContext("dev", client_id, password, tls), config)


@contextlib.contextmanager
def connected(sink: MqttSink) -> Iterator[MqttSink]:
    sink.connect()
    try:
        yield sink
    finally:
        sink.close()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_topics_retention_and_qos_are_the_contracts(mosquitto: Mosquitto, protocol: str) -> None:
    messages = [
        STATUS_ONLINE,
        Message(Kind.HEALTH, None, b"{}"),
        Message(Kind.CAMERA_STATUS, "front", b"{}"),
        Message(Kind.DETECTIONS, "front", b"{}"),
    ]
    with connected(make_sink(mosquitto.port, protocol=protocol)) as sink:
        assert sink.write(messages) == [None] * 4
        with subscribed(mosquitto.port) as late:
            wait_until(lambda: len(late.heard) == 3)
        assert {m.topic for m in late.heard} == {"edge/dev/status", "edge/dev/health", "edge/dev/camera/front/status"}
        assert all(m.retain and m.qos == 1 for m in late.heard)
        with subscribed(mosquitto.port, "edge/dev/camera/front/detections") as live:
            sink.write(messages[3:])
            wait_until(lambda: live.heard)
        assert [(m.topic, m.qos, m.retain) for m in live.heard] == [("edge/dev/camera/front/detections", 1, False)]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_detections_go_with_the_configured_qos_and_retention(mosquitto: Mosquitto, qos: int) -> None:
    with connected(make_sink(mosquitto.port, qos=qos, retain=True)) as sink, subscribed(mosquitto.port) as live:
        sink.write([Message(Kind.DETECTIONS, "front", b"x" * 100_000)])
        wait_until(lambda: live.heard)
        assert live.heard[0].qos == min(qos, 1)  # the subscription asks for 1
        with subscribed(mosquitto.port) as late:
            wait_until(lambda: late.heard)
        assert late.heard[0].retain


def test_the_will_speaks_when_the_connection_dies_and_not_on_a_clean_close(mosquitto: Mosquitto) -> None:
    with subscribed(mosquitto.port, "edge/dev/status") as live:
        sink = make_sink(mosquitto.port)
        sink.connect()
        sink.write([STATUS_ONLINE])
        assert sink._link is not None
        connection = sink._link.client.socket()
        assert isinstance(connection, socket.socket)
        connection.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: [m.payload for m in live.heard] == [b"online", b"offline"])
        sink.connect()
        sink.write([STATUS_ONLINE])
        sink.write([STATUS_OFFLINE])
        sink.close()
        wait_until(lambda: len(live.heard) == 4)


def test_a_lost_broker_is_noticed_and_a_new_connection_works(mosquitto: Mosquitto) -> None:
    sink = make_sink(mosquitto.port)
    sink.connect()
    mosquitto.stop()
    wait_until(lambda: _fails(sink.check))
    with pytest.raises(SinkUnavailable):
        sink.write([STATUS_ONLINE])
    with pytest.raises(SinkUnavailable, match="refused"):
        sink.connect()
    mosquitto.start()
    with connected(sink):
        assert sink.write([STATUS_ONLINE]) == [None]


def _fails(action: Callable[[], None]) -> bool:
    try:
        action()
    except SinkUnavailable:
        return True
    return False


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker with one user, whose ACL lets it write below edge/ only."""
    passwords = tmp_path / "passwords"
    needs("mosquitto_passwd", "mosquitto")
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "edge", "right"], check=True, capture_output=True)
    acl = tmp_path / "acl"
    acl.write_text("user edge\ntopic readwrite edge/#\n")
    broker = Mosquitto(tmp_path, lines=("allow_anonymous false", f"password_file {passwords}", f"acl_file {acl}"))
    yield broker.start()
    broker.stop()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_is_said_and_never_shown(guarded: Mosquitto, protocol: str) -> None:
    sink = make_sink(guarded.port, "wr0ng-secret", username="edge", protocol=protocol)
    with pytest.raises(SinkUnavailable) as caught:
        sink.connect()
    assert "check [mqtt] username and password_file" in str(caught.value)
    assert "wr0ng-secret" not in str(caught.value)
    with connected(make_sink(guarded.port, "right", username="edge", protocol=protocol)):
        pass


def test_a_message_that_the_broker_refuses_is_rejected_and_the_others_go_on(guarded: Mosquitto) -> None:
    with connected(make_sink(guarded.port, "right", username="edge", base="elsewhere")) as sink:
        outcomes = sink.write([STATUS_ONLINE])
        assert outcomes[0] is not None
        assert "elsewhere/dev/status" in str(outcomes[0])
    with connected(make_sink(guarded.port, "right", username="edge")) as sink:
        assert sink.write([STATUS_ONLINE]) == [None]


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path, lines=("allow_anonymous true", "max_packet_size 700"))
    yield broker.start()
    broker.stop()


def test_a_message_larger_than_the_broker_takes_is_rejected_and_the_connection_lives(narrow: Mosquitto) -> None:
    sizes = [600, 5000, *range(620, 710), 10]
    with connected(make_sink(narrow.port)) as sink, subscribed(narrow.port) as live:
        outcomes = sink.write([Message(Kind.DETECTIONS, "front", b"x" * size) for size in sizes])
        sink.check()
        wait_until(lambda: len(live.heard) == outcomes.count(None))
        assert outcomes[0] is None
        assert outcomes[-1] is None
        assert "edge/dev/camera/front/detections" in str(outcomes[1])
        assert "no more than 700" in str(outcomes[1])
        # The topic has 32 bytes.
        assert [size for size, outcome in zip(sizes, outcomes, strict=True) if outcome is not None] == [5000, *range(661, 710)]


def test_a_broker_that_hangs_up_over_a_size_does_not_have_us_look_for_another_client(narrow: Mosquitto) -> None:
    with connected(make_sink(narrow.port)) as sink:
        sink._limit.announced = None  # as of a broker that does not announce it
        with pytest.raises(SinkUnavailable) as caught:
            sink.write([Message(Kind.DETECTIONS, "front", b"x" * 5000)])
    assert "larger than the broker allows" in str(caught.value)
    assert "another client" not in str(caught.value)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server certificate for 127.0.0.1, a client certificate, and a second authority that signed nothing."""
    folder = tmp_path_factory.mktemp("certificates")
    openssl = needs("openssl", "openssl")

    def call(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    usage = "keyUsage=critical,keyCertSign,cRLSign"
    for name in ("ca", "other"):
        call("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", usage,
             "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    for name, extension in (("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")):
        (folder / "extension").write_text(extension)
        call("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        call("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out",
             f"{name}.pem", "-extfile", "extension")  # fmt: skip
    return folder


@pytest.fixture
def secure(tmp_path: Path, certificates: Path) -> Iterator[Mosquitto]:
    files = (f"cafile {certificates}/ca.pem", f"certfile {certificates}/server.pem", f"keyfile {certificates}/server.key")
    broker = Mosquitto(tmp_path, lines=(*files, "require_certificate true", "allow_anonymous true"))
    yield broker.start()
    broker.stop()


def test_tls_with_a_client_certificate(secure: Mosquitto, certificates: Path) -> None:
    ca, cert, key = (str(certificates / name) for name in ("ca.pem", "client.pem", "client.key"))
    with connected(make_sink(secure.port, tls=tls_context(TlsFiles(ca, cert, key)))) as sink:
        assert sink.write([STATUS_ONLINE]) == [None]
        assert sink.name.startswith("mqtts://")


def test_an_untrusted_certificate_is_refused_with_what_to_do(secure: Mosquitto, certificates: Path) -> None:
    other, cert, key = (str(certificates / name) for name in ("other.pem", "client.pem", "client.key"))
    with pytest.raises(SinkUnavailable, match=r"certificate is not trusted.*ca_file"):
        make_sink(secure.port, tls=tls_context(TlsFiles(other, cert, key))).connect()
    with connected(make_sink(secure.port, tls=tls_context(TlsFiles(other, cert, key, verify=False)))) as sink:
        assert sink.write([STATUS_ONLINE]) == [None]


def test_tls_to_a_plain_port_is_said(mosquitto: Mosquitto, certificates: Path) -> None:
    with pytest.raises(SinkUnavailable, match="TLS"):
        make_sink(mosquitto.port, tls=tls_context(TlsFiles(str(certificates / "ca.pem")))).connect()


def test_two_agents_with_one_identity_are_told_apart_in_the_log(mosquitto: Mosquitto) -> None:
    with connected(make_sink(mosquitto.port)) as first:
        with connected(make_sink(mosquitto.port)):
            wait_until(lambda: _fails(first.check))
        with pytest.raises(SinkUnavailable, match=r"another client.* the id 'dev'"):
            first.check()


def test_a_name_that_does_not_resolve_is_said() -> None:
    sink = MqttSink(MqttContext("dev", "dev", None, None), MqttSettings(host="no-such-host.invalid"))
    with pytest.raises(SinkUnavailable, match="cannot be resolved"):
        sink.connect()


CONNACK_OK = bytes([0x20, 0x02, 0x00, 0x00])


@contextlib.contextmanager
def broker_that(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A listener on a free port that gives each connection to ``behave``."""
    port = free_port()
    with contextlib.closing(socket.create_server(("127.0.0.1", port))) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=_guarded, args=(behave, connection), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield port


def _guarded(behave: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        behave(connection)


def _listen(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def test_a_broker_that_never_answers_is_given_up() -> None:
    with broker_that(_listen) as port:
        sink = make_sink(port, connect_timeout_s=0.3)
        with pytest.raises(SinkUnavailable, match=r"did not answer in 0.3 s"):
            sink.connect()


def test_a_broker_that_hangs_up_is_given_up() -> None:
    with broker_that(lambda connection: None) as port, pytest.raises(SinkUnavailable, match=r"hung up.*want TLS"):
        make_sink(port, connect_timeout_s=5).connect()


def test_a_broker_that_never_acknowledges_is_given_up_and_closing_is_bounded() -> None:
    def silent(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(CONNACK_OK)
        _listen(connection)

    with broker_that(silent) as port:
        sink = make_sink(port, protocol="3.1.1", ack_timeout_s=0.3)
        sink.connect()
        with pytest.raises(SinkUnavailable, match=r"did not acknowledge within 0.3 s"):
            sink.write([STATUS_ONLINE])
        sink.close()
        with pytest.raises(SinkUnavailable):
            sink.check()


def test_a_broker_that_speaks_something_else_is_given_up() -> None:
    def web(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with broker_that(web) as port, pytest.raises(SinkUnavailable):
        make_sink(port, connect_timeout_s=1).connect()
