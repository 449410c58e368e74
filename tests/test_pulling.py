"""``edge-agent model pull`` against real servers on loopback, friendly and hostile, and real disks that are full."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edge_agent import fetching, pulling
from edge_agent.catalogue import CATALOGUE
from edge_agent.errors import ConfigError, EdgeAgentError, ExitCode
from edge_agent.fetching import FetchError, Limits
from edge_agent.part_file import PartFile, sha256_of
from edge_agent.pulling import Pulled, PullError, Request
from tests.conftest import CommandLine, needs, terminated, wait_until

BODY = bytes(hashlib.shake_256(b"a model").digest(700_000))
RIGHT = hashlib.sha256(BODY).hexdigest()


class Answers(BaseHTTPRequestHandler):
    """Answers by what the server was told."""

    server: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Not to stderr."""

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.headers.get("Range"))
        server.logins.append(self.headers.get("Authorization"))
        with contextlib.suppress(ConnectionError):
            if self.path.startswith("/loop"):
                self._moved("/loop/again")
            elif self.path.startswith("/moved?"):
                self._moved(self.path.partition("?")[2])
            elif self.path.startswith("/endless"):
                self._endless(b"x" * 65536)
            elif self.path.startswith("/web"):
                self._head(200, {"Content-Type": "text/html", "Content-Length": "0"})
            elif self.path.startswith("/silent"):
                server.released.wait(30)
            elif self.path.startswith(("/m", "/Kazuhito00/")):
                self._file()
            else:
                self.send_error(404)

    def do_CONNECT(self) -> None:
        """As a proxy, with this very server behind it for every name."""
        self.server.tunnels.append(self.path)
        self._head(200, {})
        assert self.server.tls is not None
        with self.server.tls.wrap_socket(self.connection, server_side=True) as connection:
            Answers(connection, self.client_address, self.server)
        self.close_connection = True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _moved(self, where: str) -> None:
        self._head(302, {"Location": where, "Content-Length": "0"})

    def _endless(self, piece: bytes) -> None:
        self._head(200, {})
        while True:
            self.wfile.write(piece)

    def _file(self) -> None:
        server, body = self.server, self.server.body
        if server.statuses and (status := server.statuses.pop(0)) != 200:
            self._head(status, {"Content-Length": "0"})
            return
        headers = {"ETag": server.tag} if server.tag else {}
        start = 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range") in {None, server.tag}:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self._head(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if server.length:
            headers["Content-Length"] = str(len(body) - start)
        self._head(206 if start else 200, headers)
        end = len(body)
        if server.cuts:
            end = start + server.cuts.pop(0)
        self.wfile.write(body[start:end])
        if server.hold and end < len(body):
            self.wfile.flush()
            server.released.wait(30)


