"""Packets of MQTT 5 and 3.1.1, written and read by their bytes, so that the tests do not trust the library that is tested with them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias


class PacketType(IntEnum):
    """The upper half of a packet's first byte (MQTT 5, 2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


_FLAGS = {PacketType.PUBREL: 2, PacketType.SUBSCRIBE: 2, PacketType.UNSUBSCRIBE: 2}

SESSION_EXPIRY, ASSIGNED_CLIENT_ID, SERVER_KEEP_ALIVE, RESPONSE_TOPIC, CORRELATION = 0x11, 0x12, 0x13, 0x08, 0x09
SERVER_REFERENCE, REASON, RECEIVE_MAXIMUM, TOPIC_ALIAS_MAXIMUM, TOPIC_ALIAS = 0x1C, 0x1F, 0x21, 0x22, 0x23
MAXIMUM_QOS, RETAIN_AVAILABLE, USER_PROPERTY, MAXIMUM_PACKET_SIZE = 0x24, 0x25, 0x26, 0x27

_SIZES = {0x01: 1, 0x17: 1, 0x19: 1, 0x24: 1, 0x25: 1, 0x28: 1, 0x29: 1, 0x2A: 1}
_SIZES |= {0x13: 2, 0x21: 2, 0x22: 2, 0x23: 2, 0x02: 4, 0x11: 4, 0x18: 4, 0x27: 4}
_BINARY = frozenset({0x09, 0x16})
_PAIR, _VARIABLE = 0x26, 0x0B

Values: TypeAlias = "Mapping[int, int | str | bytes | tuple[str, str]]"
"""Properties by their number (MQTT 5, 2.2.2.2); of several with one number, one."""


@dataclass(frozen=True)
class Received:
    """One packet, as far as the tests ask."""

    connection: int
    kind: PacketType
    raw: bytes
    at: float
    """Monotonic."""
    topic: str = ""
    """Of a PUBLISH; of a CONNECT with a will, the will's."""
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    dup: bool = False
    number: bytes = b""
    """The packet identifier."""
    told: Values = field(default_factory=dict)
    """Its properties."""
    filters: tuple[str, ...] = ()
    client_id: str = ""
    username: str | None = None
    password: str | None = None
    keepalive_s: int = 0
    code: int | None = None
    """Of a DISCONNECT of MQTT 5."""


def packet(kind: PacketType, body: bytes, flags: int | None = None) -> bytes:
    """A whole packet."""
    return bytes([kind << 4 | (_FLAGS.get(kind, 0) if flags is None else flags)]) + varint(len(body)) + body


def varint(value: int) -> bytes:
    """A variable byte integer (MQTT 5, 1.5.5)."""
    written = bytearray()
    while True:
        value, low = divmod(value, 128)
        written.append(low | (0x80 if value else 0))
        if not value:
            return bytes(written)


def text(value: str | bytes) -> bytes:
    """A string, or binary data, with its length before it."""
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2, "big") + data


def properties(values: Values) -> bytes:
    """Properties, with their length before them."""
    body = bytearray()
    for number, value in values.items():
        body.append(number)
        if isinstance(value, int):
            body += varint(value) if number == _VARIABLE else value.to_bytes(_SIZES[number], "big")
        elif isinstance(value, tuple):
            body += text(value[0]) + text(value[1])
        else:
            body += text(value)
    return varint(len(body)) + bytes(body)


def read_packet(connection: socket.socket) -> bytes | None:
    """The next packet; None: there is none any more. Raises OSError."""
    data = connection.recv(1)
    length, shift = 0, 0
    while data:
        byte = connection.recv(1)
        data += byte
        if not byte:
            return None
        length |= (byte[0] & 0x7F) << shift
        shift += 7
        if not byte[0] & 0x80:
            break
    rest = bytearray()
    while data and len(rest) < length:
        found = connection.recv(min(1 << 16, length - len(rest)))
        if not found:
            return None
        rest += found
    return data + bytes(rest) if data else None


class _Reader:
    """Takes a packet's body apart."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        self.at += count
        return found

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        return self.binary().decode()

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def properties(self) -> Values:
        end = self.varint() + self.at
        found: dict[int, int | str | bytes | tuple[str, str]] = {}
        while self.at < end:
            number = self.number(1)
            if number in _SIZES:
                found[number] = self.number(_SIZES[number])
            elif number == _VARIABLE:
                found[number] = self.varint()
            elif number == _PAIR:
                found[number] = (self.text(), self.text())
            else:
                found[number] = self.binary() if number in _BINARY else self.text()
        return found

    @property
    def rest(self) -> bytes:
        return self.data[self.at :]


def parse(raw: bytes, connection: int, *, v5: bool, at: float) -> Received:
    """What a client sent. Raises ValueError or UnicodeDecodeError for what is no packet of MQTT."""
    kind = PacketType(raw[0] >> 4)
    start = 1
    while raw[start] & 0x80:
        start += 1
    reader = _Reader(raw[start + 1 :])
    if kind is PacketType.CONNECT:
        return _connect(raw, connection, reader, at)
    if kind is PacketType.PUBLISH:
        qos, topic = raw[0] >> 1 & 3, reader.text()
        number = reader.take(2) if qos else b""
        told = reader.properties() if v5 else {}
        return Received(connection, kind, raw, at, topic, reader.rest, qos, bool(raw[0] & 1), bool(raw[0] & 8), number, told)
    if kind is PacketType.DISCONNECT:
        return Received(connection, kind, raw, at, code=reader.number(1) if v5 and reader.rest else 0)
    if kind in {PacketType.PINGREQ, PacketType.AUTH}:
        return Received(connection, kind, raw, at)
    number = reader.take(2)
    if kind in {PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE}:
        told, filters = reader.properties() if v5 else {}, []
        while reader.rest:
            filters.append(reader.text())
            reader.take(1 if kind is PacketType.SUBSCRIBE else 0)
        return Received(connection, kind, raw, at, number=number, told=told, filters=tuple(filters))
    return Received(connection, kind, raw, at, number=number)


def _connect(raw: bytes, connection: int, reader: _Reader, at: float) -> Received:
    reader.text()
    v5, flags, keepalive_s = reader.number(1) == 5, reader.number(1), reader.number(2)
    told = reader.properties() if v5 else {}
    client_id, topic, payload = reader.text(), "", b""
    if flags & 4:
        if v5:
            reader.properties()
        topic, payload = reader.text(), reader.binary()
    username = reader.text() if flags & 0x80 else None
    password = reader.text() if flags & 0x40 else None
    return Received(
        connection, PacketType.CONNECT, raw, at, topic, payload, flags >> 3 & 3, bool(flags & 0x20), told=told,
        client_id=client_id, username=username, password=password, keepalive_s=keepalive_s,
    )  # fmt: skip
