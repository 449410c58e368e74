"""Reads agent.toml again while the agent runs: what can change does, camera by camera, and the rest is named.

A file with anything wrong changes nothing. Cameras whose source is the same go on without a pause.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from pydantic import BaseModel

from edge_agent import config_file, plugins
from edge_agent.camera_sources import patient_source
from edge_agent.capture import Capture
from edge_agent.config import AgentConfig, CameraConfig
from edge_agent.controls import Controls
from edge_agent.errors import ConfigError
from edge_agent.events import Kind, Message
from edge_agent.models._thresholds import all_thresholds
from edge_agent.models.base import Thresholds
from edge_agent.pipeline import Pipeline
from edge_agent.preflight import accepted, check_files
from edge_agent.problem_places import of_its_table, placed
from edge_agent.publishing import rule_for
from edge_agent.stats import merged

log = logging.getLogger(__name__)

THRESHOLDS = ("confidence", "iou", "max_detections", "classes")
"""Keys of [model], [models] and cameras that hold from the next frame on."""
_AT_ONCE = frozenset({*THRESHOLDS, "max_fps", "interval_s", "staleness_ms", "snapshots"})
"""Of a camera's keys: those for which its source stays open."""
_AT_START = frozenset({"model", "weight", "enabled", "publish"})
"""Of a camera's keys: those that only a restart changes. For all others its source is opened anew."""

_AT_ONCE_IN_TABLES: Mapping[str, tuple[str, ...]] = {"model": THRESHOLDS, "commands": ("allow",), "publish": ("snapshots",)}

RETIRE_S = 2.0
"""How long a camera that is no more may take to close."""

ModelSize = Callable[[], "tuple[int, int] | None"]


@dataclass(frozen=True)
class ReloadContext:
    """What is changed."""

    pipeline: Pipeline
    controls: Controls
    models: Mapping[str | None, tuple[Sequence[str], float]]
    """Labels and usual confidence of those that are loaded, by their names in [models]; None: [model]."""
    model_size: Callable[[str | None], ModelSize]
    """The input of a model, by its name in [models]."""
    published: Callable[[AgentConfig], None]
    """Go by other ``[commands]`` and ``[publish] snapshots``."""
    publish: Callable[[Message], None] = lambda _: None


@dataclass
class Changes:
    """Keys of agent.toml that differ; a camera's begin with its id."""

    applied: list[str] = field(default_factory=list)
    needs_restart: list[str] = field(default_factory=list)