class Server(ThreadingHTTPServer):
    """A server of one file, at every path that begins with /m."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.body, self.tag, self.ranges, self.length = BODY, '"one"', True, True
        self.cuts: list[int] = []
        """After so many bytes of each answer the connection is closed."""
        self.hold = False
        """It is not closed then, but nothing more comes."""
        self.statuses: list[int] = []
        self.asked: list[str | None] = []
        self.logins: list[str | None] = []
        self.tunnels: list[str] = []
        self.tls: ssl.SSLContext | None = None
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/m.onnx"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are expected."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.released.set()
        running.shutdown()


def limits(max_bytes: int) -> Limits:
    return Limits(max_bytes, idle_s=5, pause_s=0.001)


def pull(url: str, output: Path, sha256: str | None = RIGHT, **more: Any) -> Pulled:
    return pulling.pull(Request(url, output, sha256, limits=more.pop("limits", limits), **more), more.pop("progress", lambda *_: None))


def files(folder: Path) -> set[str]:
    return set(os.listdir(folder))


WHOLE = {"m.onnx", "m.onnx.source.json"}
PART = {".m.onnx.part", ".m.onnx.part.json"}


def test_the_right_file(server: Server, tmp_path: Path) -> None:
    pulled = pull(server.url, tmp_path)
    assert (tmp_path / "m.onnx").read_bytes() == BODY
    assert files(tmp_path) == WHOLE
    assert (pulled.sha256, pulled.verified, pulled.fetched, pulled.size) == (RIGHT, True, True, len(BODY))
    assert json.loads((tmp_path / "m.onnx.source.json").read_text())["sha256"] == RIGHT


def test_a_right_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    pull(server.url, tmp_path)
    pulled = pull(server.url, tmp_path)
    assert len(server.asked) == 1
    assert not pulled.fetched


def test_another_file_that_is_there_is_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"mine")
    with pytest.raises(PullError, match="holds something else") as raised:
        pull(server.url, tmp_path)
    assert raised.value.exit_code is ExitCode.CONFIG
    assert (tmp_path / "m.onnx").read_bytes() == b"mine"
    assert server.asked == []
    assert pull(server.url, tmp_path, force=True).fetched
    assert sha256_of(tmp_path / "m.onnx") == RIGHT


def test_a_wrong_hash_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(PullError, match="not what was asked for") as raised:
        pull(server.url, tmp_path, "0" * 64)
    assert raised.value.exit_code is ExitCode.DATAERR
    assert files(tmp_path) == set()


def test_a_wrong_hash_leaves_what_was_there(server: Server, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"mine")
    with pytest.raises(PullError, match="not what was asked for"):
        pull(server.url, tmp_path, "0" * 64, force=True)
    assert (tmp_path / "m.onnx").read_bytes() == b"mine"
    assert files(tmp_path) == {"m.onnx"}


def test_a_cut_connection_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_000, 300_000]
    assert pull(server.url, tmp_path).sha256 == RIGHT
    assert server.asked == [None, "bytes=100000-", "bytes=400000-"]
    assert files(tmp_path) == WHOLE


def test_a_server_that_is_lost_leaves_a_part_that_the_next_call_goes_on_from(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] * 5
    with pytest.raises(FetchError, match="goes on from there") as raised:
        pull(server.url, tmp_path)
    assert raised.value.exit_code is ExitCode.UNAVAILABLE
    assert files(tmp_path) == PART
    assert pull(server.url, tmp_path).sha256 == RIGHT
    assert server.asked[-1] == "bytes=5000-"


def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [100_000]
    assert pull(server.url, tmp_path).sha256 == RIGHT
    assert server.asked == [None, "bytes=100000-"]


def test_a_file_that_changed_in_between_is_never_mixed(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] * 5
    with pytest.raises(FetchError):
        pull(server.url, tmp_path)
    server.body, server.tag = BODY[::-1], '"two"'
    changed = hashlib.sha256(server.body).hexdigest()
    assert pull(server.url, tmp_path, changed).sha256 == changed
    assert len(server.asked) == 6, "If-Range brings the whole new file at once"


def test_a_mixed_file_is_noticed_and_fetched_anew_where_there_is_no_etag(server: Server, tmp_path: Path) -> None:
    server.tag, server.cuts = "", [1000] * 5
    with pytest.raises(FetchError):
        pull(server.url, tmp_path)
    server.body = BODY[::-1]
    changed = hashlib.sha256(server.body).hexdigest()
    assert pull(server.url, tmp_path, changed).sha256 == changed
    assert server.asked[-2:] == ["bytes=5000-", None]


def test_a_weak_etag_is_not_resumed_from_without_a_hash(server: Server, tmp_path: Path) -> None:
    server.tag, server.cuts = 'W/"one"', [1000]
    part = PartFile(tmp_path / "m.onnx", server.url)
    fetching.fetch(fetching.Job(server.url, limits(10**6), trusted=False), part)
    assert part.sha256() == RIGHT
    part.close()
    assert server.asked == [None, None]


def test_without_a_hash_the_etag_alone_keeps_two_versions_apart(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] * 2
    job = fetching.Job(server.url, Limits(10**6, connections=2, pause_s=0.001), trusted=False)
    with contextlib.closing(PartFile(tmp_path / "m.onnx", server.url)) as part, pytest.raises(FetchError, match="broke off"):
        fetching.fetch(job, part)
    server.body, server.tag = BODY[::-1], '"two"'
    with contextlib.closing(PartFile(tmp_path / "m.onnx", server.url)) as part:
        assert part.size == 2000
        fetching.fetch(job, part)
        assert part.sha256() == hashlib.sha256(server.body).hexdigest()
    assert server.asked == [None, "bytes=1000-", "bytes=2000-"]


@pytest.mark.parametrize(("length", "asked"), [(True, [None]), (False, [None, f"bytes={len(BODY)}-"])])
def test_a_part_that_is_whole_is_not_fetched_again(length: bool, asked: list[str | None], server: Server, tmp_path: Path) -> None:
    """The process was killed between the last byte and the file's name. Where the size was not told, the server is asked."""
    server.length = length
    job = fetching.Job(server.url, limits(10**6), trusted=True)
    with contextlib.closing(PartFile(tmp_path / "m.onnx", server.url)) as part:
        fetching.fetch(job, part)
    assert files(tmp_path) == PART
    assert pull(server.url, tmp_path).sha256 == RIGHT
    assert server.asked == asked
    assert files(tmp_path) == WHOLE


