"""What the broker sends: commands, what it has kept, and what is not for us."""

from __future__ import annotations

import functools
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes

from edge_agent.events import STATUS_ONLINE, Kind, Message, ReplyTo
from edge_agent.requests import Request
from edge_agent.sinks._mqtt_link import properties
from edge_agent.sinks._mqtt_topics import Topics
from tests.broker import Connection, Published, Script, packet, publish, scripted, text
from tests.conftest import Mosquitto, wait_until
from tests.proxy import PacketType
from tests.sinks.mqtt_certificates import Certificates, guarded_by
from tests.sinks.mqtt_parts import connected, detections, fails, make_sink, publisher_of, reads, speaking
from tests.subscriber import subscribed

COMMAND, OF_FRONT = "edge/dev/command", "edge/dev/camera/front/command"
FRONT_STATE = Message(Kind.CAMERA_STATUS, "front", b"{}")


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_commands_come_with_what_they_are_about(mosquitto: Mosquitto, protocol: str) -> None:
    heard: list[Request] = []
    with speaking(mosquitto.port) as client:
        client.publish(OF_FRONT, b"old", qos=1, retain=True).wait_for_publish(5)
        with connected(make_sink(mosquitto.port, on_request=heard.append, protocol=protocol)) as sink:
            wait_until(lambda: reads(sink) and heard)
            told = properties(PacketTypes.PUBLISH, ResponseTopic="answers/me", CorrelationData=b"\0\xff")
            client.publish(COMMAND, b"new", qos=1, properties=told)
            wait_until(lambda: reads(sink) and len(heard) == 2)
    reply_to = ReplyTo("answers/me", b"\0\xff") if protocol == "5" else None
    assert heard == [Request("front", b"old", True, None), Request(None, b"new", False, reply_to)]
    assert sink.inbound.received == 2


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("way", ["tcp", "tls", "websocket"])
def test_commands_are_read_at_once_while_there_is_nothing_to_send(
    mosquitto: Mosquitto, tmp_path: Path, certificates: Certificates, protocol: str, way: str
) -> None:
    came: list[float] = []
    with guarded_by(tmp_path, certificates, websocket=way == "websocket", tls=way == "tls") as broker:
        tls = certificates.trusting() if way == "tls" else None
        websocket: dict[str, str] | None = {} if way == "websocket" else None
        sink = make_sink(broker.port, tls=tls, on_request=lambda _: came.append(time.monotonic()), websocket=websocket, protocol=protocol)
        with publisher_of(sink) as publisher, speaking(broker.plain) as client:
            wait_until(lambda: publisher.connected and sink.inbound._commands_mid is None)  # the broker has taken the subscription
            delays = []
            for number in range(10):
                sent = time.monotonic()
                client.publish(OF_FRONT, b"x", qos=1)
                wait_until(functools.partial(lambda count: len(came) > count, number))
                delays.append(came[-1] - sent)
    assert sorted(delays)[5] < 0.1


def test_several_commands_in_one_frame_of_a_websocket_are_all_read() -> None:
    heard: list[bytes] = []

    def together(connection: Connection, kind: int, _: bytes) -> bool:
        if kind == PacketType.SUBSCRIBE:
            connection.send(b"".join(publish(COMMAND, b"%d" % number) for number in range(7)))
        return False

    with scripted(Script(on=together), websocket=True) as broker:
        sink = make_sink(broker.port, on_request=lambda request: heard.append(request.payload), websocket={})
        with publisher_of(sink):
            wait_until(lambda: len(heard) == 7, 5)
    assert heard == [b"%d" % number for number in range(7)]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_an_oversized_command_costs_no_memory_and_no_connection(protocol: str) -> None:
    heard: list[bytes] = []
    none = None if protocol == "3.1.1" else b""
    large = publish(COMMAND, b"[" * 20_000_000, qos=1, mid=5, properties=none)

    def flood(connection: Connection, kind: int, _: bytes) -> bool:
        if kind == PacketType.SUBSCRIBE:
            connection.send(large)
            connection.send(publish(COMMAND, b"small", properties=none))
        return False

    with scripted(Script(v5=protocol == "5", on=flood)) as broker:
        sink = make_sink(broker.port, protocol=protocol, on_request=lambda request: heard.append(request.payload))
        sink.connect()
        tracemalloc.start()
        wait_until(lambda: reads(sink) and heard)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert heard == [b"small"]
        assert sink.inbound.ignored == {"too_large": 1}
        wait_until(lambda: PacketType.PUBACK in broker.connections[0].kinds())  # else it would come again
        assert sink.write([STATUS_ONLINE]) == [None]
        sink.close()
    assert peak < 2_000_000, peak