class Reloader:
    """Keeps the configuration that is in force. ``reload`` from one thread at a time."""

    def __init__(self, config: AgentConfig, context: ReloadContext) -> None:
        self.config = config
        """As it is in force: what needs a restart is as it was."""
        self._context = context

    def reload(self) -> Changes:
        """Read, check, and change what differs.

        Raises ConfigError with all that is wrong, or StateError where what was kept cannot be cleared; then nothing is changed.
        """
        new = self._read()
        thresholds = self._thresholds(new)
        changes = Changes()
        with self._context.controls.alone():
            cleared = self._context.controls.clear()  # first: where that cannot be written nothing else has changed
            self._tables(new, changes)
            self._cameras(new, thresholds, changes)
        changes.applied += [f"{camera}: what was set by command is void" for camera in cleared]
        log.info("configuration read again changed=%s needs_restart=%s", changes.applied, changes.needs_restart)
        return changes

    def _read(self) -> AgentConfig:
        path = self.config.path
        if path is None:
            raise ConfigError("this agent's configuration did not come from a file")
        new = accepted(config_file.read_draft(path, plugins.PluginKinds()))
        models = ("model", "models")
        check_files(new, load_model=any(getattr(new.settings, key) != getattr(self.config.settings, key) for key in models))
        return new

    def _thresholds(self, new: AgentConfig) -> dict[str, Thresholds]:
        """Of each camera whose model is the one that is loaded. Raises ConfigError for classes that it has not."""
        found: dict[str, Thresholds] = {}
        for name, (labels, default) in self._context.models.items():
            if self._is_loaded(name, new):
                view = new.of_model(name)
                with placed(new), of_its_table(view):
                    found.update(all_thresholds(view, labels, default))
        return found

    def _is_loaded(self, name: str | None, new: AgentConfig) -> bool:
        """Whether a model is what it was but for its thresholds."""
        if name is None:
            return set(differing(self.config.settings.model, new.settings.model)) <= set(THRESHOLDS)
        was, now = self.config.settings.models[name], new.settings.models.get(name)
        return now is not None and set(differing(was, now)) <= set(THRESHOLDS)

    def _tables(self, new: AgentConfig, changes: Changes) -> None:
        """All tables but the cameras'. Thresholds of [model] are the cameras' thresholds, and change with them."""
        old, now = self.config.settings, new.settings
        update: dict[str, object] = {}
        for table in type(old).model_fields:
            if table not in {"cameras", "models"}:
                at_once = _AT_ONCE_IN_TABLES.get(table, ())
                if (table == "model" and not self._is_loaded(None, new)) or (table == "commands" and not old.commands.allow):
                    at_once = ()  # as thresholds of another model; as nobody listens for commands
                update[table] = _merged(table, getattr(old, table), getattr(now, table), at_once, changes)
        models = dict(old.models)
        for name in sorted(old.models.keys() | now.models.keys()):
            if name in old.models and name in now.models:
                at_once = THRESHOLDS if self._is_loaded(name, new) else ()
                models[name] = _merged(f"models.{name}", old.models[name], now.models[name], at_once, changes)
            else:
                changes.needs_restart.append(f"models.{name}")
        self.config = replace(self.config, settings=old.model_copy(update={**update, "models": models}))
        self._context.published(self.config)

    def _cameras(self, new: AgentConfig, thresholds: Mapping[str, Thresholds], changes: Changes) -> None:
        running = self._context.controls.captures
        wanted = {camera.id: camera for camera in new.cameras if camera.settings.enabled}
        added = [camera for camera in wanted.values() if camera.id not in running]
        # First, so that a model whose cameras are all replaced is never without one: its lanes would end.
        in_force = [camera for camera in added if self._add(camera, new, thresholds, changes)]
        for camera in self.config.cameras:
            after = wanted.get(camera.id)
            if camera.id not in running:
                continue
            if after is None:
                self._remove(running[camera.id], changes)
                continue
            in_force.append(self._camera(camera, after, new, changes))
            if camera.id in thresholds and after.settings.model == camera.settings.model:
                self._context.pipeline.set_thresholds(camera.id, thresholds[camera.id])
        order = list(wanted)
        in_force.sort(key=lambda camera: order.index(camera.id))
        settings = self.config.settings.model_copy(update={"cameras": tuple(camera.settings for camera in in_force)})
        self.config = replace(self.config, settings=settings, cameras=tuple(in_force))

    def _add(self, camera: CameraConfig, new: AgentConfig, thresholds: Mapping[str, Thresholds], changes: Changes) -> bool:
        """Whether it could be: its model must be loaded, and at work."""
        own = thresholds.get(camera.id)
        if own is not None:
            size, controls = self._context.model_size(camera.settings.model), self._context.controls
            another = partial(patient_source, new, camera, size, after_wedge=True)
            capture = next(iter(controls.captures.values())).beside(camera, patient_source(new, camera, size), another)
            crew = list(self._context.models).index(camera.settings.model)
            rule = rule_for(new.settings.publish, camera.settings.publish)
            if self._context.pipeline.add(capture, crew, own, rule):
                controls.add(capture)
                capture.start()
                changes.applied.append(f"cameras.{camera.id}: is new")
                return True
        changes.needs_restart.append(f"cameras.{camera.id}: is new, and its model is not loaded")
        return False

    def _remove(self, capture: Capture, changes: Changes) -> None:
        self._context.pipeline.remove(capture)
        self._context.controls.remove(capture)
        capture.retire(RETIRE_S)
        counts = capture.snapshot()
        log.info(
            "camera is no more camera=%s captured=%d served=%d skipped=%s dropped=%s",
            capture.camera.id, counts.captured, counts.served, merged(counts.skipped), merged(counts.dropped),
        )  # fmt: skip
        self._context.publish(Message(Kind.CAMERA_STATUS, capture.camera.id, b""))  # after its last word: nothing of it stays retained
        changes.applied.append(f"cameras.{capture.camera.id}: is no more")

    def _camera(self, before: CameraConfig, after: CameraConfig, new: AgentConfig, changes: Changes) -> CameraConfig:
        """What is in force of one camera then."""
        keys = list(_differing(before, after))
        if not keys:
            return before
        can_reopen = self._context.pipeline.is_looking(before.id)
        reopened = [key for key in keys if key not in _AT_ONCE | _AT_START]
        at_once = [key for key in keys if key in _AT_ONCE]
        later = [key for key in keys if key in _AT_START]
        if reopened and not can_reopen:
            later, reopened = later + reopened, []
        changes.applied += [f"cameras.{before.id}.{key}" for key in at_once + reopened]
        changes.needs_restart += [f"cameras.{before.id}.{key}" for key in later]
        start = {key: getattr(before.settings, key) for key in _AT_START}
        if not reopened:
            settings = before.settings.model_copy(update={key: getattr(after.settings, key) for key in at_once})
            in_force = replace(before, settings=settings)
            self._context.controls.captures[before.id].configure(in_force)
            return in_force
        in_force = replace(after, settings=after.settings.model_copy(update=start))
        self._reopen(new, after, in_force)
        return in_force

    def _reopen(self, new: AgentConfig, after: CameraConfig, in_force: CameraConfig) -> None:
        """``after`` is the camera as it stands in ``new``, which places its problems."""
        size = self._context.model_size(in_force.settings.model)
        log.info("camera is opened anew, as its settings are others camera=%s", in_force.id)
        another = partial(patient_source, new, after, size, after_wedge=True)
        self._context.controls.captures[in_force.id].replace_source(in_force, patient_source(new, after, size), another)


T = TypeVar("T", bound=BaseModel)


def _merged(name: str, was: T, now: T, at_once: Sequence[str], changes: Changes) -> T:
    """A table as it is in force then."""
    keys = differing(was, now)
    changes.applied += [f"{name}.{key}" for key in keys if key in at_once]
    changes.needs_restart += [f"{name}.{key}" for key in keys if key not in at_once]
    return was.model_copy(update={key: getattr(now, key) for key in keys if key in at_once})


def differing(was: BaseModel, now: BaseModel) -> list[str]:
    """Keys of two tables of one kind whose values differ, extra ones too."""
    extra = {**(was.model_extra or {}), **(now.model_extra or {})}
    keys = [*type(was).model_fields, *extra]
    return [key for key in keys if getattr(was, key, None) != getattr(now, key, None)]


def _differing(before: CameraConfig, after: CameraConfig) -> Iterator[str]:
    """Of a camera, its kind and its kind's own keys too."""
    common = differing(before.settings, after.settings)
    yield from common
    if before.kind != after.kind and "kind" not in common:
        yield "kind"
    elif before.kind == after.kind:
        yield from (key for key in differing(before.options, after.options) if key not in common)
