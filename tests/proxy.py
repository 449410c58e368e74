"""A network that can be made bad: a TCP proxy in front of a broker, which reads the MQTT that goes through it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

Direction = Literal["up", "down"]
"""To the broker, or from it."""


class PacketType(IntEnum):
    """The upper half of a packet's first byte (MQTT 5, 2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    SUBSCRIBE = 8
    SUBACK = 9
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


@dataclass(frozen=True)
class Cut:
    """The connection breaks at the next packet of that kind, once ``passed`` (0..1) of its bytes have gone through."""

    direction: Direction
    kind: PacketType
    passed: float = 0.0


@dataclass
class Weather:
    """What the network is like; may be changed while connections stand."""

    latency_s: float = 0.0
    bytes_per_s: float = float("inf")
    black_hole: bool = False
    """Connections stand, and nothing goes through."""
    cut: Cut | None = None
    """Happens once."""
    refuses: bool = False
    """Whoever comes is hung up on."""
    swallows: frozenset[PacketType] = frozenset()
    """Packets from the broker that get lost, on a connection that stands."""
    puback_code: int | None = None
    """The broker says this reason code instead of its own (MQTT 5, 3.4.2.1)."""
    connack_code: int | None = None


class Packets:
    """Whole packets of a stream of bytes."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The packets that are complete now."""
        self._data += data
        while (size := self._size()) is not None and len(self._data) >= size:
            yield bytes(self._data[:size])
            del self._data[:size]

    def _size(self) -> int | None:
        length, shift = 0, 0
        for position in range(1, min(5, len(self._data))):
            length |= (self._data[position] & 0x7F) << shift
            shift += 7
            if not self._data[position] & 0x80:
                return position + 1 + length
        return None


Tap = Callable[["Link", Direction, bytes], None]


@dataclass(eq=False)
class Link:
    """One connection through the proxy."""

    client: socket.socket
    broker: socket.socket
    broken: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        """At once, as when a cable is pulled and its peer has noticed: a reset on both sides."""
        self.broken.set()
        for connection in (self.client, self.broker):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes whoever reads it
            connection.close()


class Proxy:
    """Listens on a port of its own. ``weather`` and ``target`` may be changed from any thread."""

    def __init__(self, target: int, tap: Tap = lambda _link, _direction, _packet: None) -> None:
        """``target``: the broker's port on loopback. ``tap`` is told of each packet that went through whole, in its direction's thread."""
        self.target, self.weather = target, Weather()
        self.accepted = 0
        self._tap = tap
        self._links: set[Link] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._thread(self._accept)

    def _thread(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                if self.weather.refuses:
                    raise OSError
                broker = socket.create_connection(("127.0.0.1", self.target), 2)
            except OSError:
                client.close()
                continue
            for connection in (client, broker):
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(client, broker)
            with self._lock:
                self._links.add(link)
            self._thread(self._pump, link, "up", client, broker)
            self._thread(self._pump, link, "down", broker, client)

    def _pump(self, link: Link, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        packets = Packets()
        with contextlib.suppress(OSError):
            while not link.broken.is_set():
                data = source.recv(65536)
                if not data:
                    break
                for packet in packets.feed(data):
                    self._forward(link, direction, packet, sink)
        link.cut()
        with self._lock:
            self._links.discard(link)

    def _forward(self, link: Link, direction: Direction, packet: bytes, sink: socket.socket) -> None:
        weather = self.weather
        while self.weather.black_hole and not link.broken.wait(0.01):
            pass
        if weather.latency_s:
            link.broken.wait(weather.latency_s)
        cut = weather.cut
        if cut is not None and cut.direction == direction and packet[0] >> 4 == cut.kind:
            weather.cut = None
            sink.sendall(packet[: int(len(packet) * cut.passed)])
            link.cut()
            raise OSError("cut")
        if weather.bytes_per_s != float("inf"):
            link.broken.wait(len(packet) / weather.bytes_per_s)
        kind = packet[0] >> 4
        if direction == "down":
            if kind in weather.swallows:
                return
            if kind == PacketType.PUBACK and weather.puback_code is not None:
                packet = bytes([packet[0], 3, *packet[2:4], weather.puback_code])
            if kind == PacketType.CONNACK and weather.connack_code is not None:
                packet = bytes([packet[0], 3, 0, weather.connack_code, 0])
        # Told of before the broker can answer; and what a broker has said is said, whether the client hears it or not.
        self._tap(link, direction, packet)
        sink.sendall(packet)

    def cut_all(self) -> None:
        """Every connection breaks now."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()

    def close(self) -> None:
        """End, and wait for the threads."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.weather = Weather()
        self.cut_all()
        until = time.monotonic() + 5
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
