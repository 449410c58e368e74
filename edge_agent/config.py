"""agent.toml: its settings model. Validation here does no I/O; :mod:`edge_agent.config_file` reads the file.

A camera's table holds the keys below plus those of its source's kind (the ``Config`` of that file in ``sources/``);
``[model]`` holds the keys below plus those of its runtime's kind. This module knows no plugin.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, StrictInt
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from edge_agent import credential_paths
from edge_agent.errors import ConfigError

ENV_PREFIX = "EDGE_AGENT_"
ENV_DELIMITER = "__"

_NAME = re.compile(r"\w[\w.-]{0,63}")
_MODEL_NAME = re.compile(r"[\w-]{1,64}")
_HOST = re.compile(r"[^\s/@\[\]\x00]+")
_WEB_PATH = re.compile(r"/[!-~]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BASE_TOPIC = re.compile(r"[^\s/+#$\x00][^\s+#\x00]{0,127}")


def not_bool(value: object) -> object:
    """Python counts True as 1; a configuration does not."""
    if isinstance(value, bool):
        raise ValueError(  # noqa: TRY004 - pydantic reports ValueError
            "must be a number, not true or false"
        )
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, '_', '-' or '.' (it becomes part of MQTT topics)")
    return value


def _model_name(value: str) -> str:
    if not _MODEL_NAME.fullmatch(value):
        raise ValueError("the name must be 1 to 64 letters, digits, '_' or '-'")
    return value


def _host(value: str) -> str:
    if not _HOST.fullmatch(value) or value.count(":") == 1:  # more of them: IPv6
        raise ValueError("must be only a name or an address, such as 'broker.local', without a scheme, user, port or spaces")
    return value


def _web_path(value: str) -> str:
    if not _WEB_PATH.fullmatch(value):
        raise ValueError("must be a path such as '/mqtt', which begins with '/' and has no spaces")
    return value


def _header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError("must be the name of a header, such as 'X-Token'")
    return value


def _header_value(value: SecretStr) -> SecretStr:
    if any(ord(c) < 32 or ord(c) == 127 for c in value.get_secret_value()):
        raise ValueError("must be one line of text")
    return value


def _web_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or not value.isascii() or any(c <= " " or c == "\x7f" for c in value):
        raise ValueError("must be a URL such as 'https://example.com/events'")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user or password: give a token, or a header")
    if parts.fragment:
        raise ValueError("must have no '#...': it is not sent")
    return value


def _alpn(value: str) -> str:
    if not 1 <= len(value) <= 255 or not value.isascii() or not value.isprintable():
        raise ValueError("must be the name of a protocol, such as 'mqtt'")
    return value


def listening(value: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 address is in brackets. Raises ValueError."""
    host, separator, port = value.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError("must be an address and a port such as '127.0.0.1:9464'")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _loopback(value: str | None) -> str | None:
    if value is not None and listening(value)[0] not in {"127.0.0.1", "::1", "localhost"}:
        raise ValueError("must be an address of this machine alone, such as '127.0.0.1:9464': anyone else could read what is served there")
    return value


def _base_topic(value: str) -> str:
    if not _BASE_TOPIC.fullmatch(value) or value.endswith("/") or "//" in value:
        raise ValueError("must be topic levels such as 'edge' or 'site/edge', without '+', '#', spaces or empty levels")
    return value


