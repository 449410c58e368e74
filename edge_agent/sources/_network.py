"""What the kinds of source that come over a network share: addresses, credentials, TLS, and what a failed connection means."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import Field

from edge_agent.config_values import Table
from edge_agent.errors import ConfigError, SourceErrorCode
from edge_agent.redaction import redact

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv"}
    | {".h264", ".264", ".h265", ".265", ".hevc", ".mjpg", ".mjpeg"}
)
_LIVE_SUFFIXES = frozenset({".mjpg", ".mjpeg"})
"""What cameras call their streams; over http nobody keeps files of that kind."""
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Of Debian and its family, of Fedora and its, of Alpine: the libraries inside PyAV's wheel do not know where to look."""


def names_video_file(source: str) -> bool:
    """Whether a path or address ends like a video file. Told by the name alone: nothing is opened."""
    scheme, found, _ = source.partition("://")
    try:
        path = urlsplit(source).path if found else source
    except ValueError:  # "http://[": no address
        return False
    suffix = PurePath(path).suffix.lower()
    if scheme.lower() in {"http", "https"} and found:
        return suffix in VIDEO_SUFFIXES - _LIVE_SUFFIXES
    return (not found or scheme.lower() == "file") and suffix in VIDEO_SUFFIXES


def check_address(source: str, camera: str, schemes: Sequence[str], example: str) -> str:
    """An address with its scheme in small letters. Raises ConfigError for one that no server can be found by, or of another scheme."""
    scheme, found, rest = source.partition("://")
    if not found:
        raise ConfigError(f"camera {camera}: {redact(source)!r} is no address; it should look like {example}")
    if scheme.lower() not in schemes:
        readable = " and ".join(f"{each}://" for each in schemes)
        raise ConfigError(f"camera {camera}: {redact(source)!r} begins with {scheme}://; this kind reads {readable}")
    url = f"{scheme.lower()}://{rest}"
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and parts.port != 0 and not re.search(r"[\x00-\x20\x7f]", url)
    except ValueError:
        complete = False
    if not complete:
        raise ConfigError(f"camera {camera}: {redact(url)!r} is no address; it should look like {example}")
    return url


def split_credentials(url: str) -> tuple[str, str | None, str]:
    """The url without its user and password, the user if there is one, and the password."""
    scheme, _, rest = url.partition("://")
    authority = re.match(r"[^/?#]*", rest)
    assert authority is not None
    userinfo, found, host = authority[0].rpartition("@")
    user, _, password = userinfo.partition(":")
    return f"{scheme}://{host}{rest[authority.end() :]}", unquote(user) if found else None, unquote(password)


class TlsConfig(Table):
    """Keys of every source that may come over TLS."""

    ca_file: Annotated[str | None, Field(examples=["camera_ca.pem"])] = None
    """Certificate authorities to trust (PEM), or the camera's own certificate. Default: the system's."""
    tls_verify: bool = True
    """false accepts any certificate: anyone in between can then read the password and change the picture."""


def tls_context(config: TlsConfig, resolve: Callable[[str], Path]) -> ssl.SSLContext:
    """What Python needs for it. Raises ConfigError for a ``ca_file`` that cannot be used."""
    path = str(resolve(config.ca_file)) if config.ca_file else None
    try:
        context = ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise ConfigError(f"ca_file: {path} is not a PEM file of certificates") from None
    except OSError as error:
        raise ConfigError(f"ca_file: {path} cannot be read: {error.strerror}") from None
    if not config.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def tls_options(config: TlsConfig, resolve: Callable[[str], Path]) -> dict[str, str]:
    """What FFmpeg needs for it. It verifies nothing unless told to, and cannot find the system's certificates."""
    if not config.tls_verify:
        return {"tls_verify": "0"}
    default = ssl.get_default_verify_paths().cafile
    bundle = next((path for path in (default, *_BUNDLES) if path and Path(path).is_file()), None)
    path = str(resolve(config.ca_file)) if config.ca_file else bundle
    return {"tls_verify": "1", **({"ca_file": path} if path else {})}


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
