"""Zero-shot by image embedding: an image encoder such as CLIP's or SigLIP's, and a file of text embeddings to compare with.

Sources: Radford et al., "CLIP" (arXiv 2103.00020): probabilities are the softmax of the cosines times 100; Zhai et al., "SigLIP"
(arXiv 2303.15343): each text on its own, sigmoid(cosine * scale + bias). The output is [1, D]: the same shape as a
classifier's, so it takes ``text_embeddings`` in [model], or an output that is called an embedding. Hugging Face's exports also list
the states of each patch, [1, patches, D], which are left aside; of several rows, ``image_embeds`` is taken, or
``pooler_output``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.errors import ConfigError
from edge_agent.models._boxes import Floats, sigmoid, softmax
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._whole_picture import ranked, scores_of
from edge_agent.models.base import Candidates, Family, Texts, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
_EMBEDDINGS = ("image_embeds", "pooler_output")
_CLIP = ((122.7709, 116.7460, 104.0937), (68.5005, 66.6322, 70.3232))


def _embedding(graph: GraphSpec) -> tuple[int, int] | None:
    """Position and length of the embedding among the outputs."""
    count = scores_of(graph)
    if count is not None:
        return 0, count
    rows = {spec.name: index for index, spec in enumerate(graph.outputs) if len(spec.shape) == 2 and spec.shape[0] == 1 < spec.shape[1]}
    index = next((rows[name] for name in _EMBEDDINGS if name in rows), None)
    return None if index is None else (index, graph.outputs[index].shape[1])


def recognise(graph: GraphSpec) -> str | None:
    """One row of numbers that is called an embedding."""
    found = _embedding(graph)
    if found is None or not any(part in graph.outputs[found[0]].name.lower() for part in ("embed", "feature", "pooler")):
        return None
    return f"one embedding of {found[1]} numbers"


class ZeroShot(Family):
    """The texts that the whole picture is like."""

    name = "zero_shot"
    task = "zero-shot"
    default_confidence = 0.2
    input_format = InputFormat.normalised("RGB", "none", *_CLIP)

    def __init__(self, graph: GraphSpec) -> None:
        found = _embedding(graph)
        if found is None:
            raise ValueError("not one embedding")
        self._index, self._dimensions = found
        self._spec = graph.outputs[self._index]
        self._texts: Texts | None = None

    def use_texts(self, texts: Texts) -> None:
        if texts.embeddings.shape[1] != self._dimensions:
            raise ConfigError(
                f"model.text_embeddings: they have {texts.embeddings.shape[1]} numbers each, this model's {self._dimensions}; "
                "they must be made by the text encoder of the same model"
            )
        lengths = np.linalg.norm(texts.embeddings, axis=1, keepdims=True)
        self._texts = Texts(texts.names, texts.embeddings / np.maximum(lengths, 1e-12), texts.scale, texts.bias)
        self.default_labels = texts.names
        self.class_count = len(texts.names)

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        assert self._texts is not None  # the loader has seen to it
        picture = dequantize(outputs[self._index].reshape(-1), self._spec)
        length = np.float32(max(float(np.linalg.norm(picture)), 1e-12))
        logits: Floats = self._texts.embeddings @ (picture / length) * np.float32(self._texts.scale)
        return ranked(softmax(logits) if self._texts.bias is None else sigmoid(logits + self._texts.bias), thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return ZeroShot(graph)
