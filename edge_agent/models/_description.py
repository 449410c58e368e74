"""What [model] says of a model that its file does not: its size, how its input was normalised, what to look for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_agent.config import ModelSettings
from edge_agent.errors import ConfigError
from edge_agent.models._preprocess import InputFormat
from edge_agent.models.base import Texts
from edge_agent.runtimes.base import GraphSpec


def stated_size(settings: ModelSettings) -> tuple[int, int] | None:
    """Width and height of ``input_size``."""
    size = settings.input_size
    return (size, size) if isinstance(size, int) else size


def described(form: InputFormat, settings: ModelSettings, graph: GraphSpec) -> InputFormat:
    """The family's format, with what the file's metadata say of float inputs, and with what the user says. Raises ConfigError."""
    stated = graph.file.normalisation if graph.file else None
    if stated is not None and graph.inputs[0].dtype.kind == "f":
        form = InputFormat.normalised(form.order, form.letterbox, stated.mean, stated.deviation, form.pad)
    if (settings.mean is None) != (settings.std is None):
        raise ConfigError("model.mean: mean and std come together")
    if settings.mean is not None and settings.std is not None:
        form = InputFormat.normalised(form.order, form.letterbox, settings.mean, settings.std, form.pad)
    return replace(form, order=settings.colour or form.order, letterbox=settings.letterbox or form.letterbox)


def read_texts(path: Path) -> Texts:
    """Text embeddings from a .npz: names [n], embeddings [n, D], and optionally logit_scale and logit_bias. Raises ConfigError."""
    where = f"model.text_embeddings: {path}"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: np.asarray(file[key]) for key in file.files}
    except FileNotFoundError:
        raise ConfigError(f"{where} does not exist") from None
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise ConfigError(f"{where} is not a .npz file that can be read: {error}") from None
    names, embeddings = arrays.get("names"), arrays.get("embeddings")
    if names is None or embeddings is None:
        raise ConfigError(f"{where} must hold the arrays names and embeddings; it holds {', '.join(arrays) or 'none'}")
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or names.shape != embeddings.shape[:1] or len(names) == 0:
        raise ConfigError(f"{where}: names and embeddings have shapes {names.shape} and {embeddings.shape}, not [n] and [n, numbers]")
    if not np.isfinite(embeddings).all():
        raise ConfigError(f"{where}: the embeddings are not all numbers")
    scale, bias = arrays.get("logit_scale"), arrays.get("logit_bias")
    return Texts(
        tuple(map(str, names.tolist())),
        embeddings.astype(np.float32),
        100.0 if scale is None else float(scale),
        None if bias is None else float(bias),
    )
