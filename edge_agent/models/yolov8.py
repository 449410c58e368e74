"""YOLOv8, 9, 11, 12, YOLO-World and YOLOE heads: [1, 4 + classes, cells], or transposed; no objectness.

Source: ultralytics/ultralytics nn/modules/head.py (Detect, WorldDetect, YOLOEDetect) and engine/exporter.py: ONNX files hold
pixels of the input, TFLite files fractions of it. YOLO-World and YOLOE are exported with their classes baked in, as this head.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.models._anchor_free import AnchorFree, is_transposed, metadata_task
from edge_agent.models._boxes import suppress
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._signs import ENLARGES
from edge_agent.models.base import Candidates, Family, Thresholds, only_output
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """One output [1, 4 + classes, cells]; the transposed form with Ultralytics' metadata or a Softmax, or it could be a YOLOX."""
    if len(graph.outputs) != 1 or metadata_task(graph) not in {"", "detect"}:
        return None
    transposed = is_transposed(graph, graph.outputs[0])
    if transposed is None or (transposed and "names" not in graph.metadata and graph.has_operator(ENLARGES)):
        return None
    _, rows, columns = graph.outputs[0].shape
    return f"{rows if transposed else columns} {'rows' if transposed else 'columns'} are the cells of strides 8, 16 and 32"


class Yolov8(Family):
    """Boxes without objectness."""

    name = "yolov8"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        self._head = AnchorFree(graph, only_output(graph))
        self.class_count = self._head.class_count

    def doubts(self) -> list[str]:
        return self._head.doubts()

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        boxes, confidence, class_id, _ = self._head.candidates(outputs[0], size, thresholds)
        return suppress(boxes, confidence, class_id, thresholds)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov8(graph)
