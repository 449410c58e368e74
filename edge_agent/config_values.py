"""What a value in agent.toml may be: its type, its limits, and what is said of one that is neither."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, StrictInt

_NAME = re.compile(r"\w[\w.-]{0,63}")
_MODEL_NAME = re.compile(r"[\w-]{1,64}")
_HOST = re.compile(r"[^\s/@\[\]\x00]+")
_WEB_PATH = re.compile(r"/[!-~]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BASE_TOPIC = re.compile(r"[^\s/+#$\x00][^\s+#\x00]{0,127}")


def not_bool(value: object) -> object:
    """Python counts True as 1; a configuration does not."""
    if isinstance(value, bool):
        raise ValueError(  # noqa: TRY004 - pydantic reports ValueError
            "must be a number, not true or false"
        )
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, '_', '-' or '.' (it becomes part of MQTT topics)")
    return value


def _model_name(value: str) -> str:
    if not _MODEL_NAME.fullmatch(value):
        raise ValueError("the name must be 1 to 64 letters, digits, '_' or '-'")
    return value


def _host(value: str) -> str:
    if not _HOST.fullmatch(value) or value.count(":") == 1:  # more of them: IPv6
        raise ValueError("must be only a name or an address, such as 'broker.local', without a scheme, user, port or spaces")
    return value


def _web_path(value: str) -> str:
    if not _WEB_PATH.fullmatch(value):
        raise ValueError("must be a path such as '/mqtt', which begins with '/' and has no spaces")
    return value


def _header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError("must be the name of a header, such as 'X-Token'")
    return value


def _header_value(value: SecretStr) -> SecretStr:
    if any(ord(c) < 32 or ord(c) == 127 for c in value.get_secret_value()):
        raise ValueError("must be one line of text")
    return value


def _web_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or not value.isascii() or any(c <= " " or c == "\x7f" for c in value):
        raise ValueError("must be a URL such as 'https://example.com/events'")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user or password: give a token, or a header")
    if parts.fragment:
        raise ValueError("must have no '#...': it is not sent")
    return value


def _alpn(value: str) -> str:
    if not 1 <= len(value) <= 255 or not value.isascii() or not value.isprintable():
        raise ValueError("must be the name of a protocol, such as 'mqtt'")
    return value


def listening(value: str) -> tuple[str, int]:
    """Host and port of ``host:port``; an IPv6 address is in brackets. Raises ValueError."""
    host, separator, port = value.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError("must be an address and a port such as '127.0.0.1:9464'")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _loopback(value: str | None) -> str | None:
    if value is not None and listening(value)[0] not in {"127.0.0.1", "::1", "localhost"}:
        raise ValueError("must be an address of this machine alone, such as '127.0.0.1:9464': anyone else could read what is served there")
    return value


def _base_topic(value: str) -> str:
    if not _BASE_TOPIC.fullmatch(value) or value.endswith("/") or "//" in value:
        raise ValueError("must be topic levels such as 'edge' or 'site/edge', without '+', '#', spaces or empty levels")
    return value


Name = Annotated[str, AfterValidator(_name)]
ModelName = Annotated[str, AfterValidator(_model_name)]
Host = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_host)]
WebPath = Annotated[str, Field(max_length=1024), AfterValidator(_web_path)]
HeaderName = Annotated[str, Field(max_length=256), AfterValidator(_header_name)]
HeaderValue = Annotated[SecretStr, AfterValidator(_header_value)]
AlpnProtocol = Annotated[str, AfterValidator(_alpn)]
BaseTopic = Annotated[str, AfterValidator(_base_topic)]
WebUrl = Annotated[str, Field(max_length=2048), AfterValidator(_web_url)]
Loopback = Annotated[str | None, AfterValidator(_loopback)]
Count = Annotated[int, BeforeValidator(not_bool), Field(ge=1)]
Seconds = Annotated[float, BeforeValidator(not_bool), Field(gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, BeforeValidator(not_bool), Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, BeforeValidator(not_bool), Field(ge=0.01, le=100, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False), BeforeValidator(not_bool)]
Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(not_bool)]
Cores = Annotated[float, BeforeValidator(not_bool), Field(ge=0.01, le=1024, allow_inf_nan=False)]
Deviation = Annotated[float, BeforeValidator(not_bool), Field(gt=0, allow_inf_nan=False)]
Port = Annotated[int, BeforeValidator(not_bool), Field(ge=1, le=65535)]
ClassFilter = tuple[str | StrictInt, ...]


def _fraction(value: float) -> float:
    if not math.isfinite(value) or not 0 <= value <= 1:
        hint = "; that looks like pixels: divide by the picture's width or height" if math.isfinite(value) and value > 1 else ""
        raise ValueError(f"must be from 0 to 1, as a share of the picture's width or height{hint}")
    return value


def _region(value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = value
    if right - left < LEAST_REGION or bottom - top < LEAST_REGION:
        raise ValueError(f"must be [left, top, right, bottom], each side at least {LEAST_REGION:g} of the picture's")
    return value


def _polygon(value: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    if len(set(value)) < 3:
        raise ValueError("a polygon needs three different points at least")
    return value


LEAST_REGION = 0.02
Fraction = Annotated[float, BeforeValidator(not_bool), AfterValidator(_fraction)]
Region = Annotated[tuple[Fraction, Fraction, Fraction, Fraction], AfterValidator(_region)]
Polygon = Annotated[tuple[tuple[Fraction, Fraction], ...], AfterValidator(_polygon)]

CommandName = Literal["pause", "resume", "mute", "unmute", "snapshot", "set", "reload", "report"]


class Table(BaseModel):
    """A table of agent.toml: immutable, refuses keys that it does not know, its docstrings are the documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, regex_engine="python-re")