Name = Annotated[str, AfterValidator(_name)]
ModelName = Annotated[str, AfterValidator(_model_name)]
Host = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_host)]
WebPath = Annotated[str, Field(max_length=1024), AfterValidator(_web_path)]
HeaderName = Annotated[str, Field(max_length=256), AfterValidator(_header_name)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
AlpnProtocol = Annotated[str, AfterValidator(_alpn)]
BaseTopic = Annotated[str, AfterValidator(_base_topic)]
Count = Annotated[int, BeforeValidator(not_bool), Field(ge=1)]
Seconds = Annotated[float, BeforeValidator(not_bool), Field(gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, BeforeValidator(not_bool), Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, BeforeValidator(not_bool), Field(ge=0.01, le=100, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False), BeforeValidator(not_bool)]
Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(not_bool)]
Cores = Annotated[float, BeforeValidator(not_bool), Field(ge=0.01, le=1024, allow_inf_nan=False)]
Deviation = Annotated[float, BeforeValidator(not_bool), Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, BeforeValidator(not_bool), Field(ge=1, le=65535)]
ClassFilter = tuple[str | StrictInt, ...]


def _fraction(value: float) -> float:
    if not math.isfinite(value) or not 0 <= value <= 1:
        hint = "; that looks like pixels: divide by the picture's width or height" if math.isfinite(value) and value > 1 else ""
        raise ValueError(f"must be from 0 to 1, as a share of the picture's width or height{hint}")
    return value


def _region(value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = value
    if right - left < LEAST_REGION or bottom - top < LEAST_REGION:
        raise ValueError(f"must be [left, top, right, bottom], each side at least {LEAST_REGION:g} of the picture's")
    return value


def _polygon(value: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    if len(set(value)) < 3:
        raise ValueError("a polygon needs three different points at least")
    return value


LEAST_REGION = 0.02
Fraction = Annotated[float, BeforeValidator(not_bool), AfterValidator(_fraction)]
Region = Annotated[tuple[Fraction, Fraction, Fraction, Fraction], AfterValidator(_region)]
Polygon = Annotated[tuple[tuple[Fraction, Fraction], ...], AfterValidator(_polygon)]


class Table(BaseModel):
    """A table of agent.toml: immutable, refuses keys that it does not know, its docstrings are the documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, regex_engine="python-re")


class DeviceSettings(Table):
    """Who this agent is."""

    id: Name = "auto"
    """Name of this device in topics and payloads; "auto" derives a stable one from this machine's id."""
    state_dir: Annotated[str | None, Field(examples=["/var/lib/edge-agent"])] = None
    """Folder for what must survive a restart. Default: $STATE_DIRECTORY (set by systemd), else ~/.local/state/edge-agent."""


class ModelSettings(Table):
    """The detector. Family, input shape, quantization and labels are read from the file; set a key only to override."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    path: str = "builtin"
    """A .onnx or .tflite file, or "builtin" for the small INT8 detector that comes with edge_agent (23 classes)."""
    runtime: Annotated[str | None, Field(examples=["tflite"])] = None
    """"onnx" or "tflite"; default: by the file's suffix."""
    family: Annotated[str | None, Field(examples=["yolox"])] = None
    """Needed only when the file is ambiguous: the error then names the candidates."""
    labels: Annotated[str | tuple[str, ...] | None, Field(examples=["labels.txt"])] = None
    """Class names: a text file with one name a line, or a list. Default: from the model file or a .txt beside it."""
    confidence: Annotated[Share | None, Field(examples=[0.4])] = None
    """Detections below this are not reported. Default 0.4 (the built-in model: 0.3)."""
    iou: Share = 0.45
    """Of two boxes of one class that overlap more than this, the weaker is suppressed (NMS)."""
    max_detections: Count = 100
    """The most detections reported for one frame."""
    classes: Annotated[ClassFilter | None, Field(examples=[["person", "car"]])] = None
    """Report only these classes (names or numbers). Default: all."""
    threads: Count | Literal["auto"] = "auto"
    """Threads of one inference; "auto" measures it once per machine, leaves one core to the decoders and takes at most 4."""
    lanes: Annotated[int, BeforeValidator(not_bool), Field(ge=1, le=16)] | Literal["auto"] = "auto"
    """Inferences side by side; "auto": one for a single live camera, else as many as do most here, which is measured (4 at most)."""
    batch: Annotated[int, BeforeValidator(not_bool), Field(ge=1, le=64)] | Literal["auto"] = 1
    """Frames that are ready are inferred together, so many at most; "auto" measures whether that serves more (docs/models.md)."""
    cpu_budget: Annotated[Cores | None, Field(examples=[1.5])] = None
    """Cores that this model's inferences may use on the average: they pause where it would be more. Default: no limit."""
    input_size: Annotated[Count | tuple[Count, Count] | None, Field(examples=[640])] = None
    """640, or [width, height], where the file leaves it open, or is to be used for another size than its own."""
    colour: Annotated[Literal["RGB", "BGR"] | None, Field(examples=["RGB"])] = None
    """Order of the input's channels. Default: what the family was trained with; so the next three."""
    letterbox: Annotated[Literal["none", "top_left", "centre"] | None, Field(examples=["centre"])] = None
    """"none" fills the input whatever the aspect, the others keep it and pad."""
    mean: Annotated[tuple[float, float, float] | None, Field(examples=[[123.675, 116.28, 103.53]])] = None
    """The input is (pixel - mean) / std, pixels from 0 to 255, in the order of the channels. Needs std."""
    std: Annotated[tuple[Deviation, Deviation, Deviation] | None, Field(examples=[[58.395, 57.12, 57.375]])] = None
    """As mean."""
    masks: Literal["polygon", "rle", "none"] = "polygon"
    """How masks are published; "rle" also sends the maps of semantic segmentation."""
    text_embeddings: Annotated[str | None, Field(examples=["texts.npz"])] = None
    """For image encoders such as CLIP's: what to look for, as .npz with "names" and "embeddings" (docs/models.md)."""


class TlsSettings(Table):
    """TLS towards the broker. An empty [mqtt.tls] table is enough for a broker with a public certificate."""

    ca_file: Annotated[str | None, Field(examples=["ca.pem"])] = None
    """Trust only the certificates in this file (PEM): of an authority, or the broker's own. Default: the system's authorities."""
    cert_file: Annotated[str | None, Field(examples=["client.pem"])] = None
    """Client certificate (PEM), where the broker asks for one."""
    key_file: Annotated[str | None, Field(examples=["client.key"])] = None
    """Private key of cert_file (PEM, no passphrase)."""
    verify: bool = True
    """false accepts any certificate. For a first try only: anyone in between can then read the password."""
    server_name: Annotated[Host | None, Field(examples=["broker.example.com"])] = None
    """Name to ask for (SNI) and to expect in the certificate. Default: [mqtt] host."""
    alpn: Annotated[tuple[AlpnProtocol, ...], Field(max_length=8, examples=[["mqtt"]])] = ()
    """Protocols to offer (ALPN), for brokers that share port 443 with others."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that is accepted."""


class WebSocketSettings(Table):
    """MQTT over WebSockets. Set (an empty table will do) to use it; with [mqtt.tls] it is wss."""

    path: WebPath = "/mqtt"
    """Path at the broker."""
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=32, examples=[{"X-Token": "..."}])] = {}
    """More headers of the request."""


class MqttSettings(Table):
    """The broker that detections and heartbeats are published to."""

    enabled: bool = True
    """false: no broker, where one of [sinks] is set. There are no commands then."""
    host: Host = "localhost"
    """Name or address of the broker."""
    port: Annotated[Port | None, Field(examples=[1883])] = None
    """Default 1883, or 8883 with TLS; over WebSockets 80, or 443 with TLS."""
    unix_socket: Annotated[str | None, Field(examples=["/run/mosquitto/mosquitto.sock"])] = None
    """Unix socket of a broker on this machine, instead of host and port."""
    base: BaseTopic = "edge"
    """First level(s) of every topic: <base>/<device>/..."""
    client_id: Annotated[Name | None, Field(examples=["edge-1"])] = None
    """MQTT client id. Default: the device id. Two clients with one id disconnect each other for ever."""
    username: Annotated[str | None, Field(examples=["edge"])] = None
    """User name at the broker."""
    password: Annotated[SecretStr | None, Field(examples=["..."])] = None
    """Better kept out of this file: see password_file."""
    password_file: Annotated[str | None, Field(examples=["mqtt_password"])] = None
    """File whose first line is the password, or "credential:NAME". Default: systemd's credential "mqtt_password", if it is given one."""
    tls: TlsSettings | None = None
    """Set (an empty table will do) to speak TLS."""
    websocket: WebSocketSettings | None = None
    """Set (an empty table will do) to go over WebSockets."""
    protocol: Literal["5", "3.1.1"] = "5"
    """MQTT version."""
    qos: Annotated[int, BeforeValidator(not_bool), Field(ge=0, le=2)] = 1
    """Quality of service of detections; status and health always go with 1."""
    retain: bool = False
    """Retain the last detections message of each camera at the broker."""
    keepalive_s: Annotated[int, BeforeValidator(not_bool), Field(ge=5, le=65535)] = 30
    """Seconds between pings; the broker publishes our last will after 1.5 times that."""
    connect_timeout_s: Seconds = 5
    """Longest wait for the broker to take a connection."""
    reconnect_max_s: Seconds = 60
    """Longest wait between two attempts to reach the broker. They begin at a second and double, drawn at random below that."""
    ack_timeout_s: Seconds = 10
    """Longest wait, while nothing moves, for the broker to acknowledge; then we reconnect and send again."""


class JsonlSettings(Table):
    """A file of JSON Lines on this machine. Set [sinks.jsonl] to use it (docs/sinks.md)."""

    path: Annotated[str, Field(min_length=1, examples=["events.jsonl"])] = "events.jsonl"
    """The file. Older ones stand beside it, with .1 (the newest), .2 and so on behind the name."""
    max_bytes: Annotated[int, BeforeValidator(not_bool), Field(ge=4096)] = 16 * 1024 * 1024
    """Another file is begun where this one would become larger."""
    max_age_s: Annotated[Seconds | None, Field(examples=[86400])] = None
    """Another file is begun so long after the first line of this one. Default: only by size."""
    files: Annotated[int, BeforeValidator(not_bool), Field(ge=1, le=1000)] = 8
    """The most files, this one included: the oldest is deleted."""
    fsync: Literal["never", "interval", "always"] = "interval"
    """When what was written is forced onto the disk: a power cut costs what was not. "never" leaves that to the system."""
    fsync_interval_s: Seconds = 10
    """Seconds between, for "interval"."""
    state: bool = True
    """Also write status, heartbeats and the cameras' states, and not only what was seen."""


class WebhookSettings(Table):
    """A URL that messages are posted to. Set [sinks.webhook] to use it (docs/sinks.md)."""

    url: Annotated[str, Field(max_length=2048, examples=["https://example.com/events"]), AfterValidator(_web_url)]
    """Where to: http:// or https://."""
    token: Annotated[HeaderValue | None, Field(examples=["..."])] = None
    """Sent as "Authorization: Bearer ...". Better kept out of this file: see token_file."""
    token_file: Annotated[str | None, Field(examples=["webhook_token"])] = None
    """File whose first line is the token. Else the credential "webhook_token" of systemd's LoadCredential= is used."""
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=32, examples=[{"X-Site": "north"}])] = {}
    """More headers of each request."""
    batch: Annotated[int, BeforeValidator(not_bool), Field(ge=1, le=1000)] = 100
    """The most messages of one request."""
    linger_s: Annotated[float, BeforeValidator(not_bool), Field(ge=0, le=60)] = 1
    """Wait so long for more messages, so that requests are fewer."""
    timeout_s: Seconds = 10
    """Longest wait for an answer; then the batch is sent again."""
    state: bool = True
    """Also post status, heartbeats and the cameras' states, and not only what was seen."""
    tls: TlsSettings | None = None
    """Set for an authority of your own or a client certificate; https:// works without."""


