"""Webhooks against a real HTTP server that answers as it is told to."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Self

from edge_agent.config_delivery import WebhookSettings
from edge_agent.errors import ConfigError, Rejected, SinkUnavailable
from edge_agent.events import STATUS_ONLINE, Kind, Message
from edge_agent.publisher import Publisher
from edge_agent.retry import BackoffPolicy
from edge_agent.sinks._mqtt_tls import TlsFiles, tls_context
from edge_agent.sinks.webhook import WebhookContext, WebhookSink
from edge_agent.spool import Spool, SpoolLimits
from tests.conftest import free_port, make_config, needs, wait_until
from tests.sinks.mqtt_certificates import Certificates

Answer = tuple[int, dict[str, str]]


class Receiver:
    """Keeps what it was sent, and answers by ``rule`` (the sequence numbers of a batch to a status and headers)."""

    def __init__(self, rule: Callable[[list[int]], Answer] = lambda _: (204, {}), tls: ssl.SSLContext | None = None) -> None:
        self.rule = rule
        self.requests: list[tuple[dict[str, str], Any]] = []
        self.batches: list[list[int]] = []
        self.taken: list[int] = []
        self.connections = 0
        self.close_idle = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append((dict(self.headers.items()), body))
                batch = [m["payload"]["seq"] for m in body["messages"] if m["kind"] == "detections"]
                outer.batches.append(batch)
                status, headers = outer.rule(batch)
                if status == 0:
                    self.close_connection = True
                    return
                if status < 300:
                    outer.taken += batch
                self.send_response(status)
                text = b"" if status == 204 else b"because of token=secret1 I say so"
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                self.close_connection = outer.close_idle

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.scheme = "https" if tls else "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server.server_address[1]}/in?key=k"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


OPENED: list[WebhookSink] = []


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def sink(url: str, context: WebhookContext | None = None, **settings: Any) -> WebhookSink:
    OPENED.append(WebhookSink(context or WebhookContext("dev"), WebhookSettings(url=url, **settings), clock=lambda: 1000.0))
    return OPENED[-1]


def events(*numbers: int) -> list[Message]:
    return [Message(Kind.DETECTIONS, "c", json.dumps({"seq": number}).encode()) for number in numbers]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def test_a_batch_is_one_request_with_everything_in_order(receiver: Receiver) -> None:
    made = sink(receiver.url, WebhookContext("dev", {"Authorization": "Bearer t0ken", "X-Site": "north"}))
    made.connect()
    assert made.write([STATUS_ONLINE, *events(1, 2), Message(Kind.DETECTIONS, "c", b"\x81\xa3seq\x03")]) == [None] * 4
    headers, body = receiver.requests[0]
    assert headers["Authorization"] == "Bearer t0ken"
    assert (headers["X-Site"], headers["Content-Type"]) == ("north", "application/json")
    assert body["schema"] == "edge_agent.batch/1"
    assert body["messages"][0] == {"kind": "status", "device": "dev", "camera": None, "payload": "online"}
    assert [m["payload"]["seq"] for m in body["messages"][1:]] == [1, 2, 3]
    made.write(events(4))
    assert receiver.connections == 1  # kept open
    made.close()


def test_state_can_be_left_out(receiver: Receiver) -> None:
    made = sink(receiver.url, state=False)
    made.connect()
    assert made.write([STATUS_ONLINE]) == [None]
    assert made.write([STATUS_ONLINE, *events(1)]) == [None, None]
    assert [len(body["messages"]) for _, body in receiver.requests] == [1]


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_2xx_is_a_confirmation(receiver: Receiver, status: int) -> None:
    receiver.rule = lambda _: (status, {})
    made = sink(receiver.url)
    made.connect()
    assert made.write(events(1)) == [None]


@pytest.mark.parametrize(
    ("status", "header", "least", "most"),
    [
        (429, {"Retry-After": "7"}, 7, 7),
        (503, {"Retry-After": formatdate(1000.0 + 90, usegmt=True)}, 90, 90),
        (503, {"Retry-After": formatdate(1000.0 - 90, usegmt=True)}, 0, 0),
        (503, {"Retry-After": "soon"}, 0, 0),
        (503, {"Retry-After": "nan"}, 0, 0),
        (429, {"Retry-After": "99999999"}, 3600, 3600),
        (500, {}, 0, 0),
        (408, {}, 0, 0),
        (401, {}, 30, 45),
        (403, {}, 30, 45),
        (404, {}, 30, 45),
        (302, {"Location": "https://elsewhere/x"}, 30, 45),
    ],
)
def test_what_may_work_later_waits_as_long_as_asked(
    receiver: Receiver, status: int, header: dict[str, str], least: float, most: float
) -> None:
    receiver.rule = lambda _: (status, header)
    made = sink(receiver.url)
    made.connect()
    with pytest.raises(SinkUnavailable) as caught:
        made.write(events(1, 2))
    assert (caught.value.confirmed, len(receiver.batches)) == (0, 1)
    assert least <= caught.value.retry_after_s <= most
    assert str(status) in str(caught.value)
    assert "secret1" not in str(caught.value)
    assert "key=k" not in str(caught.value)


def test_of_a_batch_that_is_refused_only_the_guilty_one_is_rejected(receiver: Receiver) -> None:
    receiver.rule = lambda batch: (422, {}) if 5 in batch else (200, {})
    made = sink(receiver.url)
    made.connect()
    outcomes = made.write(events(*range(12)))
    assert [isinstance(each, Rejected) for each in outcomes] == [number == 5 for number in range(12)]
    assert receiver.taken == [number for number in range(12) if number != 5]  # in order, each once


def test_a_batch_too_large_is_sent_in_parts_and_later_ones_too(receiver: Receiver) -> None:
    receiver.rule = lambda batch: (413, {}) if len(batch) > 3 else (200, {})
    made = sink(receiver.url)
    made.connect()
    assert made.write(events(*range(10))) == [None] * 10
    assert receiver.taken == list(range(10))


def test_what_was_confirmed_before_the_failure_is_told(receiver: Receiver) -> None:
    receiver.rule = lambda batch: (422, {}) if len(batch) > 1 or batch == [0] else (200, {}) if batch == [1] else (503, {})
    made = sink(receiver.url, batch=4)
    made.connect()
    with pytest.raises(SinkUnavailable) as caught:
        made.write(events(0, 1, 2, 3))
    assert caught.value.confirmed == 2
    assert list(caught.value.rejected) == [0]


def test_a_connection_that_was_closed_meanwhile_costs_nothing(receiver: Receiver) -> None:
    made = sink(receiver.url)
    made.connect()
    made.write(events(1))
    calls: Iterator[Answer] = iter([(0, {}), (200, {})])
    receiver.rule = lambda _: next(calls)
    assert made.write(events(2)) == [None]
    receiver.rule = lambda _: (0, {})
    made.close()
    made.connect()
    with pytest.raises(SinkUnavailable, match="hung up without an answer"):
        made.write(events(3))


def test_nobody_there_and_nonsense_are_said_in_words() -> None:
    with pytest.raises(SinkUnavailable, match="Connection refused"):
        sink(f"http://127.0.0.1:{free_port()}/").connect()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            taken, _ = server.accept()
            with taken:
                taken.recv(65536)
                taken.sendall(b"\x00\x01 what?\r\n\r\n")

        threading.Thread(target=talk, daemon=True).start()
        made = sink(f"http://127.0.0.1:{server.getsockname()[1]}/")
        made.connect()
        with pytest.raises(SinkUnavailable, match="no HTTP that can be understood"):
            made.write(events(1))


@pytest.mark.parametrize("drip", [b"", b"H"])
def test_an_answer_that_never_ends_is_not_waited_for(drip: bytes) -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            taken, _ = server.accept()
            with taken:
                taken.recv(65536)
                while not over.wait(0.05):
                    try:
                        taken.sendall(drip)
                    except OSError:
                        return

        threading.Thread(target=talk, daemon=True).start()
        made = sink(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_s=0.4)
        made.connect()
        began = time.monotonic()
        with pytest.raises(SinkUnavailable, match="no answer in time"):
            made.write(events(1))
        assert time.monotonic() - began < 3
        over.set()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [needs("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-keyout", str(key), "-out", str(cert), "-subj", "/CN=receiver", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_tls_with_an_authority_of_ones_own_and_not_without(certificate: tuple[Path, Path]) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    with Receiver(tls=server) as receiver:
        made = sink(receiver.url, WebhookContext("dev", tls=tls_context(TlsFiles(str(certificate[0])))))
        made.connect()
        assert made.write(events(1)) == [None]
        made.close()
        with pytest.raises(SinkUnavailable, match="certificate is not accepted"):
            sink(receiver.url, WebhookContext("dev", tls=tls_context(TlsFiles()))).connect()


def _deliver(made: WebhookSink) -> None:
    made.connect()
    made.write(events(3))  # with TLS 1.3 it is told only here that its certificate is missing


def test_a_receiver_that_wants_our_certificate_is_shown_it(certificates: Certificates) -> None:
    server = certificates.serving("server")
    server.load_verify_locations(certificates.path("ca.pem"))
    server.verify_mode = ssl.CERT_REQUIRED
    with Receiver(tls=server) as receiver:
        made = sink(receiver.url, WebhookContext("dev", tls=certificates.trusting(client="client")))
        made.connect()
        assert made.write(events(1, 2)) == [None, None]
        assert receiver.taken == [1, 2]
        without = sink(receiver.url, WebhookContext("dev", tls=certificates.trusting()))
        with pytest.raises(SinkUnavailable, match=r"TLS fails|hung up|reset|Broken pipe"):
            _deliver(without)
        assert receiver.taken == [1, 2]


def test_a_receiver_that_answers_500_never_looks_connected_again_until_it_takes_something() -> None:
    looks: list[bool] = []
    with Receiver(lambda _: (500, {})) as receiver:
        policy = BackoffPolicy(first_s=0.01, least_s=0.01, cap_s=0.02, stable_s=0)
        publisher = Publisher(
            sink(receiver.url), Spool(SpoolLimits(10, 10_000)), policy, on_change=lambda: looks.append(publisher.connected)
        )
        for message in events(1):
            publisher.publish(message)
        publisher.start()
        wait_until(lambda: len(receiver.batches) >= 5)
        assert not publisher.connected
        assert "answered 500" in (publisher.error or "")
        receiver.rule = lambda _: (204, {})
        wait_until(lambda: receiver.taken == [1])
        wait_until(lambda: publisher.connected)
        publisher.stop(5)
    assert looks[1:].count(True) == 1
    assert publisher.counts.connections == 2


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://x/", "must be a URL"),
        ("example.com", "must be a URL"),
        ("http://", "must be a URL"),
        ("http://a:b@x/", "no user or password"),
        ("http://x:99999/", "must be a URL"),
        ("http://x/ y", "must be a URL"),
        ("http://x/\r\nA: b", "must be a URL"),
        ("http://x/#y", "must have no '#"),
    ],
)
def test_urls_that_are_none_are_refused_at_once(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"sinks\.webhook\.url") as caught:
        make_config({"sinks": {"webhook": {"url": url}}, "cameras": [{"id": "c", "source": "synthetic"}]})
    assert said in str(caught.value)
