"""The MQTT sink and its publisher on a bad network: every event arrives, the broker's truth is renewed, and the end is bounded."""

from __future__ import annotations

import contextlib
import functools
import random
import socket
import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from edge_agent.events import STATUS_OFFLINE, STATUS_ONLINE, Kind, Message
from edge_agent.publisher import Publisher
from edge_agent.sinks.mqtt import MqttSink
from tests.broker import Script, scripted
from tests.conftest import Mosquitto, wait_until
from tests.proxy import Cut, Direction, PacketType, Proxy, Weather
from tests.sinks.mqtt_certificates import Certificates, guarded_by
from tests.sinks.mqtt_parts import detections, make_sink, publisher_of
from tests.subscriber import Subscriber, subscribed

EVENTS = "edge/dev/camera/+/detections"
CUTS: list[tuple[Direction, PacketType]] = [
    ("up", PacketType.CONNECT),
    ("down", PacketType.CONNACK),
    ("up", PacketType.SUBSCRIBE),
    ("down", PacketType.SUBACK),
    ("up", PacketType.PUBLISH),
    ("down", PacketType.PUBACK),
]


@pytest.fixture
def proxy(mosquitto: Mosquitto) -> Iterator[Proxy]:
    between = Proxy(mosquitto.port)
    yield between
    between.close()


def arrived(live: Subscriber) -> list[bytes]:
    """In order of their first arrival."""
    return list(dict.fromkeys(message.payload for message in list(live.heard)))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_cut_at_every_kind_of_packet_loses_nothing(mosquitto: Mosquitto, proxy: Proxy, protocol: str, qos: int) -> None:
    messages = detections(600)
    sink = make_sink(proxy.port, protocol=protocol, qos=qos, on_request=lambda _: None, cameras=["front"])
    with subscribed(mosquitto.port, EVENTS) as live, publisher_of(sink) as publisher:
        left = iter(messages)
        for passed, (direction, kind) in product((0.0, 0.5, 1.0), CUTS):
            if qos == 2 and kind is PacketType.PUBACK:
                kind = PacketType.CONNACK  # noqa: PLW2901 - there is no PUBACK then
            # Three times in a row without an answer to what it subscribes, and it would do without for a while.
            wait_until(lambda: publisher.connected and sink.inbound._commands_mid is None, 10)
            proxy.weather.cut = Cut(direction, kind, passed)
            if kind in {PacketType.CONNECT, PacketType.CONNACK, PacketType.SUBSCRIBE, PacketType.SUBACK}:
                proxy.cut_all()
            for message in [next(left) for _ in range(30)]:
                publisher.publish(message)
            wait_until(lambda: proxy.weather.cut is None, 10, f"{direction} {kind.name}")
        for message in left:
            publisher.publish(message)
        wait_until(lambda: len(arrived(live)) == 600, 20, f"all events, {publisher.counts}")
        wait_until(lambda: publisher.counts.delivered == 600)
        assert arrived(live) == [message.payload for message in messages]
        assert not publisher.counts.dropped


def test_random_weather_loses_nothing_and_invents_nothing(mosquitto: Mosquitto, proxy: Proxy) -> None:
    dice, messages = random.Random(6), detections(1000)
    sink = make_sink(proxy.port, connect_timeout_s=0.3, ack_timeout_s=0.3)
    with subscribed(mosquitto.port, EVENTS) as live, publisher_of(sink) as publisher:
        left = iter(messages)

        def has_broken(before: int) -> bool:
            return not publisher.connected or publisher.counts.connections > before

        def is_back(before: int) -> bool:
            return publisher.connected and publisher.counts.connections > before

        for _ in range(25):
            wait_until(lambda: publisher.connected)
            before = publisher.counts.connections
            breaks, proxy.weather = dice.choice(
                [
                    (True, Weather(cut=Cut("up", PacketType.PUBLISH, dice.random()))),
                    (True, Weather(cut=Cut("down", PacketType.PUBACK, dice.random()))),
                    (True, Weather(swallows=frozenset({PacketType.PUBACK}))),
                    (True, Weather(black_hole=True)),
                    (False, Weather(latency_s=0.002)),
                    (False, Weather(bytes_per_s=200_000)),
                ]
            )
            for message in [next(left) for _ in range(20)]:
                publisher.publish(message)
            if breaks:
                wait_until(functools.partial(has_broken, before), 5)
                proxy.weather = Weather()
                wait_until(functools.partial(is_back, before), 5)
        proxy.weather = Weather()
        for message in left:
            publisher.publish(message)
        wait_until(lambda: publisher.counts.delivered == 1000, 20, f"{publisher.counts}")
        wait_until(lambda: len(arrived(live)) == 1000)
        assert arrived(live) == [message.payload for message in messages]
        assert publisher.counts.connections > 10