class SinksSettings(Table):
    """More ways out, beside the broker or instead of it ([mqtt] enabled = false). Each has a queue of its own."""

    jsonl: JsonlSettings | None = None
    """Set (an empty table will do) to use it."""
    webhook: WebhookSettings | None = None
    """Set to use it."""


class HealthSettings(Table):
    """The heartbeat."""

    interval_s: Seconds = 10
    """Seconds between heartbeats on <base>/<device>/health."""
    max_rss_mb: Annotated[float | None, BeforeValidator(not_bool), Field(ge=64, le=1e6, examples=[600])] = None
    """Leave cleanly, to be restarted, when more memory is used (MB). Default: just below the cgroup's limit (MemoryMax=, MemoryHigh=
    of the systemd unit), else 80 % of the machine's memory."""


class GovernorSettings(Table):
    """Heat and power: infer less before the chip slows itself down (docs/scheduling.md). Acts only where the machine tells of it."""

    enabled: bool = True
    """false: only tell of heat and throttling in the heartbeat."""
    margin_c: Annotated[float, BeforeValidator(not_bool), Field(ge=1, le=30)] = 3
    """The chip is held so many degrees (Celsius) below the point where it is slowed down."""
    target_c: Annotated[float | None, BeforeValidator(not_bool), Field(ge=30, le=110, examples=[70])] = None
    """Hold the chip at this temperature instead (Celsius). Default: margin_c below the point that the machine tells."""
    least_share: Annotated[float, BeforeValidator(not_bool), Field(ge=0.01, le=1)] = 0.2
    """Never leave inference less than this share of the time."""


