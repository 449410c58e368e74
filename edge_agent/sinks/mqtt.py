"""MQTT, by the contract in docs/mqtt.md, over paho-mqtt as a thin transport.

paho keeps an unbounded queue in memory, reconnects without jitter, ignores its window when it does, and never sends
again on a live connection. So it is given nothing to queue: one client per connection, never more than the window
in flight, and a ``write`` that only returns once every message was acknowledged. It gets no thread of its own either
(``loop_start``): whoever writes also reads the answers, which saves two wake-ups for every message.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.config import MqttSettings
from edge_agent.errors import Rejected, SinkUnavailable
from edge_agent.events import STATUS_OFFLINE, Kind, Message
from edge_agent.sinks.base import Sink

log = logging.getLogger(__name__)

Config = MqttSettings
_QUOTA_EXCEEDED = 0x97
_TAKEN_OVER = 0x8E
_TOO_LARGE = 0x95
_FAILURE = 0x80
_WINDOW = 20
_MISC_S = 1.0
"""How often the keepalive is looked at while nothing comes."""
_OVERHEAD = 10
"""Bytes of a PUBLISH besides topic and payload, at most: type, length (4), the topic's length (2), number (2), no properties (1)."""


@dataclass(frozen=True)
class Topics:
    """The topic layout of the contract."""

    base: str
    device: str

    def of(self, message: Message) -> str:
        """Where a message goes."""
        root = f"{self.base}/{self.device}"
        if message.camera is not None:
            leaf = "status" if message.kind is Kind.CAMERA_STATUS else message.kind.value
            return f"{root}/camera/{message.camera}/{leaf}"
        return f"{root}/{message.kind.value}"


@dataclass(frozen=True)
class MqttContext:
    """What the sink is given besides ``[mqtt]``; secrets are read and files resolved already."""

    device: str
    client_id: str
    password: str | None
    tls: ssl.SSLContext | None


