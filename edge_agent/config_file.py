"""Reads agent.toml and says everything that is wrong with it at once, each with file, line, key, value and what is allowed."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, get_origin
from urllib.parse import quote

from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource, SettingsError

from edge_agent.config import ENV_DELIMITER, ENV_PREFIX, AgentConfig, CameraConfig, CameraSettings, ModelSettings, Settings, Table
from edge_agent.errors import ConfigError, Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # brought by pydantic-settings[toml]

CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
RESERVED_VARIABLES = frozenset({CONFIG_VARIABLE, ENV_PREFIX + "PYTHON", ENV_PREFIX + "TEST_ALLOW_SKIPS"})
"""EDGE_AGENT_* variables that are no settings: the file, and what scripts/ look at."""
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

Location = tuple[str | int, ...]


class Kinds(Protocol):
    """What the loader must know of the plugins: passed in, so that the settings need to know none."""

    def source_kind(self, source: str | int) -> str:
        """The kind that a source string belongs to. Raises ConfigError when it cannot be told."""

    def runtime_kind(self, path: str) -> str:
        """The runtime for a model file. Raises ConfigError when it cannot be told."""

    def check_family(self, name: str) -> None:
        """Raises ConfigError for a model family that does not exist."""

    def options(self, axis: str, kind: str) -> type[Table]:
        """The ``Config`` of a plugin. Raises ConfigError for an unknown kind, naming those that exist."""


def search_path(environ: Mapping[str, str]) -> list[Path]:
    """Where agent.toml is looked for, first hit wins, when no file is named."""
    config_home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "~") / ".config")
    with contextlib.suppress(RuntimeError):  # a user without a home, as containers have them
        config_home = config_home.expanduser()
    return [Path("agent.toml"), config_home / "edge-agent" / "agent.toml", Path("/etc/edge-agent/agent.toml")]


def find(named: Path | None, environ: Mapping[str, str] | None = None) -> Path:
    """The file to use: the one named, else $EDGE_AGENT_CONFIG, else the first that exists on the search path."""
    environ = os.environ if environ is None else environ
    if named is None and environ.get(CONFIG_VARIABLE):
        named = Path(environ[CONFIG_VARIABLE])
    if named is not None:
        return named.absolute()
    candidates = search_path(environ)
    for candidate in candidates:
        with contextlib.suppress(OSError):  # a folder that this user may not look into is no reason to stop looking
            candidate.stat()
            return candidate.absolute()
    places = ", ".join(str(c) for c in candidates)
    raise ConfigError(f"no agent.toml found (looked at {places}); write one with: edge-agent example > agent.toml")


def read(path: Path) -> str:
    """The file's text. Raises ConfigError with a line a person can act on."""
    where = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(Problem("no such file; write one with: edge-agent example > agent.toml", where)) from None
    except IsADirectoryError:
        raise ConfigError(Problem("is a folder, not a file", where)) from None
    except OSError as error:
        raise ConfigError(Problem(f"cannot be read: {error.strerror}", where)) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(Problem(f"is larger than {MAX_BYTES} bytes, which no agent.toml is", where))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(Problem(f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8", where, line)) from None


def parse(text: str, where: str) -> dict[str, Any]:
    """TOML to tables. Raises ConfigError with the line of the first syntax error."""
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        message = str(error) or "nested too deeply"
        found = re.search(r"\(at line (\d+), column (\d+)\)", message)
        line = int(found[1]) if found else None
        if "(at end of document)" in message:
            line = text.count("\n") + (not text.endswith("\n"))
        message = re.sub(r" \(at [^)]*\)", "", message)
        raise ConfigError(Problem(f"not valid TOML: {message}", where, line)) from None
    return tables


def line_of(text: str, location: Location) -> int | None:
    """The line, counted from 1, where the statement of a *valid* TOML text begins that defines a key, or its closest parent."""
    return _closest(_definitions(text), location)


def _closest(lines: Mapping[Location, int], location: Location) -> int | None:
    return next((lines[location[:length]] for length in range(len(location), 0, -1) if location[:length] in lines), None)


def _definitions(text: str) -> dict[Location, int]:
    """The line of each key and table of a valid text.

    TOML's own parser reads each statement by itself: exact for every way that TOML can write a key, with no second
    parser to keep right, in time that grows with the length of the text.
    """
    found: dict[Location, int] = {}
    lengths: dict[Location, int] = {}
    table: Location = ()
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        if statement and not _MAY_END.search(line):
            statement += line + "\n"
            continue
        first = first if statement else number
        statement += line + "\n"
        try:
            content = tomllib.loads(statement)
        except (tomllib.TOMLDecodeError, RecursionError):
            continue  # it goes on in the next line
        if statement.lstrip().startswith("["):
            table = _enter(content, lengths)
            for length in range(1, len(table) + 1):
                found.setdefault(table[:length], first)
        else:
            _define(table, content, first, found)
        statement = ""
    return found


def _enter(header: Any, lengths: dict[Location, int]) -> Location:
    """The location that ``[a.b]`` or ``[[a.b]]`` leads to; ``lengths`` counts the tables of each array of tables."""
    location: Location = ()
    while header:
        (name, header), *_ = header.items()
        location = (*location, name)
        if isinstance(header, list):
            lengths[location] = lengths.get(location, 0) + 1
            header = header[0]
        if location in lengths:
            location = (*location, lengths[location] - 1)
    return location


def _define(table: Location, content: Any, line: int, found: dict[Location, int]) -> None:
    waiting: list[tuple[Location, Any]] = [(table, content)]
    while waiting:
        location, value = waiting.pop()
        found.setdefault(location, line)
        items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting += [((*location, key), inner) for key, inner in items]


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


def with_credentials(url: str, username: str, password: str) -> str:
    """``url`` with a user and password, quoted as RFC 3986 asks, in place of any that it has."""
    scheme, _, rest = url.partition("://")
    authority = re.match(r"[^/?#]*", rest)
    assert authority is not None
    host = authority[0].rpartition("@")[2]
    return f"{scheme}://{quote(username, safe='')}:{quote(password, safe='')}@{host}{rest[authority.end() :]}"


def key_name(location: Location) -> str:
    """``("cameras", 0, "id")`` as ``cameras[0].id``."""
    name = ""
    for part in location:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name


def _shown(value: object, location: Location) -> str:
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


@dataclass
class _Report:
    """Collects problems, and knows where each value came from."""

    path: Path | None
    text: str
    environ: Mapping[str, str]
    problems: list[Problem]

    @cached_property
    def _lines(self) -> Mapping[Location, int]:
        return _definitions(self.text)

    def add(self, location: Location, message: str) -> None:
        """A problem with the key at ``location``."""
        variable = self._variable(location)
        where = str(self.path) if self.path else ""
        line = None
        if variable:
            where = f"environment variable {variable}"
        elif self.path:
            line = _closest(self._lines, location)
        self.problems.append(Problem(message, where, line, key_name(location)))

    def _variable(self, location: Location) -> str | None:
        names = {name.upper(): name for name in self.environ}
        for length in range(len(location), 0, -1):
            name = ENV_PREFIX + ENV_DELIMITER.join(str(part) for part in location[:length])
            if name.upper() in names and _holds(self.environ[names[name.upper()]], location[length:]):
                return names[name.upper()]
        return None

    def validation(self, error: ValidationError, model: type[BaseModel], prefix: Location = (), also: Sequence[str] = ()) -> None:
        """Every error of a pydantic model whose table stands at ``prefix``; ``also`` are more keys allowed in it."""
        merged: dict[Location, list[dict[str, Any]]] = {}
        for item in error.errors(include_url=False, include_context=True):
            entry = dict(item)
            merged.setdefault(prefix + _trim(tuple(item["loc"]), model), []).append(entry)
        for location, entries in merged.items():
            self.add(location, self._message(location, entries, model, prefix, also))

    def _message(
        self, location: Location, entries: list[dict[str, Any]], model: type[BaseModel], prefix: Location, also: Sequence[str]
    ) -> str:
        first = entries[0]
        owner = _model_at(model, location[len(prefix) : -1])
        field = owner.model_fields.get(str(location[-1])) if owner else None
        if first["type"] == "extra_forbidden":
            allowed = [*(owner.model_fields if owner else ()), *also]
            return unknown_key(str(location[-1]), allowed)
        description = (field.description or "").strip() if field else ""
        if first["type"] == "missing":
            return f"is required: {description}" if description else "is required"
        reasons = list(dict.fromkeys(_reason(entry) for entry in entries))
        message = f"{_shown(first['input'], location)} is not allowed: {', or '.join(reasons)}"
        return f"{message} ({description})" if description else message


def _holds(variable: str, rest: Location) -> bool:
    """Whether a variable, set to a table or list as JSON, says what stands at ``rest`` inside it."""
    value: Any = None
    if rest:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(variable)
    for part in rest:
        if isinstance(value, list):
            return True  # it replaces the file's list as a whole
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def placed(path: Path | None, problems: Sequence[Problem]) -> list[Problem]:
    """Problems found after loading, which have a key only, with the file and line, or the variable, that it stands in."""
    text = ""
    if path is not None:
        with contextlib.suppress(ConfigError):
            text = read(path)
    report = _Report(path, text, os.environ if path else {}, [])
    for problem in problems:
        if problem.where or not problem.key:
            report.problems.append(problem)
        else:
            parts: list[str] = re.findall(r"\w+", problem.key)
            report.add(tuple(int(part) if part.isdecimal() else part for part in parts), problem.message)
    return report.problems


def _reason(entry: Mapping[str, Any]) -> str:
    message = str(entry["msg"])
    message = re.sub(r"^Value error, ", "", message)
    message = re.sub(r"^(Input|String|Value|List|Tuple) should ", "must ", message)
    message = re.sub(r"be a valid (dictionary|dict).*", "be a table", message).replace("be a valid tuple", "be a list")
    return message.replace("be a valid integer", "be a whole number").replace("a valid ", "a ")


def unknown_key(key: str, allowed: Sequence[str]) -> str:
    """The message for a key that does not exist, with the nearest that does."""
    close = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    if close:
        return f"unknown key; did you mean {close[0]!r}?"
    return f"unknown key; allowed here: {', '.join(sorted(allowed))}"


def _trim(location: Location, model: type[BaseModel]) -> Location:
    """Without the tails that pydantic adds for the members of a union."""
    owner: type[BaseModel] | None = model
    for index, part in enumerate(location):
        if isinstance(part, int):
            continue
        if owner is None:
            return location[:index]
        following = _model_at(owner, (part,))
        if following is None and part in owner.model_fields:
            rest = location[index + 1 :]
            keep = 1 if rest and isinstance(rest[0], int) else 0
            return location[: index + 1 + keep]
        owner = following
    return location


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if current else None
        current = _table_in(field.annotation) if field else None
    return current


def _table_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not get_origin(annotation) and issubclass(annotation, BaseModel):  # 3.10: list[str] is a type
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _table_in(inner)
        if found:
            return found
    return None


def load(named: Path | None, kinds: Kinds, environ: Mapping[str, str] | None = None) -> AgentConfig:
    """Find, read and validate agent.toml. Raises ConfigError holding every problem."""
    environ = os.environ if environ is None else environ
    path = find(named, environ)
    text = read(path)
    return build(parse(text, str(path)), kinds, path=path, text=text, environ=environ)


def build(
    tables: Mapping[str, Any],
    kinds: Kinds,
    *,
    path: Path | None = None,
    text: str = "",
    environ: Mapping[str, str] | None = None,
) -> AgentConfig:
    """A configuration from tables that were read already, or made by a program. Raises ConfigError."""
    environ = os.environ if environ is None else environ
    report = _Report(path, text, environ, [])
    _refuse_undecodable_variables(environ)
    in_file = tables.get("cameras")
    _refuse_unknown_variables(in_file if isinstance(in_file, (list, tuple)) else (), report)
    merged = _with_environment(tables, environ, report)
    settings = _settings(merged, report)
    # The plugins' own keys are looked at even when the common ones are wrong, so that all errors come at once.
    raw_cameras = merged.get("cameras")
    raw_cameras = raw_cameras if isinstance(raw_cameras, (list, tuple)) else []
    options = [_camera_options(index, raw, kinds, report) for index, raw in enumerate(raw_cameras)]
    _refuse_duplicates(raw_cameras, report)
    runtime, runtime_options = _runtime(merged.get("model", {}), kinds, report)
    if report.problems or settings is None:
        raise ConfigError(*sorted(report.problems, key=lambda problem: (problem.where, problem.line or 0)))
    cameras = [CameraConfig(camera, *found) for camera, found in zip(settings.cameras, options, strict=True) if found]
    return AgentConfig(settings, tuple(cameras), runtime, runtime_options, path)


def _overlay(below: Any, above: Any) -> Any:
    """Tables are merged key by key, lists by the numbers in ``EDGE_AGENT_CAMERAS__0__SOURCE``; everything else is replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: _overlay(below.get(key), value) for key, value in above.items()}}
    if isinstance(below, (list, tuple)) and isinstance(above, dict):
        return [_overlay(item, above.get(str(index), item)) for index, item in enumerate(below)]
    return above


def _with_environment(tables: Mapping[str, Any], environ: Mapping[str, str], report: _Report) -> dict[str, Any]:
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
        dict(tables), {key: _with_lists(value) if key in {"model", "cameras"} else value for key, value in above.items()}
    )
    return merged


def _with_lists(value: Any) -> Any:
    """With the lists that pydantic-settings leaves as text, because only a plugin or one of the cameras knows their keys."""
    if isinstance(value, dict):
        return {key: _with_lists(inner) for key, inner in value.items()}
    if isinstance(value, str) and value.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _settings(tables: Mapping[str, Any], report: _Report) -> Settings | None:
    known = {key: value for key, value in tables.items() if not key.startswith("_")}
    for key in tables.keys() - known.keys():
        report.add((key,), unknown_key(key, list(Settings.model_fields)))
    if not known.get("cameras") and known.get("cameras") in (None, [], ()):
        report.add(("cameras",), "none configured: add a [[cameras]] table with id and source")
        known["cameras"] = [{"id": "none", "source": "none"}]
    try:
        settings = Settings(**known)
    except ValidationError as error:
        report.validation(error, Settings)
        return None
    if not any(camera.enabled for camera in settings.cameras):
        report.add(("cameras",), "every camera is disabled: nothing to run")
    return settings


def _refuse_unknown_variables(cameras: Sequence[Any], report: _Report) -> None:
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


def _refuse_undecodable_variables(environ: Mapping[str, str]) -> None:
    """Python keeps bytes that are no UTF-8 as lone surrogates, which whatever gets the value later cannot write."""
    ours = [name for name in environ if name.upper().startswith(ENV_PREFIX)]
    broken = [name for name in ours if any("\ud800" <= character <= "\udfff" for character in name + environ[name])]
    if broken:
        shown = [name.encode("utf-8", "backslashreplace").decode() for name in broken]
        raise ConfigError(*(Problem("is not UTF-8 text", f"environment variable {name}") for name in shown))


def _refuse_duplicates(cameras: Sequence[Any], report: _Report) -> None:
    first_with: dict[str, int] = {}
    for index, camera in enumerate(cameras):
        name = camera.get("id") if isinstance(camera, dict) else None
        if isinstance(name, str):
            # Brokers and file systems differ on case; two ids that differ in nothing else invite confusion.
            earlier = first_with.setdefault(name.casefold(), index)
            if earlier != index:
                report.add(("cameras", index, "id"), f"{name!r} is the id of cameras[{earlier}] already; give each its own")


def _camera_options(index: int, raw: Any, kinds: Kinds, report: _Report) -> tuple[str, Table] | None:
    prefix: Location = ("cameras", index)
    source, stated = (raw.get("source"), raw.get("kind")) if isinstance(raw, dict) else (None, None)
    if not isinstance(source, (str, int)) or isinstance(source, bool) or not isinstance(stated, (str, type(None))):
        return None  # the common keys are wrong, and that has been reported
    try:
        kind = stated if stated is not None else kinds.source_kind(source)
        table = kinds.options("sources", kind)
    except ConfigError as error:
        report.add((*prefix, "source" if stated is None else "kind"), "; ".join(problem.message for problem in error.problems))
        return None
    options = _options(table, raw, prefix, CameraSettings, report)
    return (kind, options) if options else None


def _runtime(raw: Any, kinds: Kinds, report: _Report) -> tuple[str, Table]:
    raw = raw if isinstance(raw, dict) else {}
    path, stated = raw.get("path", ModelSettings.model_fields["path"].default), raw.get("runtime")
    if isinstance(family := raw.get("family"), str):
        try:
            kinds.check_family(family)
        except ConfigError as error:
            report.add(("model", "family"), "; ".join(problem.message for problem in error.problems))
    if not isinstance(path, str) or not isinstance(stated, (str, type(None))):
        return "", Table()
    try:
        kind = stated if stated is not None else kinds.runtime_kind(path)
        table = kinds.options("runtimes", kind)
    except ConfigError as error:
        report.add(("model", "path" if stated is None else "runtime"), "; ".join(problem.message for problem in error.problems))
        return "", Table()
    return kind, _options(table, raw, ("model",), ModelSettings, report) or Table()


def _options(table: type[Table], raw: Mapping[str, Any], prefix: Location, common: type[Table], report: _Report) -> Table | None:
    values = {key: value for key, value in raw.items() if key not in common.model_fields}
    try:
        return table.model_validate(values)
    except ValidationError as error:
        report.validation(error, table, prefix, list(common.model_fields))
        return None
