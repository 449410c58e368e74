"""``edge-agent doctor``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from edge_agent.errors import ExitCode

_COLOURS = {"ok": "green", "note": "blue", "slow": "yellow", "wrong": "red"}


@click.command()
@click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="agent.toml to look at. Default: as for run."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("-q", "--quiet", is_flag=True, help="Only what could be better.")
def doctor(config_file: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Look at this machine, its libraries, the service and the running agent: what is missing, wrong or slow, and what mends it.

    Changes nothing. Best run as root: it sees more. Exit code 1 if something is wrong.
    """
    from edge_agent import doctor as doctor_module
    from edge_agent import logs

    logs.setup("error", "text")
    levels = []
    for part, finding in doctor_module.examine(doctor_module.examinations(config_file)):
        levels.append(finding.level)
        if quiet and finding.level in {"ok", "note"}:
            continue
        if as_json:
            click.echo(json.dumps({"part": part, **dataclasses.asdict(finding)}, ensure_ascii=False))
            continue
        click.echo(f"{click.style(f'{finding.level:6}', fg=_COLOURS[finding.level])} {finding.what}: {finding.text}")
        if finding.mend:
            click.echo(f"         -> {finding.mend}")
    if not as_json:
        click.echo(f"{levels.count('wrong')} wrong, {levels.count('slow')} slow, {levels.count('note')} to note", err=True)
    click.get_current_context().exit(int(ExitCode.FAILURE if "wrong" in levels else ExitCode.OK))
