"""GET with a deadline, by Python's own urllib: basic and digest login, redirects, TLS; and typed errors.

http.client sets a time for each read of the socket, so a server that sends a byte now and then would be listened to for
ever: here every read counts towards one deadline, that of the answer or of the picture.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from edge_agent.errors import SourceErrorCode, SourceUnavailable
from edge_agent.sources._network import connection_code, reason_of

_BY_STATUS: dict[int, SourceErrorCode] = {
    HTTPStatus.UNAUTHORIZED: SourceErrorCode.AUTH_FAILED,
    HTTPStatus.FORBIDDEN: SourceErrorCode.AUTH_FAILED,
    HTTPStatus.NOT_FOUND: SourceErrorCode.NOT_FOUND,
    HTTPStatus.GONE: SourceErrorCode.NOT_FOUND,
    HTTPStatus.SERVICE_UNAVAILABLE: SourceErrorCode.BUSY,
}


class Deadline:
    """A time by which something must be done; may be set anew."""

    def __init__(self) -> None:
        self._at = 0.0

    def set(self, timeout_s: float) -> None:
        """So many seconds from now."""
        self._at = time.monotonic() + timeout_s

    def left(self) -> float:
        """Seconds that are left. Raises TimeoutError when none are."""
        left = self._at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _Bounded(io.RawIOBase):
    """A socket's bytes, none of them later than the deadline."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection, self._deadline = connection, deadline
        self._file = connection.makefile("rb", 0)  # keeps the descriptor while we have it

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._deadline.left())
        return self._connection.recv_into(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class HttpTarget:
    """What to ask whom for."""

    url: str
    """Without credentials."""
    shown: str
    """The url as it may be logged."""
    user: str | None
    password: str
    tls: ssl.SSLContext
    open_timeout_s: float


class HttpAnswer:
    """A server's answer; ``read`` gives its body."""

    def __init__(self, response: Any, deadline: Deadline) -> None:
        self._response, self.deadline = response, deadline

    @property
    def content_type(self) -> str:
        """Without parameters, in lower case, such as ``image/jpeg``."""
        return str(self._response.headers.get_content_type())

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes as soon as there are any; none at the end. Raises OSError, and TimeoutError at the deadline."""
        try:
            data: bytes = self._response.read1(size)
        except http.client.HTTPException as error:
            raise ConnectionResetError(104, f"the connection broke off ({type(error).__name__})") from None
        return data

    def close(self) -> None:
        """Let go of the connection. Never raises."""
        with contextlib.suppress(OSError, ValueError):
            self._response.close()


def get(target: HttpTarget) -> HttpAnswer:
    """Ask for the target. Raises SourceUnavailable with a typed code, within about twice ``open_timeout_s``."""
    deadline, request = Deadline(), urllib.request.Request(target.url)  # noqa: S310 - http and https only, as the opener knows no other
    opener = _opener(target, deadline)
    deadline.set(target.open_timeout_s)
    try:
        try:
            response = opener.open(request, timeout=target.open_timeout_s)
        except urllib.error.HTTPError as error:
            # Asked once, and not again and again as urllib does: cameras lock out whoever fails a few times.
            login = _login(target, request, error) if error.code == HTTPStatus.UNAUTHORIZED else None
            if login is None:
                raise
            error.close()
            request.add_unredirected_header("Authorization", login)
            response = opener.open(request, timeout=target.open_timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        raise SourceUnavailable(_refusal(target, error), _BY_STATUS.get(error.code, SourceErrorCode.FAILED)) from None
    except urllib.error.URLError as error:
        raise unavailable(target, error.reason if isinstance(error.reason, Exception) else error, "cannot be opened") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise unavailable(target, error, "cannot be opened") from None
    return HttpAnswer(response, deadline)


def _login(target: HttpTarget, request: urllib.request.Request, refusal: urllib.error.HTTPError) -> str | None:
    """The answer to the server's challenge: by digest where it can be, else basic. None where there is none."""
    if target.user is None:
        return None
    challenges = refusal.headers.get_all("WWW-Authenticate") or []
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, target.url, target.user, target.password)
    for challenge in challenges:
        found = re.search(r"(?i)(?:^|,\s*)digest\s+", challenge)
        items = urllib.request.parse_http_list(challenge[found.end() :]) if found else []
        fields = urllib.request.parse_keqv_list([item for item in items if "=" in item])
        # Algorithms that this Python does not know are as good as not offered.
        with contextlib.suppress(ValueError, KeyError, NotImplementedError):
            if found and (answer := urllib.request.HTTPDigestAuthHandler(passwords).get_authorization(request, fields)):
                return f"Digest {answer}"
    if any(re.search(r"(?i)(?:^|,\s*)basic\b", challenge) for challenge in challenges):
        return "Basic " + base64.b64encode(f"{target.user}:{target.password}".encode()).decode("ascii")
    return None


def unavailable(target: HttpTarget, error: Exception, what: str) -> SourceUnavailable:
    """A failed connection as a typed error."""
    if isinstance(error, socket.gaierror):
        return SourceUnavailable(f"{target.shown} {what}: its name cannot be resolved", SourceErrorCode.UNREACHABLE)
    if isinstance(error, TimeoutError):
        return SourceUnavailable(f"{target.shown} {what}: no answer within {target.open_timeout_s:g} s", SourceErrorCode.TIMEOUT)
    if isinstance(error, (http.client.HTTPException, ValueError)) and not isinstance(error, ssl.SSLError):
        return SourceUnavailable(f"{target.shown} {what}: it does not speak HTTP", SourceErrorCode.INVALID_DATA)
    return SourceUnavailable(f"{target.shown} {what}: {reason_of(error)}", connection_code(error))


def _refusal(target: HttpTarget, error: urllib.error.HTTPError) -> str:
    if error.code == HTTPStatus.UNAUTHORIZED:
        asked = "wrong user or password" if target.user is not None else "it asks for a user and password: set username and password_file"
        return f"{target.shown} cannot be opened: {asked}"
    phrase = next((status.phrase for status in HTTPStatus if status == error.code), "no reason known")
    return f"{target.shown} cannot be opened: the server answers {error.code} ({phrase})"


def _opener(target: HttpTarget, deadline: Deadline) -> urllib.request.OpenerDirector:
    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **keys: Any) -> None:
            super().__init__(sock, *arguments, **keys)
            self.fp.close()
            self.fp = io.BufferedReader(_Bounded(sock, deadline))

    class Connection(http.client.HTTPConnection):
        response_class = Response

    class TlsConnection(http.client.HTTPSConnection):
        response_class = Response

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Connection, request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(TlsConnection, request, context=target.tls)

    # No proxy out of the environment: a camera is in our own network. No files and no ftp by a redirect either.
    opener = urllib.request.OpenerDirector()
    handlers: list[urllib.request.BaseHandler] = [
        Http(),
        Https(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPRedirectHandler(),
    ]
    for handler in handlers:
        opener.add_handler(handler)
    return opener
