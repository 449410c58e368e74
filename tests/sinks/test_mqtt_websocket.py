"""WebSockets where paho's own are not enough: a network that is slower than we are."""

from __future__ import annotations

import socket

import pytest

from edge_agent.sinks.mqtt import MqttSink
from tests.broker import Connection, Script, scripted
from tests.conftest import wait_until
from tests.proxy import PacketType
from tests.sinks.mqtt_parts import connected, detections, make_sink


@pytest.mark.parametrize("qos", [0, 1])
def test_what_a_full_websocket_takes_in_pieces_arrives_whole_and_once(qos: int) -> None:
    sinks: list[MqttSink] = []
    seen: list[bool] = []

    def wait_until_full(_connection: Connection, kind: int, _packet: bytes) -> bool:
        if kind == PacketType.PUBLISH and not seen:
            seen.append(True)
            link = sinks[0]._link
            assert link is not None
            wait_until(link.client.want_write, what="the network to be full")
        return False

    messages = detections(20, 50_000)
    with scripted(Script(on=wait_until_full), websocket=True) as broker:
        broker._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # of what it takes, so that it is soon full
        sinks.append(make_sink(broker.port, websocket={}, qos=qos))
        with connected(sinks[0]) as sink:
            assert sink._link is not None
            sink._link.client.socket()._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # type: ignore[union-attr]  # paho's
            assert sink.write(messages) == [None] * len(messages)
            wait_until(lambda: len(broker.published) == len(messages))
    assert [each.payload for each in broker.published] == [message.payload for message in messages]
