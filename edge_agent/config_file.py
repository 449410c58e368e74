"""Reads agent.toml and says everything that is wrong with it at once, each with file, line, key, value and what is allowed."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from edge_agent.config import AgentConfig, CameraConfig, ModelSettings, Settings
from edge_agent.config_camera import CameraSettings
from edge_agent.config_environment import CONFIG_VARIABLE, refuse_undecodable_variables, refuse_unknown_variables, with_environment
from edge_agent.config_report import Report, unknown_key, without
from edge_agent.config_values import Table
from edge_agent.errors import ConfigError, Problem
from edge_agent.toml_lines import Location

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # brought by pydantic-settings[toml]

MAX_BYTES = 1024 * 1024


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


@dataclass(frozen=True)
class Draft:
    """agent.toml as far as it can be used: where settings are wrong, the files that the others name can still be looked at."""

    config: AgentConfig | None
    """Without what is wrong: a key has its default, a camera without id or source is disabled. None where too little is left."""
    problems: tuple[Problem, ...] = ()
    wrong: frozenset[Location] = frozenset()
    """Where the problems stand."""

    def is_wrong(self, *location: str | int) -> bool:
        """Whether a key, or something in its table, is wrong."""
        return any(wrong[: len(location)] == location for wrong in self.wrong)


def load(named: Path | None, kinds: Kinds, environ: Mapping[str, str] | None = None) -> AgentConfig:
    """Find, read and validate agent.toml. Raises ConfigError holding every problem."""
    return _faultless(read_draft(named, kinds, environ))


def read_draft(named: Path | None, kinds: Kinds, environ: Mapping[str, str] | None = None) -> Draft:
    """As :func:`load`, but raises ConfigError only where there is no valid TOML to look at."""
    environ = os.environ if environ is None else environ
    path = find(named, environ)
    text = read(path)
    return _draft(parse(text, str(path)), kinds, Report(path, text, environ, []))


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
    return _faultless(_draft(tables, kinds, Report(path, text, environ, [])))


def _faultless(draft: Draft) -> AgentConfig:
    if draft.problems or draft.config is None:
        raise ConfigError(*draft.problems)
    return draft.config


def _draft(tables: Mapping[str, Any], kinds: Kinds, report: Report) -> Draft:
    refuse_undecodable_variables(report.environ)
    in_file = tables.get("cameras")
    refuse_unknown_variables(in_file if isinstance(in_file, (list, tuple)) else (), report)
    merged = with_environment(tables, report.environ, report)
    config = _validated(merged, kinds, report)
    if report.problems:
        again = Report(report.path, "", {}, [])  # what it says was said, or follows from what was left out
        config = _validated(without(merged, report.wrong), kinds, again)
    return Draft(config, tuple(in_order(report.problems)), frozenset(report.wrong))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """As somebody who mends them goes through the file."""
    return sorted(problems, key=lambda problem: (problem.where, problem.line or 0))


def _validated(merged: Mapping[str, Any], kinds: Kinds, report: Report) -> AgentConfig | None:
    """What the tables say, with their problems in ``report``; None where they cannot be used."""
    settings = _settings(merged, report)
    # The plugins' own keys are looked at even when the common ones are wrong, so that all errors come at once.
    raw_cameras = merged.get("cameras")
    raw_cameras = raw_cameras if isinstance(raw_cameras, (list, tuple)) else []
    options = [_camera_options(index, raw, kinds, report) for index, raw in enumerate(raw_cameras)]
    _refuse_duplicates(raw_cameras, report)
    runtime, runtime_options = _runtime(merged.get("model", {}), ("model",), kinds, report)
    raw_models = merged.get("models")
    raw_models = raw_models if isinstance(raw_models, dict) else {}
    others = {name: _runtime(raw, ("models", name), kinds, report) for name, raw in raw_models.items()}
    _refuse_unknown_models(raw_cameras, raw_models, report)
    _refuse_two_paces(raw_cameras, report)
    cameras = [CameraConfig(camera, *found) for camera, found in zip(settings.cameras if settings else (), options, strict=False) if found]
    if settings is None or len(cameras) != len(settings.cameras):
        return None
    return AgentConfig(settings, tuple(cameras), runtime, runtime_options, report.path, others)


def placed(path: Path | None, problems: Sequence[Problem]) -> list[Problem]:
    """Problems found after loading, which have a key only, with the file and line, or the variable, that it stands in."""
    text = ""
    if path is not None:
        with contextlib.suppress(ConfigError):
            text = read(path)
    report = Report(path, text, os.environ if path else {}, [])
    for problem in problems:
        if problem.where or not problem.key:
            report.problems.append(problem)
        else:
            parts: list[str] = re.findall(r"[\w-]+", problem.key)
            report.add(tuple(int(part) if part.isdecimal() else part for part in parts), problem.message)
    return report.problems


def _settings(tables: Mapping[str, Any], report: Report) -> Settings | None:
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


def _refuse_duplicates(cameras: Sequence[Any], report: Report) -> None:
    first_with: dict[str, int] = {}
    for index, camera in enumerate(cameras):
        name = camera.get("id") if isinstance(camera, dict) else None
        if isinstance(name, str):
            # Brokers and file systems differ on case; two ids that differ in nothing else invite confusion.
            earlier = first_with.setdefault(name.casefold(), index)
            if earlier != index:
                report.add(("cameras", index, "id"), f"{name!r} is the id of cameras[{earlier}] already; give each its own")


def _refuse_two_paces(cameras: Sequence[Any], report: Report) -> None:
    for index, camera in enumerate(cameras):
        if isinstance(camera, dict) and camera.get("max_fps") is not None and camera.get("interval_s") is not None:
            report.add(("cameras", index, "interval_s"), "says how often a frame is served, and max_fps says it too: keep one of them")


def _refuse_unknown_models(cameras: Sequence[Any], models: Mapping[str, Any], report: Report) -> None:
    for index, camera in enumerate(cameras):
        name = camera.get("model") if isinstance(camera, dict) else None
        if isinstance(name, str) and name not in models:
            there = f"there are: {', '.join(models)}" if models else "there is none"
            close = difflib.get_close_matches(name, models, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            report.add(("cameras", index, "model"), f"there is no table [models.{name}]; {there}{hint}")


def _camera_options(index: int, raw: Any, kinds: Kinds, report: Report) -> tuple[str, Table] | None:
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


def _runtime(raw: Any, prefix: Location, kinds: Kinds, report: Report) -> tuple[str, Table]:
    raw = raw if isinstance(raw, dict) else {}
    path, stated = raw.get("path", ModelSettings.model_fields["path"].default), raw.get("runtime")
    if isinstance(family := raw.get("family"), str):
        try:
            kinds.check_family(family)
        except ConfigError as error:
            report.add((*prefix, "family"), "; ".join(problem.message for problem in error.problems))
    if not isinstance(path, str) or not isinstance(stated, (str, type(None))):
        return "", Table()
    try:
        kind = stated if stated is not None else kinds.runtime_kind(path)
        table = kinds.options("runtimes", kind)
    except ConfigError as error:
        report.add((*prefix, "path" if stated is None else "runtime"), "; ".join(problem.message for problem in error.problems))
        return "", Table()
    return kind, _options(table, raw, prefix, ModelSettings, report) or Table()


def _options(table: type[Table], raw: Mapping[str, Any], prefix: Location, common: type[Table], report: Report) -> Table | None:
    values = {key: value for key, value in raw.items() if key not in common.model_fields}
    try:
        return table.model_validate(values)
    except ValidationError as error:
        report.validation(error, table, prefix, list(common.model_fields))
        return None