def test_a_server_whose_file_became_shorter(server: Server, tmp_path: Path) -> None:
    server.tag, server.cuts = "", [1000] * 5
    with pytest.raises(FetchError):
        pull(server.url, tmp_path)
    server.body = b"short"
    short = hashlib.sha256(server.body).hexdigest()
    assert pull(server.url, tmp_path, short).size == 5


def test_not_found(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="404") as raised:
        pull(server.url.replace("/m.onnx", "/none.onnx"), tmp_path)
    assert raised.value.exit_code is ExitCode.UNAVAILABLE
    assert len(server.asked) == 1
    assert files(tmp_path) == set()


def test_a_part_outlives_a_server_that_does_not_have_the_file_for_a_while(server: Server, tmp_path: Path) -> None:
    server.cuts, server.statuses = [1000], [200, 404]
    with pytest.raises(FetchError, match="404"):
        pull(server.url, tmp_path)
    assert pull(server.url, tmp_path).sha256 == RIGHT
    assert server.asked[-1] == "bytes=1000-"


def test_a_part_of_another_address_is_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] * 5
    with pytest.raises(FetchError):
        pull(server.url, tmp_path)
    pull(server.url + "?other", tmp_path)
    assert server.asked[-1] is None


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert pull(server.url, tmp_path).sha256 == RIGHT
    assert len(server.asked) == 3


