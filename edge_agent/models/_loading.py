"""From ``[model]`` to loaded detectors: which runtime, which family, which labels, which thresholds."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent import plugins
from edge_agent.config import AgentConfig, CameraSettings, ModelSettings
from edge_agent.config_file import key_name
from edge_agent.errors import ConfigError, ModelError
from edge_agent.models.base import Family, Model, Thresholds
from edge_agent.runtimes.base import GraphSpec, Runtime, RuntimeContext

log = logging.getLogger(__name__)

DEFAULT_CONFIDENCE = 0.4
BUILTIN_FILE = "oid_int8_pp.tflite"
BUILTIN_CONFIDENCE = 0.3
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
    """How many inferences run side by side, and with how many threads each, where the user does not say.

    Live: one lane, for latency, and one core is left to the decoders. Files: side by side, for throughput; more threads in
    one inference of a net of this size gain less. More than four of either gain little.
    """
    cores = cores or len(os.sched_getaffinity(0))
    side_by_side = min(4, cores) if only_files else 1
    lanes = side_by_side if settings.lanes == "auto" else settings.lanes
    spare = 1 if lanes > 1 else max(1, min(4, cores - 1))
    return lanes, spare if settings.threads == "auto" else settings.threads


def load(config: AgentConfig, *, only_files: bool = False) -> LoadedModel:
    """Load the detector once per lane. Raises ConfigError for what the user can mend, ModelError for what the file is."""
    settings = config.settings.model
    path = model_path(config)
    check_file(path)
    lane_count, threads = lanes_and_threads(settings, only_files=only_files)
    module = plugins.load("runtimes", config.runtime)
    runtimes: list[Runtime] = [module.build(RuntimeContext(path, threads), config.runtime_options) for _ in range(lane_count)]
    graph = runtimes[0].spec
    if len(graph.inputs) != 1:
        raise ModelError(f"{path} has {len(graph.inputs)} inputs; a detector has one, the picture")
    families = [family_for(graph, settings.family) for _ in runtimes]
    labels = _labels(config, path, graph, families[0])
    lanes = tuple(Model(runtime, family, labels) for runtime, family in zip(runtimes, families, strict=True))
    identity = ModelIdentity(path.stem, _sha256(path), families[0].name, graph.runtime, graph.accelerator, graph.precision)
    log.info(
        "model loaded name=%s family=%s input=%dx%d classes=%d runtime=%r accelerator=%r precision=%s threads=%d lanes=%d",
        identity.name, identity.family, *lanes[0].input_size, len(labels), identity.runtime, identity.accelerator,
        identity.precision, threads, len(lanes),
    )  # fmt: skip
    return LoadedModel(lanes, identity)


def family_for(graph: GraphSpec, stated: str | None) -> Family:
    """The family that the user states, or the only one that recognises the graph."""
    shapes = ", ".join(str(list(output.shape)) for output in graph.outputs)
    if stated is not None:
        try:
            family: Family = plugins.load("models", stated).build(graph)
        except (ValueError, IndexError):
            raise ConfigError(f"model.family: this model, with outputs {shapes}, cannot be read as {stated!r}") from None
        return family
    reasons = {name: plugins.load("models", name).recognise(graph) for name in plugins.names("models")}
    found = [name for name, reason in reasons.items() if reason]
    if len(found) == 1:
        log.debug("family recognised family=%s because=%r", found[0], reasons[found[0]])
        recognised: Family = plugins.load("models", found[0]).build(graph)
        return recognised
    if found:
        raise ConfigError(f'model.family: outputs {shapes} could be {" or ".join(found)}; decide with family = "{found[0]}" in [model]')
    raise ConfigError(
        f"model.path: no model family has outputs {shapes}; there are: {', '.join(plugins.names('models'))}. "
        "If it is one of them, say so with family = ... in [model]"
    )


def read_labels(path: Path) -> tuple[str, ...]:
    """One class name a line; raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"model.labels: {path} is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"model.labels: {path} cannot be read: {error.strerror}") from None
    return tuple(line.strip() for line in text.rstrip().splitlines())


def _labels(config: AgentConfig, path: Path, graph: GraphSpec, family: Family) -> tuple[str, ...]:
    stated = config.settings.model.labels
    if isinstance(stated, tuple):
        labels, origin = stated, "model.labels"
    elif stated is not None:
        labels, origin = read_labels(config.resolve(stated)), f"model.labels: {config.resolve(stated)}"
    elif graph.labels:
        labels, origin = graph.labels, f"{path}"
    else:
        beside = next((p for p in (path.with_suffix(".txt"), path.with_name(path.stem + "_labels.txt")) if p.is_file()), None)
        if beside is None:
            log.warning("model has no class names: classes are called by their numbers; give labels = ... in [model] model=%s", path)
            return ()
        labels, origin = read_labels(beside), str(beside)
    count = family.class_count
    if count is None and config.settings.model.path == plugins.BUILTIN_MODEL:  # its graph does not tell
        count = len(read_labels(path.with_suffix(".txt")))
    if count is not None and len(labels) != count:
        raise ConfigError(f"{origin}: {len(labels)} class names, but the model has {count} classes")
    return labels


def thresholds_for(camera: CameraSettings, model: ModelSettings, labels: Sequence[str], index: int) -> Thresholds:
    """The camera's own thresholds where it has them, else the model's. Raises ConfigError for an unknown class."""
    default = BUILTIN_CONFIDENCE if model.path == plugins.BUILTIN_MODEL else DEFAULT_CONFIDENCE
    wanted = camera.classes if camera.classes is not None else model.classes
    key = key_name(("cameras", index, "classes")) if camera.classes is not None else "model.classes"
    return Thresholds(
        camera.confidence or model.confidence or default,
        camera.iou or model.iou,
        camera.max_detections or model.max_detections,
        None if wanted is None else _class_ids(wanted, labels, key),
    )


def _class_ids(wanted: Sequence[str | int], labels: Sequence[str], key: str) -> NDArray[np.int32]:
    ids = []
    for name in wanted:
        if isinstance(name, int):
            if name < 0 or (labels and name >= len(labels)):
                raise ConfigError(f"{key}: there is no class {name}; the model has 0 to {len(labels) - 1}")
            ids.append(name)
            continue
        if name not in labels:
            close = difflib.get_close_matches(name, labels, n=1)
            hint = (
                f"did you mean {close[0]!r}?"
                if close
                else f"it has: {', '.join(labels[:40])}"
                if labels
                else "it has no names, only numbers"
            )
            raise ConfigError(f"{key}: {name!r} is no class of this model; {hint}")
        ids.append(list(labels).index(name))
    return np.array(sorted(set(ids)), np.int32)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
