"""What tasks other than boxes find: from the model's input to the source picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.detections import Masks, Segmentation
from edge_agent.image import Image
from edge_agent.models._preprocess import Placement


@dataclass(frozen=True, slots=True)
class SoftMasks:
    """Masks of N objects as weighted sums of prototypes, over the model's whole input; positive is inside."""

    weights: NDArray[np.float32]
    """float32 [N, P]."""
    prototypes: NDArray[np.float32]
    """float32 [P, h, w]."""


@dataclass(frozen=True, slots=True)
class More:
    """What tasks other than boxes find. Whatever has places has them in pixels of the model's input."""

    keypoints: NDArray[np.float32] | None = None
    """float32 [N, K, 3]: x, y, score."""
    masks: SoftMasks | None = None
    ranked: tuple[NDArray[np.int32], NDArray[np.float32]] | None = None
    """Classes of the whole picture, best first, and their confidence."""
    class_map: NDArray[np.int32] | None = None
    """int32 [h, w] over the whole input."""


def keypoints_in_source(more: More, placement: Placement, image: Image) -> NDArray[np.float32] | None:
    return None if more.keypoints is None else placement.points_to_source(more.keypoints, image)


def masks_in_source(more: More, xyxy: NDArray[np.float32], where: tuple[Placement, Image, tuple[int, int]]) -> Masks | None:
    """Soft masks at the prototypes' resolution as bool ones in the source picture, each within its own box."""
    if more.masks is None:
        return None
    import cv2

    placement, image, size = where
    weights, prototypes = more.masks.weights, more.masks.prototypes
    _, high, wide = prototypes.shape
    parts = []
    for box, source, weight in zip(xyxy, placement.to_source(xyxy, image), weights, strict=True):
        left, top, right, bottom = (int(v) for v in (*np.floor(source[:2]), *np.ceil(source[2:])))
        x0, y0 = np.maximum(np.floor(box[:2] * (wide / size[0], high / size[1])).astype(int) - 1, 0)
        x1, y1 = np.minimum(np.ceil(box[2:] * (wide / size[0], high / size[1])).astype(int) + 1, (wide, high))
        if right <= left or bottom <= top or x1 <= x0 or y1 <= y0:
            parts.append((left, top, np.zeros((max(0, bottom - top), max(0, right - left)), np.bool_)))
            continue
        soft = np.tensordot(weight, prototypes[:, y0:y1, x0:x1], 1)
        # where each pixel of the source lies among the prototypes' cells, whose centres are at halves
        across = ((np.arange(left, right) + 0.5) * placement.width / image.width + placement.left) * wide / size[0] - 0.5 - x0
        down = ((np.arange(top, bottom) + 0.5) * placement.height / image.height + placement.top) * high / size[1] - 0.5 - y0
        affine = np.array([[_step(across), 0, across[0]], [0, _step(down), down[0]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        sized = cv2.warpAffine(soft, affine, (right - left, bottom - top), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        parts.append((left, top, sized > 0))
    return Masks(image.width, image.height, parts)


def _step(places: NDArray[np.float64]) -> float:
    return float(places[1] - places[0]) if len(places) > 1 else 1.0


def segmentation_of_source(
    more: More, where: tuple[Placement, Image, tuple[int, int]], names: Sequence[str], class_ids: NDArray[np.int32] | None
) -> Segmentation | None:
    if more.class_map is None:
        return None
    placement, image, (width, height) = where
    high, wide = more.class_map.shape
    left, right = (round(x * wide / width) for x in (placement.left, placement.left + placement.width))
    top, bottom = (round(y * high / height) for y in (placement.top, placement.top + placement.height))
    inside = more.class_map[top : max(bottom, top + 1), left : max(right, left + 1)]
    return Segmentation(inside, image.width, image.height, names, class_ids)
