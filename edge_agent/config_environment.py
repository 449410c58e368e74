"""The environment's part of the configuration: ``EDGE_AGENT_MQTT__HOST`` and its like, laid over the file's tables."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_settings import EnvSettingsSource, SettingsError

from edge_agent.config import ENV_DELIMITER, ENV_PREFIX, Settings
from edge_agent.config_report import Report, unknown_key
from edge_agent.errors import ConfigError, Problem

CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
RESERVED_VARIABLES = frozenset({CONFIG_VARIABLE, ENV_PREFIX + "PYTHON", ENV_PREFIX + "LAST_GOOD", ENV_PREFIX + "TEST_ALLOW_SKIPS"})
"""EDGE_AGENT_* variables that are no settings: the file, and what scripts/ and ``run`` look at."""
MAX_BYTES = 1024 * 1024
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


def with_environment(tables: Mapping[str, Any], environ: Mapping[str, str], report: Report) -> dict[str, Any]:
    """The file's tables with the environment's values laid over them, as pydantic-settings reads the environment."""
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in environ.items()}
    try:
        above = source()
    except SettingsError as error:
        found = re.search(r'field "(\w+)"', str(error))
        report.add((found[1] if found else "",), "the environment's value is not valid JSON")
        above = {}
    merged: dict[str, Any] = _overlay(
        dict(tables), {key: _with_lists(value) if key in {"model", "models", "cameras"} else value for key, value in above.items()}
    )
    return merged


def _overlay(below: Any, above: Any) -> Any:
    """Tables are merged key by key, lists by the numbers in ``EDGE_AGENT_CAMERAS__0__SOURCE``; everything else is replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: _overlay(below.get(key), value) for key, value in above.items()}}
    if isinstance(below, (list, tuple)) and isinstance(above, dict):
        return [_overlay(item, above.get(str(index), item)) for index, item in enumerate(below)]
    return above


def _with_lists(value: Any) -> Any:
    """With the lists that pydantic-settings leaves as text, because only a plugin or one of the cameras knows their keys."""
    if isinstance(value, dict):
        return {key: _with_lists(inner) for key, inner in value.items()}
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def refuse_unknown_variables(cameras: Sequence[Any], report: Report) -> None:
    """Reports EDGE_AGENT_* variables that are none of ours: a misspelt one would be ignored in silence."""
    fields = {name.upper() for name in Settings.model_fields}
    for name in report.environ:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in RESERVED_VARIABLES:
            first, *rest = name[len(ENV_PREFIX) :].split(ENV_DELIMITER)
            message = ""
            if first.upper() not in fields:
                message = unknown_key(first.lower(), list(Settings.model_fields))
            elif first.upper() == "CAMERAS" and rest and not (rest[0].isdecimal() and int(rest[0]) < len(cameras)):
                message = f"{rest[0]!r} is none of the {len(cameras)} cameras of the file, which are counted from 0"
            if message:
                report.problems.append(Problem(message, f"environment variable {name}"))


def refuse_undecodable_variables(environ: Mapping[str, str]) -> None:
    """Python keeps bytes that are no UTF-8 as lone surrogates, which whatever gets the value later cannot write."""
    ours = [name for name in environ if name.upper().startswith(ENV_PREFIX)]
    broken = [name for name in ours if any("\ud800" <= character <= "\udfff" for character in name + environ[name])]
    if broken:
        shown = [name.encode("utf-8", "backslashreplace").decode() for name in broken]
        raise ConfigError(*(Problem("is not UTF-8 text", f"environment variable {name}") for name in shown))
