"""What FFmpeg's failures mean: typed codes, and a second look at the network where FFmpeg only says "Input/output error"."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

from edge_agent.errors import SourceErrorCode, SourceUnavailable
from edge_agent.redaction import redact
from edge_agent.sources._network import connection_code, reason_of

Fault = tuple[SourceErrorCode, str]

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_TLS = {"rtsps", "https"}
_DIAGNOSIS_S = 1.0
_VERIFIES_RTSPS = 62
"""Major version of libavformat (FFmpeg 8, PyAV 16) from which RTSP hands the options of TLS on; tried with 61.7, 62.3 and 62.12."""


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


def refuse_unverified(url: str, context: ssl.SSLContext | None) -> None:
    """Raises SourceUnavailable where FFmpeg would trust any certificate although it must not."""
    import av

    if not url.startswith("rtsps:") or context is None or context.verify_mode is ssl.CERT_NONE:
        return
    if av.library_versions["libavformat"][0] < _VERIFIES_RTSPS:
        raise SourceUnavailable(
            f"{redact(url)} cannot be opened: PyAV {av.__version__} verifies no certificate of rtsps; install PyAV 16 or later "
            "(pip install 'av>=16'), or set tls_verify = false",
            SourceErrorCode.TLS,
        )


def network_fault(url: str, context: ssl.SSLContext | None = None) -> Fault | None:
    """What keeps us from an address, where FFmpeg has only "Input/output error" to say for it; None if nothing does."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in _PORTS:
        return None
    try:
        with socket.create_connection((parts.hostname, parts.port or _PORTS[parts.scheme]), _DIAGNOSIS_S) as connection:
            if parts.scheme in _TLS:
                with (context or ssl.create_default_context()).wrap_socket(connection, server_hostname=parts.hostname):
                    return None
            return None
    except socket.gaierror:
        return SourceErrorCode.UNREACHABLE, f"the name {parts.hostname!r} cannot be resolved"
    except (OSError, ValueError, UnicodeError) as error:
        code = connection_code(error)
        return (code if code is not SourceErrorCode.FAILED else SourceErrorCode.UNREACHABLE), reason_of(error)
