"""An authority and certificates made on the spot, and a mosquitto that uses them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.sinks.mqtt import TlsFiles, tls_context
from tests.conftest import Mosquitto, free_port, needs, wait_until

_CA = """
[ca]
default_ca = it
[it]
database = index.txt
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Certificates:
    """An authority and what it signed: ``<name>.pem`` and ``<name>.key``."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def trusting(self, ca: str = "ca.pem", client: str | None = None, **more: object) -> ssl.SSLContext:
        """Our side."""
        cert, key = (None, None) if client is None else (self.path(f"{client}.pem"), self.path(f"{client}.key"))
        return tls_context(TlsFiles(self.path(ca), cert, key, **more))  # type: ignore[arg-type]

    def serving(self, name: str) -> ssl.SSLContext:
        """A server's side."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path(f"{name}.pem"), self.path(f"{name}.key"))
        return context


def make_certificates(folder: Path) -> None:
    openssl = needs("openssl", "openssl")

    def call(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    (folder / "ca.conf").write_text(_CA)
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("01\n")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name, subject in (("ca", "ca"), ("other", "other"), ("pinned", "broker")):
        extension = "subjectAltName=IP:127.0.0.1" if name == "pinned" else "keyUsage=critical,keyCertSign,cRLSign"
        call(
            "req",
            "-x509",
            *new,
            "-days",
            "2",
            "-subj",
            f"/CN={subject}",
            "-addext",
            extension,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
        )
    for name, host, start, end in (
        ("server", "IP:127.0.0.1", None, None),
        ("named", "DNS:broker.example.com", None, None),
        ("expired", "IP:127.0.0.1", "20200101000000Z", "20210101000000Z"),
        ("future", "IP:127.0.0.1", "20900101000000Z", "20910101000000Z"),
        ("client", "DNS:client", None, None),
        ("late", "DNS:client", "20200101000000Z", "20210101000000Z"),
        ("stranger", "DNS:client", None, None),
    ):
        call("req", *new, "-subj", f"/CN={name}", "-addext", f"subjectAltName={host}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        dates = ("-days", "2") if start is None or end is None else ("-startdate", start, "-enddate", end)
        ca = "other" if name == "stranger" else "ca"
        call("ca", "-batch", "-config", "ca.conf", "-cert", f"{ca}.pem", "-keyfile", f"{ca}.key", *dates, "-in", f"{name}.csr", "-out",
             f"{name}.pem", "-notext")  # fmt: skip


@dataclass
class Guarded(Mosquitto):
    """With a second, plain listener for those who look on."""

    plain: int = 0


@contextlib.contextmanager
def guarded_by(
    folder: Path, certificates: Certificates, server: str = "server", *, client: bool = False, websocket: bool = False, tls: bool = True
) -> Iterator[Guarded]:
    """A mosquitto that shows that certificate, and wants one of its clients if ``client``."""
    broker = Guarded(folder, plain=free_port())
    lines = []
    if tls:
        lines += [f"cafile {certificates.path('ca.pem')}", f"certfile {certificates.path(server + '.pem')}",
                  f"keyfile {certificates.path(server + '.key')}"]  # fmt: skip
    lines += ["require_certificate true"] if client else []
    lines += ["protocol websockets"] if websocket else []
    broker.lines = (*lines, f"listener {broker.plain} 127.0.0.1", "allow_anonymous true")
    broker.start()
    wait_until(lambda: _takes(broker.plain), 5)
    try:
        yield broker
    finally:
        broker.stop()


def _takes(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