def test_a_command_of_10_mb_through_mosquitto_is_kept_from_us(mosquitto: Mosquitto) -> None:
    heard: list[bytes] = []
    with connected(make_sink(mosquitto.port, on_request=lambda request: heard.append(request.payload))) as sink:
        with speaking(mosquitto.port) as client:
            client.publish(COMMAND, b"[" * 10_000_000, qos=1).wait_for_publish(10)
            client.publish(COMMAND, b"small", qos=1).wait_for_publish(5)
            wait_until(lambda: reads(sink) and heard)
        assert heard == [b"small"]
        assert sink.write([STATUS_ONLINE]) == [None]


@pytest.mark.parametrize(
    "topic",
    ["edge/dev", "edge/dev/command/result", "edge/dev/camera/front/detections", "edge/other/command", "edge/x/camera/y/command", "a/+", "#",
     "$SYS/broker", "", "a\x01b", "a\x7f", "x" * 1025, "a\nb"],
)  # fmt: skip
def test_no_answer_goes_where_answers_have_no_business(topic: str) -> None:
    assert not Topics("edge", "dev").may_answer_on(topic)


def test_an_answer_goes_to_its_own_topic_and_where_it_was_asked_for(mosquitto: Mosquitto) -> None:
    with subscribed(mosquitto.port) as live, connected(make_sink(mosquitto.port)) as sink:
        answer = Message(Kind.COMMAND_RESULT, "front", b"{}", reply_to=ReplyTo("antworten/für mich", b"1"))
        assert sink.write([answer]) == [None]
        wait_until(lambda: len(live.heard) == 2)
        assert [message.topic for message in live.heard] == ["edge/dev/camera/front/command/result", "antworten/für mich"]


@pytest.mark.parametrize("code", [0x87, 0x97, 0x80, 0x90])
def test_an_answer_that_is_refused_where_it_was_asked_for_is_no_reason_to_reconnect(code: int) -> None:
    with (
        scripted(Script(puback=lambda message: code if message.topic == "there" else 0)) as broker,
        connected(make_sink(broker.port)) as sink,
    ):
        assert sink.write([Message(Kind.COMMAND_RESULT, None, b"{}", reply_to=ReplyTo("there", None)), *detections(2)]) == [None] * 3


@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2])
def test_each_refusal_of_the_subscription_is_said_once_and_the_events_go_on(code: int, caplog: pytest.LogCaptureFixture) -> None:
    with scripted(Script(suback=code)) as broker:
        sink = make_sink(broker.port, on_request=lambda _: None, cameras=["front"])
        for _ in range(2):
            sink.connect()
            sink.write(detections(1))
            wait_until(lambda: reads(sink) and sink.inbound._commands_mid is None)
            sink.close()
    assert caplog.text.count("no commands will come") == 1
    assert COMMAND in caplog.text


def test_a_broker_that_hangs_up_on_subscriptions_gets_the_events_without_them(caplog: pytest.LogCaptureFixture) -> None:
    def strict(connection: Connection, kind: int, _: bytes) -> bool:
        if kind == PacketType.SUBSCRIBE:
            connection.hang_up()
        return kind == PacketType.SUBSCRIBE

    with scripted(Script(on=strict)) as broker:
        sink = make_sink(broker.port, on_request=lambda _: None, cameras=["front"])
        tries = 0
        while fails(lambda: _write_slowly(sink.connect, sink.check)):
            sink.close()
            tries += 1
            assert tries < 8, "a loop"
        assert sink.write(detections(5)) == [None] * 5
        sink.close()
    assert tries == 6  # three with everything, three with the commands alone
    assert "no commands for now, the broker hangs up when we subscribe" in caplog.text


def _write_slowly(connect: object, check: object) -> None:
    assert callable(connect)
    assert callable(check)
    connect()
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        check()


def test_a_subscription_that_is_never_answered_holds_nothing_up() -> None:
    with scripted(Script(suback=None)) as broker, connected(make_sink(broker.port, on_request=lambda _: None)) as sink:
        assert sink.write(detections(50)) == [None] * 50


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_what_the_broker_keeps_of_lost_cameras_is_cleared_and_of_no_others(mosquitto: Mosquitto, protocol: str) -> None:
    kept = ["edge/dev/camera/gone/status", "edge/dev/camera/gone/detections", "edge/dev/camera/front/detections"]
    others = ["edge/dev/camera/front/status", "edge/dev/camera/new/status", "edge/other/camera/gone/status", "edge/dev/camera/gone/note"]
    with speaking(mosquitto.port) as client:
        for topic in kept + others:
            client.publish(topic, b"{}", qos=1, retain=True).wait_for_publish(5)
    with subscribed(mosquitto.port, "edge/dev/camera/#") as live:
        wait_until(lambda: len(live.heard) == 6)
        with connected(make_sink(mosquitto.port, protocol=protocol, cameras=["front"])) as sink:
            # A reload added a camera since: its state goes first on every connection.
            sink.write([STATUS_ONLINE, FRONT_STATE, Message(Kind.CAMERA_STATUS, "new", b"{}")])
            wait_until(lambda: reads(sink) and len([m for m in live.heard if not m.payload]) == 3)
            sink.write(detections(1))
    with subscribed(mosquitto.port) as late:
        wait_until(lambda: len(late.heard) == 5)
    assert {message.topic for message in late.heard} == {*others, "edge/dev/status"}


