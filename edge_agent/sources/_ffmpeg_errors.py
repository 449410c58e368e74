"""What FFmpeg's failures mean: typed codes, and a second look at the network where FFmpeg only says "Input/output error"."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from edge_agent.config_file import redact
from edge_agent.errors import SourceErrorCode

Fault = tuple[SourceErrorCode, str]

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_TLS = {"rtsps", "https"}
_DIAGNOSIS_S = 1.0
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Of Debian and its family, of Fedora and its, of Alpine: the libraries inside PyAV's wheel do not know where to look."""


def error_code(error: Exception) -> SourceErrorCode:
    """The typed reason for one of PyAV's exceptions, or one of Python's own about a connection."""
    import av

    table: list[tuple[type[Exception] | tuple[type[Exception], ...], SourceErrorCode]] = [
        ((av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError), SourceErrorCode.AUTH_FAILED),
        ((av.error.HTTPNotFoundError, av.error.FileNotFoundError, FileNotFoundError), SourceErrorCode.NOT_FOUND),
        ((av.error.DecoderNotFoundError, av.error.DemuxerNotFoundError), SourceErrorCode.CODEC_UNSUPPORTED),
        ((av.error.PermissionError, PermissionError), SourceErrorCode.PERMISSION),
        ((av.error.TimeoutError, av.error.ExitError), SourceErrorCode.TIMEOUT),
        (av.error.InvalidDataError, SourceErrorCode.INVALID_DATA),
    ]
    for kinds, code in table:
        if isinstance(error, kinds):
            return code
    return connection_code(error)


def connection_code(error: Exception) -> SourceErrorCode:
    """The typed reason for an OSError of a connection."""
    if isinstance(error, ssl.SSLError):
        return SourceErrorCode.TLS
    if isinstance(error, TimeoutError):
        return SourceErrorCode.TIMEOUT
    by_number = {
        104: SourceErrorCode.REFUSED,
        110: SourceErrorCode.TIMEOUT,
        111: SourceErrorCode.REFUSED,
        113: SourceErrorCode.UNREACHABLE,
        101: SourceErrorCode.UNREACHABLE,
    }
    return by_number.get(getattr(error, "errno", None) or 0, SourceErrorCode.FAILED)


def reason_of(error: Exception) -> str:
    """The reason in one line, without credentials."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); name the authority's certificate in ca_file"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({(error.reason or 'no reason given').lower().replace('_', ' ')})"
    return redact(getattr(error, "strerror", None) or str(error) or type(error).__name__).replace("\n", " ")


def ca_bundle() -> str | None:
    """The system's file of certificates that are trusted, for libraries that cannot find it."""
    default = ssl.get_default_verify_paths().cafile
    return next((path for path in (default, *_BUNDLES) if path and Path(path).is_file()), None)


def tls_context(ca_file: str | None, *, verify: bool) -> ssl.SSLContext:
    """For a camera: it is asked for its certificate unless ``verify`` is off. Raises OSError for a ``ca_file`` that cannot be used."""
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def network_fault(url: str, context: ssl.SSLContext | None = None) -> Fault | None:
    """What keeps us from an address, where FFmpeg has only "Input/output error" to say for it; None if nothing does."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in _PORTS:
        return None
    try:
        with socket.create_connection((parts.hostname, parts.port or _PORTS[parts.scheme]), _DIAGNOSIS_S) as connection:
            if parts.scheme in _TLS:
                context = context or tls_context(None, verify=True)
                with context.wrap_socket(connection, server_hostname=parts.hostname):
                    return None
            return None
    except socket.gaierror:
        return SourceErrorCode.UNREACHABLE, f"the name {parts.hostname!r} cannot be resolved"
    except (OSError, ValueError, UnicodeError) as error:
        code = connection_code(error)
        return (code if code is not SourceErrorCode.FAILED else SourceErrorCode.UNREACHABLE), reason_of(error)
