"""Classification: one score for each class, [1, classes].

Scores that are no probabilities (below 0, or above 1) go through a softmax. Input: bytes as they are; floats as
TensorFlow's models want them (-1 to 1) in TFLite files, as torchvision's do (ImageNet's mean and deviation) in ONNX files, and
0 to 1 for Ultralytics'; the file's own metadata come before all of these.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.models._whole_picture import as_probabilities, ranked, scores_of, usual_format
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """One output, one row of at least two numbers, not named an embedding."""
    count = scores_of(graph)
    if count is None or any(part in graph.outputs[0].name.lower() for part in ("embed", "feature", "pooler")):
        return None
    return f"one row of {count} scores"


class Classify(Family):
    """The classes of the whole picture."""

    name = "classify"
    task = "classification"
    has_background = True
    default_confidence = 0.1

    def __init__(self, graph: GraphSpec) -> None:
        self.class_count = scores_of(graph)
        if self.class_count is None:
            raise ValueError("not one row of scores")
        self._spec = graph.outputs[0]
        self.input_format = usual_format(graph, graph.inputs[0])

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        return ranked(as_probabilities(dequantize(outputs[0].reshape(-1), self._spec)), thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Classify(graph)
