"""``edge-agent watch``: shows what arrives at the broker, as lines for people or as JSON."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent.errors import SinkUnavailable
from edge_agent.sinks.mqtt import MqttContext, connection_problem

MOST_SHOWN = 6


@dataclass(frozen=True)
class WatchOptions:
    """What to listen to and how to show it."""

    host: str = "localhost"
    port: int = 1883
    base: str = "edge"
    device: str | None = None
    camera: str | None = None
    label: str | None = None
    username: str | None = None
    context: MqttContext = field(default_factory=lambda: MqttContext("", "", None, None))
    as_json: bool = False
    every_frame: bool = False
    """Also frames in which nothing was seen."""


class Watch:
    """A subscriber that prints. paho reconnects for it."""

    def __init__(self, options: WatchOptions, write: Callable[[str], None], note: Callable[[str], None] = lambda _: None) -> None:
        self._options, self._write, self._note = options, write, note
        self.messages = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        self._client.suppress_exceptions = False
        if options.username:
            self._client.username_pw_set(options.username, options.context.password)
        if options.context.tls is not None:
            self._client.tls_set_context(options.context.tls)
        self._client.on_connect, self._client.on_subscribe, self._client.on_message = self._subscribe, self._granted, self._show
        self._client.on_disconnect = self._lost
        self._stopping = self._away = False
        self._answered = threading.Event()
        self._refused = ""

    def start(self) -> None:
        """Connect and begin to print, in paho's own thread. Raises SinkUnavailable."""
        options = self._options
        try:
            self._client.connect(options.host, options.port)
        except (OSError, ValueError) as error:
            raise SinkUnavailable(
                f"mqtt://{options.host}:{options.port}: {connection_problem(error, tls=options.context.tls is not None)}"
            ) from None
        self._client.loop_start()
        if not self._answered.wait(10) or self._refused:
            self.stop()
            raise SinkUnavailable(f"mqtt://{options.host}:{options.port}: {self._refused or 'no answer'}")

    def stop(self) -> None:
        """Disconnect."""
        self._stopping = True
        self._client.disconnect()
        self._client.loop_stop()

    def _subscribe(self, client: paho.Client, _user: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._answer(str(reason))
        else:
            client.subscribe(f"{self._options.base}/{self._options.device or '+'}/#", qos=1)

    def _granted(self, _client: paho.Client, _user: Any, _mid: int, reasons: Sequence[Any], _properties: Any) -> None:
        refused = any(reason.is_failure for reason in reasons)
        self._answer(f"this user may not read {self._options.base}/#" if refused else "")
        if self._away and not refused:
            self._away = False
            self._note("connected again")

    def _answer(self, refused: str) -> None:
        self._refused = refused
        self._answered.set()

    def _lost(self, *_: Any) -> None:
        if self._answered.is_set() and not self._stopping and not self._away:
            self._away = True
            self._note("connection lost, trying again")

    def _show(self, _client: paho.Client, _user: Any, message: paho.MQTTMessage) -> None:
        self.messages += 1
        line = render(message.topic, bytes(message.payload), self._options)
        if line is not None:
            self._write(line)


def render(topic: str, payload: bytes, options: WatchOptions) -> str | None:
    """One message as a line; None for what was not asked for. Never raises, whatever the payload is."""
    levels = topic[len(options.base) + 1 :].split("/")
    camera = levels[2] if len(levels) > 3 and levels[1] == "camera" else None
    if options.camera is not None and camera != options.camera:
        return None
    kind = levels[-1]
    try:
        content: Any = json.loads(payload)
    except (ValueError, RecursionError):
        content = payload.decode("utf-8", "replace")
    if options.as_json:
        if options.label is not None and camera is not None and kind == "detections" and not _has(options.label, content):
            return None
        return json.dumps({"topic": topic, "payload": content}, ensure_ascii=False)
    try:
        return _contract_line(kind, camera, content, options)
    except (KeyError, TypeError, ValueError, AttributeError):
        return f"{topic}: {str(content)[:200]}"


def _contract_line(kind: str, camera: str | None, content: Any, options: WatchOptions) -> str | None:
    """A line for a message of the contract; KeyError for others."""
    if camera is not None and kind == "detections":
        return _detections(content, options)
    if camera is not None and kind == "status":
        return _camera(content)
    if camera is None and kind == "health":
        return _health(content)
    if camera is None and kind == "status":
        return f"agent: {content.strip()}"
    raise KeyError(kind)


def _has(label: str, content: Any) -> bool:
    """Whether a detections message, or what is none, tells of a class."""
    found = [content.get(key) for key in ("detections", "classes", "segments")] if isinstance(content, dict) else []
    items = [item for part in found if isinstance(part, list) for item in part]
    return any(isinstance(item, dict) and item.get("label") == label for item in items)


def _detections(content: Mapping[str, Any], options: WatchOptions) -> str | None:
    of_picture = [*content.get("classes", ()), *content.get("segments", ())]
    found: Sequence[Mapping[str, Any]] = [d for d in [*content["detections"], *of_picture] if options.label in {None, d["label"]}]
    if not found and not (options.every_frame and options.label is None):
        return None
    parts = [_seen(one) for one in found[:MOST_SHOWN]]
    more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    seen = "; ".join(parts) + more if parts else "nothing"
    age = (time.time() - datetime.fromisoformat(content["captured_at"].replace("Z", "+00:00")).timestamp()) * 1e3
    shown = f"{age:.0f} ms" if abs(age) < 60_000 else content["captured_at"]
    return f"{content['camera']} frame {content['frame_id']}: {seen}  ({shown}, inference {content['latency_ms']['infer']:.1f} ms)"


def _seen(one: Mapping[str, Any]) -> str:
    """A detection, a class of the whole picture, or a segment of it."""
    if "share" in one:
        return f"{one['label']} {one['share']:.1%}"
    place = f" [{', '.join(f'{v:.0f}' for v in one['xyxy'])}]" if "xyxy" in one else ""
    more = ", ".join(key for key in ("keypoints", "mask") if key in one)
    return f"{one['label']} {one['confidence']:.2f}{place}{f' with {more}' if more else ''}"


def _health(content: Mapping[str, Any]) -> str:
    cameras = ", ".join(
        f"{name} {camera['state']} {camera['served_fps']:.1f} of {camera['captured_fps']:.1f} fps"
        for name, camera in content["cameras"].items()
    )
    reasons = f" ({'; '.join(content['reasons'])})" if content["reasons"] else ""
    process = content["process"]
    memory = process["rss_bytes"] / 1e6
    return f"health {content['device']}: {content['verdict']}{reasons}; {cameras}; CPU {process['cpu_percent']:.0f} %, {memory:.0f} MB"


def _camera(content: Mapping[str, Any]) -> str:
    error = f": {content['error']['message']}" if content.get("error") else ""
    size = (
        f", {content['width']}x{content['height']}, {content['decoder']}" if content.get("width") and content["state"] == "online" else ""
    )
    return f"camera {content['camera']}: {content['state']}{size}{error}"
