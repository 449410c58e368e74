"""How long the MQTT sink and its publisher wait, for a broker that does not want them and at the end."""

from __future__ import annotations

import socket
import time

import pytest

from edge_agent.events import STATUS_ONLINE, Kind, Message
from edge_agent.publisher import Publisher
from edge_agent.retry import BackoffPolicy
from edge_agent.sinks import _mqtt_delivery
from edge_agent.spool import Spool, SpoolLimits
from tests.broker import Connection, Script, scripted
from tests.conftest import wait_until
from tests.proxy import PacketType
from tests.sinks.mqtt_certificates import Certificates
from tests.sinks.mqtt_parts import detections, make_sink, publisher_of

WRONG = BackoffPolicy(first_s=0.01, least_s=0.01, cap_s=0.02, stable_s=0.0)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_is_not_hammered_and_never_logged(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    script = Script(v5=protocol == "5", connack=0x86 if protocol == "5" else 4)
    with scripted(script) as broker:
        sink = make_sink(broker.port, "wr0ng-secret", username="edge", protocol=protocol)
        with publisher_of(sink, WRONG) as publisher:
            wait_until(lambda: len(broker.connections) == 2)
            wait_until(lambda: publisher.error and caplog.text.count("retry_in=") == 2)
            assert not publisher.connected
            time.sleep(0.3)  # that nothing more happens can only be waited for
            assert len(broker.connections) == 2
    assert "check [mqtt] username and password_file" in caplog.text
    assert "retry_in=3" in caplog.text or "retry_in=4" in caplog.text
    assert "wr0ng-secret" not in caplog.text + repr(sink.context) + repr(sink._options())


def _silent(connection: Connection, kind: int, _: bytes) -> bool:
    return kind == PacketType.PUBLISH


@pytest.mark.parametrize(
    "state", ["refused", "black hole", "tls handshake", "websocket handshake", "connack", "ack", "acks", "backoff", "idle"]
)
def test_the_end_is_bounded_from_any_state(state: str, certificates: Certificates) -> None:
    tls = certificates.trusting() if state == "tls handshake" else None
    script = {"connack": Script(connack=None), "ack": Script(on=_silent), "acks": Script(on=_silent), "backoff": Script(connack=0x88)}
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, scripted(script.get(state)) as broker:
        fillers = []
        if state == "black hole":  # nobody accepts, and the queue is full: no answer to a SYN
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
                fillers.append(filler)
        unanswered = state in {"black hole", "tls handshake", "websocket handshake"}
        port = listener.getsockname()[1] if unanswered else 1 if state == "refused" else broker.port
        websocket: dict[str, str] | None = {} if state == "websocket handshake" else None
        sink = make_sink(port, tls=tls, websocket=websocket, connect_timeout_s=30, ack_timeout_s=30)
        publisher = Publisher(sink, Spool(SpoolLimits(1000, 1 << 20)))
        publisher.start()
        for message in detections(300 if state == "acks" else 1):
            publisher.publish(message)
        if state in {"ack", "acks", "idle"}:
            wait_until(lambda: broker.published or state != "idle")
            wait_until(lambda: publisher.connected)
        elif state == "connack":
            wait_until(lambda: broker.connections)
        elif state in {"refused", "backoff"}:
            wait_until(lambda: publisher.error)
        began = time.monotonic()
        publisher.stop(0.5)
        took = time.monotonic() - began
        for filler in fillers:
            filler.close()
    assert took < 1.5, took
    counts = publisher.counts
    assert counts.accepted == counts.delivered + sum(counts.dropped.values()) + publisher.queued[0]


def test_a_connection_that_dies_at_once_again_and_again_is_left_alone_longer_and_longer() -> None:
    """Its attempts are only forgotten after it stood for long enough."""

    def dies(connection: Connection, kind: int, _: bytes) -> bool:
        if kind == PacketType.PUBLISH:
            connection.hang_up()
        return kind == PacketType.PUBLISH

    with scripted(Script(on=dies)) as broker:
        with publisher_of(make_sink(broker.port), BackoffPolicy(first_s=0.05, least_s=0.01, cap_s=60, stable_s=30)) as publisher:
            publisher.publish(STATUS_ONLINE)
            began = time.monotonic()
            wait_until(lambda: publisher._backoff._attempts >= 6, 15)
            took = time.monotonic() - began
            tries = len(broker.connections)
        assert tries <= 8
        assert took > 0.05


def test_a_broker_whose_quota_is_exceeded_keeps_its_connection_and_sees_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """To hang up would say ``offline`` and ``online`` every few seconds, to everybody, for as long as the quota lasts."""
    monkeypatch.setattr(_mqtt_delivery, "_BUSY_S", 0.3)
    script = Script(puback=lambda message: 0x97 if message.topic.endswith("detections") else 0)
    with scripted(script) as broker, publisher_of(make_sink(broker.port)) as publisher:
        publisher.publish(STATUS_ONLINE)
        for message in detections(30):
            publisher.publish(message)
        wait_until(lambda: publisher.error and "quota" in publisher.error.lower())
        publisher.publish(Message(Kind.HEALTH, None, b"{}"))
        wait_until(lambda: any(message.topic == "edge/dev/health" for message in broker.published))
        tried = len(broker.published)
        wait_until(lambda: len(broker.published) > tried)  # again, over the same connection
        script.puback = lambda _: 0
        wait_until(lambda: publisher.counts.delivered == 30)
        assert (len(broker.connections), publisher.counts.connections, publisher.counts.dropped.total()) == (1, 1, 0)
        assert broker.connections[0].outstanding == 0
        assert [message.payload for message in broker.published][-30:] == [message.payload for message in detections(30)]
