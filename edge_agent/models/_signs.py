"""What tells heads apart that look alike, and that more than one family looks at."""

from __future__ import annotations

from edge_agent.models._boxes import cell_counts
from edge_agent.runtimes.base import GraphSpec

ATTENTION = "GridSample"
"""What a DETR looks at its maps with (deformable attention), and no YOLO has."""
ENLARGES = "ConvTranspose"
"""The operator of YOLOv6 that its look-alikes (YOLOX, NanoDet, a transposed YOLOv8) have not."""
MOST_QUERIES = 900
"""Of a DETR; what has more rows has anchors or cells."""
LEAST_QUERIES = 50


def boxes_and_logits(graph: GraphSpec) -> tuple[int, int] | None:
    """Positions of boxes and logits of an export with two outputs."""
    shapes = [output.shape for output in graph.outputs]
    if len(shapes) != 2 or any(len(shape) != 3 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        return None
    named = [i for i, output in enumerate(graph.outputs) if "box" in output.name.lower() or output.name == "dets"]
    boxes = named[0] if len(named) == 1 else next((i for i, shape in enumerate(shapes) if shape[2] == 4), -1)
    if boxes < 0 or shapes[boxes][2] != 4 or not LEAST_QUERIES <= shapes[0][1] <= MOST_QUERIES:
        return None
    if shapes[0][1] in cell_counts(graph):  # of a YOLO-NAS for small pictures
        return None
    return boxes, 1 - boxes


def boxes_and_scores(graph: GraphSpec) -> tuple[int, int] | None:
    """Positions of encodings and scores among two outputs with as many rows as there are anchors."""
    # TensorFlow's boxes have an axis of one between anchors and sides
    shapes = [(o.shape[0], o.shape[1], o.shape[3]) if len(o.shape) == 4 and o.shape[2] == 1 else o.shape for o in graph.outputs]
    if len(shapes) != 2 or any(len(shape) != 3 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        return None
    first_is_boxes = shapes[0][2] == 4 and (shapes[1][2] != 4 or "box" in graph.outputs[0].name.lower())
    roles = (0, 1) if first_is_boxes else (1, 0)
    return roles if shapes[roles[0]][2] == 4 and shapes[roles[1]][2] >= 2 else None
