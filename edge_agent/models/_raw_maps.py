"""Raw maps of a head, one for each stride: alone, or beside the output that the same graph has decoded from them.

Source: ultralytics/yolov5 models/yolo.py and WongKinYiu/yolov7 models/yolo.py (``Detect.forward``): three anchors a cell, each map
[1, 3, h, w, 5 + classes]; exports of the older releases list them after the decoded output.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.models._boxes import STRIDES
from edge_agent.models._preprocess import input_layout
from edge_agent.runtimes.base import GraphSpec, TensorSpec

ANCHORS_PER_CELL = 3
_LEVELS = {3: STRIDES, 4: (*STRIDES, 64)}


def map_strides(graph: GraphSpec, specs: Sequence[TensorSpec]) -> list[int] | None:
    """The stride of each of ``specs``, if they are one map for each of the strides 8, 16, 32 (and 64), in any order; else None."""
    _, (width, height) = input_layout(graph.inputs[0])
    strides = _LEVELS.get(len(specs), ())
    sizes = {(-(-height // stride), -(-width // stride)): stride for stride in strides}
    found = [sizes.get(_rows_and_columns(spec), 0) for spec in specs]
    return found if strides and sorted(found) == list(strides) else None


def _rows_and_columns(spec: TensorSpec) -> tuple[int, int]:
    """Of [1, anchors, h, w, numbers] or [1, numbers, h, w]."""
    return (spec.shape[2], spec.shape[3]) if len(spec.shape) in {4, 5} else (0, 0)


def decoded_output(graph: GraphSpec) -> int | None:
    """Position of the one output [1, rows, columns]: alone, or beside the raw maps that it was decoded from."""
    flat = [index for index, spec in enumerate(graph.outputs) if len(spec.shape) == 3 and spec.shape[0] in {1, -1}]
    others = [spec for index, spec in enumerate(graph.outputs) if index not in flat]
    return flat[0] if len(flat) == 1 and (not others or map_strides(graph, others) is not None) else None
