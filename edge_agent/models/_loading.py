"""From ``[model]`` to loaded detectors: which runtime, which family, which labels, which thresholds."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent import plugins
from edge_agent.config import AgentConfig, CameraSettings, ModelSettings
from edge_agent.errors import ConfigError, ModelBroken, Problem
from edge_agent.models import _batches, _lanes, _threads
from edge_agent.models._description import described, read_texts, stated_size
from edge_agent.models.base import Family, Model, Thresholds
from edge_agent.runtimes.base import GraphSpec, Runtime, RuntimeContext, one_at_a_time, silent
from edge_agent.toml_lines import key_name

log = logging.getLogger(__name__)

BUILTIN_FILE = "oid_int8_pp.tflite"
BUILTIN_CONFIDENCE = 0.3
_NOTHING = {"???", "background", "__background__", "unlabeled"}
"""What label files call a class 0 that is nothing."""
_MAGIC = {".tflite": (4, b"TFL3"), ".onnx": (0, b"\x08"), ".ort": (4, b"ORTM")}


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


def model_path(config: AgentConfig) -> Path:
    """The model file that the configuration means."""
    path = config.settings.model.path
    if path == plugins.BUILTIN_MODEL:
        return Path(str(resources.files("edge_agent") / "data" / BUILTIN_FILE))
    return config.resolve(path)


def check_file(path: Path) -> None:
    """Raises ConfigError unless ``path`` is a file that begins like a model."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise ConfigError(f"model.path: {path} does not exist") from None
    except IsADirectoryError:
        raise ConfigError(f"model.path: {path} is a folder, not a model file") from None
    except OSError as error:
        raise ConfigError(f"model.path: {path} cannot be read: {error.strerror}") from None
    offset, magic = _MAGIC.get(path.suffix.lower(), (0, b""))
    if head[offset : offset + len(magic)] != magic:
        what = "is empty" if not head else "does not begin like one"
        raise ConfigError(f"model.path: {path} is no {path.suffix[1:]} model: it {what}")


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
    sha256 = _sha256(path)

    def opened(threads: int, spin: bool, *, batch: int = asked_batch(settings)) -> Runtime:
        context = RuntimeContext(path, threads, stated_size(settings), spin, sha256, state, batch, announce)
        runtime: Runtime = module.build(context, config.runtime_options)
        return runtime

    runtimes, choice = _opened(config, opened, sha256, state, only_files=only_files)
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
        what = _threads.Subject(sha256, stated_size(settings), cores, _decoders(config), f"batch {len(runtimes)} {choice.threads}")
        together = _batches.chosen((runtimes, together.lanes), several, what, state)
    else:
        check_together(together.lanes[0], path)
    lanes = tuple(together.lanes)
    family = lanes[0].family
    identity = ModelIdentity(path.stem, sha256, family.name, graph.runtime, graph.accelerator, graph.precision)
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
    config: AgentConfig, open_model: _threads.Opener, sha256: str, state: Path | None, *, only_files: bool
) -> tuple[list[Runtime], _threads.Choice]:
    """The model once per lane. What the user does not say is measured: for throughput where there is more than one live camera."""
    settings, cores = config.settings.model, len(os.sched_getaffinity(0))
    cameras, decoders = _camera_count(config), _decoders(config)
    lanes, threads = lanes_and_threads(settings, only_files=only_files)
    if settings.threads == "auto" and settings.lanes == "auto" and (only_files or cameras > 1):
        subject = _threads.Subject(sha256, stated_size(settings), cores, decoders, "throughput")
        return _lanes.opened(open_model, subject, state, lanes)
    if settings.threads == "auto" and lanes == 1:
        runtime, choice = _threads.opened(open_model, _threads.Subject(sha256, stated_size(settings), cores, decoders), state)
        return [runtime], choice
    why = "one for each lane" if settings.threads == "auto" else "configured"
    return [open_model(threads, False) for _ in range(lanes)], _threads.Choice(threads, False, why, lanes)


def check_inputs(graph: GraphSpec, path: Path) -> None:
    """Raises ModelBroken for a graph that is not fed with one picture."""
    if len(graph.inputs) != 1 and [spec.name for spec in graph.inputs[1:]] != ["orig_target_sizes"]:
        others = ", ".join(repr(spec.name) for spec in graph.inputs[1:]) or "none at all"
        raise ModelBroken(f"{path} has {len(graph.inputs)} inputs; a detector has one, the picture, and this one also wants {others}")


def configured_family(config: AgentConfig, graph: GraphSpec, label_count: int | None) -> Family:
    """The family of a graph, with what [model] says of its input and its texts. Raises ConfigError."""
    settings = config.settings.model
    stated = settings.family or ("zero_shot" if settings.text_embeddings else None)
    family = family_for(graph, stated, label_count)
    family.input_format = described(family.input_format, settings, graph)
    if settings.text_embeddings is not None:
        family.use_texts(read_texts(config.resolve(settings.text_embeddings)))
    elif family.task == "zero-shot":
        raise ConfigError('model.text_embeddings: an image encoder needs what to look for; set text_embeddings = "texts.npz"')
    return family


