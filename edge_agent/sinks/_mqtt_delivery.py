"""Writes messages over one connection: the window, the acknowledgements, and what becomes of what the broker will not take."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent.errors import Rejected, SinkUnavailable
from edge_agent.events import ReplyTo
from edge_agent.sinks import _mqtt_words as words
from edge_agent.sinks._mqtt_link import Link, properties

log = logging.getLogger(__name__)

_TRIES = 3
"""Of a message that the broker refuses without saying why."""
_MOST_REFUSED = 256
"""Such messages that are remembered."""
_SUSPICIOUS_BYTES = 16 * 1024
_HANG_UPS = 5
_FORGET_S = 3600.0
_BUSY_S = 5.0
_STEP_S = 0.5


@dataclass(slots=True)
class Parcel:
    """One PUBLISH."""

    position: int
    """Which of the messages it is of."""
    topic: str
    payload: bytes
    qos: int
    retain: bool
    reply_to: ReplyTo | None = None
    """It is the copy of an answer that goes there."""
    is_state: bool = False
    content_type: str | None = None
    """Told with MQTT 5 where it is not JSON or plain text."""
    mid: int | None = None
    outcome: Rejected | None = None

    @property
    def size(self) -> int:
        """Bytes on the wire, by MQTT 5 (3.3); the older has one less."""
        correlation = None if self.reply_to is None else self.reply_to.correlation
        told = 0 if correlation is None else 3 + len(correlation)
        told += 0 if self.content_type is None else 3 + len(self.content_type)
        number = 2 if self.qos else 0
        rest = 2 + len(self.topic.encode()) + number + _varint_size(told) + told + len(self.payload)
        return 1 + _varint_size(rest) + rest


def _varint_size(value: int) -> int:
    """Of a variable byte integer (MQTT 5, 1.5.5)."""
    return max(1, -(-value.bit_length() // 7))


class SizeLimit:
    """How large a packet the broker takes. One of MQTT 5 may say so; others hang up on what is larger, which is found out here.

    A message is only given up so if the broker hung up on it five times, alone in flight, and it is larger than all that was
    ever acknowledged: a bad network must not cost events. Not thread-safe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.announced: int | None = None
        self._learnt: int | None = None
        self._forget_at = 0.0
        self._taken = self._suspect = self._times = 0

    @property
    def one_at_a_time(self) -> bool:
        """Whether only one message may be in flight, so that the guilty one is known."""
        return self._times > 0

    def excess(self, size: int) -> str | None:
        """Why a packet of that size cannot be sent; None: it can."""
        if self.announced is not None and size > self.announced:
            return f"{size} bytes, and the broker takes no more than {self.announced} (its maximum packet size)"
        if self._learnt is not None and self._clock() > self._forget_at:
            self._learnt = None
        if self._learnt is not None and size >= self._learnt:
            return f"{size} bytes, and the broker hangs up when it is sent {self._learnt}"
        return None

    def taken(self, size: int) -> None:
        """A packet of that size was acknowledged."""
        self._taken = max(self._taken, size)
        if size >= self._suspect:
            self._times = 0

    def hung_up(self, in_flight: Sequence[int], *, said_so: bool) -> None:
        """The connection was ended with packets of those sizes in flight; ``said_so``: because one was too large."""
        size = max(in_flight, default=0)
        if size == 0 or not (said_so or size > max(self._taken, _SUSPICIOUS_BYTES)):
            self._times = 0
            return
        self._times = self._times + 1 if size == self._suspect else 1
        self._suspect = size
        if len(in_flight) == 1 and (said_so or self._times > _HANG_UPS):
            self._learnt, self._forget_at, self._times = size, self._clock() + _FORGET_S, 0


class Patience:
    """With messages that the broker refuses without saying why: it may pass, but must not hold up the others for ever.

    Each has its own: state is sent again on every connection, so two that are refused come by turns.
    """

    def __init__(self) -> None:
        self._tries: dict[tuple[str, int], int] = {}

    def is_over(self, parcel: Parcel) -> bool:
        """Whether this refusal of the message is one too many. It stays so until the broker takes it."""
        key = _identity(parcel)
        self._tries[key] = tries = self._tries.pop(key, 0) + 1
        if len(self._tries) > _MOST_REFUSED:
            del self._tries[next(iter(self._tries))]
        return tries >= _TRIES

    def taken(self, parcel: Parcel) -> None:
        """The broker acknowledged it."""
        if self._tries:
            self._tries.pop(_identity(parcel), None)


def _identity(parcel: Parcel) -> tuple[str, int]:
    """The same if it is tried again; that of state is, whatever it says now."""
    return parcel.topic, 0 if parcel.is_state else hash(parcel.payload)


class Delivery:
    """One ``write``."""

    def __init__(self, name: str, link: Link, limit: SizeLimit, patience: Patience, ack_timeout_s: float) -> None:
        self._name, self._link, self._limit, self._patience = name, link, limit, patience
        self._ack_timeout_s = ack_timeout_s
        self._parcels: Sequence[Parcel] = ()
        self._sent = self._settled = 0

    def run(self, parcels: Sequence[Parcel]) -> None:
        """Deliver all of them, in order; how it went is in each parcel's ``outcome``. Raises SinkUnavailable.

        A sliding window: each acknowledgement lets the next message go, so that there is always data for TCP's own
        acknowledgements to travel on. Sent in lots, every lot would wait for the delayed one (40 ms).
        """
        self._parcels = parcels
        while self._settled < len(parcels):
            window = 1 if self._limit.one_at_a_time else self._link.granted.window
            while self._sent < len(parcels) and self._link.in_flight < window and self._link.lost is None:
                self._send(parcels[self._sent])
                self._sent += 1
            self._await_ack(window)
            while self._settled < self._sent and self._is_acknowledged(parcels[self._settled]):
                self._settle(parcels[self._settled])
                self._settled += 1

    def _send(self, parcel: Parcel) -> None:
        excess = self._limit.excess(parcel.size)
        if excess is not None:  # sent, it would cost us the connection, every time
            self._refuse(parcel, excess)
            return
        try:
            parcel.mid = self._link.publish(parcel.topic, parcel.payload, parcel.qos, parcel.retain, _told(parcel))
        except ValueError as error:  # payload over 256 MB, or a topic that MQTT forbids
            self._refuse(parcel, f"not a message that MQTT can carry: {error}")

    def _refuse(self, parcel: Parcel, why: str) -> None:
        """It cannot be delivered, ever. The copy of an answer is nobody's loss but of who wanted it there."""
        if parcel.reply_to is not None:
            log.warning("an answer could not be sent where it was wanted topic=%s reason=%s", words.plain(parcel.topic), why)
        else:
            parcel.outcome = Rejected(f"{parcel.topic}: {why}")

    def _is_acknowledged(self, parcel: Parcel) -> bool:
        return parcel.mid is None or parcel.mid in self._link.acks

    def _await_ack(self, window: int) -> None:
        """Until the next parcel is acknowledged, or can be sent. Time runs only while nothing moves: a network may be slow."""
        link = self._link

        def is_next() -> bool:
            return self._is_acknowledged(self._parcels[self._settled]) if self._settled < self._sent else link.in_flight < window

        until = time.monotonic() + self._ack_timeout_s
        in_flight, unsent = link.in_flight, link.unsent()
        while not is_next() and link.lost is None:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise self._unavailable(f"the broker did not acknowledge within {self._ack_timeout_s:g} s")
            link.pump(is_next, min(_STEP_S, left_s))
            before, (in_flight, unsent) = (in_flight, unsent), (link.in_flight, link.unsent())
            if in_flight < before[0] or unsent < before[1]:
                until = time.monotonic() + self._ack_timeout_s
        if link.lost is not None and not (self._settled < self._sent and is_next()):
            if link.hung_up:
                sizes = [p.size for p in self._parcels[self._settled : self._sent] if not self._is_acknowledged(p)]
                self._limit.hung_up(sizes, said_so=link.code == words.TOO_LARGE)
            raise self._unavailable(link.lost)

    def _settle(self, parcel: Parcel) -> None:
        if parcel.mid is None:
            return
        reason, told = self._link.acks.pop(parcel.mid)
        if reason.value < words.FAILURE:
            self._limit.taken(parcel.size)
            self._patience.taken(parcel)
            return
        why = words.said(reason, told)
        if parcel.reply_to is not None:
            self._refuse(parcel, why)
        elif reason.value == words.QUOTA_EXCEEDED:
            raise self._unavailable(f"{parcel.topic}: {why}", reason, standing=self._is_drained())
        elif reason.value in words.UNSPECIFIED and not self._patience.is_over(parcel):
            raise self._unavailable(f"{parcel.topic}: {why}")
        else:
            self._refuse(parcel, why + _hint(reason))

    def _is_drained(self) -> bool:
        """Wait for what else was sent; whether nothing is in flight any more, so that this connection can go on."""
        link = self._link
        link.pump(lambda: link.in_flight == 0 or link.lost is not None, self._ack_timeout_s)
        link.acks.clear()  # their numbers will be used again
        return link.in_flight == 0 and link.lost is None

    def _unavailable(self, why: str, reason: ReasonCode | None = None, *, standing: bool = False) -> SinkUnavailable:
        code = self._link.code if reason is None else reason.value
        done = self._parcels[: self._settled]
        following = self._parcels[self._settled].position if self._settled < len(self._parcels) else 0
        rejected = {p.position: p.outcome for p in done if p.outcome is not None and p.position < following}
        wait_s = retry_after_s(code)
        return SinkUnavailable(f"{self._name}: {why}", following, rejected=rejected, retry_after_s=wait_s, standing=standing)


def retry_after_s(code: int | None) -> float:
    """How long to leave a broker alone that ended the connection so."""
    return random.uniform(_BUSY_S, 2 * _BUSY_S) if code in words.OVERLOADED else 0.0  # noqa: S311 - nothing secret


def _told(parcel: Parcel) -> Properties | None:
    """What is said of it beside its payload: mostly nothing, as each word costs some microseconds."""
    correlation = None if parcel.reply_to is None else parcel.reply_to.correlation
    told: dict[str, object] = {} if correlation is None else {"CorrelationData": correlation}
    if parcel.content_type is not None:
        told["ContentType"] = parcel.content_type
    return properties(PacketTypes.PUBLISH, **told) if told else None


def _hint(reason: ReasonCode) -> str:
    return " (the broker's ACL does not let us write there)" if reason.value == words.NOT_AUTHORIZED else ""
