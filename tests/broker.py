"""A scripted broker that speaks just enough of MQTT 5 and 3.1.1 to misbehave as no real one would."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.proxy import Packets, PacketType

PUBREC, PUBREL, PUBCOMP, UNSUBSCRIBE, UNSUBACK, AUTH = 5, 6, 7, 10, 11, 15


def packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    """A packet with its fixed header."""
    length, size = bytearray(), len(body)
    while True:
        size, digit = divmod(size, 128)
        length.append(digit | (0x80 if size else 0))
        if not size:
            return bytes([kind << 4 | flags]) + bytes(length) + body


def text(value: str | bytes) -> bytes:
    """A string with its length before it."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!H", len(data)) + data


def publish(
    topic: str | bytes, payload: bytes, *, qos: int = 0, retain: bool = False, mid: int = 1, properties: bytes | None = b""
) -> bytes:
    """A PUBLISH; ``properties`` None: of MQTT 3.1.1."""
    number = struct.pack("!H", mid) if qos else b""
    told = b"" if properties is None else bytes([len(properties)]) + properties
    return packet(3, text(topic) + number + told + payload, qos << 1 | int(retain))


@dataclass(frozen=True)
class Published:
    """A PUBLISH that came in."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    mid: int


@dataclass
class Script:
    """How to misbehave; may be changed at any time."""

    v5: bool = True
    connack: int | None = 0
    """Reason code; None: never answer."""
    granted: bytes = b""
    """Properties of the CONNACK."""
    puback: Callable[[Published], int | None] = lambda _: 0
    """Reason code (of the PUBREC for QoS 2); None: never answer."""
    suback: int | None = 0
    """Reason code of each topic; None: never answer."""
    pings: bool = True
    """Whether pings are answered."""
    on: Callable[[Connection, int, bytes], bool] = lambda _connection, _kind, _packet: False
    """Sees each packet first; True: that was the answer."""
    greeting: bytes | None = None
    """Sent instead of the CONNACK."""


@dataclass(eq=False)
class Connection:
    """One client."""

    socket: socket.socket
    packets: list[tuple[float, int, bytes]] = field(default_factory=list)
    """When, kind, and bytes."""
    published: list[Published] = field(default_factory=list)
    outstanding: int = 0
    """Of QoS 1 and 2, not acknowledged."""
    most_outstanding: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    send: Callable[[bytes], None] = lambda _: None

    def hang_up(self) -> None:
        """Without a word."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def kinds(self) -> list[int]:
        """Of the packets that came."""
        return [kind for _, kind, _ in list(self.packets)]

    def disconnect(self, code: int) -> None:
        """A DISCONNECT with that reason code (MQTT 5), and hang up."""
        self.send(packet(14, bytes([code, 0])))
        self.hang_up()


