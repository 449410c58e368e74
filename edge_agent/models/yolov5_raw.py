"""YOLOv5, and YOLOv7-tiny, exported without their decoding: see ``_anchor_grid.py``.

Source: ultralytics/yolov5 models/yolov5s.yaml, WongKinYiu/yolov7 cfg/training/yolov7-tiny.yaml: the same anchors.
A training that made its own (YOLOv5 does where these fit its boxes badly) cannot be read so: export it with its decoding.
"""

from __future__ import annotations

from edge_agent.models._anchor_grid import AnchorGrid, recognised
from edge_agent.models.base import Family
from edge_agent.runtimes.base import GraphSpec, NoConfig

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """One map [1, 3, h, w, 5 + classes] for each stride; a YOLOv7's are the same."""
    return recognised(graph)


class Yolov5Raw(AnchorGrid):
    """With YOLOv5's anchors."""

    name = "yolov5_raw"
    anchors = {
        8: ((10, 13), (16, 30), (33, 23)),
        16: ((30, 61), (62, 45), (59, 119)),
        32: ((116, 90), (156, 198), (373, 326)),
    }


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov5Raw(graph)
