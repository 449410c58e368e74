"""What is wrong with agent.toml, each with file and line, or variable, key, value and what is allowed."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from edge_agent.config import ENV_DELIMITER, ENV_PREFIX
from edge_agent.errors import Problem
from edge_agent.redaction import shown
from edge_agent.toml_lines import Location, closest, definitions, key_name


@dataclass
class Report:
    """Collects problems, and knows where each value came from."""

    path: Path | None
    text: str
    environ: Mapping[str, str]
    problems: list[Problem]
    wrong: list[Location] = field(default_factory=list)
    """Where the problems stand that stand at a key."""

    @cached_property
    def _lines(self) -> Mapping[Location, int]:
        return definitions(self.text)

    def add(self, location: Location, message: str) -> None:
        """A problem with the key at ``location``."""
        self.wrong.append(location)
        variable = self._variable(location)
        where = str(self.path) if self.path else ""
        line = None
        if variable:
            where = f"environment variable {variable}"
        elif self.path:
            line = closest(self._lines, location)
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
        message = f"{shown(first['input'], location)} is not allowed: {', or '.join(reasons)}"
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
    """Without the tails that pydantic adds for the members of a union, and for names that are no names."""
    location = location[:-1] if location[-1:] == ("[key]",) else location
    owner: type[BaseModel] | None = model
    for index, part in enumerate(location):
        if isinstance(part, int) or _is_name(model, location, index):
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
    for index, part in enumerate(location):
        if isinstance(part, int) or _is_name(model, location, index):
            continue
        field = current.model_fields.get(part) if current else None
        current = table_in(field.annotation) if field else None
    return current


def _is_name(model: type[BaseModel], location: Location, index: int) -> bool:
    """Whether a part is a name that the user chose, as that of [models.<name>] is."""
    field = model.model_fields.get(str(location[0]))
    return index == 1 and field is not None and get_origin(field.annotation) is dict


def table_in(annotation: Any) -> type[BaseModel] | None:
    """The table in a field's annotation, also inside a union or a tuple; None where there is none."""
    if isinstance(annotation, type) and not get_origin(annotation) and issubclass(annotation, BaseModel):  # 3.10: list[str] is a type
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = table_in(inner)
        if found:
            return found
    return None


def without(tables: Mapping[str, Any], wrong: Sequence[Location]) -> dict[str, Any]:
    """The tables without the keys that are wrong; a camera that is nothing without them is there still, disabled."""
    left = dict(tables)
    cameras = [] if ("cameras",) in wrong else list(left.get("cameras") or ())
    for location in filter(None, wrong):
        if location[0] != "cameras":
            left = _removed(left, location)
        elif len(location) > 1 and int(location[1]) < len(cameras):
            index = int(location[1])
            cameras[index] = _mended(cameras[index], index, location[2:])
    return {**left, "cameras": cameras or [{"id": "none", "source": "synthetic", "enabled": False}]}


def _mended(camera: Any, index: int, wrong: Location) -> dict[str, Any]:
    if not isinstance(camera, dict) or wrong[:1] in {(), ("source",), ("kind",)}:
        return {"id": f"_{index}", "source": "synthetic", "enabled": False}
    return {**camera, "id": f"_{index}"} if wrong[0] == "id" else _removed(camera, wrong)


def _removed(table: Mapping[str, Any], location: Location) -> dict[str, Any]:
    """Without a key, or without the list or value that it stands in."""
    key, *rest = location
    inner = table.get(str(key))
    without_it = {name: value for name, value in table.items() if name != key}
    return {**without_it, str(key): _removed(inner, tuple(rest))} if rest and isinstance(inner, dict) else without_it
