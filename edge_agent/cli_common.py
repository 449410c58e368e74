"""What commands have in common: which configuration, how an error is told, and how a command ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from edge_agent.errors import ConfigError, EdgeAgentError, ExitCode

if TYPE_CHECKING:
    from edge_agent.config import AgentConfig

CONFIG_OPTION = click.option(
    "-c", "--config", "config_file", type=click.Path(readable=False, path_type=Path), metavar="FILE",
    help="agent.toml to use. Default: $EDGE_AGENT_CONFIG, ./agent.toml, ~/.config/edge-agent/agent.toml, /etc/edge-agent/agent.toml.",
)  # fmt: skip


def report(error: EdgeAgentError) -> None:
    """An error as its reader gets it: one line for each problem, on stderr, without secrets."""
    from edge_agent.redaction import redact

    problems = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else [str(error)]
    for problem in problems:
        click.echo(f"error: {redact(problem)}", err=True)
    if len(problems) > 1:
        click.echo(f"{len(problems)} errors", err=True)


def load(config_file: Path | None) -> AgentConfig:
    """The configuration; None: the first of the usual places. Raises ConfigError."""
    from edge_agent import config_file as loader
    from edge_agent.plugins import PluginKinds

    return loader.load(config_file, PluginKinds())


def echo(line: str) -> None:
    """A line of output, of which a reader may have seen enough."""
    try:
        click.echo(line)
    except BrokenPipeError:  # the reader (head, grep -m1) has seen enough: what follows goes nowhere, and we leave as by Ctrl-C
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        os.kill(os.getpid(), signal.SIGINT)


def finish(action: Callable[[], ExitCode]) -> NoReturn:
    """Run to the end, then leave without waiting for threads inside drivers."""
    try:
        code = action()
    except EdgeAgentError as error:
        report(error)
        code = error.exit_code
    leave(code)


def leave(code: ExitCode) -> NoReturn:
    """End the process now, without waiting for threads inside drivers."""
    from edge_agent import running

    running.leave(int(code))
