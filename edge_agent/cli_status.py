"""``edge-agent status`` and ``edge-agent logs``: the agent of this machine, without its broker."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge_agent.errors import ConfigError, EdgeAgentError, ExitCode

AGAIN_S = 0.5
UNIT = "edge-agent"


class NotWell(EdgeAgentError):
    """The agent answers, and is not as it was to be."""


@click.command()
@click.option("-c", "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="The agent of this agent.toml.")
@click.option("--socket", "path", type=click.Path(path_type=Path), metavar="PATH", help="Ask at this socket.")
@click.option("--json", "as_json", is_flag=True, help="As JSON: release, configuration and the heartbeat as of now.")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), help="Wait so many seconds at most for it to be well; else exit with 1 or 69."
)
@click.option("--up", "uptime_s", type=click.FloatRange(min=0), default=0.0, help="With --wait: it has run for so many seconds.")
@click.option("--release", metavar="DIR", help="With --wait: it runs from this environment.")
@click.option("--as-good-as", "before", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="With --wait: what worked in this answer of --json works again.")  # fmt: skip
def status(config_file: Path | None, path: Path | None, *, as_json: bool, wait_s: float | None, **wanted: Any) -> None:
    """Show what the agent of this machine is doing. Needs no broker.

    Asks at the service's socket (/run/edge-agent/status.sock), else at that of an agent of this user. Exit code 69: no agent
    answers; 1: it answers, and its verdict is "failing", or --wait was in vain.
    """
    from edge_agent import status_report

    told = _asked(config_file, path) if wait_s is None else _well(config_file, path, wait_s, wanted)
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False))
    else:
        for line in status_report.as_text(told):
            click.echo(line)
    if wait_s is None and told["heartbeat"]["verdict"] == "failing":
        click.get_current_context().exit(int(ExitCode.FAILURE))


def _asked(config_file: Path | None, path: Path | None) -> dict[str, Any]:
    """The first agent that answers; the error of the first place where something is, else of the first place."""
    from edge_agent import status_socket

    places = [path] if path is not None else _places(config_file)
    errors: list[EdgeAgentError] = []
    for place in sorted(places, key=lambda one: not os.path.lexists(one)):
        try:
            return status_socket.ask(place)
        except status_socket.StatusUnavailable as error:
            errors.append(error)
    raise errors[0]


def _places(config_file: Path | None) -> list[Path]:
    from edge_agent import config_file as loader
    from edge_agent import status_socket
    from edge_agent.plugins import PluginKinds
    from edge_agent.state import default_directory
    from edge_agent.state_folder import state_for

    if config_file is not None and config_file.resolve() != Path("/etc/edge-agent/agent.toml"):
        return [state_for(loader.load(config_file, PluginKinds())).directory / status_socket.NAME]
    places = [status_socket.SERVICE_FOLDER / status_socket.NAME]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        places.append(Path(runtime) / "edge-agent" / status_socket.NAME)
    try:
        places.append(default_directory() / status_socket.NAME)
        places.append(state_for(loader.load(None, PluginKinds())).directory / status_socket.NAME)
    except EdgeAgentError:
        pass  # no file, or a wrong one: there is still the service
    return places


def _well(config_file: Path | None, path: Path | None, wait_s: float, wanted: dict[str, Any]) -> dict[str, Any]:
    """The answer of an agent that is as it was to be. Raises NotWell or StatusUnavailable when time is up."""
    from edge_agent.status_report import Expected, shortcomings

    before = None
    if wanted["before"] is not None:
        try:
            before = json.loads(wanted["before"].read_text("utf-8"))
            shortcomings(before, Expected(before=before))
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"--as-good-as {wanted['before']}: this is no answer of edge-agent status --json") from None
    expected = Expected(wanted["release"], wanted["uptime_s"], before)
    return _until(time.monotonic() + wait_s, lambda: _good(_asked(config_file, path), expected))


def _good(told: dict[str, Any], expected: Any) -> dict[str, Any]:
    from edge_agent.status_report import shortcomings

    found = shortcomings(told, expected)
    if found:
        raise NotWell("; ".join(found))
    return told


def _until(deadline: float, attempt: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    while True:
        try:
            return attempt()
        except EdgeAgentError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(AGAIN_S)


@click.command()
@click.option("--user", "of_user", is_flag=True, help="Of the service that was installed with --user.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="The last so many.")
@click.option("--camera", metavar="ID", help="Only lines about this camera.")
@click.option("--errors", is_flag=True, help="Only warnings and errors.")
@click.option("--since", metavar="TIME", help='Not older: "-1h", "today", "2026-01-31 12:00".')
@click.argument("more", nargs=-1)
def logs(*, of_user: bool, follow: bool, lines: int, camera: str | None, errors: bool, since: str | None, more: tuple[str, ...]) -> None:
    """Show the service's log from the journal. What follows a "--" goes to journalctl, as in: edge-agent logs -- -o json."""
    program = shutil.which("journalctl")
    if program is None:
        raise ConfigError("there is no journalctl here: the log of an agent without systemd goes to its stderr")
    command = [program, "--user-unit" if of_user else "--unit", UNIT, "--lines", str(lines), "--no-hostname"]
    command += ["--follow"] if follow else ["--no-pager"]
    command += ["--priority", "warning"] if errors else []
    command += ["--since", since] if since else []
    command += ["--grep", rf"camera[= ]{_literal(camera)}(\s|:|$)"] if camera else []
    os.execv(program, [*command, *more])  # noqa: S606 - no shell: journalctl takes this process's place


def _literal(text: str) -> str:
    """For a Perl-compatible pattern: nothing in it means anything."""
    return "".join(character if character.isalnum() or character in "_-" else f"\\{character}" for character in text)
