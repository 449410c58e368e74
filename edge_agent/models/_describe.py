"""What there is to know of a model, as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_agent import plugins
from edge_agent.config import AgentConfig
from edge_agent.errors import EdgeAgentError, ExitCode
from edge_agent.image import BgrImage
from edge_agent.models import _families, _labels, _loading, _model_file, _thresholds
from edge_agent.models._description import stated_size
from edge_agent.models._preprocess import InputFormat, input_layout
from edge_agent.models.base import Family, Model
from edge_agent.runtimes.base import FileFacts, GraphSpec, Runtime, RuntimeContext, TensorSpec

_GREY = 114


def describe(config: AgentConfig, *, infer: bool, strict: bool) -> dict[str, Any]:
    """Load the model with one thread and say what it is; ``infer``: also run it on a grey picture.

    Raises EdgeAgentError for what cannot be loaded; with ``strict`` False, a family that cannot be told is in ``problem``.
    """
    settings = config.settings.model
    path = _model_file.model_path(config)
    _model_file.check_file(path)
    context = RuntimeContext(path, 1, stated_size(settings), batch=_loading.asked_batch(settings))
    runtime: Runtime = plugins.load("runtimes", config.runtime).build(context, config.runtime_options)
    graph = runtime.spec
    found = {
        "runtime": graph.runtime,
        "accelerator": graph.accelerator,
        "precision": graph.precision,
        "inputs": [_tensor(spec) for spec in graph.inputs],
        "outputs": [_tensor(spec) for spec in graph.outputs],
    }
    try:
        _families.check_inputs(graph, path)
        family, labels = _family(config, path, graph)
        model = Model(runtime, family, labels)
        _loading.check_together(model, path)
        _thresholds.all_thresholds(config, labels)
    except EdgeAgentError as error:
        if strict:
            raise
        return {**found, "problem": str(error), "lasting": error.exit_code == ExitCode.CONFIG}
    if infer:
        width, height = model.input_size
        grey = BgrImage(np.full((height, width, 3), _GREY, np.uint8))
        model(grey, _thresholds.thresholds_for(config.cameras[0].settings, settings, labels, 0))
    return found | described(graph, family, labels)


def _family(config: AgentConfig, path: Path, graph: GraphSpec) -> tuple[Family, tuple[str, ...]]:
    names = _labels.labels_for(config, path, graph)
    family = _families.configured_family(config, graph, None if names is None else len(names[0]))
    return family, _labels.checked_labels(config, path, family, names)


def described(graph: GraphSpec, family: Family, labels: tuple[str, ...]) -> dict[str, Any]:
    """Family, task, input and classes."""
    layout, (width, height) = input_layout(graph.inputs[0])
    return {
        "family": family.name,
        "task": family.task,
        "because": plugins.load("models", family.name).recognise(graph) or "stated",
        "input": {
            "width": width,
            "height": height,
            "dtype": graph.inputs[0].dtype.name,
            "layout": layout,
            "colour": family.input_format.order,
            "normalisation": normalisation(family.input_format, graph.inputs[0]),
            "letterbox": family.input_format.letterbox,
        },
        "class_count": family.class_count,
        "classes": list(labels),
        "warnings": family.doubts(),
    }


def normalisation(form: InputFormat, spec: TensorSpec) -> str:
    """How a pixel becomes a number, in words."""
    if spec.dtype == np.uint8:
        return "pixels as they are"
    if form.offset == 0.0 and isinstance(form.scale, float):
        return "0 to 255, as it is" if form.scale == 1 else f"0 to {255 * form.scale:.3g}"
    scales = np.broadcast_to(np.array(form.scale), 3)
    mean, deviation = -np.broadcast_to(np.array(form.offset), 3) / scales, 1 / scales
    return f"(pixel - {_numbers(mean)}) / {_numbers(deviation)}"


def _numbers(values: np.ndarray) -> str:
    rounded = [f"{value:.6g}" for value in values.tolist()]
    return rounded[0] if len(set(rounded)) == 1 else f"[{', '.join(rounded)}]"


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    quantization = spec.quantization
    return {
        "name": spec.name,
        "shape": list(spec.shape),
        "dtype": spec.dtype.name,
        "scale": None if quantization is None else quantization.scale,
        "zero_point": None if quantization is None else quantization.zero_point,
    }


def facts(path: Path) -> FileFacts | None:
    """What the file says of itself, by its own bytes; None for a format that only its library reads. Raises ModelError."""
    return plugins.load("runtimes", plugins.PluginKinds().runtime_kind(str(path))).read_facts(path)  # type: ignore[no-any-return]
