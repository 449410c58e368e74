"""Puts the parts together that commands need."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_agent._commands_kept import KeptSettings
from edge_agent._commands_payload import ReloadResult
from edge_agent.capture import Capture
from edge_agent.commands import Commands, CommandsContext
from edge_agent.config import AgentConfig
from edge_agent.controls import Controls
from edge_agent.events import Message
from edge_agent.health import Health
from edge_agent.last_good import LastGood
from edge_agent.pipeline import Pipeline
from edge_agent.reloading import ReloadContext, Reloader

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What is commanded."""

    device: str
    captures: list[Capture]
    """The agent's own list: a reload adds to it and takes from it."""
    pipeline: Pipeline
    health: Health
    publish: Callable[[Message], None]
    models: Mapping[str | None, tuple[Sequence[str], float]]
    """See ReloadContext."""
    model_sizes: Mapping[str | None, tuple[int, int]]
    """Inputs of the models, by their names in [models]."""
    last_good: LastGood | None = None
    """Keeps what was reloaded, where the owner wants that."""


def commands_for(config: AgentConfig, state: Path, parts: Parts) -> tuple[Commands, Callable[[], ReloadResult]]:
    """Commands, not yet started, and what reads agent.toml again, for any thread.

    What was kept of earlier commands in the state directory holds already. Call before the cameras start.
    """
    kept = KeptSettings(state)
    kept.read_or_set_aside()
    controls = Controls(parts.captures, parts.pipeline, kept)
    for camera, what in controls.restore().items():
        log.info("kept by command, and holds: camera=%s %s", camera, what)

    def published(new: AgentConfig) -> None:
        commands.allow, commands.snapshots.allowed = new.settings.commands.allow, new.settings.publish.snapshots

    one_at_a_time = threading.Lock()

    def reload() -> ReloadResult:
        with one_at_a_time:
            if parts.last_good is not None:
                parts.last_good.look()
            changes = reloader.reload()
            if parts.last_good is not None:
                parts.last_good.keep()
        return ReloadResult(changes.applied, changes.needs_restart)

    settings = config.settings
    of_model = ReloadContext(
        parts.pipeline, controls, parts.models, lambda name: partial(parts.model_sizes.get, name), published, parts.publish
    )
    reloader = Reloader(config, of_model)
    context = CommandsContext(parts.device, f"{settings.mqtt.base}/{parts.device}", parts.publish, parts.health.report, reload)
    commands = Commands(context, controls, settings.commands.allow, snapshots=settings.publish.snapshots)
    parts.health.commands = commands.health if settings.commands.allow else None
    return commands, reload
