"""Which family reads a graph: the one that the user states, or the only one that recognises it."""

from __future__ import annotations

import logging
from pathlib import Path

from edge_agent import plugins
from edge_agent.config import AgentConfig
from edge_agent.errors import ConfigError, ModelBroken
from edge_agent.models._description import described, read_texts
from edge_agent.models._labels import label_counts
from edge_agent.models.base import Family
from edge_agent.runtimes.base import GraphSpec

log = logging.getLogger(__name__)


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
    fitting = [family for family in families if family.class_count is None or label_count in label_counts(family)]
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