def test_the_look_for_lost_cameras_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.sinks._mqtt_inbound.LOOK_S", 0.05)
    with scripted() as broker, connected(make_sink(broker.port, cameras=["front"])) as sink:
        wait_until(lambda: reads(sink) and 10 in broker.connections[0].kinds())
        assert sink.write([FRONT_STATE]) == [None]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_hostile_topics_are_ignored_and_counted(protocol: str) -> None:
    none = None if protocol == "3.1.1" else b""
    hostile: list[str | bytes] = ["x", "edge/dev/command/", "edge/dev/camera//command", "edge/dev/camera/a/b/command", "edge/other/command",
               b"edge/dev/\xff\xfe/command", "edge/dev/camera/front/commands", "EDGE/dev/command"]  # fmt: skip
    heard: list[Request] = []

    def everything(connection: Connection, kind: int, _: bytes) -> bool:
        if kind == PacketType.SUBSCRIBE:
            connection.send(b"".join(publish(topic, b"{}", properties=none) for topic in [*hostile, COMMAND]))
        return False

    with scripted(Script(v5=protocol == "5", on=everything)) as broker:
        sink = make_sink(broker.port, protocol=protocol, on_request=heard.append)
        sink.connect()
        wait_until(lambda: reads(sink) and heard)
        sink.close()
    assert [request.camera for request in heard] == [None]
    assert sink.inbound.ignored == {"not_ours": len(hostile)}


def test_a_hostile_response_topic_is_not_used_and_the_command_still_comes() -> None:
    heard: list[Request] = []
    hostile = ["edge/dev/status", "a\x02", "$SYS/x", "y" * 2000]

    def asking(connection: Connection, kind: int, _: bytes) -> bool:
        if kind == PacketType.SUBSCRIBE:
            for topic in hostile:
                told = b"\x08" + text(topic)
                size = struct.pack("B", len(told)) if len(told) < 128 else bytes([len(told) & 0x7F | 0x80, len(told) >> 7])
                connection.send(_with_properties(size + told))
        return False

    with scripted(Script(on=asking)) as broker:
        sink = make_sink(broker.port, on_request=heard.append)
        sink.connect()
        wait_until(lambda: reads(sink) and len(heard) == len(hostile))
        sink.close()
    assert all(request.reply_to is None for request in heard)


def _with_properties(told: bytes) -> bytes:
    return packet(3, text(COMMAND) + told + b"{}")


def test_a_flood_of_commands_does_not_keep_events_from_being_sent(mosquitto: Mosquitto) -> None:
    sink = make_sink(mosquitto.port, on_request=lambda _: None)
    events = subscribed(mosquitto.port, "edge/dev/camera/front/detections")
    with speaking(mosquitto.port) as client, events as live, publisher_of(sink) as publisher:
        wait_until(lambda: publisher.connected)
        for number in range(50):
            for _ in range(40):
                client.publish(COMMAND, b"x" * 100)
            publisher.publish(detections(number + 1)[-1])
        wait_until(lambda: len(live.heard) == 50, 10)


def test_the_numbers_of_what_was_cleared_are_of_nothing_else() -> None:
    """After 65535 messages they come again: one that was left would acknowledge a message that is not."""
    silent: list[bool] = []

    def puback(_: Published) -> int | None:
        return None if silent else 0

    def kept(connection: Connection, kind: int, _: bytes) -> bool:
        if kind == PacketType.SUBSCRIBE:
            connection.send(publish("edge/dev/camera/gone/status", b"{}", retain=True))
        return False

    with scripted(Script(puback=puback, on=kept)) as broker:
        sink = make_sink(broker.port, cameras=["front"], ack_timeout_s=0.3)
        sink.connect()
        wait_until(lambda: reads(sink) and any(message.payload == b"" for message in broker.published))
        sink.write(detections(1))
        sink.check()
        assert sink._link is not None
        (cleared,) = [message for message in broker.published if message.payload == b""]
        silent.append(True)
        sink._link.client._last_mid = cleared.mid - 1
        assert fails(lambda: sink.write(detections(1)))
        sink.close()