def test_state_is_told_again_on_every_connection_whatever_the_broker_remembers(mosquitto: Mosquitto, proxy: Proxy) -> None:
    """Without persistence a broker forgets all that it kept."""
    state = [STATUS_ONLINE, Message(Kind.HEALTH, None, b"{}"), Message(Kind.CAMERA_STATUS, "front", b'{"state":"online"}')]
    with publisher_of(make_sink(proxy.port)) as publisher:
        for message in state:
            publisher.publish(message)
        for _ in range(3):
            wait_until(lambda: publisher.connected)
            with subscribed(mosquitto.port) as late:
                wait_until(lambda: len(late.heard) == 3)
                assert all(message.payload == b"online" for message in late.on("dev/status"))
            before = publisher.counts.connections
            mosquitto.stop()
            wait_until(lambda: not publisher.connected)
            mosquitto.start()
            wait_until(functools.partial(_has_come_back, publisher, before))


def _has_come_back(publisher: Publisher, before: int) -> bool:
    return publisher.counts.connections > before


def test_the_last_will_and_the_clean_stop_say_offline(mosquitto: Mosquitto, proxy: Proxy) -> None:
    with subscribed(mosquitto.port, "edge/dev/status") as live:
        with publisher_of(make_sink(proxy.port)) as publisher:
            publisher.publish(STATUS_ONLINE)
            wait_until(lambda: len(live.heard) == 1)
            proxy.cut_all()
            wait_until(lambda: [message.payload for message in live.heard] == [b"online", b"offline", b"online"])
        wait_until(lambda: len(live.heard) == 4)
        with subscribed(mosquitto.port, "edge/dev/status") as late:
            wait_until(lambda: late.heard)
        assert [message.payload for message in live.heard] == [b"online", b"offline", b"online", b"offline"]  # and no will after that
        assert late.heard[0].payload == b"offline"


def test_a_slow_network_is_no_reason_to_give_up(mosquitto: Mosquitto, proxy: Proxy) -> None:
    """20 messages of 20 kB at 400 kB/s need a second, and the acknowledgement must come within 0.5 s of anything that moves."""
    proxy.weather = Weather(bytes_per_s=400_000)
    with publisher_of(make_sink(proxy.port, ack_timeout_s=0.5)) as publisher:
        for message in detections(20, 20_000):
            publisher.publish(message)
        wait_until(lambda: publisher.counts.delivered == 20)
        assert publisher.counts.connections == 1


def test_a_broker_that_no_longer_answers_is_noticed_while_there_is_nothing_to_send() -> None:
    """By the keep alive that the server asks for: its word holds, not ours (MQTT 5, 3.2.2.3.14)."""
    with (
        scripted(Script(granted=b"\x13\x00\x01", pings=False)) as broker,
        publisher_of(make_sink(broker.port, keepalive_s=300)) as publisher,
    ):
        wait_until(lambda: PacketType.PINGREQ in broker.connections[0].kinds() if broker.connections else False, 5)
        wait_until(lambda: len(broker.connections) > 1, 8, "another connection")
        assert publisher.counts.connections >= 1
        pinged = [at for at, kind, _ in broker.connections[0].packets if kind == PacketType.PINGREQ]
        assert pinged[0] - broker.connections[0].packets[0][0] < 3


def test_the_id_is_the_same_on_every_connection_and_nothing_is_asked_to_be_kept_for_it() -> None:
    with scripted(Script(granted=b"\x12\x00\x05other")) as broker:  # whatever id a broker assigns
        sink = make_sink(broker.port, client_id="edge-7")
        for _ in range(3):
            sink.connect()
            sink.write([STATUS_ONLINE])
            sink.close()
        connects = [packets[0][2] for packets in [connection.packets for connection in broker.connections]]
    assert all(b"\x00\x06edge-7" in connect for connect in connects)
    assert all(connect[connect.index(b"MQTT") + 5] & 0x02 for connect in connects)  # clean start


def test_a_publisher_over_tls_survives_cuts(tmp_path: Path, certificates: Certificates) -> None:
    with guarded_by(tmp_path, certificates) as broker:
        relay = _Relay(broker.port)
        try:
            sink = make_sink(relay.port, tls=certificates.trusting())
            with subscribed(broker.plain, EVENTS) as live, publisher_of(sink) as publisher:
                for number, message in enumerate(detections(200)):
                    publisher.publish(message)
                    if number % 40 == 20:
                        wait_until(lambda: publisher.connected)
                        relay.cut()
                wait_until(lambda: publisher.counts.delivered == 200)
                wait_until(lambda: len(arrived(live)) == 200)
                assert arrived(live) == [message.payload for message in detections(200)]
        finally:
            relay.close()


class _Relay:
    """Bytes as they come, which the proxy cannot read within TLS."""

    def __init__(self, target: int) -> None:
        self._target, self._server = target, socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                client, _ = self._server.accept()
                broker = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, broker]
                for source, sink in ((client, broker), (broker, client)):
                    threading.Thread(target=_copy, args=(source, sink), daemon=True).start()
        except OSError:
            return

    def cut(self) -> None:
        while self._open:
            connection = self._open.pop()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def test_what_was_said_goodbye_for_is_not_said_again_by_will(mosquitto: Mosquitto) -> None:
    sink: MqttSink = make_sink(mosquitto.port)
    with subscribed(mosquitto.port, "edge/dev/status") as live:
        sink.connect()
        sink.write([STATUS_OFFLINE])
        sink.close()
        sink.connect()
        sink.write([Message(Kind.HEALTH, None, b"{}")])
        sink.close()  # nothing was said: so the will says it
        wait_until(lambda: len(live.heard) == 2)
