"""One address into a part file, over https or http: resumed where it was cut, never endless, never larger than allowed.

Python's own urllib, for the environment's proxies and certificates. Blocks the thread that calls it.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import re
import socket
import ssl
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from edge_agent.errors import EdgeAgentError, ExitCode
from edge_agent.part_file import PartFile, Validator
from edge_agent.redaction import redact

CHUNK = 64 * 1024
Progress = Callable[[int, int], None]
"""Called with the bytes that are there, and how many there will be (only where the server told)."""


class FetchError(EdgeAgentError):
    """It was not fetched. ``again``: the same request may succeed a moment later."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.UNAVAILABLE, *, again: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.again = again


@dataclass(frozen=True)
class Limits:
    """How much, how slow and how often. Times in seconds."""

    max_bytes: int
    idle_s: float = 30.0
    """The answer must begin within this time, and then at least 64 KiB arrive in every such time."""
    connections: int = 5
    """A cut connection is gone on with so often, all in all."""
    redirects: int = 5
    pause_s: float = 1.0
    """Before the second connection; doubled before each one after it."""


@dataclass(frozen=True)
class Job:
    """What to fetch. ``trusted``: its hash is known, so plain http will do, and a resumed file that was mixed is noticed."""

    url: str
    limits: Limits
    trusted: bool
    progress: Progress = field(default=lambda _done, _of: None)
    pause: Callable[[float], None] = time.sleep

    @property
    def shown(self) -> str:
        """The address as it may be shown."""
        return redact(self.url)


def check_address(url: str, *, trusted: bool) -> None:
    """Raises FetchError (exit code 2) for what is no address of http(s), or is plain http and nothing will tell what came."""
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and parts.port != 0 and not re.search(r"[\x00-\x20\x7f]", url)
    except ValueError:
        complete = False
    if not complete or parts.scheme not in {"https", "http"}:
        raise FetchError(f"{redact(url)!r} is no address; it should look like https://example.com/model.onnx", ExitCode.USAGE)
    if parts.scheme == "http" and not trusted:
        raise FetchError(f"{redact(url)}: over http anyone in between can change the file; use https, or give its --sha256", ExitCode.USAGE)


def fetch(job: Job, part: PartFile) -> None:
    """Make the part file whole. What it holds of this address already is kept, if the server still has the same file.

    Raises FetchError, and OSError where the disk refuses. After an error with ``again``, and after KeyboardInterrupt, another
    call goes on from there; after one with exit code 65 the part file is of no use.
    """
    for connection in range(job.limits.connections):
        if connection:
            job.pause(job.limits.pause_s * 2 ** (connection - 1))
        try:
            _once(job, part)
        except FetchError as error:
            if not error.again or connection + 1 == job.limits.connections:
                raise
        else:
            return


def _once(job: Job, part: PartFile) -> None:
    have, validator = part.size, part.validator
    if have and have == validator.total:
        return
    if have and not (validator.tag or job.trusted):
        have = 0  # nothing would tell whether both halves are of one file
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and validator.tag:
        headers["If-Range"] = validator.tag
    pace = _Pace(job.limits.idle_s)
    response = _open(job, headers, pace)
    with contextlib.closing(response):
        if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if _total(response) == have:
                return
            part.begin(Validator())
            raise FetchError(f"{job.shown}: the server's file is not the one that the first part came from", again=True)
        start = _start(job, response, have, part)
        _copy(job, response, part, _whole_size(response, start), pace)


def _start(job: Job, response: Any, have: int, part: PartFile) -> int:
    """Where this answer's bytes belong; the part file is made ready for them."""
    if response.headers.get("Content-Encoding", "identity").lower() not in {"identity", ""}:
        raise FetchError(f"{job.shown}: the server sends it in another encoding than the file's own", ExitCode.DATAERR)
    if response.headers.get_content_type() == "text/html":
        raise FetchError(f"{job.shown} is a web page, not a file; give the address of the file itself", ExitCode.DATAERR)
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        found = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range", ""))
        if not have or found is None or int(found[1]) != have:
            part.begin(Validator())
            raise FetchError(f"{job.shown}: the server sent another part than was asked for", again=bool(have))
    else:
        have = 0
    total = _whole_size(response, have)
    if total is not None and total > job.limits.max_bytes:
        raise _too_large(job, total)
    part.make_room(total, have)
    if not have:
        part.begin(Validator(_tag(response), total))
    return have


def _copy(job: Job, response: Any, part: PartFile, total: int | None, pace: _Pace) -> None:
    arrived = 0
    try:
        while True:
            try:
                data = response.read1(CHUNK)
            except (http.client.HTTPException, OSError, ValueError) as error:
                raise _failure(job, error, "broke off") from None
            if not data:
                break
            if part.size + len(data) > min(job.limits.max_bytes, job.limits.max_bytes if total is None else total):
                raise _too_large(job, total)
            part.append(data)
            arrived += len(data)
            if arrived >= CHUNK:
                arrived = 0
                pace.extend()
            if total:
                job.progress(part.size, total)
    finally:
        part.flush()
    if total is not None and part.size < total:
        raise FetchError(f"{job.shown} broke off after {part.size} of {total} bytes; the same command goes on from there", again=True)


