"""SSD before its post-processing: box encodings [1, anchors, 4] and scores [1, anchors, 1 + classes], class 0 being nothing.

Source: Liu et al., "SSD" (arXiv 1512.02325), and tensorflow/models object_detection: core/box_coders (faster_rcnn_box_coder:
ty, tx, th, tw, scaled by 10, 10, 5, 5) and anchor_generators/multiple_grid_anchor_generator.py (``create_ssd_anchors`` with
``reduce_boxes_in_lowest_layer``), as ssd_mobilenet_v1/v2 and ssdlite are trained. Anchors come from the graph where it holds
a constant of that many rows (top, left, bottom, right, or centre y, x, height, width, as TFLite's operator wants them).
Scores are probabilities, or their logits, each on its own: told by whether the graph ends in a ``Sigmoid``, or by the values met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._anchors import anchors_of
from edge_agent.models._boxes import Floats, best_class, logit, sigmoid, suppress
from edge_agent.models._preprocess import InputFormat, pixels_as_they_are
from edge_agent.models._signs import boxes_and_scores
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
_CODER = (10.0, 10.0, 5.0, 5.0)
_LARGEST_EXPONENT = 20.0


def _decoded(encoded: Floats, anchors: Floats) -> Floats:
    """Top, left, bottom, right as fractions of the input."""
    steps = encoded / np.array(_CODER, np.float32)
    centres = steps[:, :2] * anchors[:, 2:] + anchors[:, :2]
    half = np.exp(np.minimum(steps[:, 2:], np.float32(_LARGEST_EXPONENT))) * anchors[:, 2:] / np.float32(2)
    return np.concatenate((centres - half, centres + half), axis=1).astype(np.float32)


def recognise(graph: GraphSpec) -> str | None:
    """Encodings and scores of as many rows as ssd_mobilenet has anchors, or as a constant in the graph, which does not decode (Exp)."""
    roles = boxes_and_scores(graph)
    if roles is None or graph.has_operator("Exp"):
        return None
    rows = graph.outputs[roles[0]].shape[1]
    return f"{rows} anchors" if anchors_of(graph, rows) is not None else None


class SsdRaw(Family):
    """Boxes as offsets from anchors."""

    name = "ssd_raw"
    has_background = True

    def __init__(self, graph: GraphSpec) -> None:
        roles = boxes_and_scores(graph)
        anchors = None if roles is None else anchors_of(graph, graph.outputs[roles[0]].shape[1])
        if roles is None or anchors is None:
            raise ValueError("not encodings and scores of as many rows as there are anchors")
        self._roles, self._specs, self._anchors = roles, graph.outputs, anchors
        self._columns = graph.outputs[roles[1]].shape[-1]
        self.class_count = self._columns - 1
        self.input_format = pixels_as_they_are(graph.inputs[0], InputFormat("RGB", "none", scale=1 / 127.5, offset=-1.0))
        self._logits: bool | None = None

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        boxes, scores = self._roles
        every = dequantize(outputs[scores], self._specs[scores]).reshape(-1, self._columns)
        if self._logits is None:
            self._logits = bool(every.min() < 0 or every.max() > 1)
        floor = logit(thresholds.confidence) if self._logits else thresholds.confidence
        index = np.flatnonzero(every[:, 1:].max(axis=1) >= floor)
        class_id, score = best_class(every[index, 1:], thresholds.class_ids)
        kept = score >= floor
        index, class_id, score = index[kept], class_id[kept], score[kept]
        encoded = dequantize(outputs[boxes].reshape(-1, 4)[index], self._specs[boxes])
        corners = _decoded(encoded, self._anchors[index])[:, [1, 0, 3, 2]] * np.array(size * 2, np.float32)
        return suppress(corners, sigmoid(score) if self._logits else score, class_id, thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return SsdRaw(graph)