class ScriptedBroker:
    """Listens on a free loopback port. ``script`` may be changed from any thread; ``connections`` holds every client that came."""

    def __init__(self, script: Script | None = None, *, websocket: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self.script = script or Script()
        self.connections: list[Connection] = []
        self._websocket, self._tls = websocket, tls
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def published(self) -> list[Published]:
        """By all clients, in order of connections."""
        return [each for connection in list(self.connections) for each in list(connection.published)]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with accepted, contextlib.suppress(OSError):
            peer = accepted if self._tls is None else self._tls.wrap_socket(accepted, server_side=True)
            connection = Connection(peer)
            connection.send = peer.sendall
            incoming = self._incoming(connection)
            self.connections.append(connection)
            packets = Packets()
            try:
                for data in incoming:
                    for each in packets.feed(data):
                        self._take(connection, each)
            finally:
                connection.ended.set()

    def _incoming(self, connection: Connection) -> Iterator[bytes]:
        if self._websocket:
            connection.send = lambda data: connection.socket.sendall(_frame(data))
            return _frames(connection.socket)
        return iter(lambda: connection.socket.recv(65536), b"")

    def _take(self, connection: Connection, each: bytes) -> None:
        kind, script = each[0] >> 4, self.script
        connection.packets.append((time.monotonic(), kind, each))
        if script.on(connection, kind, each):
            return
        body = _body(each)
        if kind == PacketType.CONNECT:
            self._greet(connection)
        elif kind == PacketType.PUBLISH:
            self._published(connection, each[0], body)
        elif kind == PUBREL:
            connection.outstanding -= 1
            connection.send(packet(PUBCOMP, body[:2]))
        elif kind == PacketType.SUBSCRIBE and script.suback is not None:
            connection.send(_answer(PacketType.SUBACK, body, script.suback, v5=script.v5))
        elif kind == UNSUBSCRIBE:
            connection.send(_answer(UNSUBACK, body, 0, v5=script.v5))
        elif kind == PacketType.PINGREQ and script.pings:
            connection.send(packet(13, b""))

    def _greet(self, connection: Connection) -> None:
        script = self.script
        if script.greeting is not None:
            connection.send(script.greeting)
        elif script.connack is not None:
            told = bytes([len(script.granted)]) + script.granted if script.v5 else b""
            connection.send(packet(2, bytes([0, script.connack]) + told))
            if script.connack:
                connection.hang_up()

    def _published(self, connection: Connection, first: int, body: bytes) -> None:
        qos = first >> 1 & 3
        size = int.from_bytes(body[:2], "big")
        topic, rest, mid = body[2 : 2 + size].decode(), body[2 + size :], 0
        if qos:
            mid, rest = int.from_bytes(rest[:2], "big"), rest[2:]
            connection.outstanding += 1
            connection.most_outstanding = max(connection.most_outstanding, connection.outstanding)
        if self.script.v5:
            rest = rest[1 + rest[0] :]
        message = Published(topic, rest, qos, bool(first & 1), mid)
        connection.published.append(message)
        code = self.script.puback(message)
        if qos and code is not None:
            if qos == 1 or code >= 0x80:
                connection.outstanding -= 1
            kind = PacketType.PUBACK if qos == 1 else PUBREC
            connection.send(packet(kind, struct.pack("!H", mid) + (bytes([code]) if code and self.script.v5 else b"")))

    def close(self) -> None:
        """End, with every connection."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self.connections:
            connection.hang_up()


@contextlib.contextmanager
def scripted(script: Script | None = None, *, websocket: bool = False, tls: ssl.SSLContext | None = None) -> Iterator[ScriptedBroker]:
    """A broker for as long as the block lasts."""
    broker = ScriptedBroker(script, websocket=websocket, tls=tls)
    try:
        yield broker
    finally:
        broker.close()


def _body(each: bytes) -> bytes:
    start = 1
    while each[start] & 0x80:
        start += 1
    return each[start + 1 :]


def _answer(kind: int, body: bytes, code: int, *, v5: bool) -> bytes:
    """SUBACK or UNSUBACK: a code for each topic that was asked for."""
    rest = body[2:]
    if v5:
        rest = rest[1 + rest[0] :]
    topics = 0
    while rest:
        size = int.from_bytes(rest[:2], "big")
        rest = rest[2 + size + (1 if kind == PacketType.SUBACK else 0) :]
        topics += 1
    codes = bytes([code]) * topics
    return packet(kind, body[:2] + (b"\0" + codes if v5 else codes if kind == PacketType.SUBACK else b""))


def _frame(data: bytes) -> bytes:
    size = len(data)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack("!H", size) if size < 65536 else b"\x7f" + struct.pack("!Q", size)
    return b"\x82" + length + data


def _frames(connection: socket.socket) -> Iterator[bytes]:
    """The payloads of a client's WebSocket frames, after the handshake (RFC 6455)."""
    stream = connection.makefile("rb")
    key = b""
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-key":
            key = value.strip()
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    connection.sendall(
        f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    while len(header := stream.read(2)) == 2:
        size = header[1] & 0x7F
        size = size if size < 126 else int.from_bytes(stream.read(2 if size == 126 else 8), "big")
        mask = stream.read(4)
        yield bytes(byte ^ mask[position % 4] for position, byte in enumerate(stream.read(size)))
