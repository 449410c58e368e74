"""What the tests of the MQTT sink share."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Collection, Iterator
from typing import Any

from edge_agent.config import MqttSettings
from edge_agent.errors import SinkUnavailable
from edge_agent.events import Kind, Message
from edge_agent.requests import Request
from edge_agent.sinks.mqtt import MqttContext, MqttSink


def make_sink(
    port: int,
    password: str | None = None,
    tls: ssl.SSLContext | None = None,
    client_id: str = "dev",
    on_request: Callable[[Request], None] | None = None,
    cameras: Collection[str] | None = None,
    unix_socket: str | None = None,
    **settings: Any,
) -> MqttSink:
    """A sink of the device ``dev``."""
    config = MqttSettings(**{"host": "127.0.0.1", "port": port, "connect_timeout_s": 5, **settings})
    return MqttSink(MqttContext("dev", client_id, password, tls, on_request, cameras, unix_socket), config)


@contextlib.contextmanager
def connected(sink: MqttSink) -> Iterator[MqttSink]:
    """A sink with a connection for as long as the block lasts."""
    sink.connect()
    try:
        yield sink
    finally:
        sink.close()


def detections(count: int, size: int = 20) -> list[Message]:
    """Events that can be told apart."""
    return [Message(Kind.DETECTIONS, "front", f"{position}".encode().ljust(size, b".")) for position in range(count)]


def fails(action: Callable[[], object]) -> bool:
    """Whether it says that the connection is lost."""
    try:
        action()
    except SinkUnavailable:
        return True
    return False
