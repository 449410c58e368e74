"""The names that a family's class numbers stand for: where they come from, and whether they are as many as its classes."""

from __future__ import annotations

import logging
from pathlib import Path

from edge_agent import plugins
from edge_agent.config import AgentConfig
from edge_agent.errors import ConfigError
from edge_agent.models.base import Family
from edge_agent.runtimes.base import GraphSpec

log = logging.getLogger(__name__)

_NOTHING = {"???", "background", "__background__", "unlabeled"}
"""What label files call a class 0 that is nothing."""


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


def label_counts(family: Family) -> set[int]:
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
