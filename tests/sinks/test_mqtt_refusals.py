"""What brokers say no with, and what becomes of it: never a loop, never a loss that nobody counts."""

from __future__ import annotations

import random
import struct

import pytest

from edge_agent.errors import SinkUnavailable
from edge_agent.events import STATUS_ONLINE, Kind, Message
from tests.broker import PUBREL, Connection, Published, Script, scripted
from tests.conftest import wait_until
from tests.proxy import PacketType
from tests.sinks.mqtt_parts import connected, detections, fails, make_sink

CONNACKS = [0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F]
"""Without 0x99, which is about a will that says what it is made of: ours does not."""
DISCONNECTS = [0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B,
               0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2]  # fmt: skip
PASSING = {0x80, 0x83, 0x91}
FINAL = {0x87, 0x90, 0x99}


@pytest.mark.parametrize("code", CONNACKS, ids=hex)
def test_each_refusal_of_the_connection_is_said_and_never_with_the_password(code: int) -> None:
    with scripted(Script(connack=code)) as broker:
        sink = make_sink(broker.port, "s3cret", username="edge")
        with pytest.raises(SinkUnavailable, match="the broker refuses us: ") as caught:
            sink.connect()
        assert "s3cret" not in str(caught.value) + repr(sink.context)
        assert sink.fileno() is None
        wait_until(broker.connections[0].ended.is_set)


@pytest.mark.parametrize(("code", "said"), [(1, "protocol"), (2, "client id"), (3, "unavailable"), (4, "username"), (5, "client id or")])
def test_each_refusal_of_mqtt_3_1_1_is_said(code: int, said: str) -> None:
    with scripted(Script(v5=False, connack=code)) as broker:
        with pytest.raises(SinkUnavailable) as caught:
            make_sink(broker.port, "s3cret", username="edge", protocol="3.1.1").connect()
        assert said in str(caught.value)


@pytest.mark.parametrize("code", [0x84, 0x85, 0x86, 0x87, 0x8A])
def test_a_broker_that_does_not_want_us_is_left_alone_from_the_second_time_on(code: int) -> None:
    with scripted(Script(connack=code)) as broker:
        sink = make_sink(broker.port)
        waits = []
        for _ in range(3):
            with pytest.raises(SinkUnavailable) as caught:
                sink.connect()
            waits.append(caught.value.retry_after_s)
        assert waits[0] == 0
        assert all(30 <= wait <= 45 for wait in waits[1:])
        assert waits[1] != waits[2]


@pytest.mark.parametrize("code", [0x88, 0x89, 0x97, 0x9F])
def test_a_broker_with_too_much_to_do_is_left_alone_for_a_while(code: int) -> None:
    with scripted(Script(connack=code)) as broker, pytest.raises(SinkUnavailable) as caught:
        make_sink(broker.port).connect()
    assert 5 <= caught.value.retry_after_s <= 10


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("code", sorted(PASSING | FINAL | {0x97, 0x10}))
def test_each_reason_of_an_acknowledgement_is_obeyed_and_ends(code: int, qos: int) -> None:
    """The third of five messages is refused for ever; the four others arrive, and it is given up or kept as its reason asks."""
    with scripted(Script(puback=lambda message: code if message.payload.startswith(b"2") else 0)) as broker:
        sink, messages = make_sink(broker.port, qos=qos), detections(5)
        tries, confirmed = 0, 0
        while tries < 5:
            tries += 1
            sink.connect()
            try:
                outcomes = sink.write(messages[confirmed:])
            except SinkUnavailable as error:
                confirmed += error.confirmed
                assert confirmed == 2  # so those before are not sent again, and nothing after it is taken for delivered
                wait_s = error.retry_after_s
            else:
                break
        sink.close()
        if code == 0x97:
            assert tries == 5  # quota: not its fault, it waits
            assert 5 <= wait_s <= 10
            return
        assert tries == (3 if code in PASSING else 1)
        assert sum(outcome is not None for outcome in outcomes) == (code != 0x10)
        assert {message.payload[:1] for message in broker.published} == {b"0", b"1", b"2", b"3", b"4"}
        if qos == 2 and code != 0x10:
            assert not any(kind == PUBREL and _mid(body) == _of_two(broker.published) for _, kind, body in broker.connections[-1].packets)


def _mid(packet: bytes) -> int:
    return int(struct.unpack("!H", packet[2:4])[0])


def _of_two(published: list[Published]) -> int:
    return [message.mid for message in published if message.payload.startswith(b"2")][-1]


@pytest.mark.parametrize("code", DISCONNECTS, ids=hex)
def test_each_reason_of_a_disconnect_is_said_and_nothing_is_taken_for_delivered(code: int) -> None:
    def rude(connection: Connection, kind: int, _: bytes) -> bool:
        if kind == PacketType.PUBLISH:
            connection.disconnect(code)
        return kind == PacketType.PUBLISH

    with scripted(Script(on=rude)) as broker:
        sink = make_sink(broker.port)
        sink.connect()
        with pytest.raises(SinkUnavailable) as caught:
            sink.write(detections(3))
        sink.close()
    assert caught.value.confirmed == 0
    assert "Error" not in str(caught.value)
    assert (caught.value.retry_after_s > 0) == (code in {0x88, 0x89, 0x96, 0x97, 0x9F})


