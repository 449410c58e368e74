"""Where a problem stands: in which table of agent.toml, and in which file and line, or variable."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace

from edge_agent.config import AgentConfig
from edge_agent.config_file import placed as with_places
from edge_agent.errors import ConfigError, Problem
from edge_agent.models import _trial as model_trial

_KEY = re.compile(r"((?:device|model|models\.[\w-]+|mqtt|sinks|cameras\[\d+\])\.[a-z_.]+): ")


@contextlib.contextmanager
def placed(config: AgentConfig) -> Iterator[None]:
    """A ConfigError that is raised inside, and begins with a key, gets the file and line, or the variable, that the key stands in."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(*with_places(config.path, [keyed(problem) for problem in error.problems])) from None


@contextlib.contextmanager
def of_its_table(view: AgentConfig) -> Iterator[None]:
    """A ConfigError that is raised inside, and speaks of [model], speaks of the table that the model comes from."""
    try:
        yield
    except model_trial.NotInTime:
        raise
    except ConfigError as error:
        with_keys = [keyed(problem) for problem in error.problems]
        raise ConfigError(*(_renamed(problem, view.model_key) for problem in with_keys)) from None


def _renamed(problem: Problem, table: str) -> Problem:
    first, dot, rest = problem.key.partition(".")
    return replace(problem, key=f"{table}.{rest}") if first == "model" and dot else problem


def keyed(problem: Problem) -> Problem:
    """A problem whose text begins with its key, as those of the plugins do, with the key apart."""
    found = _KEY.match(problem.message)
    return problem if problem.key or found is None else Problem(problem.message[found.end() :], key=found[1])
