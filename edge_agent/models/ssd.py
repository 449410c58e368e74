"""SSD and EfficientDet-Lite with TFLite_Detection_PostProcess: four outputs, boxes as fractions, NMS inside.

Source: tensorflow/lite/kernels/detection_postprocess.cc: boxes [1, k, 4] as top, left, bottom, right; classes [1, k];
scores [1, k]; count [1]. TensorFlow 2 exports list them in another order: scores, boxes, count, classes. Models of TensorFlow's object
detection that are exported otherwise (tf2onnx) have outputs called ``detection_boxes`` and so on, in any order and among others, and
classes that begin with 1 (object_detection/exporter_lib_v2.py); the operator's begin with 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.models._preprocess import InputFormat, pixels_as_they_are
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
OPERATOR = "TFLite_Detection_PostProcess"
_NAMES = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")


def _named(graph: GraphSpec) -> tuple[int, int, int, int] | None:
    """Positions by TensorFlow's own names, which may end in ``:0``."""
    names = [spec.name.partition(":")[0] for spec in graph.outputs]
    if any(name not in names for name in _NAMES):
        return None
    boxes, classes, scores, count = (names.index(name) for name in _NAMES)
    return boxes, classes, scores, count


def _roles(graph: GraphSpec) -> tuple[int, int, int, int] | None:
    """Positions of boxes, classes, scores and count among the outputs."""
    if (named := _named(graph)) is not None:
        return named
    shapes = [output.shape for output in graph.outputs]
    boxes = [i for i, s in enumerate(shapes) if len(s) == 3 and s[0] == 1 and s[2] == 4]
    flat = [i for i, s in enumerate(shapes) if len(s) == 2 and boxes and s == (1, shapes[boxes[0]][1])]
    count = [i for i, s in enumerate(shapes) if s in {(1,), (), (1, 1)} and i not in flat]
    if len(shapes) != 4 or len(boxes) != 1 or len(flat) != 2 or len(count) != 1:
        return None
    first, second = flat
    if boxes[0] < first:  # the operator's own order
        return boxes[0], first, second, count[0]
    return boxes[0], second, first, count[0]


def recognise(graph: GraphSpec) -> str | None:
    """The operator TFLite_Detection_PostProcess, or TensorFlow's names: by shapes alone classes and scores cannot be told apart."""
    if _roles(graph) is None or not (graph.has_operator(OPERATOR) or _named(graph)):
        return None
    return "four outputs: boxes, classes, scores, count"


class Ssd(Family):
    """Final boxes as fractions of the input."""

    name = "ssd"
    has_background = True
    input_format = InputFormat("RGB", "none", scale=1 / 127.5, offset=-1.0)

    def __init__(self, graph: GraphSpec) -> None:
        roles = _roles(graph)
        if roles is None:
            raise ValueError("not the outputs of TFLite_Detection_PostProcess")
        self._roles = roles
        self._specs = graph.outputs
        self._first_class = 0 if graph.has_operator(OPERATOR) or _named(graph) is None else 1
        self.input_format = pixels_as_they_are(graph.inputs[0], Ssd.input_format)

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        # Some 25 rows, of which few count. Right after an inference the caches are cold and each of numpy's functions
        # costs more than the rows do, so they are sifted as plain numbers.
        count, scores = self._real(outputs, 3), self._real(outputs, 2).reshape(-1)
        valid = max(0, min(int(count.reshape(-1)[0]), len(scores)))
        sure = thresholds.confidence
        found = [(-score, row) for row, score in enumerate(scores[:valid].tolist()) if score >= sure]
        if not found:
            return Candidates.none()
        classes = (self._real(outputs, 1).reshape(-1) - self._first_class).tolist()
        if thresholds.class_ids is not None:
            wanted = set(thresholds.class_ids.tolist())
            found = [(score, row) for score, row in found if round(classes[row]) in wanted]
        found.sort()
        rows = [row for _, row in found[: thresholds.max_detections]]
        boxes = self._real(outputs, 0).reshape(-1, 4)[rows]
        return Candidates(
            boxes[:, [1, 0, 3, 2]] * np.array(size * 2, np.float32),
            scores[rows],
            np.array([round(classes[row]) for row in rows], np.int32),
        )

    def _real(self, outputs: Sequence[Tensor], role: int) -> NDArray[np.float32]:
        index = self._roles[role]
        return dequantize(outputs[index], self._specs[index])


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Ssd(graph)
