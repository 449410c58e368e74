"""The settings of what is sent, and where to: ``[mqtt]``, ``[sinks]``, ``[spool]`` and ``[publish]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from edge_agent.config_values import (
    AlpnProtocol,
    BaseTopic,
    Count,
    HeaderName,
    HeaderValue,
    Host,
    Name,
    Port,
    Seconds,
    Share,
    Table,
    WebPath,
    WebUrl,
    not_bool,
)


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

    url: Annotated[WebUrl, Field(examples=["https://example.com/events"])]
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
