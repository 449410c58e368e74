"""Prototypes of masks, [1, P, h, w] or [1, h, w, P], beside an output of boxes.

Source: Bolya et al., "YOLACT" (arXiv 1904.02689), and ultralytics/ultralytics utils/ops.py (``process_mask``): a mask is the
sum of the prototypes by the object's weights, inside where its logistic function passes a half, cut to the box.
"""

from __future__ import annotations

import numpy as np

from edge_agent.models._boxes import Floats
from edge_agent.models._results import SoftMasks
from edge_agent.runtimes.base import GraphSpec, Tensor, TensorSpec, dequantize

PROTOTYPES = {16, 32, 64}


def mask_roles(graph: GraphSpec) -> tuple[int, int] | None:
    """Positions of the cells' output and of the prototypes."""
    if len(graph.outputs) != 2:
        return None
    ranks = [len(output.shape) for output in graph.outputs]
    return (ranks.index(3), ranks.index(4)) if sorted(ranks) == [3, 4] else None


def prototype_count(spec: TensorSpec) -> tuple[int, bool]:
    """How many prototypes, and whether they come last."""
    last = spec.shape[3] in PROTOTYPES and spec.shape[1] not in PROTOTYPES
    return spec.shape[3 if last else 1], last


def soft_masks(weights: Floats, output: Tensor, spec: TensorSpec) -> SoftMasks:
    """Masks of the objects whose weights [N, P] these are; ``output`` holds the prototypes as stored."""
    _, last = prototype_count(spec)
    stored = output[0].transpose(2, 0, 1) if last else output[0]
    return SoftMasks(weights, np.ascontiguousarray(dequantize(stored, spec)))
