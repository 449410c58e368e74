"""YOLOv8/9/11/12 instance segmentation: [1, 4 + classes + P, cells], and prototypes [1, P, h, w] or [1, h, w, P].

Source: Bolya et al., "YOLACT" (arXiv 1904.02689), and ultralytics/ultralytics utils/ops.py (``process_mask``): a mask is the
sum of the prototypes by the object's weights, inside where its logistic function passes a half, cut to the box.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._anchor_free import AnchorFree, is_transposed, metadata_task, survivors_of
from edge_agent.models._preprocess import InputFormat
from edge_agent.models._results import More, SoftMasks
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, TensorSpec, dequantize

Config = NoConfig
_PROTOTYPES = {16, 32, 64}


def _roles(graph: GraphSpec) -> tuple[int, int] | None:
    """Positions of the cells' output and of the prototypes."""
    if len(graph.outputs) != 2:
        return None
    ranks = [len(output.shape) for output in graph.outputs]
    return (ranks.index(3), ranks.index(4)) if sorted(ranks) == [3, 4] else None


def _prototypes(spec: TensorSpec) -> tuple[int, bool]:
    """How many prototypes, and whether they come last."""
    last = spec.shape[3] in _PROTOTYPES and spec.shape[1] not in _PROTOTYPES
    return spec.shape[3 if last else 1], last


def recognise(graph: GraphSpec) -> str | None:
    """Two outputs: a column a cell, and 16, 32 or 64 prototypes."""
    roles = _roles(graph)
    if roles is None or metadata_task(graph) not in {"", "segment"}:
        return None
    spec, prototypes = graph.outputs[roles[0]], graph.outputs[roles[1]]
    count, _ = _prototypes(prototypes)
    transposed = is_transposed(graph, spec)
    if transposed is None or count not in _PROTOTYPES or spec.shape[2 if transposed else 1] <= 4 + count:
        return None
    return f"a column a cell, and {count} prototypes"


class Yolov8Seg(Family):
    """Boxes and masks."""

    name = "yolov8_seg"
    task = "instance segmentation"
    input_format = InputFormat("RGB", "centre", scale=1 / 255)

    def __init__(self, graph: GraphSpec) -> None:
        roles = _roles(graph)
        if roles is None:
            raise ValueError("not two outputs, of three and four dimensions")
        self._cells, self._masks = roles
        self._prototypes = graph.outputs[self._masks]
        count, self._last = _prototypes(self._prototypes)
        if count not in _PROTOTYPES:
            raise ValueError("no prototypes")
        self._head = AnchorFree(graph, graph.outputs[self._cells], extra=count)
        self.class_count = self._head.class_count

    def doubts(self) -> list[str]:
        return self._head.doubts()

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        found = self._head.candidates(outputs[self._cells], size, thresholds)
        kept = survivors_of(found, thresholds)
        boxes, confidence, class_id, rows = found
        stored = outputs[self._masks][0]
        prototypes = dequantize(stored.transpose(2, 0, 1) if self._last else stored, self._prototypes)
        masks = SoftMasks(rows[kept, 4 + self._head.class_count :], np.ascontiguousarray(prototypes))
        return Candidates(boxes[kept], confidence[kept], class_id[kept], More(masks=masks))


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return Yolov8Seg(graph)