def test_a_server_that_is_not_there(server: Server, tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(FetchError, match="refused") as raised:
            pull(f"http://127.0.0.1:{closed.getsockname()[1]}/m.onnx", tmp_path)
    assert raised.value.exit_code is ExitCode.UNAVAILABLE
    assert files(tmp_path) == set()


def test_redirects_end(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="more than 5 redirects"):
        pull(server.url.replace("/m.onnx", "/loop/m.onnx"), tmp_path)
    assert len(server.asked) == 6
    assert files(tmp_path) == set()


def test_a_redirect_is_followed_without_the_password(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("//", "//me:p%40ss@").replace("/m.onnx", "/moved?/m.onnx")
    assert pull(url, tmp_path / "m.onnx").sha256 == RIGHT
    assert server.logins == ["Basic bWU6cEBzcw==", None]
    record = (tmp_path / "m.onnx.source.json").read_text()
    assert "p%40ss" not in record


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/m.onnx", "http://[", "//:0/x"])
def test_a_redirect_to_anything_but_http_is_not_followed(where: str, server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="is not followed"):
        pull(server.url.replace("/m.onnx", f"/moved?{where}"), tmp_path / "m.onnx")
    assert files(tmp_path) == set()


def test_a_body_that_never_ends(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="at most 1 MB") as raised:
        pull(server.url.replace("/m.onnx", "/endless.onnx"), tmp_path, max_mb=1)
    assert raised.value.exit_code is ExitCode.DATAERR
    assert files(tmp_path) == set()


def test_a_file_larger_than_allowed_is_not_begun(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"0\.7 MB, where at most 0\.5 MB"):
        pull(server.url, tmp_path, max_mb=0.5)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("path", ["/silent.onnx", "/m.onnx"])
def test_a_server_that_falls_silent(path: str, server: Server, tmp_path: Path) -> None:
    server.hold, server.cuts = True, [1000] * 2
    with pytest.raises(FetchError, match=r"64 KiB in 0\.2 s"):
        pull(server.url.replace("/m.onnx", path), tmp_path, limits=lambda n: Limits(n, idle_s=0.2, connections=2, pause_s=0.001))
    assert files(tmp_path) == (PART if path == "/m.onnx" else set())


def test_a_web_page_is_no_model(server: Server, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="web page"):
        pull(server.url.replace("/m.onnx", "/web.onnx"), tmp_path)


@pytest.mark.parametrize(
    ("url", "sha256", "told"),
    [
        ("http://127.0.0.1/m.onnx", None, "--sha256"),
        ("ftp://127.0.0.1/m.onnx", RIGHT, "https://example.com"),
        ("file:///etc/passwd", RIGHT, "https://example.com"),
        ("https:///m.onnx", RIGHT, "https://example.com"),
        ("http://127.0.0.1:99999/m.onnx", RIGHT, "https://example.com"),
        ("https://127.0.0.1/a b", RIGHT, "https://example.com"),
        ("https://127.0.0.1/", RIGHT, "-o FILE"),
        ("https://127.0.0.1/%2e%2e", RIGHT, "-o FILE"),
        ("yolo_unknown", None, "yolox_nano"),
    ],
)
def test_what_is_no_address(url: str, sha256: str | None, told: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeAgentError, match=told) as raised:
        pull(url, tmp_path, sha256)
    assert raised.value.exit_code is ExitCode.USAGE


def test_two_pulls_at_once(server: Server, tmp_path: Path, edge_agent: CommandLine) -> None:
    """The second says so and touches nothing; the first one comes to its end."""
    server.hold, server.cuts = True, [1000]
    first = edge_agent.start("model", "pull", server.url, "-o", "m.onnx", "--sha256", RIGHT)
    with terminated(first):
        wait_until(lambda: (tmp_path / ".m.onnx.part").exists() and (tmp_path / ".m.onnx.part").stat().st_size == 1000, what="a part")
        with pytest.raises(PullError, match="another process") as raised:
            pull(server.url, tmp_path)
        assert raised.value.exit_code is ExitCode.TEMPFAIL
        server.released.set()
        assert first.wait(30) == 0
    assert sha256_of(tmp_path / "m.onnx") == RIGHT


def test_ctrl_c_leaves_a_part_that_resumes(server: Server, tmp_path: Path, edge_agent: CommandLine) -> None:
    server.hold, server.cuts = True, [100_000]
    process = edge_agent.start("model", "pull", server.url, "-o", "m.onnx", "--sha256", RIGHT)
    with terminated(process):
        part = tmp_path / ".m.onnx.part"
        wait_until(lambda: part.exists() and part.stat().st_size == 100_000, what="a part")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "goes on from there" in said
    assert "Traceback" not in said
    assert files(tmp_path) >= PART
    done = edge_agent.run("model", "pull", server.url, "-o", "m.onnx", "--sha256", RIGHT, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sha256"] == RIGHT
    assert server.asked == [None, "bytes=100000-"]
    assert not PART & files(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.5 MB. Skipped where this user may mount none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run([needs("mount", "mount"), "-t", "tmpfs", "-o", "size=1536k", "none", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this user may mount no disk: run as root")
    yield folder
    subprocess.run([needs("umount", "mount"), folder], check=True)


def test_a_disk_too_small_is_told_before(small_disk: Path, server: Server) -> None:
    with pytest.raises(ConfigError, match=r"0\.7 MB are needed, .* are free") as raised:
        pull(server.url, small_disk)
    assert raised.value.exit_code is ExitCode.CONFIG
    assert files(small_disk) == set()


def test_a_disk_that_becomes_full_is_left_as_it_was(small_disk: Path, server: Server) -> None:
    """The server does not tell how much comes."""
    with pytest.raises(ConfigError, match="No space left") as raised:
        pull(server.url.replace("/m.onnx", "/endless.onnx"), small_disk)
    assert raised.value.exit_code is ExitCode.CONFIG
    assert files(small_disk) == set()


def test_a_file_size_limit_is_told_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    """For every user: as a full disk, but by the process's own limit."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000)); sys.argv[0] = 'edge-agent'\n"
        "from edge_agent.cli import main; main()"
    )
    command = [sys.executable, "-B", "-c", code, "model", "pull", server.url, "-o", "m.onnx", "--sha256", RIGHT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78, done.stderr
    assert done.stderr == f"error: {tmp_path}/m.onnx cannot be written: File too large\n"
    assert files(tmp_path) == set()


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        pull(server.url, tmp_path / "file" / "m.onnx")


def certificate(folder: Path) -> Path:
    """For 127.0.0.1 and for the catalogue's server, signed by itself, with its key beside it (``.key``)."""
    path = folder / "server.pem"
    names = "subjectAltName=IP:127.0.0.1,DNS:raw.githubusercontent.com"
    command = [needs("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=models"]
    subprocess.run(
        [*command, "-addext", names, "-keyout", str(path.with_suffix(".key")), "-out", str(path)], check=True, capture_output=True
    )
    return path


@pytest.fixture
def tls(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server, behind its proxy, speaks TLS with this certificate."""
    path = certificate(tmp_path_factory.mktemp("tls"))
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(path, path.with_suffix(".key"))
    return path


def through(server: Server, path: Path | None) -> dict[str, str]:
    proxy = {"https_proxy": server.url.removesuffix("/m.onnx"), "no_proxy": ""}
    return {**proxy, "SSL_CERT_FILE": str(path)} if path else proxy


def test_an_unknown_hash_is_printed_and_recorded(server: Server, tls: Path, tmp_path: Path, edge_agent: CommandLine) -> None:
    command = ("model", "pull", "https://me:secret@raw.githubusercontent.com/m.onnx", "-o", ".")
    done = edge_agent.run(*command, env=through(server, tls))
    assert done.returncode == 0, done.stderr
    assert RIGHT in done.stdout
    assert "could not be verified" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    record = json.loads((tmp_path / "m.onnx.source.json").read_text())
    assert record == {
        "url": "https://***@raw.githubusercontent.com/m.onnx", "sha256": RIGHT, "size": len(BODY), "verified": False, "licence": None
    }  # fmt: skip
    assert "was there already" in edge_agent.run(*command, env=through(server, tls)).stdout
    assert len(server.asked) == 1


def test_a_redirect_away_from_tls_needs_a_hash(server: Server, tls: Path, tmp_path: Path, edge_agent: CommandLine) -> None:
    command = ("model", "pull", f"https://raw.githubusercontent.com/moved?{server.url}", "-o", "m.onnx")
    environment = {**through(server, tls), "no_proxy": "127.0.0.1"}
    done = edge_agent.run(*command, env=environment)
    assert done.returncode == 69
    assert "is not followed" in done.stderr
    assert files(tmp_path) == set()
    assert edge_agent.run(*command, "--sha256", RIGHT, env=environment).returncode == 0


def test_a_certificate_that_is_not_trusted(server: Server, tls: Path, tmp_path: Path, edge_agent: CommandLine) -> None:
    del tls
    done = edge_agent.run("model", "pull", "https://raw.githubusercontent.com/m.onnx", "-o", "m.onnx", env=through(server, None))
    assert done.returncode == 69
    assert "its certificate is not trusted" in done.stderr
    assert files(tmp_path) == set()


@pytest.mark.assets
def test_a_model_by_its_name(server: Server, tls: Path, tmp_path: Path, edge_agent: CommandLine, assets: Path) -> None:
    entry = CATALOGUE[0]
    server.body = (assets / "models" / entry.file).read_bytes()
    done = edge_agent.run("model", "pull", entry.name, env=through(server, tls))
    assert done.returncode == 0, done.stderr
    assert server.tunnels == ["raw.githubusercontent.com:443"]
    path = tmp_path / ".local/state/edge-agent/models" / entry.file
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700
    assert sha256_of(path) == entry.sha256
    assert f"{entry.sha256} (verified)" in done.stdout
    assert "Apache-2.0" in done.stdout
    server.body = server.body[::-1]
    path.unlink()
    assert edge_agent.run("model", "pull", entry.name, env=through(server, tls)).returncode == 65
    assert files(path.parent) == {path.name + ".source.json"}


@pytest.mark.assets
def test_the_catalogue_tells_the_truth(assets: Path) -> None:
    for entry in CATALOGUE:
        path = assets / "models" / entry.file
        assert (sha256_of(path), path.stat().st_size) == (entry.sha256, entry.size), entry.name
        assert entry.licence == "Apache-2.0"
        assert entry.url.startswith("https://")
    assert len({entry.name for entry in CATALOGUE}) == len(CATALOGUE)


def test_the_list(edge_agent: CommandLine) -> None:
    listed = json.loads(edge_agent.run("model", "pull", "--list", "--json").stdout)
    assert [one["name"] for one in listed] == [entry.name for entry in CATALOGUE]
    assert {"url", "sha256", "size", "licence", "file"} <= listed[0].keys()


@pytest.mark.parametrize("arguments", [(), ("https://127.0.0.1/m.onnx", "--sha256", "abc"), ("none",)])
def test_a_wrong_command_line(arguments: tuple[str, ...], edge_agent: CommandLine) -> None:
    assert edge_agent.run("model", "pull", *arguments).returncode == 2