def _too_large(job: Job, total: int | None) -> FetchError:
    size = "more" if total is None else f"{total / 1e6:.1f} MB"
    return FetchError(f"{job.shown}: {size}, where at most {job.limits.max_bytes / 1e6:g} MB are allowed (--max-mb)", ExitCode.DATAERR)


def _tag(response: Any) -> str | None:
    """What If-Range takes: a strong ETag. A date is none: two versions of one second have the same."""
    tag = response.headers.get("ETag", "").strip()
    return tag if re.fullmatch(r'"[\x21\x23-\x7e]{0,500}"', tag) else None


def _total(response: Any) -> int | None:
    found = re.search(r"/(\d{1,18})\s*$", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else None


def _whole_size(response: Any, start: int) -> int | None:
    if response.status == HTTPStatus.PARTIAL_CONTENT and (total := _total(response)) is not None:
        return total
    length = response.headers.get("Content-Length", "")
    return start + int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _open(job: Job, headers: dict[str, str], pace: _Pace) -> Any:
    """The answer to a GET, behind at most so many redirects. Raises FetchError."""
    address, login = _without_login(job.url)
    opener = _opener(pace)
    for _ in range(job.limits.redirects + 1):
        request = urllib.request.Request(address, headers={**headers, "User-Agent": "edge-agent"})  # noqa: S310 - checked, and the opener knows no other
        if login:  # for the server that was named, and no other that it sends us to
            request.add_unredirected_header("Authorization", login)
        pace.extend()
        try:
            return opener.open(request, timeout=job.limits.idle_s)
        except urllib.error.HTTPError as answer:
            if answer.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
                return answer
            answer.close()
            if answer.code not in {301, 302, 303, 307, 308} or not answer.headers.get("Location"):
                raise _refusal(job, answer) from None
            address, login = _redirected(job, address, answer.headers["Location"]), None
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise _failure(job, reason if isinstance(reason, Exception) else error, "cannot be reached") from None
    raise FetchError(f"{job.shown}: more than {job.limits.redirects} redirects")


def _redirected(job: Job, address: str, location: str) -> str:
    try:
        target = quote(urljoin(address, location), safe=string.punctuation)
        check_address(target, trusted=job.trusted)
    except (ValueError, FetchError):
        raise FetchError(f"{job.shown}: redirects to {redact(location)!r:.200}, which is not followed") from None
    return _without_login(target)[0]


def _without_login(url: str) -> tuple[str, str | None]:
    """The address without user and password, and the header that carries them."""
    scheme, _, rest = url.partition("://")
    authority, end, path = re.match(r"([^/?#]*)()(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]  # matches any text
    userinfo, found, host = authority.rpartition("@")
    login = "Basic " + base64.b64encode(unquote(userinfo).encode()).decode("ascii") if found else None
    return f"{scheme}://{host}{end}{path}".partition("#")[0], login


def _refusal(job: Job, answer: urllib.error.HTTPError) -> FetchError:
    hint = {401: "; it asks for a login", 403: "; it may ask for a login", 404: "; look whether the address is right"}.get(answer.code, "")
    try:
        name = HTTPStatus(answer.code).phrase
    except ValueError:
        name = "unknown"
    again = answer.code in {408, 425, 429} or answer.code >= 500
    return FetchError(f"{job.shown}: the server answers {answer.code} ({name}){hint}", again=again)


def _failure(job: Job, error: Exception, what: str) -> FetchError:
    if isinstance(error, socket.gaierror):
        return FetchError(f"{job.shown} {what}: its name cannot be resolved", again=True)
    if isinstance(error, TimeoutError):
        return FetchError(f"{job.shown} {what}: less than 64 KiB in {job.limits.idle_s:g} s", again=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        return FetchError(f"{job.shown} {what}: its certificate is not trusted ({error.verify_message})")
    if isinstance(error, (http.client.IncompleteRead, http.client.RemoteDisconnected)):
        return FetchError(f"{job.shown} {what}: the server closed the connection", again=True)
    if isinstance(error, OSError):
        return FetchError(f"{job.shown} {what}: {error.strerror or type(error).__name__}", again=True)
    return FetchError(f"{job.shown} {what}: it does not speak HTTP")


class _Pace:
    """The time by which something must have come."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self.extend()

    def extend(self) -> None:
        self._until = time.monotonic() + self._idle_s

    def left(self) -> float:
        """Seconds. Raises TimeoutError when none are left."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _Paced(io.RawIOBase):
    """A socket's bytes, none later than the pace allows: http.client's own time is one for each read, however small."""

    def __init__(self, connection: socket.socket, pace: _Pace) -> None:
        self._connection, self._pace = connection, pace
        self._file = connection.makefile("rb", 0)  # keeps the descriptor while we have it

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._pace.left())
        return self._connection.recv_into(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, pace: _Pace, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Paced(sock, pace))


def _opener(pace: _Pace) -> urllib.request.OpenerDirector:
    """Http and https by the environment's proxies; no redirects, which are followed where they can be judged; nothing else."""

    class Response(_Response):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, pace=pace, **kwargs)

    class Plain(http.client.HTTPConnection):
        response_class = Response

    class Tls(http.client.HTTPSConnection):
        response_class = Response

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Plain, request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Tls, request, context=ssl.create_default_context())

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), Http(), Https(), urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener
