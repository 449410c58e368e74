"""A webhook: messages in batches, as JSON, by POST. What a 2xx answers is delivered; the rest waits or is refused, by the answer.

Not thread-safe: one publisher drives it. Only a small part of an answer is read, and no more than ``timeout_s`` is waited for all of it.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from edge_agent import __version__
from edge_agent.config_delivery import WebhookSettings
from edge_agent.errors import Rejected, SinkUnavailable
from edge_agent.events import Message
from edge_agent.redaction import redact
from edge_agent.sinks._lines import envelopes
from edge_agent.sinks.base import Sink

log = logging.getLogger(__name__)

Config = WebhookSettings
_TRANSIENT = frozenset({408, 425, 429})
"""Of 4xx: come again later. So are all 5xx."""
_NOT_WANTED = frozenset({401, 402, 403, 404, 405, 407, 410, 421, 426, 451})
"""Of 4xx: the address or the token is wrong, and not the message. Nothing is thrown away for that."""
_NOT_WANTED_S = 30.0
_LONGEST_WAIT_S = 3600.0
_ANSWER_BYTES = 2048
_WRITE_WITHIN_S = 60.0


@dataclass(frozen=True)
class WebhookContext:
    """What the sink is given besides ``[sinks.webhook]``; secrets are read already."""

    device: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | None = None
    """For https."""


@dataclass(frozen=True)
class _Answer:
    """Of the receiver."""

    status: int
    text: str
    retry_after: str | None
    location: str | None


class WebhookSink(Sink):
    """One URL."""

    def __init__(self, context: WebhookContext, config: WebhookSettings, clock: Callable[[], float] = time.time) -> None:
        """``clock``: seconds since the epoch, for a Retry-After that is a date."""
        self._context, self._config, self._clock = context, config, clock
        parts = urlsplit(config.url)
        self._host, self._port, self._is_tls = parts.hostname or "", parts.port, parts.scheme == "https"
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.name = f"webhook:{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # a query may hold a secret
        self.most = config.batch
        self._size = config.batch
        """Messages of one request: fewer where the receiver refused more."""
        self._connection: http.client.HTTPConnection | None = None
        self._is_used = False

    def connect(self) -> None:
        self.close()
        try:
            self._connection = self._dial()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SinkUnavailable(f"{self.name}: {_problem(error)}") from None

    def _dial(self) -> http.client.HTTPConnection:
        timeout = self._config.timeout_s
        if self._is_tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout, context=self._context.tls
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        try:
            connection.connect()
        except BaseException:  # of a TLS handshake that fails, the socket is left
            connection.close()
            raise
        self._is_used = False
        return connection

    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        bodies = envelopes(messages, self._context.device, state=self._config.state)
        outcomes: list[Rejected | None] = []
        until = time.monotonic() + _WRITE_WITHIN_S
        while len(outcomes) < len(bodies):
            if time.monotonic() > until:
                raise self._unavailable("is too slow", outcomes)
            chunk = bodies[len(outcomes) :][: self._size]
            good = [body for body in chunk if isinstance(body, bytes)]
            refusal = self._deliver(good, outcomes) if good else None
            if refusal is None:
                outcomes += [body if isinstance(body, Rejected) else None for body in chunk]
                self._size = min(self._config.batch, 2 * self._size)
            elif len(chunk) == 1:
                outcomes.append(refusal)
            else:  # one of them is refused, or all together are too much: find out which
                self._size = len(chunk) // 2
        return outcomes

    def _deliver(self, bodies: Sequence[bytes], outcomes: Sequence[Rejected | None]) -> Rejected | None:
        """None: taken. Raises SinkUnavailable where it may be taken later."""
        around = b'{"schema":"edge_agent.batch/1","messages":['
        try:
            answer = self._post(around + b",".join(bodies) + b"]}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise self._unavailable(_problem(error), outcomes) from None
        if 200 <= answer.status < 300:
            self.proven = True
            return None
        said = f"answered {answer.status}{f': {answer.text}' if answer.text else ''}"
        if answer.status < 400:
            raise self._unavailable(
                f"{said}: redirects are not followed; set url to {redact(answer.location or 'it')}", outcomes, _NOT_WANTED_S
            )
        if answer.status in _NOT_WANTED:
            raise self._unavailable(f"{said}; look at url, token and headers", outcomes, _spread(_NOT_WANTED_S))
        if answer.status >= 500 or answer.status in _TRANSIENT:
            raise self._unavailable(said, outcomes, self._wait_s(answer.retry_after))
        return Rejected(f"{self.name}: {said}")

    def _post(self, body: bytes) -> _Answer:
        """One request. A connection that was used before may have been closed meanwhile: then once more over another."""
        if self._connection is None:
            self._connection = self._dial()
        try:
            return self._request(self._connection, body)
        except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLError):
            if not self._is_used:
                raise
            self.close()
            self._connection = self._dial()
            return self._request(self._connection, body)

    def _request(self, connection: http.client.HTTPConnection, body: bytes) -> _Answer:
        headers = {"Content-Type": "application/json", "User-Agent": f"edge-agent/{__version__}", **self._context.headers}
        late = threading.Event()

        def hang_up() -> None:
            """The socket's own timeout begins anew with every byte that comes."""
            late.set()
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._config.timeout_s, hang_up)
        timer.daemon = True
        timer.start()
        try:
            connection.request("POST", self._target, body, headers)
            response = connection.getresponse()
            text = response.read(_ANSWER_BYTES)
            if late.is_set():
                raise TimeoutError
            is_last = response.will_close or response.read(1) != b""  # what is left of an answer would be read as the next one's
        except (OSError, http.client.HTTPException):
            if late.is_set():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
        self._is_used = True
        if is_last:
            self.close()
        shown = " ".join(text.decode("utf-8", "replace").split())[:200]
        return _Answer(response.status, redact(shown), response.headers["Retry-After"], response.headers["Location"])

    def _wait_s(self, retry_after: str | None) -> float:
        """Seconds to leave the receiver alone, as it asks: in seconds, or until a date; never more than an hour."""
        if retry_after is None:
            return 0.0
        try:
            seconds = float(retry_after)
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - self._clock()
            except (ValueError, TypeError):
                return 0.0
        return min(_LONGEST_WAIT_S, seconds) if seconds > 0 else 0.0

    def _unavailable(self, why: str, outcomes: Sequence[Rejected | None], retry_after_s: float = 0.0) -> SinkUnavailable:
        self.proven = False
        rejected = {position: outcome for position, outcome in enumerate(outcomes) if outcome is not None}
        return SinkUnavailable(f"{self.name}: {why}", len(outcomes), rejected=rejected, retry_after_s=retry_after_s)

    def check(self) -> None:
        """Nothing: a receiver may close what is idle, and the next request opens it again."""

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.close()


def _spread(seconds: float) -> float:
    return random.uniform(seconds, 1.5 * seconds)  # noqa: S311 - spreads a fleet, keeps no secret


def _problem(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message} (a wrong clock on this device also looks so)"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}"
    if isinstance(error, OSError) and error.strerror:
        return f"the name cannot be resolved: {error.strerror}" if isinstance(error, socket.gaierror) else error.strerror
    known = {TimeoutError: "no answer in time", http.client.RemoteDisconnected: "it hung up without an answer"}
    return known.get(type(error), f"no HTTP that can be understood ({type(error).__name__})")


def build(context: WebhookContext, config: WebhookSettings) -> Sink:
    """A sink for one URL; does no I/O."""
    return WebhookSink(context, config)
