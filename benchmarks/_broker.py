"""A real mosquitto on a free loopback port, and a subscriber that notes when a message arrives."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

_READY_S = 10.0


def installed() -> str | None:
    """The mosquitto binary; Debian puts it where only root's PATH looks."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def broker() -> Iterator[int | None]:
    """The port of a broker of our own for as long as the block lasts; None where mosquitto is not installed."""
    binary = installed()
    if binary is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-broker-") as folder:
        config = Path(folder, "mosquitto.conf")
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest none\n", "utf-8")
        process = subprocess.Popen([binary, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_until_open(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(5)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), contextlib.closing(socket.create_connection(("127.0.0.1", port), 0.2)):
            return
        time.sleep(0.02)
    raise RuntimeError(f"mosquitto does not answer on port {port}")


class FirstMessage:
    """Waits for the first message on a topic; ``at`` is the monotonic time at which it arrived."""

    def __init__(self, port: int, topic: str) -> None:
        self.at: float | None = None
        self._arrived, self._subscribed = threading.Event(), threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe(topic, qos=0)
        if not self._subscribed.wait(_READY_S):
            raise RuntimeError("the broker does not confirm a subscription")

    def _on_message(self, _client: paho.Client, _data: object, _message: paho.MQTTMessage) -> None:
        if self.at is None:
            self.at = time.monotonic()
            self._arrived.set()

    def wait(self, timeout_s: float) -> float:
        """The time of arrival."""
        if not self._arrived.wait(timeout_s) or self.at is None:
            raise RuntimeError(f"nothing was published within {timeout_s:g} s")
        return self.at

    def close(self) -> None:
        """Unsubscribe and leave."""
        self._client.disconnect()
        self._client.loop_stop()
