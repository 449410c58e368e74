"""``edge-agent bench``."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from edge_agent.cli_model import progress_bar

if TYPE_CHECKING:
    from edge_agent.bench.measuring import Request
    from edge_agent.bench.report import Report
    from edge_agent.config import AgentConfig


def finite(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """Refuses what a range lets through."""
    if math.isnan(value):
        raise click.BadParameter("nan is no time", ctx, param)
    return value


def picture_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Refuses, before the minute starts, what could not be written after it."""
    if value is None:
        return None
    from edge_agent.bench.picture import SUFFIXES

    file = value.expanduser().absolute()
    if file.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"{value} must end in .png or .html", ctx, param)
    existed = file.exists()
    try:
        file.open("ab").close()
        if not existed:
            file.unlink()
    except OSError as error:
        raise click.BadParameter(f"{value} cannot be written: {error.strerror}", ctx, param) from None
    return file


def run(config: AgentConfig, request: Request, picture: Path | None, *, as_json: bool) -> None:
    """Measure, and tell. Raises EdgeAgentError for what prevents it."""
    from edge_agent.bench import measuring
    from edge_agent.bench import picture as drawn

    def terminated(*_: object) -> NoReturn:
        raise KeyboardInterrupt  # as by Ctrl-C: with what there is

    signal.signal(signal.SIGTERM, terminated)
    with progress_bar("measuring", hidden=as_json) as progress:
        report = measuring.measure(config, request, progress)
    _tell(report, as_json=as_json)
    if picture is not None:
        drawn.save(report, picture)
        click.echo(f"picture: {picture}", err=True)


def _tell(report: Report, *, as_json: bool) -> None:
    click.echo(json.dumps(report.as_json(), indent=2, ensure_ascii=False) if as_json else report.text())
