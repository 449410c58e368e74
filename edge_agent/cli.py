"""Commands and exit codes, nothing else: each command imports what it needs when it runs."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_agent import __version__
from edge_agent.cli_bench import finite, picture_file
from edge_agent.cli_common import CONFIG_OPTION, finish, leave, report
from edge_agent.cli_demo import demo
from edge_agent.cli_doctor import doctor
from edge_agent.cli_model import model_group
from edge_agent.cli_spool import spool_group
from edge_agent.cli_status import logs as logs_command
from edge_agent.cli_status import status as status_command
from edge_agent.cli_watch import watch
from edge_agent.errors import ConfigError, EdgeAgentError, ExitCode, StateError

if TYPE_CHECKING:
    from edge_agent.config import AgentConfig
    from edge_agent.last_good import LastGood

EXIT_CODES = """\b
Exit codes:
  0   ended as asked, or every file was read to its end
  1   a failure; trying again may help (systemd restarts)
  2   the command line was wrong
  65  no source could be read as video
  69  what was to be reached (broker, camera) did not answer
  71  more memory was used than may be (systemd restarts)
  75  another agent uses the same state directory (systemd tries again)
  78  the configuration, or a file that it names, is wrong (systemd does not restart)
"""


class Group(click.Group):
    """Turns this package's errors into one line each and the right exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        _open_closed_streams()
        try:
            return super().invoke(ctx)
        except EdgeAgentError as error:
            report(error)
            ctx.exit(int(error.exit_code))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order a newcomer meets them."""
        return list(self.commands)


def _open_closed_streams() -> None:
    """Started with stdout or stderr closed (``2>&-``): what opens next must not get their numbers, and with them what C code prints."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EXIT_CODES)
@click.version_option(__version__, "--version", message="edge-agent %(version)s")
def main() -> None:
    """Cameras in, detections out over MQTT, on the box beside the camera.

    \b
    First look, no camera or broker needed:   edge-agent demo
    With your own camera at once:             edge-agent demo --source /dev/video0
    Write a configuration:                    edge-agent example > agent.toml
    Test it, and what it names:               edge-agent check --probe
    Run it:                                   edge-agent run
    See what arrives at the broker:           edge-agent watch
    """  # noqa: D301 - click's marker is the one character


@main.command()
@CONFIG_OPTION
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so long. Default: run until stopped.")
@click.option(
    "--last-good",
    is_flag=True,
    envvar="EDGE_AGENT_LAST_GOOD",
    help="Keep a copy of each agent.toml that runs; where the file is wrong at a start, run that. Default: exit code 78.",
)
def run(config_file: Path | None, seconds: float | None, last_good: bool) -> None:
    """Run the agent: what the systemd service does.

    Reads agent.toml, opens the cameras, and publishes detections and heartbeats until SIGTERM or Ctrl-C,
    or until every source that has an end has reached it.
    """
    for asked in (signal.SIGTERM, signal.SIGINT):  # until running.run takes them: while libraries are imported there is nothing to drain
        signal.signal(asked, lambda *_: os._exit(int(ExitCode.OK)))
    from edge_agent import logs, running
    from edge_agent.notify import Notifier

    kept = _last_good(config_file) if last_good else None
    config = _accepted_or(kept, config_file)
    logs.setup(config.settings.log.level, config.settings.log.format)
    _log_origin(config)
    _log_problems(kept)
    _warn_of_loose_secrets(config)
    finish(lambda: running.run(config, seconds=seconds, notifier=Notifier(), last_good=kept))


@main.command()
@CONFIG_OPTION
@click.option("--probe", is_flag=True, help="Also load the model, open each camera, and connect to the broker.")
def check(config_file: Path | None, probe: bool) -> None:
    """Check agent.toml: exit code 0, or 78 with every error, its file, line and key.

    Looks at the settings, the files that they name and the model's classes, by the very code that "run" uses. Opens no
    camera and no connection unless --probe is given; a camera, broker or model that fails then exits with 69.
    """
    from edge_agent import logs, preflight

    logs.setup("warning", "text")
    config = _accepted(config_file)
    preflight.check_files(config, load_model=not probe)
    click.echo(f"{config.path}: valid, {len(config.cameras)} camera(s)")
    _tell_of_origins(config)
    _tell_of_commands(config)
    if not probe:
        return
    from edge_agent import probing

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the libraries that open cameras wait in C, where Python's handler is not heard
    worst = ExitCode.OK
    for result in probing.probe(config):
        worst = max(worst, result.exit_code)
        click.echo(f"{click.style('ok    ', fg='green') if result.ok else click.style('failed', fg='red')} {result.what}: {result.text}")
    leave(worst)


def _tell_of_origins(config: AgentConfig) -> None:
    """Secrets without their content, and what the environment sets: what somebody who looks at the file alone would not find."""
    from edge_agent import origins

    for origin in origins.origins(config):
        click.echo(str(origin))
        if origin.warning:
            click.echo(f"{click.style('warning:', fg='yellow')} {origin.key}: {origin.warning}", err=True)


def _warn_of_loose_secrets(config: AgentConfig) -> None:
    import logging

    from edge_agent import origins

    for origin in origins.origins(config):
        if origin.warning:
            logging.getLogger("edge_agent.cli").warning("secret is not kept: %s: %s", origin.key, origin.warning)


