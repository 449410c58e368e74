"""YOLOv7 and YOLOv7x exported without their decoding (``export.py`` without ``--grid``): see ``_anchor_grid.py``.

Source: WongKinYiu/yolov7 cfg/training/yolov7.yaml. YOLOv7-tiny has YOLOv5's anchors. Those of four strides are the same in both,
so such graphs are taken by ``yolov5_raw`` alone.
"""

from __future__ import annotations

from edge_agent.models._anchor_grid import AnchorGrid, recognised
from edge_agent.models.base import Family
from edge_agent.runtimes.base import GraphSpec, NoConfig

Config = NoConfig
_LEVELS = 3


def recognise(graph: GraphSpec) -> str | None:
    """One map [1, 3, h, w, 5 + classes] for each of three strides; a YOLOv5's are the same."""
    return recognised(graph) if len(graph.outputs) == _LEVELS else None


class Yolov7Raw(AnchorGrid):
    """With YOLOv7's anchors."""

    name = "yolov7_raw"
    anchors = {
        8: ((12, 16), (19, 36), (40, 28)),
        16: ((36, 75), (76, 55), (72, 146)),
        32: ((142, 110), (192, 243), (459, 401)),
    }


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov7Raw(graph)
