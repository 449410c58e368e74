"""MQTT, by the contract in docs/mqtt.md.

What is here decides what goes where and how; :mod:`_mqtt_link` is one connection, :mod:`_mqtt_delivery` one write over
it, :mod:`_mqtt_inbound` what comes back.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from edge_agent.config_delivery import MqttSettings
from edge_agent.encoding import content_type
from edge_agent.errors import ConfigError, Rejected, SinkUnavailable
from edge_agent.events import STATUS_OFFLINE, Kind, Message
from edge_agent.requests import Request
from edge_agent.sinks import _mqtt_words as words
from edge_agent.sinks._mqtt_delivery import Delivery, Parcel, Patience, SizeLimit, retry_after_s
from edge_agent.sinks._mqtt_dial import Address, Dial
from edge_agent.sinks._mqtt_inbound import Inbound
from edge_agent.sinks._mqtt_link import Granted, Link, LinkOptions, Refused
from edge_agent.sinks._mqtt_tls import TlsFiles, tls_context
from edge_agent.sinks._mqtt_topics import Topics
from edge_agent.sinks._mqtt_words import connection_problem
from edge_agent.sinks.base import Sink

__all__ = ["Config", "MqttContext", "MqttSink", "TlsFiles", "Topics", "build", "connection_problem", "tls_context"]

log = logging.getLogger(__name__)

Config = MqttSettings
_NOT_WANTED_S = 30.0
"""Not sooner than this after a second refusal that only a person can mend: a wrong password is no reason to hammer."""


@dataclass(frozen=True)
class MqttContext:
    """What the sink is given besides ``[mqtt]``; secrets are read and files resolved already."""

    device: str
    client_id: str
    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None
    on_request: Callable[[Request], None] | None = None
    """Takes commands, in the thread that drives the sink: returns at once and never raises. None: do not subscribe."""
    cameras: Collection[str] | None = None
    """Those that exist: what the broker has kept of others is cleared. None: leave it."""
    unix_socket: str | None = None
    """``[mqtt] unix_socket``, resolved."""
    with_will: bool = True
    """Whether the broker is to say ``offline`` for us when it loses us."""
    renew: Callable[[], tuple[str | None, ssl.SSLContext | None]] | None = None
    """Reads password and certificates again, which may have been renewed. Raises ConfigError. None: they stay as they are."""


class MqttSink(Sink):
    """One broker."""

    def __init__(self, context: MqttContext, config: MqttSettings) -> None:
        self._config, self.context = config, context
        self.topics = Topics(config.base, context.device)
        self.port = config.port or _default_port(config, tls=context.tls is not None)
        self.name = self._name()
        self.inbound = Inbound(self.topics, context.on_request, context.cameras, v5=config.protocol == "5", keeps_detections=config.retain)
        self._link: Link | None = None
        self._dial: Dial | None = None
        self._allowed = Granted()
        """What the broker allowed the last time, and what is left after it refused more."""
        self._forbidden: set[int] = set()
        """NO_RETAIN, NO_QOS: said once, it holds for as long as we run, whatever the next CONNACK says."""
        self._refusals = 0
        self._renew = False
        """Before the next attempt: password or certificate may be what was wrong with the last one."""
        self._lacks: list[str] = []
        self._limit, self._patience = SizeLimit(), Patience()
        self._said_goodbye = False

    def connect(self) -> None:
        self.close()
        if self._dial is not None and self._dial.is_alive():
            raise SinkUnavailable(f"{self.name}: the attempt before this one still hangs: the name server does not answer")
        if self._renew:
            self._read_again()
        link = Link(self._options())
        self._dial = link.dial
        try:
            link.open()
        except Refused as refused:
            link.close(said_goodbye=True)
            self._renew = refused.code in words.NOT_WANTED
            raise self._refused(refused) from None
        except Exception as error:  # handshakes of paho fail in many ways where the other side talks nonsense
            link.close(said_goodbye=True)
            tls = self.context.tls is not None
            self._renew = tls and (isinstance(error, ssl.SSLError) or link.hung_up)  # and not for a broker that is just away
            problem = connection_problem(error, tls=tls)
            raise SinkUnavailable(f"{self.name}: {problem}", retry_after_s=retry_after_s(link.code)) from None
        self._refusals, self._renew, self._said_goodbye = 0, False, False
        link.granted = self._within(link.granted)
        self._allowed, self._limit.announced = link.granted, link.granted.largest
        self._link = link
        self._tell(link.granted)
        self.inbound.attach(link)

    def _read_again(self) -> None:
        if self.context.renew is not None:
            try:
                password, tls = self.context.renew()
            except ConfigError as error:
                log.warning("password and certificates cannot be read again, the old ones are used sink=%s reason=%s", self.name, error)
            else:
                self.context = replace(self.context, password=password, tls=tls)

    def _tell(self, granted: Granted) -> None:
        """What the broker does not do for us, when that changes."""
        lacks = words.lacks(granted.most_qos, self._config.qos, may_retain=granted.may_retain)
        if lacks and lacks != self._lacks:
            log.warning("the broker does less than it should sink=%s lacks=%s", self.name, "; ".join(lacks))
        self._lacks = lacks

    def _options(self) -> LinkOptions:
        context, config = self.context, self._config
        address = Address(config.host, self.port, context.unix_socket)
        will = (self.topics.of(STATUS_OFFLINE), STATUS_OFFLINE.payload, min(1, self._allowed.most_qos), self._allowed.may_retain)
        return LinkOptions(address, config, context.client_id, context.password, context.tls, will if context.with_will else None)

    def _refused(self, refused: Refused) -> SinkUnavailable:
        self._learn(refused.code)
        wait_s = retry_after_s(refused.code)
        if refused.code in words.NOT_WANTED:
            self._refusals += 1
            if self._refusals > 1:
                wait_s = random.uniform(_NOT_WANTED_S, 1.5 * _NOT_WANTED_S)  # noqa: S311 - spreads a fleet, keeps no secret
        return SinkUnavailable(f"{self.name}: {refused}", retry_after_s=wait_s)

    def _learn(self, code: int | None) -> None:
        """From a refusal that would come again, and again, if nothing changed."""
        if code in {words.NO_RETAIN, words.NO_QOS}:
            self._forbidden.add(code)
            self._allowed = self._within(self._allowed)

    def _within(self, granted: Granted) -> Granted:
        qos = 0 if words.NO_QOS in self._forbidden else granted.most_qos
        return replace(granted, most_qos=qos, may_retain=granted.may_retain and words.NO_RETAIN not in self._forbidden)

    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        link = self._standing()
        for message in messages:
            if message.kind is Kind.CAMERA_STATUS and message.camera is not None and message.payload:
                self.inbound.has_state(message.camera)
        self.inbound.tidy(link)
        parcels = list(self._parcels(messages, link.granted))
        Delivery(self.name, link, self._limit, self._patience, self._config.ack_timeout_s).run(parcels)
        for message in messages:
            if message.kind is Kind.STATUS:
                self._said_goodbye = message == STATUS_OFFLINE
        return [parcel.outcome for parcel in parcels if parcel.reply_to is None]

    def _parcels(self, messages: Sequence[Message], granted: Granted) -> Iterator[Parcel]:
        v5, config = self._config.protocol == "5", self._config
        for position, message in enumerate(messages):
            qos = config.qos if message.kind is Kind.DETECTIONS else 0 if message.kind is Kind.SNAPSHOT else 1
            qos = min(qos, granted.most_qos)
            is_state = message.kind.is_state
            retain = granted.may_retain and (is_state or (config.retain and message.kind is Kind.DETECTIONS))
            told = _content_type(message) if v5 else None
            yield Parcel(position, self.topics.of(message), message.payload, qos, retain, is_state=is_state, content_type=told)
            if message.reply_to is not None and v5:
                yield Parcel(position, message.reply_to.topic, message.payload, qos, False, message.reply_to)

    def _standing(self) -> Link:
        """The connection, with everything read that has come in. Raises SinkUnavailable if it is lost."""
        link = self._link
        if link is not None and link.lost is None:
            link.read_all()
        if link is None or link.lost is not None:
            why = "not connected" if link is None or link.lost is None else link.lost
            raise SinkUnavailable(f"{self.name}: {why}", retry_after_s=retry_after_s(None if link is None else link.code))
        return link

    def check(self) -> None:
        self.inbound.tidy(self._standing())

    def fileno(self) -> int | None:
        return None if self._link is None else self._link.fileno()

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self.inbound.detach(link)
            self._learn(link.code)
            link.close(said_goodbye=self._said_goodbye)

    def _name(self) -> str:
        scheme = "mqtt" if self._config.websocket is None else "ws"
        if self.context.unix_socket is not None:
            return f"{scheme}+unix://{self.context.unix_socket}"
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        path = "" if self._config.websocket is None else self._config.websocket.path
        return f"{scheme}{'s' if self.context.tls else ''}://{host}:{self.port}{path}"


def _content_type(message: Message) -> str | None:
    """Where it is not what everybody expects."""
    if message.kind is Kind.SNAPSHOT:
        return "image/jpeg"
    is_binary = message.kind.keeping == "event" and message.payload[:1] >= b"\x80"
    return content_type(message.payload) if is_binary else None


def _default_port(config: MqttSettings, *, tls: bool) -> int:
    if config.websocket is not None:
        return 443 if tls else 80
    return 8883 if tls else 1883


def build(context: MqttContext, config: MqttSettings) -> Sink:
    """A sink for one broker; does no I/O."""
    return MqttSink(context, config)
