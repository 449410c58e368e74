"""TLS towards the broker: whom to trust, who we are, and what the broker is called."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@dataclass(frozen=True)
class TlsFiles:
    """``[mqtt.tls]`` with its paths resolved."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    server_name: str | None = None
    alpn: tuple[str, ...] = ()
    min_version: str = "1.2"


class _Context(ssl.SSLContext):
    """Asks for, and expects, another name than that of the connection's host."""

    server_name: str | None = None

    def wrap_socket(
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        name = self.server_name or server_hostname
        return super().wrap_socket(sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, name, session)


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """A client's context. Raises OSError or ssl.SSLError for files that cannot be used.

    With a ca_file only what is in it is trusted, and that may be an authority's certificate or the broker's own one.
    Made by hand and not by ssl.create_default_context, whose strictness changes with Python's version (3.13 refuses
    certificates without a key identifier, such as many private authorities make).
    """
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[files.min_version]
    context.server_name = files.server_name
    if files.ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(files.ca_file)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if files.cert_file is not None:
        context.load_cert_chain(files.cert_file, files.key_file, password="")  # else OpenSSL asks the terminal, and waits
    if files.alpn:
        context.set_alpn_protocols(list(files.alpn))
    return context
