"""Exports with NMS inside whose boxes, scores and classes are outputs of their own, or rows of seven.

Sources: NVIDIA/TensorRT plugin/efficientNMSPlugin (num_dets [1, 1], det_boxes [1, k, 4], det_scores [1, k], det_classes [1, k]);
torchvision detection models (boxes [N, 4], labels [N], scores [N]); mmdeploy (dets [1, N, 5] with the score last, labels [1, N]);
WongKinYiu/yolov7 export.py ``--end2end`` for ONNX Runtime ([N, 7]: picture, left, top, right, bottom, class, score).
Boxes are left, top, right, bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_agent.models._boxes import Unit, final
from edge_agent.models._preprocess import InputFormat
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, TensorSpec, dequantize

Config = NoConfig
_POSTPROCESS = "TFLite_Detection_PostProcess"
_SEVEN = 7


@dataclass(frozen=True)
class _Roles:
    """Positions among the outputs; ``scores`` is None where they are the boxes' fifth column."""

    boxes: int
    classes: int
    scores: int | None
    count: int | None


def _is_rows_of_seven(graph: GraphSpec) -> bool:
    return len(graph.outputs) == 1 and len(graph.outputs[0].shape) == 2 and graph.outputs[0].shape[1] == _SEVEN


def _kind(spec: TensorSpec) -> str:
    """What an output besides the boxes is, by type or else by name."""
    name = spec.name.lower()
    if spec.shape in {(1, 1), (1,), ()} and ("num" in name or "count" in name or spec.dtype.kind in "iu"):
        return "count"
    if len(spec.shape) not in {1, 2}:
        return ""
    if "score" in name or "conf" in name:
        return "scores"
    if "class" in name or "label" in name or "cls" in name or spec.dtype.kind in "iu":
        return "classes"
    return "scores"


def _roles(graph: GraphSpec) -> _Roles | None:
    outputs = graph.outputs
    if not 2 <= len(outputs) <= 4 or graph.has_operator(_POSTPROCESS):
        return None
    rank = max(len(spec.shape) for spec in outputs)
    boxes = [i for i, spec in enumerate(outputs) if len(spec.shape) == rank in {2, 3} and spec.shape[-1] in {4, 5}]
    if len(boxes) != 1:
        return None
    kinds = {_kind(spec): i for i, spec in enumerate(outputs) if i != boxes[0]}
    if len(kinds) != len(outputs) - 1 or "" in kinds or "classes" not in kinds:
        return None
    if ("scores" in kinds) != (outputs[boxes[0]].shape[-1] == 4):
        return None
    return _Roles(boxes[0], kinds["classes"], kinds.get("scores"), kinds.get("count"))


def recognise(graph: GraphSpec) -> str | None:
    """Rows of seven; or boxes, scores and classes apart, told by integer classes or by their names. Not the outputs of SSD's operator."""
    if _is_rows_of_seven(graph):
        return "rows of seven: picture, box, class, score"
    roles = _roles(graph)
    names = {spec.name for spec in graph.outputs}
    if roles is None or "detection_boxes" in names or any(spec.name == "orig_target_sizes" for spec in graph.inputs):
        return None  # TensorFlow's own order of sides; or a DETR, which is fed otherwise
    by_type = graph.outputs[roles.classes].dtype.kind in "iu"
    return "boxes, scores and classes as outputs of their own" if by_type or roles.count is None else None


class Nms(Family):
    """Final boxes."""

    name = "nms"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        roles = None if _is_rows_of_seven(graph) else _roles(graph)
        if roles is None and not _is_rows_of_seven(graph):
            raise ValueError("not boxes, scores and classes, or rows of seven")
        self._roles, self._specs = roles, graph.outputs
        self._unit = Unit(graph.outputs[0 if roles is None else roles.boxes])

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        if self._roles is None:
            rows = dequantize(outputs[0], self._specs[0])
            return self._final((rows[:, 1:5], rows[:, 6], rows[:, 5]), size, thresholds)
        roles = self._roles
        boxes = self._real(outputs, roles.boxes)
        boxes = boxes.reshape(-1, boxes.shape[-1])
        scores = boxes[:, 4] if roles.scores is None else self._real(outputs, roles.scores).reshape(-1)
        classes = self._real(outputs, roles.classes).reshape(-1)
        count = len(scores) if roles.count is None else max(0, min(len(scores), int(self._real(outputs, roles.count).reshape(-1)[0])))
        return self._final((boxes[:count, :4], scores[:count], classes[:count]), size, thresholds)

    def _final(self, found: tuple[np.ndarray, np.ndarray, np.ndarray], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        boxes, scores, classes = found
        kept = scores >= thresholds.confidence
        boxes = self._unit.in_pixels(boxes[kept], size)
        return final(boxes, scores[kept], classes[kept].round().astype(np.int32), thresholds)

    def _real(self, outputs: Sequence[Tensor], index: int) -> np.ndarray:
        return dequantize(outputs[index], self._specs[index])


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Nms(graph)
