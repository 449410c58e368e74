"""TLS, WebSockets and Unix sockets towards a real mosquitto, with certificates made on the spot."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from pathlib import Path

import pytest

from edge_agent.errors import SinkUnavailable
from edge_agent.events import STATUS_ONLINE
from tests.broker import scripted
from tests.conftest import Mosquitto, wait_until
from tests.sinks.mqtt_certificates import Certificates, guarded_by
from tests.sinks.mqtt_parts import connected, detections, make_sink
from tests.subscriber import subscribed


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("websocket", [None, {}])
@pytest.mark.parametrize("tls", [True, False])
def test_each_way_there_delivers(
    tmp_path: Path, certificates: Certificates, protocol: str, websocket: dict[str, str] | None, tls: bool
) -> None:
    with guarded_by(tmp_path, certificates, websocket=websocket is not None, tls=tls) as broker:
        context = certificates.trusting() if tls else None
        with (
            subscribed(broker.plain) as live,
            connected(make_sink(broker.port, tls=context, protocol=protocol, websocket=websocket)) as sink,
        ):
            assert sink.write([STATUS_ONLINE, *detections(200, 3000)]) == [None] * 201
            wait_until(lambda: len(live.heard) == 201)
            assert sink.name.startswith(("mqtt" if websocket is None else "ws") + ("s://" if tls else "://"))


def test_a_unix_socket_delivers(tmp_path: Path) -> None:
    path = tmp_path / "broker.sock"
    broker = Mosquitto(tmp_path, lines=("allow_anonymous true", f"listener 0 {path}", "allow_anonymous true")).start()
    try:
        with subscribed(broker.port) as live, connected(make_sink(1, unix_socket=str(path))) as sink:
            assert sink.write([STATUS_ONLINE, *detections(100)]) == [None] * 101
            wait_until(lambda: len(live.heard) == 101)
    finally:
        broker.stop()
    with pytest.raises(SinkUnavailable, match=r"mqtt\+unix://.*(No such file|refused)"):
        make_sink(1, unix_socket=str(path)).connect()


@pytest.mark.parametrize(
    ("server", "ca", "said"),
    [
        ("expired", "ca.pem", r"expired, by this device's clock, which says 20\d\d-.*Renew the broker's certificate, or set the clock"),
        ("future", "ca.pem", r"not yet valid, by this device's clock, which says 20\d\d-.*or set the clock"),
        ("named", "ca.pem", "it is for another host.*server_name"),
        ("server", "other.pem", "ca_file"),
        ("pinned", "ca.pem", "ca_file"),
    ],
)
def test_each_fault_of_the_brokers_certificate_is_said(tmp_path: Path, certificates: Certificates, server: str, ca: str, said: str) -> None:
    with guarded_by(tmp_path, certificates, server) as broker:
        with pytest.raises(SinkUnavailable, match=f"its certificate is not trusted: .*{said}"):
            make_sink(broker.port, tls=certificates.trusting(ca)).connect()
        with connected(make_sink(broker.port, tls=certificates.trusting(ca, verify=False))):
            pass


@pytest.mark.parametrize(("synced", "said"), [(False, "is not set by NTP, so it may be wrong"), (True, "is kept by NTP")])
def test_a_wrong_clock_is_named_as_what_may_break_tls(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, synced: bool, said: str
) -> None:
    monkeypatch.setattr("edge_agent.host.clock_synced", lambda: synced)
    with guarded_by(tmp_path, certificates, "future") as broker, pytest.raises(SinkUnavailable, match=said):
        make_sink(broker.port, tls=certificates.trusting()).connect()


def test_the_brokers_own_certificate_may_be_all_that_is_trusted(tmp_path: Path, certificates: Certificates) -> None:
    with (
        guarded_by(tmp_path, certificates, "pinned") as broker,
        connected(make_sink(broker.port, tls=certificates.trusting("pinned.pem"))) as sink,
    ):
        assert sink.write([STATUS_ONLINE]) == [None]
    # One that the authority signed, and no authority.
    with guarded_by(tmp_path, certificates, "server") as broker, connected(make_sink(broker.port, tls=certificates.trusting("server.pem"))):
        pass


@pytest.mark.parametrize(
    ("client", "said"),
    [
        (None, "it wants a client certificate: set .* cert_file|does it take our client certificate"),
        ("late", "certificate has expired|does it take our client certificate"),
        ("stranger", "our client certificate"),
    ],
)
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_each_fault_of_our_certificate_is_said(
    tmp_path: Path, certificates: Certificates, client: str | None, said: str, version: str
) -> None:
    context = certificates.trusting(client=client)
    context.maximum_version = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
    with guarded_by(tmp_path, certificates, client=True) as broker:
        if client is None and version == "1.2":
            said = "client certificate"
        with pytest.raises(SinkUnavailable, match=said):
            make_sink(broker.port, tls=context).connect()
        with connected(make_sink(broker.port, tls=certificates.trusting(client="client"))):
            pass


def test_the_servers_name_and_the_protocol_are_asked_for(certificates: Certificates) -> None:
    asked: list[str | None] = []
    context = certificates.serving("named")
    context.set_alpn_protocols(["mqtt", "http/1.1"])
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    with scripted(tls=context) as broker:
        ours = certificates.trusting(server_name="broker.example.com", alpn=("x-amzn-mqtt-ca", "mqtt"))
        with connected(make_sink(broker.port, tls=ours)) as sink:
            assert sink.write(detections(5)) == [None] * 5
        (served,) = broker.connections
        assert isinstance(served.socket, ssl.SSLSocket)
        assert served.socket.selected_alpn_protocol() == "mqtt"
        with pytest.raises(SinkUnavailable, match="for another host"):
            make_sink(broker.port, tls=certificates.trusting(server_name="other.example.com")).connect()
    assert asked == ["broker.example.com", "other.example.com"]


def test_a_broker_over_websockets_that_is_none_is_said(mosquitto: Mosquitto, tmp_path: Path, certificates: Certificates) -> None:
    with pytest.raises(SinkUnavailable, match=r"\[mqtt.websocket\] path"):
        make_sink(mosquitto.port, websocket={}).connect()
    with socket.create_server(("127.0.0.1", 0)) as web:
        threading.Thread(
            target=_say, args=(web, b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nSec-WebSocket-Accept\r\n\r\n"), daemon=True
        ).start()
        with pytest.raises(SinkUnavailable, match=r"\[mqtt.websocket\] path"):
            make_sink(web.getsockname()[1], websocket={"path": "/nowhere", "headers": {"X-Token": "s3cret"}}).connect()


def _say(server: socket.socket, answer: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)


def test_headers_of_a_websocket_are_sent_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[bytes] = []
    caplog.set_level(logging.DEBUG)
    with socket.create_server(("127.0.0.1", 0)) as web:

        def take() -> None:
            connection, _ = web.accept()
            seen.append(connection.recv(65536))
            connection.close()

        threading.Thread(target=take, daemon=True).start()
        sink = make_sink(web.getsockname()[1], websocket={"path": "/here", "headers": {"X-Token": "s3cret"}})
        with pytest.raises(SinkUnavailable) as caught:
            sink.connect()
    assert b"GET /here HTTP/1.1" in seen[0]
    assert b"X-Token: s3cret" in seen[0]
    assert "s3cret" not in str(caught.value) + caplog.text + repr(sink._config)


def test_a_handshake_that_hangs_is_given_up_in_time(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sink = make_sink(silent.getsockname()[1], tls=certificates.trusting(), connect_timeout_s=0.3)
        for _ in range(2):  # and a second try is not held up by the first
            with pytest.raises(SinkUnavailable, match=r"did not answer the handshake in 0\.3 s"):
                sink.connect()
