"""Brokers that talk nonsense: nothing is taken for delivered, and nothing fails but the connection."""

from __future__ import annotations

import pytest

from edge_agent.errors import SinkUnavailable
from tests.broker import Connection, Script, scripted
from tests.proxy import PacketType
from tests.sinks.mqtt_parts import detections, make_sink


@pytest.mark.parametrize(
    "greeting",
    [
        b"\x20",
        b"\x20\x00",
        b"\x20\x02\x00",
        b"\x20\x02\x00\x00",
        b"\x20\xff\xff\xff\xff\xff",
        b"\x20\x03\x00\x42\x00",
        b"\x20\x05\x00\x00\x02\x21\x00",
        b"\x20\x06\x00\x00\x03\xfe\x00\x00",
        b"\x20\x08\x00\x00\x05\x12\xff\xff\x41\x41",
        b"\x40\x02\x00\x01",
        b"\x90\x03\x00\x01\x00",
        b"\xd0\x00",
        b"\x00\x00",
        b"\xf0\x00",
        b"\xe0\x00",
        b"\xe0\x01\x42",
        b"\x30\xff\xff\xff\x7f",
        b"\x16\x03\x01\x02\x00",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes(range(256)),
    ],
    ids=lambda data: data.hex()[:16],
)
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_nonsense_instead_of_a_greeting_is_a_broker_that_is_not_there(greeting: bytes, protocol: str) -> None:
    with scripted(Script(greeting=greeting)) as broker:
        sink = make_sink(broker.port, protocol=protocol, connect_timeout_s=0.3)
        if protocol == "3.1.1" and greeting == b"\x20\x02\x00\x00":
            sink.connect()
        else:
            with pytest.raises(SinkUnavailable):
                sink.connect()
        sink.close()


@pytest.mark.parametrize(
    "answer",
    [b"\x40\x00", b"\x40\x01\x00", b"\x40\x04\x00\x01\x00\x05", b"\x40\x03\x00\x01\x42", b"\x50\x00", b"\x62\x00", b"\x90\x01\x00",
     b"\x32\x03\x00\x05a", b"\x32\x06\x00\x02\xff\xfe\x00\x01",
     b"\x30\x02\x00\x00", b"\x20\x03\x00\x00\x00", b"\xf0\x05\x00\x00", b"\x00\x00",
     b"\xe0\x02\x81\x05", b"\x30\xff\xff\xff\xff\xff"],
    ids=lambda data: data.hex(),
)  # fmt: skip
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_nonsense_instead_of_an_acknowledgement_acknowledges_nothing(answer: bytes, protocol: str) -> None:
    def nonsense(connection: Connection, kind: int, _: bytes) -> bool:
        if kind == PacketType.PUBLISH:
            connection.send(answer)
        return kind == PacketType.PUBLISH

    with scripted(Script(v5=protocol == "5", on=nonsense)) as broker:
        sink = make_sink(broker.port, protocol=protocol, ack_timeout_s=0.2)
        sink.connect()
        if protocol == "3.1.1" and answer[0] == 0x40 and answer[1] >= 2:
            pass  # paho reads the number, and no more: an acknowledgement with something behind it
        else:
            with pytest.raises(SinkUnavailable) as caught:
                sink.write(detections(1))
            assert caught.value.confirmed == 0
        sink.close()


def test_an_unknown_acknowledgement_is_of_nothing() -> None:
    with scripted(Script(on=_acknowledging_others)) as broker:
        sink = make_sink(broker.port, ack_timeout_s=0.2)
        sink.connect()
        with pytest.raises(SinkUnavailable, match="did not acknowledge"):
            sink.write(detections(1))
        sink.close()


def _acknowledging_others(connection: Connection, kind: int, _: bytes) -> bool:
    if kind == PacketType.PUBLISH:
        connection.send(b"\x40\x02\x77\x77" * 3)
    return kind == PacketType.PUBLISH
