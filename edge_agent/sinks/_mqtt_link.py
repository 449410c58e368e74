"""One connection to a broker, from dialling to hanging up, with paho as a thin transport.

paho keeps an unbounded queue in memory, reconnects without jitter, ignores its window when it does, and never sends
again on a live connection (docs/decisions/0003-mqtt-transport.md). So it is given nothing to queue, and gets no thread
of its own either (``loop_start``): whoever writes also reads the answers, which saves two wake-ups for every message.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import re
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.config_delivery import MqttSettings
from edge_agent.sinks import _mqtt_words as words
from edge_agent.sinks._mqtt_dial import Address, Dial, DialledClient
from edge_agent.sinks._mqtt_paho import INBOUND_LARGEST

log = logging.getLogger(__name__)

WINDOW = 20
"""Messages in flight where the broker does not say how many it takes (MQTT 3.1.1)."""
MOST_WINDOW = 100
"""And where it does."""
_INBOUND_WINDOW = 20
_MISC_S = 1.0
"""How often the keepalive is looked at while nothing comes."""
_DISCONNECT_WITH_WILL = 0x04
_SSL_REASON = re.compile(r"\[SSL: (\w+)\]")


@dataclass(frozen=True)
class LinkOptions:
    """What a connection is made of."""

    address: Address
    settings: MqttSettings
    client_id: str
    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None
    will: tuple[str, bytes, int, bool] | None
    """Topic, payload, QoS and retention of what the broker says when it loses us."""


@dataclass(frozen=True)
class Granted:
    """What the broker allows, by its CONNACK."""

    window: int = WINDOW
    largest: int | None = None
    """Bytes of a packet; None: it does not say."""
    most_qos: int = 2
    may_retain: bool = True


class Refused(Exception):
    """The broker's CONNACK says no."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Link:
    """Used by one thread, and never again once it is lost."""

    def __init__(self, options: LinkOptions) -> None:
        self._options = options
        self._settings = options.settings
        self._v5 = options.settings.protocol == "5"
        self._connack: tuple[ReasonCode, Properties | None] | None = None
        self._up_at: float | None = None
        self._socket_error = ""
        self.granted = Granted()
        self.lost: str | None = None
        """Why this connection is no more."""
        self.hung_up = False
        """It was the broker, or something between, that ended it."""
        self.code: int | None = None
        """The reason code that the broker ended it with."""
        self.acks: dict[int, tuple[ReasonCode, Properties | None]] = {}
        """By number, of what was published and nobody has asked about yet."""
        self.in_flight = 0
        self.client = self._new_client()
        told = _connect_properties() if self._v5 else None
        self.dial = Dial(self.client, options.address, self._settings.keepalive_s, self._settings.connect_timeout_s, told)

    def open(self) -> None:
        """Connect, and wait for the broker's word. Raises what went wrong on the way, or Refused."""
        self.dial.wait()
        timeout_s = self._settings.connect_timeout_s
        self.pump(lambda: self._connack is not None, timeout_s)
        self.client.on_log = None
        if self._connack is None:
            raise words.NoAnswer(self.lost or f"took the connection but did not answer in {timeout_s:g} s")
        code, properties = self._connack
        if code.is_failure:
            text = words.refusal(code, properties, has_password=self._options.password is not None)
            raise Refused(code.value, f"the broker refuses us: {text}")
        self.granted = _granted(properties, v5=self._v5)
        self._up_at = time.monotonic()

    def pump(self, done: Callable[[], bool], timeout_s: float) -> None:
        """Send and receive until ``done``, the connection is lost, or time is up; at least once."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            connection = self.client.socket()
            if connection is None:  # closed by paho, which has told _on_disconnect why
                self.lost = self.lost or "connection lost"
                return
            if _is_readable(connection, self.client.want_write(), min(left_s, _MISC_S)):
                self._receive()
            if self.client.want_write():
                self.client.loop_write()
            self.client.loop_misc()  # keeps the connection alive, and notices when the broker no longer answers
            if done() or self.lost is not None or left_s == 0:
                return

    def read_all(self, most: int = 200) -> None:
        """Everything that has come in, so that nothing waits in TLS's buffers, where no poll sees it; ``most`` packets or so."""
        for _ in range(most):
            self.pump(lambda: True, 0.0)
            connection = self.client.socket()
            if connection is None or self.lost is not None or not _is_readable(connection, False, 0.0):
                return

    def _receive(self) -> None:
        try:
            self.client.loop_read()
        except Exception as error:  # paho trusts its broker, and fails in many ways where one talks nonsense
            log.debug("paho failed on what it received", exc_info=True)
            self.lost = self.lost or f"the broker sent something that is not MQTT {self._settings.protocol} ({type(error).__name__})"

    def fileno(self) -> int | None:
        """Of the socket; None once it is closed."""
        connection = self.client.socket()
        return None if connection is None else connection.fileno()

    def unsent(self) -> int:
        """Bytes that the network has not taken yet, or not acknowledged: while that shrinks, something arrives."""
        fileno = self.fileno()
        if fileno is None:
            return 0
        with contextlib.suppress(OSError):
            return int(struct.unpack("i", fcntl.ioctl(fileno, termios.TIOCOUTQ, b"\0" * 4))[0])
        return 0

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool, properties: Properties | None = None) -> int:
        """The number by which it will be acknowledged. Raises ValueError for what MQTT cannot carry."""
        info = self.client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        if info.rc not in {MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN}:
            self.lost = self.lost or paho.error_string(info.rc)
        self.in_flight += 1
        return info.mid

    def close(self, *, said_goodbye: bool) -> None:
        """Hang up. Where ``offline`` was not said, the broker is to say it for us. Never raises, and never blocks."""
        self.lost = self.lost or "closed"
        with contextlib.suppress(Exception):
            if said_goodbye or self._options.will is None:
                self.client.disconnect()  # sent at once, or not at all: the socket does not block
            elif self._v5:
                self.client.disconnect(ReasonCode(PacketTypes.DISCONNECT, identifier=_DISCONNECT_WITH_WILL))
        with contextlib.suppress(Exception):
            connection = self.client.socket()
            if connection is not None:
                connection.close()

    def _new_client(self) -> DialledClient:
        options, settings = self._options, self._settings
        client = DialledClient(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if self._v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            clean_session=None if self._v5 else True,
            transport="unix" if options.address.unix_socket else "tcp" if settings.websocket is None else "websockets",
        )
        client.max_inflight_messages_set(MOST_WINDOW)  # the window is ours, see Delivery
        if settings.websocket is not None:
            headers = {name: value.get_secret_value() for name, value in settings.websocket.headers.items()}
            client.ws_set_options(path=settings.websocket.path, headers=headers)
        if settings.username is not None:
            client.username_pw_set(settings.username, options.password)
        if options.tls is not None:
            client.tls_set_context(options.tls)
        if options.will is not None:
            topic, payload, qos, retain = options.will
            client.will_set(topic, payload, qos=qos, retain=retain)
        client.on_socket_open = _without_delay
        client.on_log = self._on_log
        client.on_connect, client.on_disconnect, client.on_publish = self._on_connect, self._on_disconnect, self._on_publish
        return client

    def _on_log(self, _client: paho.Client, _user: Any, level: int, text: str) -> None:
        # Until the CONNACK only: paho tells nobody else what TLS said, such as that it wants a client certificate.
        if level == LogLevel.MQTT_LOG_ERR and not _SSL_REASON.search(self._socket_error):
            self._socket_error = text

    def _on_connect(self, _client: paho.Client, _user: Any, _flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        self._connack = (reason, properties)

    def _on_disconnect(self, _client: paho.Client, _user: Any, flags: Any, reason: ReasonCode, properties: Properties | None) -> None:
        if self.lost is None:
            self.hung_up = reason.value != words.KEEPALIVE or flags.is_disconnect_packet_from_server
            self.code = reason.value if flags.is_disconnect_packet_from_server else None
            self.lost = self._why_lost(reason, properties)

    def _why_lost(self, reason: ReasonCode, properties: Properties | None) -> str:
        client_id = self._options.client_id
        if self._up_at is None:
            return self._why_never_up(reason)
        if self.code == words.TAKEN_OVER:
            return f"another client took over the id {client_id!r}; give each device its own [device] id"
        if not self.hung_up:
            return f"the broker has not answered for {self.client.keepalive} s"
        # A broker of MQTT 3.1.1 hangs up without a word, as does one whose other client with our id came by TCP alone.
        unexplained = self.code is None and time.monotonic() - self._up_at < 5
        hint = f" (does another client use the id {client_id!r}?)" if unexplained else ""
        if self.code == words.TOO_LARGE:
            hint = " (a message is larger than the broker allows)"
        return f"connection lost: {words.said(reason, properties)}{hint}"

    def _why_never_up(self, reason: ReasonCode) -> str:
        found = _SSL_REASON.search(self._socket_error)
        if found is not None:
            return f"TLS failed: {words.tls_problem(found[1])}"
        if reason.value == words.PROTOCOL_ERROR:
            other = "3.1.1" if self._v5 else "5"
            return f'the broker does not answer as MQTT {self._settings.protocol} does; try [mqtt] protocol = "{other}"'
        tls = self._options.tls is not None
        why = "does it take our client certificate, or want one?" if tls else "does it want TLS, or is it no MQTT broker?"
        return f"the broker hung up before it answered; {why}"

    def _on_publish(self, _client: paho.Client, _user: Any, mid: int, reason: ReasonCode, properties: Properties | None) -> None:
        self.acks[mid] = (reason, properties)
        self.in_flight -= 1


def properties(packet: int, **values: Any) -> Properties:
    """Properties of a packet of MQTT 5, by paho's names."""
    made = Properties(packet)  # type: ignore[no-untyped-call]  # paho has no types there
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _connect_properties() -> Properties:
    """No session is kept for us (that is the default): our own spool does that. And what we take."""
    return properties(PacketTypes.CONNECT, MaximumPacketSize=INBOUND_LARGEST, ReceiveMaximum=_INBOUND_WINDOW)


def _granted(properties: Properties | None, *, v5: bool) -> Granted:
    if not v5:
        return Granted()
    window = int(getattr(properties, "ReceiveMaximum", MOST_WINDOW))
    return Granted(
        window=max(1, min(MOST_WINDOW, window)),
        largest=getattr(properties, "MaximumPacketSize", None),
        most_qos=int(getattr(properties, "MaximumQoS", 2)),
        may_retain=bool(getattr(properties, "RetainAvailable", 1)),
    )


def _without_delay(_client: paho.Client, _user: Any, connection: Any) -> None:
    """Small messages are sent at once, not gathered (Nagle)."""
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _is_readable(connection: Any, want_write: bool, timeout_s: float) -> bool:
    """Wait until a socket can be read, or written if that is wanted; whether it can be read."""
    pending = getattr(connection, "pending", None)
    if pending is not None and pending():
        return True  # decrypted already, so the kernel knows nothing of it
    poll = select.poll()  # not select(): it fails with more than 1024 open files
    poll.register(connection, select.POLLIN | (select.POLLOUT if want_write else 0))
    return any(events & ~select.POLLOUT for _, events in poll.poll(timeout_s * 1e3))