@pytest.mark.parametrize("by", ["connack", "disconnect", "property"])
def test_a_broker_without_retention_is_given_none_after_its_first_word(by: str) -> None:
    def strict(connection: Connection, kind: int, packet: bytes) -> bool:
        wants_retention = kind == PacketType.CONNECT and packet[packet.index(b"MQTT") + 5] & 0x20
        if by == "connack" and wants_retention:
            connection.send(bytes([0x20, 3, 0, 0x9A, 0]))
            connection.hang_up()
            return True
        if by == "disconnect" and kind == PacketType.PUBLISH and packet[0] & 1:
            connection.disconnect(0x9A)
            return True
        return False

    with scripted(Script(on=strict, granted=bytes([0x25, 0]) if by == "property" else b"")) as broker:
        sink = make_sink(broker.port, cameras=["front"])
        for _ in range(3):
            if not fails(sink.connect) and not fails(lambda: sink.write([STATUS_ONLINE, *detections(1)])):
                break
        assert len(broker.connections) == (1 if by == "property" else 2)
        for _ in range(3):  # and it does not forget
            sink.connect()
            assert sink.write([STATUS_ONLINE, *detections(1)]) == [None, None]
        sink.close()
        assert not any(message.retain for connection in broker.connections[1:] for message in connection.published)


@pytest.mark.parametrize("by", ["connack", "disconnect", "property"])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_broker_of_qos_0_only_is_sent_that(by: str, qos: int) -> None:
    def strict(connection: Connection, kind: int, packet: bytes) -> bool:
        if by == "connack" and kind == PacketType.CONNECT and packet[packet.index(b"MQTT") + 5] & 0x18:
            connection.send(bytes([0x20, 3, 0, 0x9B, 0]))
            connection.hang_up()
            return True
        if by == "disconnect" and kind == PacketType.PUBLISH and packet[0] & 6:
            connection.disconnect(0x9B)
            return True
        return False

    with scripted(Script(on=strict, granted=bytes([0x24, 0]) if by == "property" else b"")) as broker:
        sink = make_sink(broker.port, qos=qos)
        for _ in range(3):
            if not fails(sink.connect) and not fails(lambda: sink.write([STATUS_ONLINE, *detections(30)])):
                break
        wait_until(lambda: len(broker.connections[-1].published) == 31)
        assert {message.qos for message in broker.connections[-1].published} == {0}
        sink.close()


@pytest.mark.parametrize("most", [1, 2, 7, 65535])
@pytest.mark.parametrize("qos", [1, 2])
def test_the_brokers_receive_maximum_is_never_exceeded(most: int, qos: int) -> None:
    waiting: list[Published] = []

    def slowly(message: Published) -> int | None:
        waiting.append(message)
        return 0 if random.random() < 0.9 else 0x10

    with scripted(Script(granted=b"\x21" + struct.pack("!H", most), puback=slowly)) as broker:
        with connected(make_sink(broker.port, qos=qos)) as sink:
            assert sink.write(detections(300)) == [None] * 300
        assert 1 <= broker.connections[0].most_outstanding <= min(most, 100)
        assert [message.payload for message in broker.published] == [message.payload for message in detections(300)]


def test_acknowledgements_may_come_in_any_order() -> None:
    held: list[int] = []

    def shuffled(connection: Connection, kind: int, packet: bytes) -> bool:
        if kind != PacketType.PUBLISH:
            return False
        size = int.from_bytes(packet[2:4], "big")
        held.append(int.from_bytes(packet[4 + size : 6 + size], "big"))
        if len(held) == 5:
            random.shuffle(held)
            for mid in held:
                connection.send(bytes([0x40, 2]) + struct.pack("!H", mid))
            held.clear()
        return True

    with scripted(Script(on=shuffled, granted=b"\x21\x00\x05")) as broker, connected(make_sink(broker.port)) as sink:
        assert sink.write(detections(50)) == [None] * 50


@pytest.mark.parametrize("said_so", [True, False])
def test_a_message_that_the_broker_hangs_up_on_is_given_up_and_the_others_arrive(said_so: bool) -> None:
    def narrow(connection: Connection, kind: int, packet: bytes) -> bool:
        if kind == PacketType.PUBLISH and len(packet) > 20_000:
            connection.disconnect(0x95) if said_so else connection.hang_up()
            return True
        return False

    small, large = detections(6), Message(Kind.DETECTIONS, "front", b"x" * 30_000)
    waiting, rejected, tries = [*small[:3], large, *small[3:]], 0, 0
    with scripted(Script(on=narrow)) as broker:
        sink = make_sink(broker.port)
        while waiting:
            tries += 1
            assert tries < 12, "a loop"
            sink.connect()
            try:
                outcomes = sink.write(waiting)
            except SinkUnavailable as error:
                rejected += len(error.rejected)
                del waiting[: error.confirmed]
            else:
                rejected += sum(outcome is not None for outcome in outcomes)
                waiting.clear()
        sink.close()
        assert rejected == 1
        assert {message.payload for message in broker.published} == {message.payload for message in small}


def test_a_refusal_does_not_make_a_bad_network_cost_events() -> None:
    """Hung up on again and again, but not always at the largest message: nothing is given up."""
    left = iter(random.Random(3).choices([True, False], k=400))

    def shaky(connection: Connection, kind: int, _: bytes) -> bool:
        if kind == PacketType.PUBLISH and next(left, False):
            connection.hang_up()
            return True
        return False

    waiting = [Message(Kind.DETECTIONS, "front", bytes([65 + n]) * (17_000 + 10 * n)) for n in range(20)]
    wanted, rejected = {message.payload for message in waiting}, 0
    with scripted(Script(on=shaky)) as broker:
        sink = make_sink(broker.port)
        while waiting:
            sink.connect()
            try:
                assert sink.write(waiting) == [None] * len(waiting)
                waiting.clear()
            except SinkUnavailable as error:
                rejected += len(error.rejected)
                del waiting[: error.confirmed]
        sink.close()
        assert rejected == 0
        assert {message.payload for message in broker.published} == wanted
