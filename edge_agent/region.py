"""The region of interest: the model is given only that part of a picture, and what it finds is told in the whole picture's pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from edge_agent.config_values import Region
from edge_agent.detections import Detections, Masks, Segmentation
from edge_agent.image import Image
from edge_agent.models.base import Prediction


class Part(NamedTuple):
    """A rectangle in pixels."""

    left: int
    top: int
    width: int
    height: int


def part_of(region: Region, width: int, height: int) -> Part:
    """The region's pixels in a picture of that size: outwards to even ones, as chroma has half the places, within the picture."""
    left, top = (2 * math.floor(share * size / 2 + 1e-6) for share, size in zip(region[:2], (width, height), strict=True))
    right, bottom = (min(size, 2 * math.ceil(share * size / 2 - 1e-6)) for share, size in zip(region[2:], (width, height), strict=True))
    left, top = max(0, min(left, width - 2)), max(0, min(top, height - 2))
    return Part(left, top, max(1, right - left), max(1, bottom - top))


def seen_in(prediction: Prediction, part: Part, image: Image) -> Prediction:
    """What was found in ``part`` of ``image``, in the pixels of ``image``. Classes of the whole picture are those of the part."""
    return replace(
        prediction, detections=_moved(prediction.detections, part, image), segmentation=_placed(prediction.segmentation, part, image)
    )


def _moved(found: Detections, part: Part, image: Image) -> Detections:
    masks, keypoints = found.masks, found.keypoints
    if masks is not None:
        parts = [(left + part.left, top + part.top, pixels) for left, top, pixels in masks.parts]
        masks = Masks(image.width, image.height, parts)
    if keypoints is not None:
        keypoints = keypoints + np.array([part.left, part.top, 0], np.float32)
    xyxy = found.xyxy + np.array([part.left, part.top] * 2, np.float32)
    return replace(found, xyxy=xyxy, keypoints=keypoints, masks=masks)


def _placed(found: Segmentation | None, part: Part, image: Image) -> Segmentation | None:
    if found is None:
        return None
    return replace(found, width=image.width, height=image.height, part=part)
