"""YOLOv6: [1, cells, 5 + classes], boxes decoded in the graph; column 4 is always 1, as there is no objectness.

Source: meituan/YOLOv6 yolov6/models/effidehead.py (``Detect.forward``) and deploy/ONNX/export_onnx.py: centre x, centre y, width,
height in pixels of the input. The shape is a YOLOX's. What tells the two apart are the transposed convolutions by which YOLOv6
enlarges its maps (yolov6/models/reppan.py); its Lite models have none, and must be stated.
"""

from __future__ import annotations

from edge_agent.models._boxes import cell_counts
from edge_agent.models._objectness import Decoded
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._signs import ENLARGES
from edge_agent.models.base import Family
from edge_agent.runtimes.base import GraphSpec, NoConfig

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """One output [1, cells, 5 + classes], and transposed convolutions in the graph."""
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 3 or not graph.has_operator(ENLARGES) or "names" in graph.metadata:
        return None
    _, rows, columns = graph.outputs[0].shape
    return f"{rows} rows are cells, and maps are enlarged as in YOLOv6" if rows in cell_counts(graph) and columns > 5 else None


class Yolov6(Decoded):
    """Boxes in pixels."""

    name = "yolov6"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov6(graph, cell_counts(graph))
