"""``edge-agent watch``: shows what arrives at the broker, as a table, as lines, or as JSON, and tells of what did not arrive."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_agent._watch_ledger import Ledger, seconds
from edge_agent.config_delivery import WebSocketSettings
from edge_agent.encoding import as_json
from edge_agent.errors import SinkUnavailable
from edge_agent.events import timestamp
from edge_agent.sinks.mqtt import MqttContext, connection_problem

MOST_SHOWN = 6
_STOP_WITHIN_S = 2.0


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
    websocket: WebSocketSettings | None = None
    as_json: bool = False
    as_table: bool = False
    """Write nothing for each message: whoever asks reads the ledger."""
    every_frame: bool = False
    """Also frames in which nothing was seen."""


class Watch:
    """A subscriber that prints. paho reconnects for it."""

    def __init__(self, options: WatchOptions, write: Callable[[str], None], note: Callable[[str], None] = lambda _: None) -> None:
        self._options, self._write, self._note = options, write, note
        self.messages = 0
        self.ledger = Ledger()
        self._lock = threading.Lock()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311, transport=_transport(options))
        if options.websocket is not None:
            headers = {name: value.get_secret_value() for name, value in options.websocket.headers.items()}
            self._client.ws_set_options(options.websocket.path, headers)
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
            self._client.connect(options.context.unix_socket or options.host, options.port)
        except (OSError, ValueError, paho.WebsocketConnectionError) as error:
            raise SinkUnavailable(
                f"mqtt://{options.host}:{options.port}: {connection_problem(error, tls=options.context.tls is not None)}"
            ) from None
        self._client.loop_start()
        if not self._answered.wait(10) or self._refused:
            self.stop()
            raise SinkUnavailable(f"mqtt://{options.host}:{options.port}: {self._refused or 'no answer'}")

    def stop(self) -> None:
        """Disconnect. Takes two seconds at most, whatever the connection is doing."""
        self._stopping = True

        def end() -> None:
            self._client.disconnect()
            self._client.loop_stop()  # waits for paho's thread, without a limit

        ending = threading.Thread(target=end, name="watch-end", daemon=True)
        ending.start()
        ending.join(_STOP_WITHIN_S)

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
        payload = bytes(message.payload)
        more = self._account(message.topic, payload, is_old=message.retain)
        line = None if self._options.as_table else render(message.topic, payload, self._options, more)
        if line is not None:
            self._write(line if self._options.as_json else _plain(line))

    def _account(self, topic: str, payload: bytes, *, is_old: bool) -> Mapping[str, Any]:
        """Into the ledger, whatever is shown of it; what is to be said of the message besides. ``is_old``: the broker had kept it."""
        device, camera, kind = split(topic, self._options.base)
        if self._options.camera not in {None, camera}:
            return {}
        content, utc, now = decoded(payload), time.time(), time.monotonic()
        try:
            with self._lock:
                return self._enter(device, camera, kind, content, utc, now) if not is_old or kind == "status" else {}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return {}  # not of the contract

    def _enter(self, device: str, camera: str | None, kind: str, content: Any, utc: float, now: float) -> Mapping[str, Any]:
        ledger = self.ledger
        if camera is not None and kind == "detections":
            noted = ledger.note(device, camera, content, utc, now)
            if self._options.label is None or _has(self._options.label, content):
                ledger.camera(device, camera).seen = _plain(_detections_seen(content, self._options.label))
            return {"received_at": timestamp(utc), "latency_ms": noted.latency_ms, "duplicate": noted.duplicate, "lost": noted.lost}
        if camera is not None and kind == "status":
            ledger.camera(device, camera).state = _plain(str(content["state"]))
        elif camera is None and kind == "status":
            ledger.devices[device] = str(content).strip()
        elif camera is None and kind == "health":
            ledger.note_health(device, content, utc)
        return {}

    def table(self) -> list[str]:
        """The table as of now. From any thread."""
        with self._lock:
            return [_plain(line) for line in self.ledger.table(time.monotonic())]

    def totals(self) -> dict[str, dict[str, Any]]:
        """As ``Ledger.totals``. From any thread."""
        with self._lock:
            return self.ledger.totals()

    def warnings(self) -> list[str]:
        """As ``Ledger.warnings``. From any thread."""
        with self._lock:
            return [_plain(line) for line in self.ledger.warnings()]


def _transport(options: WatchOptions) -> Literal["tcp", "websockets", "unix"]:
    if options.context.unix_socket is not None:
        return "unix"
    return "tcp" if options.websocket is None else "websockets"


def split(topic: str, base: str) -> tuple[str, str | None, str]:
    """Device, camera if there is one, and what it is about."""
    levels = topic[len(base) + 1 :].split("/")
    camera = levels[2] if len(levels) > 3 and levels[1] == "camera" else None
    return levels[0], camera, levels[-1]


def decoded(payload: bytes) -> Any:
    """What a payload holds, in JSON or MessagePack; of anything else, its text. Never raises."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(as_json(payload))
    except (ValueError, RecursionError, TypeError):  # a map with keys that are no strings is no JSON
        return payload.decode("utf-8", "replace")


def _plain(text: str) -> str:
    """Without what would move a terminal's cursor or colour it: anybody may write to a broker."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def render(topic: str, payload: bytes, options: WatchOptions, more: Mapping[str, Any] | None = None) -> str | None:
    """One message as a line; None for what was not asked for. Never raises, whatever the payload is. ``more`` goes into the JSON."""
    _, camera, kind = split(topic, options.base)
    if options.camera is not None and camera != options.camera:
        return None
    content = decoded(payload)
    if options.as_json:
        if options.label is not None and camera is not None and kind == "detections" and not _has(options.label, content):
            return None
        return json.dumps({"topic": topic, "payload": content, **(more or {})}, ensure_ascii=False)
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
    found = _found(content, options.label)
    if not found and not (options.every_frame and options.label is None):
        return None
    seen = _together(found)
    age = (time.time() - seconds(content["captured_at"])) * 1e3
    shown = f"{age:.0f} ms" if abs(age) < 60_000 else content["captured_at"]
    return f"{content['camera']} frame {content['frame_id']}: {seen}  ({shown}, inference {content['latency_ms']['infer']:.1f} ms)"


def _found(content: Mapping[str, Any], label: str | None) -> Sequence[Mapping[str, Any]]:
    """Detections, classes of the picture and segments."""
    of_picture = [*content.get("classes", ()), *content.get("segments", ())]
    return [d for d in [*content["detections"], *of_picture] if label in {None, d["label"]}]


def _together(found: Sequence[Mapping[str, Any]]) -> str:
    more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    return "; ".join(_seen(one) for one in found[:MOST_SHOWN]) + more if found else "nothing"


def _detections_seen(content: Mapping[str, Any], label: str | None) -> str:
    """For the table: how many of which class."""
    counts = Counter(str(one["label"]) for one in _found(content, label))
    return ", ".join(f"{count} {name}" for name, count in counts.most_common(MOST_SHOWN)) or "nothing"


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
