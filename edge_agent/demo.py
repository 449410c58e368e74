"""``edge-agent demo``: the daemon's own path on the built-in model and clip, with an MQTT broker inside the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator
from importlib import resources
from typing import Any

from edge_agent.errors import ConfigError, SinkUnavailable

CLIP = "people_cross.mp4"
CAMERA = "demo"
_START_S = 15.0


def clip_path() -> str:
    """The clip that comes with the package."""
    return str(resources.files("edge_agent") / "data" / CLIP)


def tables(source: str | None, model: str | None, broker: tuple[str, int, str], device: str, state_dir: str) -> dict[str, Any]:
    """The demo's configuration, as agent.toml would hold it."""
    camera: dict[str, Any] = {"id": CAMERA, "source": source if source is not None else clip_path()}
    if source is None:
        camera |= {"loop": True, "realtime": True}
    elif os.path.isdir(source):  # noqa: PTH112 - says no to what can be no path, where pathlib raises
        camera["kind"] = "images"
    host, port, protocol = broker
    return {
        "device": {"id": device, "state_dir": state_dir},
        "model": {"path": model} if model else {},
        "mqtt": {"host": host, "port": port, "protocol": protocol},
        "health": {"interval_s": 5},
        "log": {"level": "warning"},
        "cameras": [camera],
    }


@contextlib.contextmanager
def embedded_broker() -> Iterator[int]:
    """A broker on a free loopback port, for as long as the block lasts; yields the port. Raises ConfigError, SinkUnavailable."""
    broker_class = _broker_class()
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    loop = asyncio.new_event_loop()
    failures: list[BaseException] = []
    started, ended = threading.Event(), asyncio.Event()

    async def serve() -> None:
        try:
            broker = broker_class(_configuration(port))
            await broker.start()
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            started.set()
        await ended.wait()
        await broker.shutdown()

    def work() -> None:
        with contextlib.suppress(Exception):
            loop.run_until_complete(serve())

    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.CRITICAL)
    thread = threading.Thread(target=work, name="demo-broker", daemon=True)
    thread.start()
    if not started.wait(_START_S) or failures:
        raise SinkUnavailable(f"the embedded broker did not start: {failures[0] if failures else 'no answer'}")
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(3)


def _broker_class() -> Any:
    try:
        from amqtt.broker import Broker
    except ImportError:
        raise ConfigError(
            'the embedded broker needs the package amqtt: pip install "edge-agent[demo]" (or name yours with --broker HOST[:PORT])'
        ) from None
    return Broker


def _configuration(port: int) -> dict[str, Any]:
    return {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
