"""What the tests of the MQTT sink share."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Collection, Iterator
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.config_delivery import MqttSettings
from edge_agent.errors import SinkUnavailable
from edge_agent.events import Kind, Message
from edge_agent.publisher import Publisher
from edge_agent.requests import Request
from edge_agent.retry import BackoffPolicy
from edge_agent.sinks.mqtt import MqttContext, MqttSink
from edge_agent.spool import Spool, SpoolLimits

QUICKLY = BackoffPolicy(first_s=0.05, least_s=0.01, cap_s=0.1, stable_s=0.0)


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


@contextlib.contextmanager
def speaking(port: int) -> Iterator[paho.Client]:
    """A client of MQTT 5 that says things to a broker."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


@contextlib.contextmanager
def publisher_of(sink: MqttSink, policy: BackoffPolicy = QUICKLY) -> Iterator[Publisher]:
    """A publisher that drives the sink, with room for a thousand events in memory."""
    publisher = Publisher(sink, Spool(SpoolLimits(1000, 1 << 20)), policy)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.stop(5)


def reads(sink: MqttSink) -> bool:
    """True, once everything that came in was read."""
    sink.check()
    return True