class SpoolSettings(Table):
    """What is kept until the broker has it (docs/delivery.md). Beyond the bounds the oldest detections go first, and are counted."""

    durability: Literal["memory", "interval", "always"] = "interval"
    """"memory": lost when the process ends. "interval": on disk once they wait longer than interval_s; with a broker that answers
    nothing is ever written. "always": on disk, synced, before they are sent; a write for each."""
    interval_s: Annotated[float, BeforeValidator(not_bool), Field(ge=0.1, le=3600, allow_inf_nan=False)] = 2.0
    """What a kill or a power cut may lose with "interval": the last so many seconds."""
    max_events: Count = 10_000
    """The most detections messages kept in memory."""
    max_memory_bytes: Annotated[int, BeforeValidator(not_bool), Field(ge=65536)] = 16 * 1024 * 1024
    """The most bytes of them kept in memory."""
    max_bytes: Annotated[int, BeforeValidator(not_bool), Field(ge=65536)] = 256 * 1024 * 1024
    """The most bytes of them kept on disk."""
    max_age_s: Annotated[float, BeforeValidator(not_bool), Field(ge=1, allow_inf_nan=False)] = 7 * 86400.0
    """Older ones are dropped."""
    drain_per_s: Annotated[float, BeforeValidator(not_bool), Field(ge=1, allow_inf_nan=False)] = 1000.0
    """The most messages a second of what has waited, once the broker is back: a whole fleet may come back with this one."""


