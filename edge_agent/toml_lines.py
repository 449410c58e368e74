"""Where a key stands in a TOML text, which TOML's own parser does not tell."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # brought by pydantic-settings[toml]

_MAY_END = re.compile(r"[\]}]|\"\"\"|'''")
"""What the last line of a TOML value of several lines holds."""

Location = tuple[str | int, ...]
"""``("cameras", 0, "id")``."""


def line_of(text: str, location: Location) -> int | None:
    """The line, counted from 1, where the statement of a *valid* TOML text begins that defines a key, or its closest parent."""
    return closest(definitions(text), location)


def closest(lines: Mapping[Location, int], location: Location) -> int | None:
    """The line of a location in what :func:`definitions` found, or of its closest parent."""
    return next((lines[location[:length]] for length in range(len(location), 0, -1) if location[:length] in lines), None)


def definitions(text: str) -> dict[Location, int]:
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


def key_name(location: Location) -> str:
    """``("cameras", 0, "id")`` as ``cameras[0].id``."""
    name = ""
    for part in location:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name
