"""What a payload is, told beside it where it is not the JSON that everybody expects: by a real broker, to a subscriber of MQTT 5."""

from __future__ import annotations

import threading

import msgspec
import pytest

from edge_agent.events import STATUS_ONLINE, Kind, Message
from edge_agent.sinks._mqtt_delivery import Parcel
from tests.broker import Script, scripted
from tests.conftest import Mosquitto, wait_until
from tests.proxy import PacketType
from tests.sinks.mqtt_parts import connected, make_sink, speaking

MESSAGES = [
    Message(Kind.DETECTIONS, "front", msgspec.msgpack.encode({"seq": 1})),
    Message(Kind.DETECTIONS, "front", b'{"seq":2}'),
    Message(Kind.SNAPSHOT, "front", b"\xff\xd8jpeg"),
    STATUS_ONLINE,
]
TYPES = ["application/msgpack", "", "image/jpeg", ""]


def test_subscribers_of_mqtt_5_see_what_is_no_json(mosquitto: Mosquitto) -> None:
    heard: list[str] = []
    listening = threading.Event()
    with speaking(mosquitto.port) as client:
        client.on_subscribe = lambda *_: listening.set()
        client.on_message = lambda _client, _user, message: heard.append(getattr(message.properties, "ContentType", ""))
        client.subscribe("edge/dev/#", 1)
        assert listening.wait(10)
        with connected(make_sink(mosquitto.port)) as sink:
            assert sink.write(MESSAGES) == [None] * len(MESSAGES)
            wait_until(lambda: len(heard) == len(MESSAGES))  # its will follows
            assert sorted(heard) == sorted(TYPES)


@pytest.mark.parametrize("qos", [0, 1])
def test_the_packet_is_as_large_as_was_reckoned(qos: int) -> None:
    with scripted(Script()) as broker:
        with connected(make_sink(broker.port, qos=qos)) as sink:
            sink.write(MESSAGES)
            parcels: list[Parcel] = list(sink._parcels(MESSAGES, sink._standing().granted))
        sizes = [len(packet) for _, kind, packet in broker.connections[0].packets if kind == PacketType.PUBLISH]
    assert [parcel.content_type or "" for parcel in parcels] == TYPES
    assert sizes == [parcel.size for parcel in parcels]


def test_mqtt_3_1_1_has_no_place_for_it(mosquitto: Mosquitto) -> None:
    with connected(make_sink(mosquitto.port, protocol="3.1.1")) as sink:
        assert sink.write(MESSAGES) == [None] * len(MESSAGES)
