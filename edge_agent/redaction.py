"""What may be shown of a text or value that may hold a secret."""

from __future__ import annotations

import json
import re

from edge_agent.toml_lines import Location

_SECRET_KEY = re.compile(r"password|secret|token|passphrase", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}:/{1,2}", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"((?:pass(?:word|wd|phrase)?|pas|pwd?|psw|token|secret|key|auth|sig(?:nature)?|credentials?)(?:=|%3D))"
    r"(?:(?!_(?:user(?:name)?|channel|stream|subtype)=|['\":,)\]}]{0,3}(?:\s|\Z))[^\s&])+",
    re.IGNORECASE,
)
"""A secret in an address's query or path, up to the next parameter or to the blank or punctuation that ends the address."""
_MAY_END = re.compile(r"[\]}]|\"\"\"|'''")
"""What the last line of a TOML value of several lines holds."""


def redact(text: str) -> str:
    """``text`` without the user and password of any URL in it, and without the secrets in its query and path.

    People write passwords that no URL may hold, with "/" and "@": everything up to the last "@" goes, and of a text
    that begins with an address also what stands behind a blank. Where an "@" stands behind ``password=``, nobody can
    tell on which side of it the secret is: both go.
    """
    text = _SECRET_VALUE.sub(lambda found: found[1] + ("***@***" if "@" in found[0] else "***"), text)
    begin = _SCHEME.match(text)
    if begin and "@" in text:
        return f"{begin[0]}***{text[text.rindex('@') :]}"
    return re.sub(r"\S+", _without_credentials, text)


def _without_credentials(found: re.Match[str]) -> str:
    word = found[0]
    end = word.rfind("@")
    begin = _SCHEME.search(word, 0, end) if end >= 0 else None
    return f"{word[: begin.end()]}***{word[end:]}" if begin else word


def shown(value: object, location: Location) -> str:
    """The value of a key as a message may show it: short, and without secrets."""
    if any(isinstance(part, str) and _SECRET_KEY.search(part) for part in location):
        return "***"
    try:
        text = json.dumps(_without_secrets(value), ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = "a value that is nested too deeply"
    return text if len(text) <= 80 else text[:77] + "..."


def _without_secrets(value: object) -> object:
    if isinstance(value, dict):
        return {key: "***" if _SECRET_KEY.search(str(key)) else _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value
