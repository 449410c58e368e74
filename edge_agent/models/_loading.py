"""From ``[model]`` to loaded detectors: one for each lane, opened as the user says or as was measured here."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent import plugins
from edge_agent.config import AgentConfig, ModelSettings
from edge_agent.models import _batches, _lanes, _threads
from edge_agent.models._description import stated_size
from edge_agent.models._families import check_inputs, configured_family
from edge_agent.models._labels import checked_labels, labels_for
from edge_agent.models._model_file import check_file, model_path, sha256
from edge_agent.models.base import Model
from edge_agent.runtimes.base import Runtime, RuntimeContext, one_at_a_time, silent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelIdentity:
    """What is published about the model beside each frame's detections."""

    name: str
    sha256: str
    family: str
    runtime: str
    accelerator: str
    precision: str


@dataclass(frozen=True)
class LoadedModel:
    """One detector per lane, and what they are."""

    lanes: tuple[Model, ...]
    identity: ModelIdentity
    threads: int = 1
    """Of one inference."""


def lanes_and_threads(settings: ModelSettings, *, only_files: bool, cores: int | None = None) -> tuple[int, int]:
    """How many inferences run side by side, and with how many threads each, by rule: where neither the user says nor a measurement.

    Live: one lane, for latency, and one core is left to the decoders. Files: side by side, for throughput; more threads in
    one inference of a net of this size gain less. More than four of either gain little.
    """
    cores = cores or len(os.sched_getaffinity(0))
    side_by_side = min(4, cores) if only_files else 1
    lanes = side_by_side if settings.lanes == "auto" else settings.lanes
    spare = 1 if lanes > 1 else _threads.by_rule(cores)
    return lanes, spare if settings.threads == "auto" else settings.threads


def load(
    config: AgentConfig, *, only_files: bool = False, state: Path | None = None, announce: Callable[[str, float], None] = silent
) -> LoadedModel:
    """Load the detector once per lane. ``state`` keeps what is measured or compiled here; ``announce``: see RuntimeContext.

    Raises ConfigError for what the user can mend, ModelError for what the file is.
    """
    settings = config.settings.model
    path = model_path(config)
    check_file(path)
    module = plugins.load("runtimes", config.runtime)
    digest = sha256(path)

    def opened(threads: int, spin: bool, *, batch: int = asked_batch(settings)) -> Runtime:
        context = RuntimeContext(path, threads, stated_size(settings), spin, digest, state, batch, announce)
        runtime: Runtime = module.build(context, config.runtime_options)
        return runtime

    runtimes, choice = _opened(config, opened, digest, state, only_files=only_files)
    graph = runtimes[0].spec
    check_inputs(graph, path)
    found = labels_for(config, path, graph)
    labels = checked_labels(config, path, configured_family(config, graph, None if found is None else len(found[0])), found)

    def modelled(runtimes: Sequence[Runtime]) -> list[Model]:
        return [Model(runtime, configured_family(config, graph, None if found is None else len(found[0])), labels) for runtime in runtimes]

    def several(batch: int) -> tuple[list[Runtime], list[Model]]:
        wider = [opened(choice.threads, choice.spin, batch=batch) for _ in runtimes]
        return wider, modelled(wider)

    together = _batches.Together(modelled(runtimes), runtimes[0].batch, "configured")
    if settings.batch == "auto" and (only_files or _camera_count(config) > 1):  # of one live camera there is never a second frame
        cores = len(os.sched_getaffinity(0))
        what = _threads.Subject(digest, stated_size(settings), cores, _decoders(config), f"batch {len(runtimes)} {choice.threads}")
        together = _batches.chosen((runtimes, together.lanes), several, what, state)
    else:
        check_together(together.lanes[0], path)
    lanes = tuple(together.lanes)
    family = lanes[0].family
    identity = ModelIdentity(path.stem, digest, family.name, graph.runtime, graph.accelerator, graph.precision)
    log.info(
        "model loaded name=%s family=%s input=%dx%d classes=%d runtime=%r accelerator=%r precision=%s "
        "threads=%d spinning=%s lanes=%d because=%r",
        identity.name, identity.family, *lanes[0].input_size, len(labels), identity.runtime, identity.accelerator,
        identity.precision, choice.threads, choice.spin, len(lanes), choice.why,
    )  # fmt: skip
    if settings.batch != 1 or together.batch > 1:
        log.info("frames inferred together name=%s batch=%d because=%r", identity.name, together.batch, together.why)
    for doubt in family.doubts():
        log.warning("model %s: %s", path, doubt)
    return LoadedModel(lanes, identity, choice.threads)


def asked_batch(settings: ModelSettings) -> int:
    """How many pictures the model is opened for first: as many as the user says, else one."""
    return 1 if settings.batch == "auto" else settings.batch


def check_together(model: Model, path: Path) -> None:
    """Raises ConfigError for a model whose pictures, inferred together, come to something else than each alone."""
    reason = model.why_not_together()
    if reason:
        raise one_at_a_time(path, model.batch, reason)


def _camera_count(config: AgentConfig) -> int:
    return sum(camera.settings.enabled for camera in config.cameras)


def _decoders(config: AgentConfig) -> int:
    return min(_camera_count(config), max(1, len(os.sched_getaffinity(0)) // 2))


def _opened(
    config: AgentConfig, open_model: _threads.Opener, digest: str, state: Path | None, *, only_files: bool
) -> tuple[list[Runtime], _threads.Choice]:
    """The model once per lane. What the user does not say is measured: for throughput where there is more than one live camera."""
    settings, cores = config.settings.model, len(os.sched_getaffinity(0))
    cameras, decoders = _camera_count(config), _decoders(config)
    lanes, threads = lanes_and_threads(settings, only_files=only_files)
    if settings.threads == "auto" and settings.lanes == "auto" and (only_files or cameras > 1):
        subject = _threads.Subject(digest, stated_size(settings), cores, decoders, "throughput")
        return _lanes.opened(open_model, subject, state, lanes)
    if settings.threads == "auto" and lanes == 1:
        runtime, choice = _threads.opened(open_model, _threads.Subject(digest, stated_size(settings), cores, decoders), state)
        return [runtime], choice
    why = "one for each lane" if settings.threads == "auto" else "configured"
    return [open_model(threads, False) for _ in range(lanes)], _threads.Choice(threads, False, why, lanes)
