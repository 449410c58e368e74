"""DETR: as ``detr``, but the classes compete, and the last one is nothing.

Source: facebookresearch/detr models/detr.py (``PostProcess``), and huggingface transformers (DetrForObjectDetection and
YolosForObjectDetection: logits [1, Q, classes + 1], pred_boxes [1, Q, 4]): a query's confidence is the largest share of a class that
is something, in the softmax over all. The outputs look like an RT-DETR's; these have 100 queries, RT-DETR and its heirs 300.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._boxes import best_class, final, from_centres, softmax
from edge_agent.models._preprocess import IMAGENET, InputFormat
from edge_agent.models._signs import boxes_and_logits
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
QUERIES = 100


def recognise(graph: GraphSpec) -> str | None:
    """Boxes and logits of 100 queries; not by RF-DETR's names."""
    roles = boxes_and_logits(graph)
    if roles is None or graph.outputs[0].shape[1] != QUERIES or graph.outputs[roles[0]].name == "dets":
        return None
    return f"boxes and logits of {QUERIES} queries"


class DetrSoftmax(Family):
    """Boxes of queries whose classes compete with nothing."""

    name = "detr_softmax"
    input_format = InputFormat.normalised("RGB", "none", *IMAGENET)

    def __init__(self, graph: GraphSpec) -> None:
        roles = boxes_and_logits(graph)
        if roles is None or graph.outputs[roles[1]].shape[2] < 2:
            raise ValueError("not boxes and logits of queries")
        self._roles, self._specs = roles, graph.outputs
        self.class_count = graph.outputs[roles[1]].shape[2] - 1

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        boxes, logits = (dequantize(outputs[index][0], self._specs[index]) for index in self._roles)
        class_id, score = best_class(softmax(logits)[:, :-1], thresholds.class_ids)
        return final(from_centres(boxes) * np.array(size * 2, np.float32), score, class_id, thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return DetrSoftmax(graph)