When = Literal["every", "change", "interval"]


class PublishSettings(Table):
    """What is published, and when. Each camera may have its own: [cameras.publish] (docs/sinks.md)."""

    when: When = "every"
    """"every": each served frame; "change": what differs from the last message; "interval": one message with counts per interval_s."""
    interval_s: Seconds = 10
    """For "interval": seconds that one message sums up."""
    keep_alive_s: Seconds = 60
    """For "change": a served frame is published after so long even if nothing changed."""
    least_s: Annotated[float, BeforeValidator(not_bool), Field(ge=0, allow_inf_nan=False)] = 0.5
    """For "change": seconds between two messages, at least. What changes sooner is told then, if it still holds."""
    moved: Share = 0.05
    """For "change": how far an edge of a box must move, as a share of the picture's width or height."""
    confidence_change: Share = 0.2
    """For "change": how far a confidence must move; an object appears only if it is surer than the threshold by half of that."""
    encoding: Literal["json", "msgpack"] = "json"
    """Of detections; "msgpack": MessagePack, the same content. State, commands and their answers are always JSON."""
    snapshots: bool = False
    """Pictures may leave this device, where a snapshot is asked for (docs/commands.md)."""


class CameraPublishSettings(Table):
    """As in [publish], for this camera. What is not set is as there."""

    when: Annotated[When | None, Field(examples=["change"])] = None
    """As in [publish]."""
    interval_s: Annotated[Seconds | None, Field(examples=[60])] = None
    """As in [publish]."""
    keep_alive_s: Annotated[Seconds | None, Field(examples=[300])] = None
    """As in [publish]."""
    least_s: Annotated[float | None, BeforeValidator(not_bool), Field(ge=0, allow_inf_nan=False, examples=[2])] = None
    """As in [publish]."""
    moved: Annotated[Share | None, Field(examples=[0.1])] = None
    """As in [publish]."""
    confidence_change: Annotated[Share | None, Field(examples=[0.3])] = None
    """As in [publish]."""


CommandName = Literal["pause", "resume", "mute", "unmute", "snapshot", "set", "reload", "report"]


class CommandsSettings(Table):
    """Commands over MQTT (docs/commands.md). Who may write to the command topics may give them: restrict that at the broker."""

    allow: tuple[CommandName, ...] = ("pause", "resume", "mute", "unmute", "snapshot", "set", "reload", "report")
    """Only these are obeyed; none with an empty list. "snapshot" also needs [publish] snapshots = true."""