def family_for(graph: GraphSpec, stated: str | None, label_count: int | None = None) -> Family:
    """The family that the user states, or the only one that recognises the graph and, where that helps, has so many classes."""
    shapes = ", ".join(str(list(output.shape)) for output in graph.outputs)
    if stated is not None:
        family = _built(stated, graph)
        if family is None:
            raise ConfigError(f"model.family: this model, with outputs {shapes}, cannot be read as {stated!r}")
        return family
    reasons = {name: plugins.load("models", name).recognise(graph) for name in plugins.names("models")}
    families = [family for name, reason in reasons.items() if reason and (family := _built(name, graph)) is not None]
    found = [family.name for family in families]
    if len(families) == 1:
        log.debug("family recognised family=%s because=%r", found[0], reasons[found[0]])
        return families[0]
    fitting = [family for family in families if family.class_count is None or label_count in _label_counts(family)]
    if len(fitting) == 1 and label_count is not None:
        return fitting[0]
    if found:
        differ = len({family.class_count for family in families}) > 1  # else names of the classes would not help
        counts = ", ".join(f"{family.name} with {family.class_count} classes" for family in families if family.class_count and differ)
        choice = f'family = "{found[0]}" in [model]'
        hint = f" ({counts}): give labels, or decide with {choice}" if counts else f"; decide with {choice}"
        raise ConfigError(f"model.family: outputs {shapes} could be {' or '.join(found)}{hint}")
    raise ConfigError(
        f"model.path: no model family has outputs {shapes}; there are: {', '.join(plugins.names('models'))}. "
        "If it is one of them, say so with family = ... in [model]"
    )


def _built(name: str, graph: GraphSpec) -> Family | None:
    """A family for a graph that it recognises by its shapes; None where it then cannot read them."""
    try:
        family: Family = plugins.load("models", name).build(graph)
    except (ValueError, IndexError, KeyError):
        return None
    return family


def read_labels(path: Path) -> tuple[str, ...]:
    """One class name a line; raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"model.labels: {path} is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"model.labels: {path} cannot be read: {error.strerror}") from None
    return tuple(line.strip() for line in text.rstrip().splitlines())


def labels_for(config: AgentConfig, path: Path, graph: GraphSpec) -> tuple[tuple[str, ...], str] | None:
    """Class names, and where they come from: the user, the file, or a text file beside it."""
    stated = config.settings.model.labels
    if isinstance(stated, tuple):
        return stated, "model.labels"
    if stated is not None:
        return read_labels(config.resolve(stated)), f"model.labels: {config.resolve(stated)}"
    if graph.labels:
        return graph.labels, f"{path}"
    beside = next((p for p in (path.with_suffix(".txt"), path.with_name(path.stem + "_labels.txt")) if p.is_file()), None)
    return None if beside is None else (read_labels(beside), str(beside))


def _label_counts(family: Family) -> set[int]:
    """How many class names the family takes; none where its graph does not tell."""
    count = family.class_count
    return set() if count is None else {count, count + 1} if family.has_background else {count}


def checked_labels(config: AgentConfig, path: Path, family: Family, found: tuple[tuple[str, ...], str] | None) -> tuple[str, ...]:
    """The names that the family's class numbers stand for. Raises ConfigError where they are not as many as its classes."""
    if family.task == "zero-shot" or found is None:
        if not family.default_labels:
            log.warning("model has no class names: classes are called by their numbers; give labels = ... in [model] model=%s", path)
        return family.default_labels
    labels, origin = found
    count = family.class_count
    if count is None and config.settings.model.path == plugins.BUILTIN_MODEL:  # its graph does not tell
        count = len(read_labels(path.with_suffix(".txt")))
    if count is not None and len(labels) == count + 1 and family.has_background:
        return labels[1:]
    if count is None and family.has_background and labels and labels[0].lower() in _NOTHING:
        return labels[1:]  # its graph does not tell, but no class that it finds is nothing
    if count is not None and len(labels) != count:
        raise ConfigError(f"{origin}: {len(labels)} class names, but the model has {count} classes")
    return labels


def all_thresholds(config: AgentConfig, labels: Sequence[str], default: float = Family.default_confidence) -> dict[str, Thresholds]:
    """Those of each enabled camera, by its id. Raises ConfigError with every unknown class of all of them."""
    thresholds: dict[str, Thresholds] = {}
    problems: list[Problem] = []
    for index, camera in enumerate(config.cameras):
        if not camera.settings.enabled:
            continue
        try:
            thresholds[camera.id] = thresholds_for(camera.settings, config.settings.model, labels, index, default)
        except ConfigError as error:
            problems += (problem for problem in error.problems if problem not in problems)  # [model]'s are every camera's
    if problems:
        raise ConfigError(*problems)
    return thresholds


def thresholds_for(
    camera: CameraSettings, model: ModelSettings, labels: Sequence[str], index: int, default: float = Family.default_confidence
) -> Thresholds:
    """The camera's own thresholds where it has them, else the model's, else ``default``. Raises ConfigError for an unknown class."""
    if model.path == plugins.BUILTIN_MODEL:
        default = BUILTIN_CONFIDENCE
    wanted = camera.classes if camera.classes is not None else model.classes
    key = key_name(("cameras", index, "classes")) if camera.classes is not None else "model.classes"
    return Thresholds(
        camera.confidence or model.confidence or default,
        camera.iou or model.iou,
        camera.max_detections or model.max_detections,
        None if wanted is None else _class_ids(wanted, labels, key),
    )


def _class_ids(wanted: Sequence[str | int], labels: Sequence[str], key: str) -> NDArray[np.int32]:
    ids: list[int] = []
    problems: list[str] = []
    for name in wanted:
        if isinstance(name, int):
            if name < 0 or (labels and name >= len(labels)):
                problems.append(f"{key}: there is no class {name}; the model has 0 to {len(labels) - 1}")
            ids.append(name)
        elif name in labels:
            ids.append(list(labels).index(name))
        else:
            problems.append(f"{key}: {name!r} is no class of this model; {_class_hint(name, labels)}")
    if problems:
        raise ConfigError(*problems)
    return np.array(sorted(set(ids)), np.int32)


def _class_hint(name: str, labels: Sequence[str]) -> str:
    if not labels:
        return "it has no names, only numbers"
    close = difflib.get_close_matches(name, labels, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(labels[:40])}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
