"""Zero-shot by image embedding: an image encoder such as CLIP's or SigLIP's, and a file of text embeddings to compare with.

Sources: Radford et al., "CLIP" (arXiv 2103.00020): probabilities are the softmax of the cosines times 100; Zhai et al., "SigLIP"
(arXiv 2303.15343): each text on its own, sigmoid(cosine * scale + bias). The output is [1, D]: the same shape as a
classifier's, so it takes ``text_embeddings`` in [model], or an output that is called an embedding.
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
_CLIP = ((122.7709, 116.7460, 104.0937), (68.5005, 66.6322, 70.3232))


def recognise(graph: GraphSpec) -> str | None:
    """One row of numbers that is called an embedding."""
    count = scores_of(graph)
    if count is None or not ("embed" in graph.outputs[0].name.lower() or "feature" in graph.outputs[0].name.lower()):
        return None
    return f"one embedding of {count} numbers"


class ZeroShot(Family):
    """The texts that the whole picture is like."""

    name = "zero_shot"
    task = "zero-shot"
    default_confidence = 0.2
    input_format = InputFormat.normalised("RGB", "none", *_CLIP)

    def __init__(self, graph: GraphSpec) -> None:
        count = scores_of(graph)
        if count is None:
            raise ValueError("not one embedding")
        self._dimensions = count
        self._spec = graph.outputs[0]
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
        picture = dequantize(outputs[0].reshape(-1), self._spec)
        length = np.float32(max(float(np.linalg.norm(picture)), 1e-12))
        logits: Floats = self._texts.embeddings @ (picture / length) * np.float32(self._texts.scale)
        return ranked(softmax(logits) if self._texts.bias is None else sigmoid(logits + self._texts.bias), thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return ZeroShot(graph)
