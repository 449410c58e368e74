"""``edge-agent watch``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from edge_agent.cli_common import CONFIG_OPTION, echo, load
from edge_agent.errors import ConfigError

TABLE_S = 1.0
"""How often a table is shown."""


def _topic_level(name: str | None) -> str | None:
    if name is not None and (not name or set("/+#\0") & set(name)):
        raise click.BadParameter(f"{name!r} is no device's name: it may hold no '/', '+' or '#'")
    return name


@click.command()
@CONFIG_OPTION
@click.option("--host", help="Broker. Default: the one in agent.toml, else localhost.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port.")
@click.option("--device", callback=lambda *given: _topic_level(given[-1]), help="Only this device. Default: all of them.")
@click.option("--camera", help="Only this camera.")
@click.option("--label", help="Only detections of this class.")
@click.option("--all", "every_frame", is_flag=True, help="Also frames in which nothing was seen.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: topic, payload, and what is said of it here.")
@click.option("--table/--lines", "as_table", default=None, help="A table that updates, or a line for each message. Default: lines.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so long. Default: until Ctrl-C.")
def watch(config_file: Path | None, seconds: float | None, **given: Any) -> None:
    """Show detections, health and camera states as they arrive at the broker, and what did not arrive.

    Uses the broker, user and password of agent.toml unless --host is given. Loss is told from the gaps in seq, latency from
    captured_at, by the two machines' clocks.
    """
    import dataclasses
    import time

    from edge_agent.watch import Watch, WatchOptions

    options = WatchOptions() if given["host"] else _watch_options(config_file)
    options = dataclasses.replace(options, **{key: value for key, value in given.items() if value is not None})
    watcher = Watch(options, echo, lambda text: click.echo(f"# {options.host}:{options.port}: {text}", err=True))
    until = None if seconds is None else time.monotonic() + seconds
    try:
        watcher.start()
        click.echo(f"# listening at {options.host}:{options.port}, {options.base}/{options.device or '+'}/#; stop with Ctrl-C", err=True)
        _until_stopped(watcher, until, as_table=options.as_table and not options.as_json)
    except KeyboardInterrupt:
        pass
    watcher.stop()
    for line in [*(f"{name}: {_totals(each)}" for name, each in watcher.totals().items()), *watcher.warnings()]:
        click.echo(f"# {line}", err=True)


def _until_stopped(watcher: Any, until: float | None, *, as_table: bool) -> None:
    import time

    shown = 0.0
    while until is None or time.monotonic() < until:
        if as_table and time.monotonic() - shown >= TABLE_S:
            shown = time.monotonic()
            width = shutil.get_terminal_size().columns
            text = "\n".join(line[:width] for line in watcher.table())
            echo(f"\x1b[H\x1b[J{text}" if sys.stdout.isatty() else text)
        time.sleep(0.1)


def _totals(each: dict[str, Any]) -> str:
    p50, p95 = each["latency_ms"]["p50"], each["latency_ms"]["p95"]
    latency = "" if p50 is None else f", latency {p50:.0f} ms (p95 {p95:.0f} ms)"
    return f"{each['received']} received, {each['lost']} lost, {each['duplicates']} twice{latency}"


def _watch_options(config_file: Path | None) -> Any:
    from edge_agent import config_file as loader
    from edge_agent.broker_sink import build_sink
    from edge_agent.watch import WatchOptions

    try:
        path = loader.find(config_file)
    except ConfigError:
        return WatchOptions()  # no file and none named: the broker of this machine
    config = load(path)
    sink = build_sink(config, "watch")
    mqtt = config.settings.mqtt
    return WatchOptions(
        host=mqtt.host, port=sink.port, base=mqtt.base, username=mqtt.username, context=sink.context, websocket=mqtt.websocket
    )
