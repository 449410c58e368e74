"""A broker that does by script what mosquitto never would, and notes what it was sent. MQTT 5 and 3.1.1, as the client asks."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from tests.conftest import wait_until
from tests.mqtt_packets import PacketType, Received, Values, packet, parse, properties, read_packet, text

SILENCE = 10.0
"""Seconds that an answer of the agent may take before a test gives up."""

Answer: TypeAlias = "int | Callable[[Received], int | None] | None"
"""A reason code, or none at all; perhaps by what was received."""


@dataclass
class Script:
    """How it behaves. Read anew for each packet, so it may be changed from any thread while connections stand."""

    mute: bool = False
    """Takes connections, and neither reads nor answers."""
    connack: Answer = 0
    granted: Values = field(default_factory=dict)
    """Properties of the CONNACK, by number."""
    puback: Answer = 0
    """For QoS 2 it is the PUBREC's. None: held back until ``acknowledge``."""
    suback: Answer = 1
    unsuback: Answer = 0
    answers_pings: bool = True
    instead: Mapping[PacketType, bytes] = field(default_factory=dict)
    """Bytes to send for the answer to a packet of that kind."""
    hangs_up: Callable[[Received], bool] = lambda _received: False
    """At which packet, without an answer to it."""
    disconnect: int | None = None
    """The reason code that is said before that (MQTT 5)."""
    reason: str = ""
    """The reason string that goes with every refusal."""


@dataclass(eq=False)
class Connection:
    """One client."""

    number: int
    """From 0, in the order they came."""
    socket: socket.socket
    v5: bool = True
    unacknowledged: list[Received] = field(default_factory=list)
    most_unacknowledged: int = 0
    sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, data: bytes) -> None:
        """Nothing happens if the client is gone."""
        with self.sending, contextlib.suppress(OSError):
            self.socket.sendall(data)

    def hang_up(self) -> None:
        """At once."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Broker:
    """Listens on a free port of loopback, a thread for each connection."""

    def __init__(self, script: Script | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.script = script or Script()
        self.received: list[Received] = []
        """All packets, in the order they came."""
        self.connections: list[Connection] = []
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="broker", daemon=True).start()

    def close(self) -> None:
        """Hang up on everybody, and end."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            connection.hang_up()

    def of(self, kind: PacketType, topic: str | None = None) -> list[Received]:
        """What came of that kind."""
        return [each for each in list(self.received) if each.kind is kind and topic in {None, each.topic}]

    def wait_for(self, kind: PacketType, count: int = 1, topic: str | None = None) -> list[Received]:
        """Those of that kind, once so many came."""
        wait_until(lambda: len(self.of(kind, topic)) >= count, SILENCE, f"{count} x {kind.name} {topic or ''}")
        return self.of(kind, topic)

    def acknowledge(self, count: int | None = None, code: int = 0) -> None:
        """Send the acknowledgements that were held back, the oldest first: so many, or all."""
        for connection in self.connections:
            held = connection.unacknowledged[:count]
            del connection.unacknowledged[:count]
            for received in held:
                connection.send(self._confirmation(connection, received, code))

    def deliver(self, topic: str | bytes, payload: bytes, *, retain: bool = False, told: Values | None = None) -> None:
        """Send a message of QoS 0 to every client, whether it has subscribed or not."""
        for connection in self.connections:
            body = text(topic) + (properties(told or {}) if connection.v5 else b"") + payload
            connection.send(packet(PacketType.PUBLISH, body, int(retain)))

    def send(self, data: bytes) -> None:
        """Send bytes to every client."""
        for connection in self.connections:
            connection.send(data)

    def disconnect(self, code: int) -> None:
        """Say to every client of MQTT 5 why, and hang up on all."""
        for connection in self.connections:
            self._say_goodbye(connection, code)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(accepted,), name="broker", daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), accepted:
            if self._tls is not None and not self.script.mute:
                accepted = self._tls.wrap_socket(accepted, server_side=True)
            connection = Connection(len(self.connections), accepted)
            self.connections.append(connection)
            if self.script.mute:
                threading.Event().wait(SILENCE)
                return
            while (raw := read_packet(accepted)) is not None:
                if raw[0] >> 4 == PacketType.CONNECT:
                    connection.v5 = raw[raw.index(b"MQTT") + 4] == 5
                received = parse(raw, connection.number, v5=connection.v5, at=time.monotonic())
                self.received.append(received)
                if not self._react(connection, received):
                    return

    def _react(self, connection: Connection, received: Received) -> bool:
        """Answer; whether the connection goes on."""
        script = self.script
        if script.hangs_up(received):
            self._say_goodbye(connection, script.disconnect)
            return False
        if received.kind in script.instead:
            connection.send(script.instead[received.kind])
        elif received.kind is PacketType.CONNECT:
            code = _decided(script.connack, received)
            if code is not None:
                told = script.granted if code < 0x80 else self._reason()
                connection.send(packet(PacketType.CONNACK, bytes([0, code]) + (properties(told) if connection.v5 else b"")))
                return code == 0
        elif received.kind is PacketType.PUBLISH and received.qos > 0:
            self._published(connection, received)
        elif received.kind in {PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE}:
            self._subscribed(connection, received)
        elif received.kind is PacketType.PUBREL:
            connection.send(packet(PacketType.PUBCOMP, received.number))
        elif received.kind is PacketType.PINGREQ and script.answers_pings:
            connection.send(packet(PacketType.PINGRESP, b""))
        return received.kind is not PacketType.DISCONNECT

    def _published(self, connection: Connection, received: Received) -> None:
        connection.unacknowledged.append(received)
        connection.most_unacknowledged = max(connection.most_unacknowledged, len(connection.unacknowledged))
        code = _decided(self.script.puback, received)
        if code is not None:
            connection.unacknowledged.remove(received)
            connection.send(self._confirmation(connection, received, code))

    def _subscribed(self, connection: Connection, received: Received) -> None:
        is_new = received.kind is PacketType.SUBSCRIBE
        code = _decided(self.script.suback if is_new else self.script.unsuback, received)
        if code is not None:
            kind = PacketType.SUBACK if is_new else PacketType.UNSUBACK
            codes = bytes([code] * len(received.filters)) if is_new or connection.v5 else b""
            told = (properties(self._reason() if code >= 0x80 else {})) if connection.v5 else b""
            connection.send(packet(kind, received.number + told + codes))

    def _confirmation(self, connection: Connection, received: Received, code: int) -> bytes:
        kind = PacketType.PUBACK if received.qos == 1 else PacketType.PUBREC
        if not connection.v5 or code == 0:
            return packet(kind, received.number)
        return packet(kind, received.number + bytes([code]) + properties(self._reason()))

    def _say_goodbye(self, connection: Connection, code: int | None) -> None:
        if connection.v5 and code is not None:
            connection.send(packet(PacketType.DISCONNECT, bytes([code]) + properties(self._reason())))
        connection.hang_up()

    def _reason(self) -> Values:
        return {0x1F: self.script.reason} if self.script.reason else {}


def _decided(answer: Answer, received: Received) -> int | None:
    return answer(received) if callable(answer) else answer


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port where connections are neither taken nor refused: its queue is full, so the kernel drops what comes."""
    with socket.socket() as server, contextlib.ExitStack() as waiting:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        while True:
            one = waiting.enter_context(contextlib.closing(socket.socket()))
            one.settimeout(0.1)
            try:
                one.connect(address)
            except TimeoutError:
                break
        yield int(address[1])
