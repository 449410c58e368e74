"""A plain subscriber that keeps what it hears."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion


@dataclass(frozen=True)
class Heard:
    """One message."""

    topic: str
    payload: bytes
    qos: int
    retain: bool

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Subscriber:
    """Everything that was heard, in order; thread-safe to read."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.subscribed = threading.Event()

    def on(self, suffix: str) -> list[Heard]:
        """The messages whose topic ends so."""
        return [message for message in list(self.heard) if message.topic.endswith(suffix)]


@contextmanager
def subscribed(port: int, topic: str = "#", username: str | None = None, password: str | None = None) -> Iterator[Subscriber]:
    """A subscriber for as long as the block lasts; it comes back by itself when the broker does."""
    subscriber = Subscriber()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.reconnect_delay_set(1, 1)
    if username:
        client.username_pw_set(username, password)

    def connected(client: paho.Client, *_: Any) -> None:
        client.subscribe(topic, qos=1)

    def message(_client: paho.Client, _user: Any, found: paho.MQTTMessage) -> None:
        subscriber.heard.append(Heard(found.topic, bytes(found.payload), found.qos, found.retain))

    client.on_connect = connected
    client.on_subscribe = lambda *_: subscriber.subscribed.set()
    client.on_message = message
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert subscriber.subscribed.wait(10)
    try:
        yield subscriber
    finally:
        client.disconnect()
        client.loop_stop()