class MetricsSettings(Table):
    """Prometheus metrics at http://<listen>/metrics (docs/metrics.md). Needs pip install "edge-agent[metrics]"."""

    listen: Annotated[str | None, AfterValidator(_loopback), Field(examples=["127.0.0.1:9464"])] = None
    """Address of this machine's own and port. Default: no metrics."""


class LogSettings(Table):
    """Logs go to stderr, and so to the journal under systemd."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    format: Literal["auto", "text", "journal", "json"] = "auto"
    """"auto": "journal" under systemd, "text" else."""


class MotionSettings(Table):
    """Serve only frames in which something moves. Set (an empty table will do) to use it; masks and numbers: docs/scheduling.md."""

    enabled: bool | Literal["auto"] = "auto"
    """"auto": where the newest frame counts; with mode "every" (files) only if true."""
    threshold: Annotated[int, BeforeValidator(not_bool), Field(ge=2, le=60)] = 8
    """Levels of brightness, of 255, that a place must differ by. Lower sees fainter things, and more that is nothing."""
    least_area: Annotated[Share, Field(le=0.4)] = 0.0005
    """Share of the picture that must have changed in one place."""
    masks: Annotated[tuple[Polygon, ...], Field(examples=[[[[0.0, 0.0], [1.0, 0.0], [1.0, 0.1]]]])] = ()
    """Polygons of [x, y] in 0..1 of width and height, in which nothing counts: trees, a clock, a road behind the fence."""
    look_every_s: Seconds = 10
    """A frame is served this often whatever the gate says."""
    hold_s: Annotated[float, BeforeValidator(not_bool), Field(ge=0, allow_inf_nan=False)] = 2
    """Go on serving for so long after the last motion."""
    looks_per_s: Rate = 5
    """Frames looked at per second while nothing moves; between them the source may spare itself the decoding."""
    look_within_s: Annotated[float, BeforeValidator(not_bool), Field(ge=0, le=60)] = 0.9
    """A look may wait so long for a key frame where that spares a stream's decoding. 0: it never does."""


class CameraSettings(Table):
    """One camera, stream or file. The keys below fit every kind of source; each kind adds its own."""

    model_config = ConfigDict(extra="allow")

    id: Name
    """Name of the camera, in topics and payloads."""
    source: str | StrictInt
    """A device (0, "/dev/v4l/by-id/..."), "rtsp://...", a video file, a folder of images, or "synthetic"."""
    kind: Annotated[str | None, Field(examples=["rtsp"])] = None
    """Kind of source. Default: inferred from source."""
    enabled: bool = True
    """false keeps the entry but does not open the camera."""
    mode: Literal["auto", "freshest", "every"] = "auto"
    """"freshest": the newest frame whenever the model is free (live sources); "every": each frame, in order (files)."""
    max_fps: Annotated[Rate | None, Field(examples=[10])] = None
    """Serve at most this many frames per second of this camera."""
    interval_s: Annotated[Seconds | None, Field(examples=[60])] = None
    """Serve one frame in so many seconds (time lapse). Instead of max_fps."""
    staleness_ms: Annotated[Milliseconds | None, Field(examples=[500])] = None
    """A frame that is older than this when the model becomes free is skipped. Default: no limit; a fresher one always replaces it."""
    model: Annotated[ModelName | None, Field(examples=["faces"])] = None
    """Name of the [models.<name>] table of this camera's detector. Default: that of [model]."""
    weight: Weight = 1.0
    """Share of the model where cameras compete for it: one of weight 2 is served twice as often as one of weight 1."""
    roi: Annotated[Region | None, Field(examples=[[0.25, 0.0, 0.75, 1.0]])] = None
    """Region of interest [left, top, right, bottom] in 0..1 of width and height: the model sees only that. Default: all."""
    motion: MotionSettings | None = None
    """See [cameras.motion] below."""
    publish: CameraPublishSettings | None = None
    """See [cameras.publish] below."""
    isolation: Literal["auto", "thread", "process"] = "auto"
    """Where a driver or decoder may hang: "thread" (least memory), "process" (can be killed), "auto" (a process when it must be)."""
    snapshots: Annotated[bool | None, Field(examples=[True])] = None
    """As in [publish], for this camera."""
    confidence: Annotated[Share | None, Field(examples=[0.5])] = None
    """As in [model], for this camera."""
    iou: Annotated[Share | None, Field(examples=[0.45])] = None
    """As in [model], for this camera."""
    max_detections: Annotated[Count | None, Field(examples=[20])] = None
    """As in [model], for this camera."""
    classes: Annotated[ClassFilter | None, Field(examples=[["person"]])] = None
    """As in [model], for this camera."""


