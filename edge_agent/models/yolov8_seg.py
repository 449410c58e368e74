"""YOLOv8/9/11/12 instance segmentation: [1, 4 + classes + P, cells], and prototypes [1, P, h, w] or [1, h, w, P].

Source: ultralytics/ultralytics nn/modules/head.py (Segment); how prototypes make a mask: ``_prototypes.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.models._anchor_free import AnchorFree, is_transposed, metadata_task, survivors_of
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._prototypes import PROTOTYPES, mask_roles, prototype_count, soft_masks
from edge_agent.models._results import More
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor

Config = NoConfig


def recognise(graph: GraphSpec) -> str | None:
    """Two outputs: a column a cell, and 16, 32 or 64 prototypes."""
    roles = mask_roles(graph)
    if roles is None or metadata_task(graph) not in {"", "segment"}:
        return None
    spec, prototypes = graph.outputs[roles[0]], graph.outputs[roles[1]]
    count, _ = prototype_count(prototypes)
    transposed = is_transposed(graph, spec)
    if transposed is None or count not in PROTOTYPES or spec.shape[2 if transposed else 1] <= 4 + count:
        return None
    return f"a column a cell, and {count} prototypes"


class Yolov8Seg(Family):
    """Boxes and masks."""

    name = "yolov8_seg"
    task = "instance segmentation"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        roles = mask_roles(graph)
        if roles is None:
            raise ValueError("not two outputs, of three and four dimensions")
        self._cells, self._masks = roles
        self._prototypes = graph.outputs[self._masks]
        count, _ = prototype_count(self._prototypes)
        if count not in PROTOTYPES:
            raise ValueError("no prototypes")
        self._head = AnchorFree(graph, graph.outputs[self._cells], extra=count)
        self.class_count = self._head.class_count

    def doubts(self) -> list[str]:
        return self._head.doubts()

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        found = self._head.candidates(outputs[self._cells], size, thresholds)
        kept = survivors_of(found, thresholds)
        boxes, confidence, class_id, rows = found
        masks = soft_masks(rows[kept, 4 + self._head.class_count :], outputs[self._masks], self._prototypes)
        return Candidates(boxes[kept], confidence[kept], class_id[kept], More(masks=masks))


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov8Seg(graph)
