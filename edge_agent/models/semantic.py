"""Semantic segmentation: the class of each part of the picture, as a map of classes or as scores of each class.

Layouts: integers [1, h, w] (also with an axis of one channel), or scores [1, h, w, classes] or [1, classes, h, w] at an eighth of the
input's size or more. Input as of classification. Softmax does not change which class is best, so scores are compared as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._preprocess import input_layout
from edge_agent.models._results import More
from edge_agent.models._whole_picture import usual_format
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor

Config = NoConfig
_COARSEST = 8
_AUXILIARY = "aux"
"""What torchvision's models also put out, for their training."""


def _map_axes(graph: GraphSpec) -> tuple[int, int] | None:
    """The axis of the classes of the output (-1: it holds classes, not scores), and their number (0: unknown)."""
    spec = graph.outputs[0]
    others = graph.outputs[1:]
    if others and not (len(others) == 1 and others[0].name == _AUXILIARY and others[0].shape == spec.shape):
        return None
    _, (width, height) = input_layout(graph.inputs[0])
    if len(spec.shape) not in {3, 4} or spec.shape[0] not in {1, -1}:
        return None
    found = []
    for axis in (1, 3):
        if len(spec.shape) != 4:
            break
        sides = [size for index, size in enumerate(spec.shape[1:], 1) if index != axis]
        if sides[0] * _COARSEST >= height and sides[1] * _COARSEST >= width and 1 <= spec.shape[axis] <= 1024:
            found.append(axis)
    if len(spec.shape) == 3:
        fits = spec.shape[1] * _COARSEST >= height and spec.shape[2] * _COARSEST >= width
        return (-1, 0) if fits and spec.dtype.kind in "iu" and spec.quantization is None else None
    if not found:
        return None
    axis = min(found, key=lambda index: spec.shape[index])
    if spec.shape[axis] == 1:
        return (-1, 0) if spec.dtype.kind in "iu" and spec.quantization is None else None
    return axis, spec.shape[axis]


def recognise(graph: GraphSpec) -> str | None:
    """One output over the picture: whole numbers, or scores of at least two classes."""
    axes = _map_axes(graph)
    if axes is None:
        return None
    return "a map of classes" if axes[0] < 0 else f"maps of {axes[1]} classes"


class Semantic(Family):
    """The class of each part."""

    name = "semantic"
    task = "semantic segmentation"

    def __init__(self, graph: GraphSpec) -> None:
        axes = _map_axes(graph)
        if axes is None:
            raise ValueError("not a map of classes")
        self._axis = axes[0]
        self.class_count = axes[1] or None
        self.input_format = usual_format(graph, graph.inputs[0])

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        output = outputs[0]
        if self._axis < 0:
            classes = output[0].reshape(output.shape[1:3] if output.ndim == 3 or output.shape[3] == 1 else output.shape[2:])
        else:
            classes = output[0].argmax(axis=self._axis - 1)
        none = Candidates.none()
        return Candidates(none.xyxy, none.confidence, none.class_id, More(class_map=classes.astype(np.int32)))


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Semantic(graph)