class Settings(BaseSettings):
    """The whole of agent.toml. Each key can be overridden by the environment: ``EDGE_AGENT_MQTT__HOST=broker.local``."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    device: DeviceSettings = DeviceSettings()
    model: ModelSettings = ModelSettings()
    models: dict[ModelName, ModelSettings] = {}
    """More detectors, for cameras that name one: [models.<name>] with the keys of [model]. Each has lanes of its own."""
    mqtt: MqttSettings = MqttSettings()
    sinks: SinksSettings = SinksSettings()
    health: HealthSettings = HealthSettings()
    governor: GovernorSettings = GovernorSettings()
    spool: SpoolSettings = SpoolSettings()
    publish: PublishSettings = PublishSettings()
    commands: CommandsSettings = CommandsSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
    cameras: tuple[CameraSettings, ...]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments: the loader lays the environment over the file's tables, to know where each value came from."""
        return (init_settings,)


@dataclass(frozen=True)
class CameraConfig:
    """A camera's table with its kind resolved and its kind's own keys validated."""

    settings: CameraSettings
    kind: str
    options: Table

    @property
    def id(self) -> str:
        """The camera's name."""
        return self.settings.id


@dataclass(frozen=True)
class AgentConfig:
    """A valid configuration: what :func:`edge_agent.config_file.load` returns."""

    settings: Settings
    cameras: tuple[CameraConfig, ...]
    runtime: str
    runtime_options: Table
    path: Path | None
    """The file it came from; None when it was made in memory."""
    others: Mapping[str, tuple[str, Table]] = field(default_factory=dict)
    """Runtime and its own keys of each of [models]."""
    model_name: str | None = None
    """Which of [models] takes the place of [model] here; None: none."""

    @property
    def model_key(self) -> str:
        """The table that ``settings.model`` comes from."""
        return "model" if self.model_name is None else f"models.{self.model_name}"

    def per_model(self) -> list[AgentConfig]:
        """One for each model that a camera in use names, as if it were the only one: the cameras of the others are disabled."""
        if self.model_name is not None:
            return [self]
        named = dict.fromkeys(camera.settings.model for camera in self.cameras if camera.settings.enabled)
        return [self.of_model(name) for name in named]

    def of_model(self, name: str | None) -> AgentConfig:
        """As :meth:`per_model`, for one of them, whatever cameras it has."""
        settings, runtime, options = self.settings, self.runtime, self.runtime_options
        if name is not None:
            settings = settings.model_copy(update={"model": settings.models[name]})
            runtime, options = self.others[name]
        cameras = tuple(
            camera if camera.settings.model == name else replace(camera, settings=camera.settings.model_copy(update={"enabled": False}))
            for camera in self.cameras
        )
        settings = settings.model_copy(update={"models": {}, "cameras": tuple(camera.settings for camera in cameras)})
        return replace(self, settings=settings, cameras=cameras, runtime=runtime, runtime_options=options, others={}, model_name=name)

    @property
    def base_dir(self) -> Path:
        """Relative paths in the file are relative to the file's own folder."""
        return self.path.parent if self.path else Path.cwd()

    def resolve(self, path: str) -> Path:
        """``path`` of the configuration as an absolute path; ``~`` and ``credential:`` are expanded. Raises ConfigError if it is none."""
        if "\0" in path:
            raise ConfigError(f"{path!r} is no path: it holds a NUL")
        try:
            return (self.base_dir / Path(credential_paths.expanded(path)).expanduser()).absolute()
        except RuntimeError:
            raise ConfigError(f"{path!r}: the home directory that '~' stands for cannot be found; write the path out") from None
