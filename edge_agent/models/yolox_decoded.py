"""YOLOX exported with its decoding in the graph (``--decode_in_inference``): [1, cells, 5 + classes], boxes in pixels.

Source: Megvii-BaseDetection/YOLOX yolox/models/yolo_head.py, ``decode_outputs``: centre x, centre y, width, height in
pixels of the input; objectness and classes are probabilities. The shape is that of the raw export; the graph has an
``Exp``, which the raw one has not.
"""

from __future__ import annotations

from edge_agent.models._boxes import cells
from edge_agent.models._objectness import Decoded
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._signs import ENLARGES
from edge_agent.models.base import Family
from edge_agent.runtimes.base import GraphSpec, NoConfig

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """As YOLOX, with an ``Exp`` in the graph; where the graph cannot be read (.ort), it may be either."""
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 3 or "names" in graph.metadata:
        return None
    _, rows, columns = graph.outputs[0].shape
    others = graph.has_operator("Softmax") or graph.has_operator(ENLARGES)
    if rows == cells(graph) and columns > 5 and graph.has_operator("Exp") is not False and not others:
        return f"{rows} rows are the cells of strides 8, 16 and 32, and the graph decodes them"
    return None


class YoloxDecoded(Decoded):
    """YOLOX with boxes in pixels."""

    name = "yolox_decoded"
    input_format = InputFormat("BGR", "top_left")


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return YoloxDecoded(graph, {cells(graph)})
