"""The anchors of SSDs: from the graph where it holds them, else those that ssd_mobilenet is trained with.

Source: tensorflow/models object_detection anchor_generators/multiple_grid_anchor_generator.py (``create_ssd_anchors`` with
``reduce_boxes_in_lowest_layer``).
"""

from __future__ import annotations

import numpy as np

from edge_agent.models._boxes import Floats
from edge_agent.models._preprocess import input_layout
from edge_agent.runtimes.base import GraphSpec

_LEVELS = 6
_MIN_SCALE, _MAX_SCALE = 0.2, 0.95
_RATIOS = (1.0, 2.0, 0.5, 3.0, 1 / 3)


def standard_anchors(size: tuple[int, int]) -> Floats:
    """The anchors of ssd_mobilenet for an input of this width and height: centre y, centre x, height, width as fractions."""
    scales = [_MIN_SCALE + (_MAX_SCALE - _MIN_SCALE) * level / (_LEVELS - 1) for level in range(_LEVELS)] + [1.0]
    found = []
    stride = 16
    for level in range(_LEVELS):
        shapes = [(scales[level], ratio) for ratio in _RATIOS]
        shapes.append((float(np.sqrt(scales[level] * scales[level + 1])), 1.0))
        if level == 0:
            shapes = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        sides = np.array([(scale / np.sqrt(ratio), scale * np.sqrt(ratio)) for scale, ratio in shapes])
        columns, rows = -(-size[0] // stride), -(-size[1] // stride)
        y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
        centres = np.stack((y.ravel(), x.ravel()), axis=1)
        found.append(np.concatenate((np.repeat(centres, len(sides), axis=0), np.tile(sides, (len(centres), 1))), axis=1))
        stride *= 2
    return np.concatenate(found).astype(np.float32)


def _as_centres(anchors: Floats) -> Floats:
    """Anchors as centre y, centre x, height, width, whichever of the two ways they are stored in."""
    sides = anchors[:, 2:] - anchors[:, :2]
    if (sides > 0).all():  # bottom and right lie beyond top and left; of centres and sizes some do not
        return np.concatenate(((anchors[:, :2] + anchors[:, 2:]) / 2, sides), axis=1)
    return anchors


def anchors_of(graph: GraphSpec, rows: int) -> Floats | None:
    """Centre y, centre x, height, width of each row, as fractions; None where these are not the rows of an SSD."""
    if graph.file is not None and rows in graph.file.anchors:
        return _as_centres(graph.file.anchors[rows])
    anchors = standard_anchors(input_layout(graph.inputs[0])[1])
    return anchors if len(anchors) == rows else None