class MqttSink(Sink):
    """One broker."""

    def __init__(self, context: MqttContext, config: MqttSettings) -> None:
        self._config, self.context = config, context
        self.topics = Topics(config.base, context.device)
        self.port = config.port or (8883 if context.tls else 1883)
        self.name = f"mqtt{'s' if context.tls else ''}://{config.host}:{self.port}"
        self._v5 = config.protocol == "5"
        self._client: paho.Client | None = None
        self._connack: ReasonCode | None = None
        self._lost: str | None = None
        self._acks: dict[int, ReasonCode] = {}
        self._window = _WINDOW
        self._largest: int | None = None
        """Bytes of a packet that this broker takes; None: it does not say."""
        self._connected_at: float | None = None

    def connect(self) -> None:
        self.close()
        self._connack, self._lost, self._acks, self._connected_at = None, None, {}, None
        client = self._client = self._new_client()
        config = self._config
        try:
            client.connect(config.host, self.port, config.keepalive_s)
        except (OSError, ValueError) as error:
            self._client = None
            raise SinkUnavailable(f"{self.name}: {connection_problem(error, tls=self.context.tls is not None)}") from None
        connack = self._await_connack(client)
        if connack.is_failure:
            self.close()
            reason = str(connack)
            raise SinkUnavailable(f"{self.name}: the broker refuses us: {reason}{_refusal_hint(reason)}")
        self._connected_at = time.monotonic()

    def _await_connack(self, client: paho.Client) -> ReasonCode:
        timeout_s = self._config.connect_timeout_s
        self._pump(client, lambda: self._connack is not None, timeout_s)
        if self._connack is None:
            self.close()
            raise SinkUnavailable(f"{self.name}: {self._lost or f'took the connection but did not answer in {timeout_s:g} s'}")
        return self._connack

    def _pump(self, client: paho.Client, done: Callable[[], bool], timeout_s: float) -> None:
        """Send and receive until ``done``, the connection is lost, or time is up; at least once."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            connection = client.socket()
            if connection is None:  # closed by paho, which has told _on_disconnect why
                self._lost = self._lost or "connection lost"
                return
            if _is_readable(connection, client.want_write(), min(left_s, _MISC_S)):
                self._receive(client)
            if client.want_write():
                client.loop_write()
            client.loop_misc()  # keeps the connection alive, and notices when the broker no longer answers
            if done() or self._lost is not None or left_s == 0:
                return

    def _receive(self, client: paho.Client) -> None:
        try:
            client.loop_read()
        except Exception as error:  # paho trusts its broker, and fails in many ways where one talks nonsense
            log.debug("paho failed on what it received", exc_info=True)
            self._lost = self._lost or f"the broker sent something that is not MQTT ({type(error).__name__})"

    def _new_client(self) -> paho.Client:
        config = self._config
        version = MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.context.client_id,
            protocol=version,
            reconnect_on_failure=False,
            clean_session=None if self._v5 else True,
        )
        client.connect_timeout = config.connect_timeout_s
        client.max_inflight_messages_set(_WINDOW)
        if config.username is not None:
            client.username_pw_set(config.username, self.context.password)
        if self.context.tls is not None:
            client.tls_set_context(self.context.tls)
        client.will_set(self.topics.of(STATUS_OFFLINE), STATUS_OFFLINE.payload, qos=1, retain=True)
        client.on_socket_open = _without_delay
        client.on_connect, client.on_disconnect, client.on_publish = self._on_connect, self._on_disconnect, self._on_publish
        return client

    def _on_connect(self, client: paho.Client, _user: Any, _flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        if client is self._client:
            granted = getattr(properties, "ReceiveMaximum", _WINDOW) if properties else _WINDOW
            self._window = max(1, min(_WINDOW, int(granted)))
            self._largest = getattr(properties, "MaximumPacketSize", None) if properties else None
            self._connack = reason

    def _on_disconnect(self, client: paho.Client, _user: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        if client is self._client:
            self._lost = self._lost or self._why_lost(reason)

    def _why_lost(self, reason: ReasonCode) -> str:
        client_id = self.context.client_id
        if self._v5 and reason.value == _TAKEN_OVER:
            return f"another client took over the id {client_id!r}; give each device its own [device] id"
        lasted = None if self._connected_at is None else time.monotonic() - self._connected_at
        # A broker of MQTT 3.1.1 hangs up without a word, as does one whose other client with our id came by TCP alone.
        unexplained = not self._v5 or reason.value == _FAILURE
        hint = f" (does another client use the id {client_id!r}?)" if unexplained and lasted is not None and lasted < 5 else ""
        if self._v5 and reason.value == _TOO_LARGE:
            hint = " (a message is larger than the broker allows)"
        if lasted is None:
            port = "" if self.context.tls is not None else "; does it want TLS, or is it no MQTT broker?"
            return f"the broker hung up before it answered{port}"
        return f"connection lost: {reason}{hint}"

    def _on_publish(self, client: paho.Client, _user: Any, mid: int, reason: ReasonCode, _properties: Any) -> None:
        if client is self._client:
            self._acks[mid] = reason

    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        # A sliding window: each acknowledgement lets the next message go, so that there is always data for TCP's own
        # acknowledgements to travel on. Sent in lots, every lot would wait for the delayed one (40 ms).
        self.check()
        assert self._client is not None
        self._acks.clear()
        mids: list[int | Rejected] = []
        settled = 0
        while settled < len(messages):
            while len(mids) < min(len(messages), settled + self._window):
                mids.append(self._send(self._client, messages[len(mids)], settled))
            settled = self._await_ack(self._client, mids, settled)
        return [mid if isinstance(mid, Rejected) else self._outcome(message, mid) for message, mid in zip(messages, mids, strict=True)]

    def _await_ack(self, client: paho.Client, mids: Sequence[int | Rejected], settled: int) -> int:
        """How many, from the first, are acknowledged, once that is more than ``settled``. Raises SinkUnavailable."""
        before = settled
        if not self._is_acknowledged(mids[settled]):
            self._pump(client, lambda: self._is_acknowledged(mids[before]), self._config.ack_timeout_s)
        while settled < len(mids) and self._is_acknowledged(mids[settled]):
            settled += 1
        if self._lost is not None:
            raise SinkUnavailable(f"{self.name}: {self._lost}", settled)
        if settled == before:
            raise SinkUnavailable(f"{self.name}: the broker did not acknowledge within {self._config.ack_timeout_s:g} s", settled)
        return settled

    def _is_acknowledged(self, mid: int | Rejected) -> bool:
        return isinstance(mid, Rejected) or mid in self._acks

    def _send(self, client: paho.Client, message: Message, settled: int) -> int | Rejected:
        """The number to wait for, or why there is none."""
        topic = self.topics.of(message)
        size = len(topic.encode()) + len(message.payload) + _OVERHEAD
        if self._largest is not None and size > self._largest:  # sent, it would cost us the connection, every time
            return Rejected(f"{topic}: {size} bytes, and the broker takes no more than {self._largest} (its maximum packet size)")
        qos = 1 if message.kind.is_state else self._config.qos
        retain = message.kind.is_state or self._config.retain
        try:
            info = client.publish(topic, message.payload, qos=qos, retain=retain)
        except ValueError as error:  # payload over 256 MB, or a topic that MQTT forbids
            return Rejected(f"{topic}: not a message that MQTT can carry: {error}")
        if info.rc not in {MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN}:
            raise SinkUnavailable(f"{self.name}: {paho.error_string(info.rc)}", settled)
        return info.mid

    def _outcome(self, message: Message, mid: int) -> Rejected | None:
        reason = self._acks[mid]
        if reason.value == _QUOTA_EXCEEDED:
            raise SinkUnavailable(f"{self.name}: {reason}")
        return Rejected(f"{self.topics.of(message)}: {reason}") if reason.value >= _FAILURE else None

    def check(self) -> None:
        if self._client is not None and self._lost is None:
            self._pump(self._client, lambda: True, 0.0)
        if self._client is None or self._lost is not None:
            raise SinkUnavailable(f"{self.name}: {self._lost or 'not connected'}")

    def close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        with contextlib.suppress(Exception):
            client.disconnect()  # sent at once, or not at all: the socket does not block
            connection = client.socket()
            if connection is not None:
                connection.close()


def _without_delay(_client: paho.Client, _user: Any, connection: Any) -> None:
    """Small messages are sent at once, not gathered (Nagle)."""
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _is_readable(connection: Any, want_write: bool, timeout_s: float) -> bool:
    """Wait until a socket can be read, or written if that is wanted; whether it can be read."""
    if isinstance(connection, ssl.SSLSocket) and connection.pending():
        return True  # decrypted already, so the kernel knows nothing of it
    poll = select.poll()  # not select(): it fails with more than 1024 open files
    poll.register(connection, select.POLLIN | (select.POLLOUT if want_write else 0))
    return any(events & ~select.POLLOUT for _, events in poll.poll(timeout_s * 1e3))


def connection_problem(error: Exception, *, tls: bool) -> str:
    """Why a connection could not be made, and what to do about it."""
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}; set [mqtt.tls] ca_file, or check this device's clock"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}; is this a TLS port?"
    if isinstance(error, TimeoutError):
        return "no answer (wrong address, or a firewall)"
    if tls and isinstance(error, ConnectionResetError):
        return "the broker hung up during the TLS handshake; is this a TLS port?"
    return getattr(error, "strerror", None) or str(error)


def _refusal_hint(reason: str) -> str:
    lowered = reason.lower()
    if "authori" in lowered or "password" in lowered or "user" in lowered:
        return " (check [mqtt] username and password_file)"
    if "protocol" in lowered:
        return ' (set [mqtt] protocol = "3.1.1")'
    return ""


def tls_context(ca_file: str | None, cert_file: str | None, key_file: str | None, *, verify: bool) -> ssl.SSLContext:
    """A client context. Raises OSError or ssl.SSLError for files that cannot be used."""
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file is not None:
        context.load_cert_chain(cert_file, key_file, password="")  # else OpenSSL asks the terminal, and waits
    return context


def build(context: MqttContext, config: MqttSettings) -> Sink:
    """A sink for one broker; does no I/O."""
    return MqttSink(context, config)
