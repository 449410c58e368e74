"""RT-DETR, D-FINE and RF-DETR: a fixed number of queries, each with a box and a logit for each class; no NMS.

Sources: lyuwenyu/RT-DETR and Peterande/D-FINE tools/deployment/export_onnx.py (images, orig_target_sizes -> labels, boxes,
scores: boxes are pixels of the size given); roboflow/rf-detr deploy/export.py (dets [1, Q, 4], labels [1, Q, C]) and
huggingface transformers (logits, pred_boxes): centre x, centre y, width, height as fractions; ultralytics RTDETRDecoder
([1, Q, 4 + classes], the same boxes, and probabilities).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.errors import ModelError
from edge_agent.models._anchor_free import metadata_task
from edge_agent.models._anchors import anchors_of
from edge_agent.models._boxes import Floats, Ints, cell_counts, final, from_centres, logit, sigmoid, strongest
from edge_agent.models._preprocess import IMAGENET, InputFormat
from edge_agent.models._signs import ATTENTION, LEAST_QUERIES, MOST_QUERIES, boxes_and_logits
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
SIZES = "orig_target_sizes"
FINAL_ROW = 6
"""Numbers of a row of those heads that need no NMS: box, confidence, class; and of a DETR of two classes."""


def _three(graph: GraphSpec) -> tuple[int, int, int] | None:
    """Positions of boxes, scores and labels of an export that is told the picture's size."""
    names = [output.name for output in graph.outputs]
    if SIZES not in [spec.name for spec in graph.inputs[1:]] or sorted(names) != ["boxes", "labels", "scores"]:
        return None
    return names.index("boxes"), names.index("scores"), names.index("labels")


def _one(graph: GraphSpec) -> bool:
    """Whether it is Ultralytics' export with one output."""
    shape = graph.outputs[0].shape
    if len(graph.outputs) != 1 or len(shape) != 3 or metadata_task(graph) not in {"", "detect"}:
        return False
    is_final = shape[2] == FINAL_ROW and not graph.has_operator(ATTENTION)
    return LEAST_QUERIES <= shape[1] <= MOST_QUERIES and shape[2] > 4 and not is_final


def recognise(graph: GraphSpec) -> str | None:
    """Boxes and logits of 50 to 900 queries; or labels, boxes and scores with an input for the size; or Ultralytics' one output."""
    if _three(graph):
        return f"labels, boxes and scores, and the input {SIZES}"
    if boxes_and_logits(graph) and anchors_of(graph, graph.outputs[0].shape[1]) is None:
        return f"boxes and logits of {graph.outputs[0].shape[1]} queries"
    if _one(graph) and graph.outputs[0].shape[1] not in cell_counts(graph) and graph.outputs[0].shape[2] not in cell_counts(graph):
        _, rows, columns = graph.outputs[0].shape
        if rows == 300 or columns == 4 + len(graph.labels):
            return f"{rows} queries of a box and {columns - 4} classes"
    return None


class Detr(Family):
    """Boxes of queries."""

    name = "detr"
    input_format = InputFormat("RGB", "none", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        self._two, self._three, self._specs = boxes_and_logits(graph), _three(graph), graph.outputs
        if self._three is not None:
            return
        if self._two is not None:
            self.class_count = graph.outputs[self._two[1]].shape[2]
            if {output.name for output in graph.outputs} == {"dets", "labels"}:  # RF-DETR is trained as ImageNet's classifiers are
                self.input_format = InputFormat.normalised("RGB", "none", *IMAGENET)
        elif _one(graph):
            self.class_count = graph.outputs[0].shape[2] - 4
        else:
            raise ValueError("not boxes and logits of queries")

    def other_inputs(self, size: tuple[int, int]) -> dict[str, Tensor]:
        return {SIZES: np.array([size], np.int64)} if self._three is not None else {}

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        real = [dequantize(output[0], spec) for output, spec in zip(outputs, self._specs, strict=True)]
        if self._three is not None:
            boxes, scores, labels = (real[index] for index in self._three)
            return final(boxes.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1).round().astype(np.int32), thresholds)
        if self._two is not None:
            boxes, logits = (real[index] for index in self._two)
            self._refuse_softmax(logits)
            query, class_id = _above(logits, logit(thresholds.confidence), thresholds)
            confidence = sigmoid(logits[query, class_id])
        else:
            boxes, scores = real[0][:, :4], real[0][:, 4:]
            query, class_id = _above(scores, thresholds.confidence, thresholds)
            confidence = scores[query, class_id]
        order = strongest(confidence, thresholds.max_detections)
        found = from_centres(boxes[query[order]]) * np.array(size * 2, np.float32)
        return Candidates(found, confidence[order], class_id[order])

    def _refuse_softmax(self, logits: Floats) -> None:
        """Raises ModelError where most queries are sure of the last class: that is the class for nothing of a DETR with a softmax."""
        if 2 * int((logits[:, -1] > 0).sum()) > len(logits):
            raise ModelError(
                "most queries are sure of the last class, which must then be the class for nothing: if this is a DETR whose classes "
                'compete in a softmax, set family = "detr_softmax" in [model]'
            )


def _above(values: Floats, floor: float, thresholds: Thresholds) -> tuple[np.ndarray, Ints]:
    """Queries and classes above the floor: one query may stand for two classes, as in the authors' own post-processing."""
    query, class_id = np.nonzero(values >= floor)
    if thresholds.class_ids is not None:
        wanted = np.isin(class_id, thresholds.class_ids)
        query, class_id = query[wanted], class_id[wanted]
    return query, class_id.astype(np.int32)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Detr(graph)
