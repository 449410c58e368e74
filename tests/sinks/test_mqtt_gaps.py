"""What brokers leave out, or ask for, in a CONNACK, and answers and subscriptions that have bad luck."""

from __future__ import annotations

import logging
import os
import re
import socket
from pathlib import Path

import pytest

from edge_agent.errors import SinkUnavailable
from edge_agent.events import STATUS_ONLINE, Kind, Message, ReplyTo
from edge_agent.requests import Request
from tests.broker import Connection, Script, publish, scripted
from tests.conftest import wait_until
from tests.proxy import PacketType
from tests.sinks.mqtt_parts import connected, detections, fails, make_sink

NO_RETAIN, QOS_0, QOS_1 = bytes([0x25, 0]), bytes([0x24, 0]), bytes([0x24, 1])


CONNACKS = [0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F]
"""All that MQTT 5 has (3.2.2.2) but 0x99, which is about a will that says what it is made of: ours does not."""


def keep_alive(seconds: int) -> bytes:
    return bytes([0x13, 0, seconds])


def packet_size(most: int) -> bytes:
    return bytes([0x27]) + most.to_bytes(4, "big")


def test_every_refusal_comes_with_what_it_means_for_who_reads_it() -> None:
    meanings = set()
    for code in CONNACKS:
        with scripted(Script(connack=code)) as broker, pytest.raises(SinkUnavailable) as caught:
            make_sink(broker.port).connect()
        found = re.search(r"the broker refuses us: (\S.*) \((\S.*)\)$", str(caught.value))
        assert found is not None, str(caught.value)
        meanings.add(found[2])
    assert len(meanings) > len(CONNACKS) / 2


