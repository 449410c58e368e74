"""Certificates made on the spot by OpenSSL: of an authority, or of nobody but themselves, for a time of one's choice."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import needs

_DAY_S = 86400
_CONFIG = """
[ca]
default_ca = here
[here]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[authority]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign
[leaf]
basicConstraints = CA:false
{san}
"""


@dataclass(frozen=True)
class Certificate:
    """PEM files."""

    file: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Signs certificates, in a folder of its own."""

    folder: Path
    certificate: Certificate

    def issue(self, name: str, san: str = "", *, from_days: float = -1, to_days: float = 2) -> Certificate:
        """A certificate for ``san`` (as ``IP:127.0.0.1``), valid between those days from now."""
        found = _request(self.folder, name, san)
        _sign(self.folder, found, "leaf", from_days, to_days, "-cert", str(self.certificate.file), "-keyfile", str(self.certificate.key))
        return found


def authority(folder: Path, name: str = "authority") -> Authority:
    """A new one."""
    folder.mkdir()
    found = _request(folder, name, "")
    _sign(folder, found, "authority", -1, 2, "-selfsign", "-keyfile", str(found.key))
    return Authority(folder, found)


def self_signed(folder: Path, name: str, san: str) -> Certificate:
    """Signed by its own key, and no authority, as devices and small brokers make them."""
    folder.mkdir()
    found = _request(folder, name, san)
    _sign(folder, found, "leaf", -1, 2, "-selfsign", "-keyfile", str(found.key))
    return found


def _request(folder: Path, name: str, san: str) -> Certificate:
    (folder / "index").touch()
    (folder / f"{name}.cnf").write_text(_CONFIG.format(folder=folder, name=name, san=f"subjectAltName = {san}" if san else ""))
    found = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(found.key))
    _openssl("req", "-new", "-config", str(folder / f"{name}.cnf"), "-key", str(found.key), "-out", str(folder / f"{name}.csr"))
    return found


def _sign(folder: Path, certificate: Certificate, extensions: str, from_days: float, to_days: float, *signer: str) -> None:
    name = certificate.file.stem
    # Not ``openssl x509``, which can give no certificate a beginning but now.
    _openssl("ca", "-batch", "-notext", "-config", str(folder / f"{name}.cnf"), "-extensions", extensions, "-startdate", _date(from_days),
             "-enddate", _date(to_days), "-in", str(folder / f"{name}.csr"), "-out", str(certificate.file), *signer)  # fmt: skip


def _date(days: float) -> str:
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + days * _DAY_S))


def _openssl(*arguments: str) -> None:
    subprocess.run([needs("openssl", "openssl"), *arguments], check=True, capture_output=True, timeout=60)