def _tell_of_commands(config: AgentConfig) -> None:
    """What was set over MQTT and kept holds instead of the file: whoever reads that must know."""
    from edge_agent._commands_kept import KeptSettings
    from edge_agent.state_folder import state_for

    kept = KeptSettings(state_for(config).directory)
    try:
        kept.read()
    except StateError as error:  # "run" sets it aside and starts all the same
        click.echo(f"warning: {error}; until then agent.toml holds", err=True)
    cameras = {camera.id for camera in config.cameras if camera.settings.enabled}
    for camera, what in kept.cameras.items():
        nobody = "" if camera in cameras else " (there is no such camera now)"
        click.echo(f"kept by command in {kept.path}: camera {camera}: {what}{nobody}")


main.add_command(demo)
main.add_command(watch)


@main.command()
@click.option("--controls", is_flag=True, help="Also list each camera's controls: value, what it takes, default.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with everything.")
def devices(controls: bool, as_json: bool) -> None:
    """List the cameras of this machine: formats, sizes, rates, controls, and the lines to paste into agent.toml."""
    from edge_agent import devices as listing

    found, decoding = listing.cameras(), listing.decoders()
    if as_json:
        click.echo(listing.as_json(found, decoding))
        return
    for line in listing.as_text(found, decoding, controls=controls):
        click.echo(line)


main.add_command(status_command)
main.add_command(logs_command)
main.add_command(doctor)
main.add_command(model_group)
main.add_command(spool_group)


@main.command()
@CONFIG_OPTION
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    callback=finite,
    default=60.0,
    show_default=True,
    help="Measure for so long.",
)
@click.option(
    "--no-publish", is_flag=True, help="Count the events and send them nowhere. Default: to the broker of agent.toml, if it is there."
)
@click.option(
    "--picture", type=click.Path(path_type=Path), callback=picture_file, metavar="FILE.png|.html", help="Draw the stages into this file."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON (docs/scheduling.md).")
def bench(config_file: Path | None, seconds: float, no_publish: bool, picture: Path | None, as_json: bool) -> None:
    """Run your own agent.toml for a minute, and tell where each millisecond and each frame went, what the limit is, and what to do.

    The cameras, the models and the broker are the real ones; stop the service first. Ctrl-C ends it early, with what there is.
    Exit code 69: no camera was reached.
    """
    from edge_agent import cli_bench, logs
    from edge_agent.bench.measuring import Request

    config = _accepted(config_file)
    logs.setup("error", "text")

    def action() -> ExitCode:
        cli_bench.run(config, Request(seconds, publish=not no_publish), picture, as_json=as_json)
        return ExitCode.OK

    finish(action)


@main.command()
@click.argument("name", required=False, type=click.Choice(["detections", "camera_status", "health", "command", "command_result"]))
def schema(name: str | None) -> None:
    """Print the JSON Schema of a payload: detections, camera_status, health, command, command_result. Without a name: all of them."""
    from edge_agent import _commands_payload, encoding

    found = {**encoding.schemas(), **_commands_payload.schemas()}
    click.echo(json.dumps(found[name] if name else found, indent=2, ensure_ascii=False))


@main.command()
@click.option("--short", is_flag=True, help="Only what one needs to begin with, with the cameras that are plugged in.")
@click.option("--username", metavar="NAME", help="With --short: user name at the broker.")
def example(short: bool, username: str | None) -> None:
    """Print an agent.toml with every key, its default and what it means."""
    from edge_agent import example as full
    from edge_agent import first_config

    click.echo(first_config.generate(username=username) if short else full.generate(), nl=False)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell, as in: edge-agent completion bash >> ~/.bashrc."""
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None
    click.echo(complete(main, {}, "edge-agent", "_EDGE_AGENT_COMPLETE").source())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def version(as_json: bool) -> None:
    """Print the versions of edge-agent and of what it stands on."""
    import importlib.metadata
    import platform

    names = ["opencv-python", "opencv-python-headless", "numpy", "av", "onnxruntime", "onnxruntime-gpu", "ai-edge-litert", "tflite-runtime",
             "paho-mqtt", "pydantic", "pydantic-settings", "sdnotify", "click", "amqtt"]  # fmt: skip
    found = {"edge-agent": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        click.echo("\n".join(f"{name} {number}" for name, number in found.items()))


def _accepted(config_file: Path | None) -> AgentConfig:
    """As :func:`load`; where settings are wrong, what is wrong with the files that the others name is told with it."""
    from edge_agent import config_file as loader
    from edge_agent import preflight
    from edge_agent.plugins import PluginKinds

    return preflight.accepted(loader.read_draft(config_file, PluginKinds()))


def _last_good(config_file: Path | None) -> LastGood:
    from edge_agent import config_file as loader
    from edge_agent.last_good import LastGood

    kept = LastGood(loader.find(config_file))
    kept.look()
    return kept


def _accepted_or(kept: LastGood | None, config_file: Path | None) -> AgentConfig:
    """As :func:`_accepted`; where that is refused, or names files that are not there, what was kept."""
    from edge_agent import preflight
    from edge_agent.plugins import PluginKinds

    try:
        config = _accepted(config_file)
        if kept is not None:
            preflight.check_files(config, starting=True, load_model=False)
    except ConfigError as error:
        if kept is None:
            raise
        return kept.instead(error, PluginKinds())
    return config


def _log_problems(kept: LastGood | None) -> None:
    import logging

    for problem in kept.problems if kept is not None else ():
        logging.getLogger("edge_agent.cli").error("configuration refused, the last good one runs: %s", problem)


def _log_origin(config: AgentConfig) -> None:
    import logging

    from edge_agent.config_file import search_path

    searched = ",".join(str(path) for path in search_path(os.environ))
    logging.getLogger("edge_agent.cli").info("configuration file=%s searched=%s", config.path, searched)