@pytest.mark.parametrize(
    ("granted", "said"),
    [
        (NO_RETAIN, "it retains nothing"),
        (QOS_0, "nothing is acknowledged"),
        (QOS_1, r"QoS 1 at most: \[mqtt\] qos = 2"),
        (NO_RETAIN + QOS_0, "it retains nothing: .*; QoS 0 only"),
    ],
)
def test_what_a_broker_does_not_do_is_told_once(granted: bytes, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with scripted(Script(granted=granted)) as broker:
        sink = make_sink(broker.port, qos=2)
        for _ in range(3):
            with connected(sink):
                assert sink.write([STATUS_ONLINE, *detections(1)]) == [None, None]
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert re.search(said, warnings[0].getMessage())


def test_a_broker_that_does_all_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    with scripted(Script()) as broker, connected(make_sink(broker.port)) as sink:
        assert sink.write([STATUS_ONLINE]) == [None]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_brokers_keep_alive_is_kept_and_its_silence_noticed() -> None:
    with scripted(Script(granted=keep_alive(1))) as broker, connected(make_sink(broker.port)) as sink:
        (connection,) = broker.connections
        wait_until(lambda: not fails(sink.check) and PacketType.PINGREQ in connection.kinds(), what="a ping")
        broker.script.pings = False
        wait_until(lambda: fails(sink.check), what="the silence to be noticed")
        with pytest.raises(SinkUnavailable, match="the broker has not answered for 1 s"):
            sink.check()


def test_a_broker_that_wants_no_keep_alive_is_watched_all_the_same() -> None:
    with scripted(Script(granted=keep_alive(0))) as broker, connected(make_sink(broker.port, keepalive_s=25)) as sink:
        assert sink._link is not None
        assert sink._link.client.keepalive == 25


def test_a_client_id_that_the_broker_assigns_changes_nothing() -> None:
    with scripted(Script(granted=b"\x12\x00\x03new")) as broker:
        sink = make_sink(broker.port)
        for _ in range(2):
            with connected(sink):
                assert sink.write([STATUS_ONLINE]) == [None]
        assert all(
            b"\x00\x03dev" in packet for each in broker.connections for _, kind, packet in each.packets if kind == PacketType.CONNECT
        )


@pytest.mark.parametrize(("kind", "qos"), [(Kind.DETECTIONS, 2), (Kind.DETECTIONS, 0), (Kind.SNAPSHOT, 1), (Kind.HEALTH, 1)])
def test_what_fits_to_the_byte_is_sent_and_one_byte_more_is_not(kind: Kind, qos: int) -> None:
    with scripted(Script(granted=packet_size(300))) as broker:
        with connected(make_sink(broker.port, qos=qos)) as sink:
            outcomes = sink.write([Message(kind, "front", b"x" * size) for size in range(200, 310)])
        (connection,) = broker.connections
        wait_until(connection.ended.is_set)
        sizes = [len(packet) for _, each, packet in connection.packets if each == PacketType.PUBLISH]
    assert max(sizes) == 300
    assert len(sizes) == outcomes.count(None) < len(outcomes)


def test_an_answer_too_large_where_it_was_wanted_is_told_and_still_answered_on_our_own_topic(caplog: pytest.LogCaptureFixture) -> None:
    answer = Message(Kind.COMMAND_RESULT, None, b"{}", reply_to=ReplyTo("asker/answers", b"c" * 400))
    with scripted(Script(granted=packet_size(300))) as broker, connected(make_sink(broker.port)) as sink:
        assert sink.write([answer, STATUS_ONLINE]) == [None, None]
        assert [each.topic for each in broker.published] == ["edge/dev/command/result", "edge/dev/status"]
    assert "an answer could not be sent where it was wanted topic=asker/answers reason=4" in caplog.text


def test_commands_are_asked_for_again_after_connections_that_died_too_soon() -> None:
    """Which may be the network's doing, and not the broker's."""
    requests: list[Request] = []

    def dying(connection: Connection, kind: int, _packet: bytes) -> bool:
        if kind == PacketType.SUBSCRIBE:
            connection.hang_up()
        return kind == PacketType.SUBSCRIBE

    with scripted(Script(on=dying)) as broker:
        sink = make_sink(broker.port, on_request=requests.append)
        sink.inbound._deaf_s = 0.2
        for _ in range(3):
            sink.connect()
            wait_until(lambda: fails(sink.check))
            sink.close()
        with connected(sink):
            assert sink.write(detections(1)) == [None]  # without commands, it stands
        assert PacketType.SUBSCRIBE not in broker.connections[-1].kinds()
        broker.script.on = lambda _connection, _kind, _packet: False
        with connected(sink):
            (_, connection) = broker.connections[-2:]
            wait_until(lambda: not fails(sink.check) and PacketType.SUBSCRIBE in connection.kinds())
            connection.send(publish("edge/dev/command", b"{}"))
            wait_until(lambda: not fails(sink.check) and requests)
            assert sink.inbound._deaf_s == 60


def test_a_broker_that_always_hangs_up_on_subscriptions_is_asked_less_and_less() -> None:
    def strict(connection: Connection, kind: int, _packet: bytes) -> bool:
        if kind == PacketType.SUBSCRIBE:
            connection.hang_up()
        return kind == PacketType.SUBSCRIBE

    with scripted(Script(on=strict)) as broker:
        sink = make_sink(broker.port, on_request=lambda _: None)
        waits: list[float] = []
        for _ in range(5):
            while not (sink.inbound._ask_at and sink.inbound._deaf_s not in waits):
                sink.connect()
                if sink.inbound._ask_at is None:
                    wait_until(lambda: fails(sink.check))
                sink.close()
            waits.append(sink.inbound._deaf_s)
            sink.inbound._ask_at = None  # time passes
        assert len(broker.connections) == 3 + 1 + 4 * 2
    assert waits == [120, 240, 480, 960, 1920]


def test_a_state_and_an_event_that_are_both_refused_end_after_a_few_connections() -> None:
    """They come by turns, for the state is sent first on each."""
    with scripted(Script(puback=lambda each: 0x80 if each.topic.endswith("status") or each.payload.startswith(b"3") else 0)) as broker:
        sink, waiting = make_sink(broker.port), detections(6)
        for _ in range(4):
            with connected(sink), pytest.raises(SinkUnavailable) as caught:
                sink.write([STATUS_ONLINE, *waiting])
            waiting = waiting[max(0, caught.value.confirmed - 1) :]
        with connected(sink):
            outcomes = sink.write([STATUS_ONLINE, *waiting])
            assert [outcome is not None for outcome in outcomes] == [True, True, False, False]
        broker.script.puback = lambda _: 0
        with connected(sink):
            assert sink.write([STATUS_ONLINE]) == [None]
            broker.script.puback = lambda _: 0x80  # which may pass, as before
            with pytest.raises(SinkUnavailable):
                sink.write([STATUS_ONLINE])


def test_what_the_system_says_comes_with_what_it_means(tmp_path: Path) -> None:
    def said(port: int = 1, unix_socket: str | None = None) -> str:
        with pytest.raises(SinkUnavailable) as caught:
            make_sink(port, unix_socket=unix_socket).connect()
        return str(caught.value)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert "Connection refused (nothing listens there: is the broker running, and the port right?)" in said(port)
    assert "No such file or directory (no broker listens there: check [mqtt] unix_socket)" in said(unix_socket=str(tmp_path / "none"))
    if os.geteuid() != 0:
        with socket.socket(socket.AF_UNIX) as closed:
            closed.bind(str(tmp_path / "closed"))
            (tmp_path / "closed").chmod(0)
            assert "Permission denied (the socket's owner or mode does not let us in)" in said(unix_socket=str(tmp_path / "closed"))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_why_the_broker_hung_up_is_read_also_where_it_is_noticed_in_writing(protocol: str) -> None:
    """Else a refusal would look like a bad network, and nothing be learnt from it."""
    with (
        scripted(Script(v5=protocol == "5", puback=lambda _: None)) as broker,
        connected(make_sink(broker.port, protocol=protocol)) as sink,
    ):
        link, (connection,) = sink._link, broker.connections
        assert link is not None
        mid = link.publish("edge/dev/x", b"", 1, False)
        wait_until(lambda: connection.published)
        connection.send(bytes([0x40, 2, *mid.to_bytes(2, "big")]))
        if protocol == "5":
            connection.disconnect(0x97)
        connection.hang_up()
        wait_until(connection.ended.is_set)
        for _ in range(100):
            link.publish("edge/dev/x", b"x" * 1000, 1, False)
        assert link.lost is not None
        assert mid in link.acks
        assert link.code == (0x97 if protocol == "5" else None)
        assert link.hung_up
