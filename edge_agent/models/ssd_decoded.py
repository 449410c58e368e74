"""SSD whose graph decodes its boxes, but does not suppress any: scores [1, anchors, 1 + classes], boxes [1, anchors, 4].

Source: qfgaohao/pytorch-ssd vision/ssd/ssd.py (``is_test``) and its fork in dusty-nv/jetson-inference (``onnx_export.py``); also
Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB: boxes are left, top, right, bottom as fractions of the input, scores a softmax whose
class 0 is nothing, the input (pixel - 127) / 128. The shapes are those of ``ssd_raw``; the graph has the ``Exp`` that decodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._boxes import Unit, best_class, suppress
from edge_agent.models._preprocess import InputFormat, pixels_as_they_are
from edge_agent.models._signs import MOST_QUERIES, boxes_and_scores
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """Boxes and scores of more than 900 anchors, and a graph with the ``Exp`` of the decoding and the ``Softmax`` of the scores."""
    roles = boxes_and_scores(graph)
    if roles is None or not (graph.has_operator("Exp") and graph.has_operator("Softmax")):
        return None
    rows = graph.outputs[roles[0]].shape[1]
    return f"boxes of {rows} anchors, which the graph decodes" if rows > MOST_QUERIES else None  # a DETR's outputs look alike


class SsdDecoded(Family):
    """Boxes as fractions of the input."""

    name = "ssd_decoded"
    has_background = True

    def __init__(self, graph: GraphSpec) -> None:
        roles = boxes_and_scores(graph)
        if roles is None:
            raise ValueError("not boxes and scores of as many rows")
        self._roles, self._specs = roles, graph.outputs
        self._unit = Unit(graph.outputs[roles[0]])
        self.class_count = graph.outputs[roles[1]].shape[-1] - 1
        self.input_format = pixels_as_they_are(
            graph.inputs[0], InputFormat.normalised("RGB", "none", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
        )

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        every, scores = (dequantize(outputs[index][0], self._specs[index]) for index in self._roles)
        index = np.flatnonzero(scores[:, 1:].max(axis=1) >= thresholds.confidence)
        class_id, score = best_class(scores[index, 1:], thresholds.class_ids)
        kept = score >= thresholds.confidence
        boxes = self._unit.in_pixels(every[index[kept]], size, met=every)
        return suppress(boxes, score[kept], class_id[kept], thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return SsdDecoded(graph)
