"""From the settings of [model] and of each camera to what is reported of it: how sure, and which classes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent import plugins
from edge_agent.config import AgentConfig, ModelSettings
from edge_agent.config_camera import CameraSettings
from edge_agent.errors import ConfigError, Problem
from edge_agent.models.base import Family, Thresholds
from edge_agent.toml_lines import key_name

BUILTIN_CONFIDENCE = 0.3


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
