"""``edge-agent spool``: what waits on disk, and what to do with it."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_agent.errors import SinkUnavailable, StateError

if TYPE_CHECKING:
    from edge_agent._spool_rows import Row
    from edge_agent._spool_store import Store
    from edge_agent.config import AgentConfig

_CONFIG = click.option(
    "-c", "--config", "config_file", type=click.Path(readable=False, path_type=Path), metavar="FILE", help="agent.toml to use."
)
_NAME = click.option("--sink", "name", default="mqtt", show_default=True, help="Whose spool: each sink has its own.")
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.group("spool")
def spool_group() -> None:
    """Events that wait on disk for a broker: look, deliver, save, discard.

    "status" and "export" only read, also beside a running agent. "drain" and "purge" refuse while an agent holds the spool.
    """


def _config(config_file: Path | None) -> AgentConfig:
    from edge_agent import config_file as loader
    from edge_agent.plugins import PluginKinds

    return loader.load(config_file, PluginKinds())


def _file(config: AgentConfig, name: str) -> Path:
    from edge_agent.state_folder import spool_folder

    folder = spool_folder(config)
    found = folder / f"{name}.db"
    if Path(name).name != name or not found.exists():
        others = sorted(file.stem for file in folder.glob("*.db") if ".quarantine-" not in file.name)
        raise StateError(f"there is no spool {found}; there are: {', '.join(others) or 'none'}")
    return found


@spool_group.command()
@_CONFIG
@_JSON
def status(config_file: Path | None, as_json: bool) -> None:
    """Tell what is on disk of each sink: events, bytes, the oldest, and whether an agent holds it."""
    from edge_agent._spool_view import summary
    from edge_agent.state_folder import spool_folder

    folder = spool_folder(_config(config_file))
    found = [summary(file) for file in sorted(folder.glob("*.db")) if ".quarantine-" not in file.name]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if not found:
        click.echo(f"{folder}: nothing is on disk")
    for each in found:
        click.echo("  ".join(f"{key}={value}" for key, value in each.items()))


@spool_group.command()
@_CONFIG
@_NAME
def export(config_file: Path | None, name: str) -> None:
    """Write the events on disk to stdout, oldest first, one JSON object a line: kind, camera, payload."""
    from edge_agent._spool_view import rows

    damaged = 0
    for row in rows(_file(_config(config_file), name)):
        if row is None:
            damaged += 1
            continue
        click.echo(json.dumps(_exported(row), ensure_ascii=False))
    if damaged:
        click.echo(f"{damaged} damaged events left out", err=True)


def _exported(row: Row) -> dict[str, Any]:
    message = row.message
    line: dict[str, Any] = {"position": row.position, "kind": message.kind.value, "camera": message.camera}
    with contextlib.suppress(ValueError):
        return {**line, "payload": json.loads(message.payload)}
    return {**line, "payload_base64": base64.b64encode(message.payload).decode()}


@spool_group.command()
@_CONFIG
@_NAME
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(config_file: Path | None, name: str, yes: bool) -> None:
    """Discard all events on disk of one sink."""
    from edge_agent._spool_store import Store

    file = _file(_config(config_file), name)
    store = Store(file)
    with _held(store):
        found = store.open()
        if found.events and not yes:
            click.confirm(f"discard {found.events} events ({found.size} bytes) of {file}?", abort=True)
        store.apply([], [(0, found.last)])
        store.shrink()
    click.echo(f"{found.events} events discarded")


@spool_group.command()
@_CONFIG
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Give up after so long.")
def drain(config_file: Path | None, seconds: float) -> None:
    """Deliver what is on disk to the broker, without cameras. Exit code 69 where some of it is left."""
    from edge_agent import logs
    from edge_agent.broker_sink import build_sink
    from edge_agent.publisher import Publisher
    from edge_agent.state_folder import build_spool, device_id, state_for

    logs.setup("error", "text")
    config = _config(config_file)
    state = state_for(config)
    state.open()  # with the device's identity at the broker: an agent beside it would be disconnected
    try:
        file = _file(config, "mqtt")
        spool = build_spool(config, "mqtt")
        if spool.disk is None:
            raise StateError(f'{file} is there, but [spool] durability is "memory"; set it to "interval" to have it delivered')
        publisher = Publisher(build_sink(config, device_id(config, state), trying=True), spool)
        publisher.start()
        until = time.monotonic() + seconds
        with contextlib.suppress(KeyboardInterrupt):
            while spool.queued[0] and time.monotonic() < until:
                time.sleep(0.05)
        publisher.stop(5.0)
    finally:
        state.close()
    counts = publisher.counts
    click.echo(f"{counts.delivered} events delivered, {counts.dropped.sum} dropped {dict(counts.dropped)}, {counts.kept} left")
    if counts.kept:
        raise SinkUnavailable(publisher.error or f"not all was delivered within {seconds:g} s")


@contextlib.contextmanager
def _held(store: Store) -> Iterator[None]:
    store.lock()
    try:
        yield
    finally:
        store.close()
