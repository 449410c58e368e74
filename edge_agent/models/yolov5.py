"""YOLOv5 and YOLOv7 heads: [1, rows, 5 + classes], boxes decoded in the graph, objectness in column 4.

Source: ultralytics/yolov5 export.py and utils/general.py (non_max_suppression); WongKinYiu/yolov7 export.py (``--grid``).
ONNX files hold pixels of the input, TFLite files of Ultralytics fractions of it. Older releases list the raw maps as outputs too.
"""

from __future__ import annotations

from edge_agent.models._boxes import cell_counts
from edge_agent.models._objectness import Decoded
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._raw_maps import ANCHORS_PER_CELL, decoded_output
from edge_agent.models.base import Family
from edge_agent.runtimes.base import GraphSpec, NoConfig

Config = NoConfig


def _rows(graph: GraphSpec) -> set[int]:
    return {ANCHORS_PER_CELL * count for count in cell_counts(graph)}


def recognise(graph: GraphSpec) -> str | None:
    """One output [1, rows, 5 + classes] with three rows a cell of strides 8, 16, 32 (and 64), alone or beside raw maps."""
    index = decoded_output(graph)
    if index is None:
        return None
    _, rows, columns = graph.outputs[index].shape
    if rows in _rows(graph) and columns > 5:
        return f"{rows} rows are three anchors a cell"
    return None


class Yolov5(Decoded):
    """Boxes with objectness."""

    name = "yolov5"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov5(graph, _rows(graph))
