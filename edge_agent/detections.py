"""What a model saw in one frame, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Polygon = list[tuple[float, float]]


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths of a mask [height, width]: column by column, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate(([0], changes, [flat.size])))
    return ([0] if flat.size and flat[0] else []) + [int(length) for length in lengths]


@dataclass(frozen=True, slots=True)
class Masks:
    """The outlines of N objects in a picture of ``width`` x ``height``, each within a rectangle of its own."""

    width: int
    height: int
    parts: Sequence[tuple[int, int, NDArray[np.bool_]]]
    """N times left, top, and bool [h, w]: the object's pixels from there on."""

    def dense(self) -> NDArray[np.bool_]:
        """The masks as bool [N, height, width]; large."""
        masks = np.zeros((len(self.parts), self.height, self.width), np.bool_)
        for mask, (left, top, part) in zip(masks, self.parts, strict=True):
            mask[top : top + part.shape[0], left : left + part.shape[1]] = part
        return masks

    def polygons(self) -> list[list[Polygon]]:
        """N lists of outer contours, true to a pixel; an object that something stands before may have several."""
        import cv2

        found: list[list[Polygon]] = []
        for left, top, part in self.parts:
            contours, _ = cv2.findContours(part.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left, top))
            outlines = []
            for contour in contours:
                simpler = cv2.approxPolyDP(contour, 1.0, closed=True)
                points = (simpler if len(simpler) > 2 else contour)[:, 0].tolist()
                outlines.append([(float(x), float(y)) for x, y in points])
            found.append([outline for outline in outlines if len(outline) > 2])
        return found

    def rle(self) -> list[list[int]]:
        """N run lengths over the whole picture, as COCO counts them."""
        return [run_lengths(mask) for mask in self.dense()]


@dataclass(frozen=True, slots=True)
class Detections:
    """N detections as columns, most confident first. Boxes are pixels of the *source* frame."""

    xyxy: NDArray[np.float32]
    """float32 [N, 4]: left, top, right, bottom."""
    confidence: NDArray[np.float32]
    """float32 [N], 0..1."""
    class_id: NDArray[np.int32]
    """int32 [N]."""
    names: Sequence[str] = field(default=(), repr=False)
    """Class names by class id; may be shorter than the number of classes."""
    keypoints: NDArray[np.float32] | None = field(default=None, repr=False)
    """float32 [N, K, 3]: x, y in the source frame, and each point's score; None where the model has none."""
    masks: Masks | None = field(default=None, repr=False)
    """Outlines of the N objects; None where the model has none."""

    def __len__(self) -> int:
        return len(self.confidence)

    @property
    def label(self) -> list[str]:
        """N class names; a class without a name is called by its number."""
        return [name_of(self.names, i) for i in self.class_id.tolist()]

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """The masks as bool [N, height, width], made anew; ``masks`` is smaller."""
        return None if self.masks is None else self.masks.dense()

    @classmethod
    def empty(cls, names: Sequence[str] = ()) -> Detections:
        """Nothing seen."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), names)


@dataclass(frozen=True, slots=True)
class Classification:
    """What the whole picture is, best first."""

    class_id: NDArray[np.int32]
    """int32 [N]."""
    confidence: NDArray[np.float32]
    """float32 [N], 0..1."""
    names: Sequence[str] = field(default=(), repr=False)

    @property
    def label(self) -> list[str]:
        """N class names."""
        return [name_of(self.names, i) for i in self.class_id.tolist()]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The class of each part of a picture of ``width`` x ``height``."""

    classes: NDArray[np.int32]
    """int32 [h, w] at the model's resolution, over the whole picture."""
    width: int
    height: int
    names: Sequence[str] = field(default=(), repr=False)
    class_ids: NDArray[np.int32] | None = None
    """Only these are asked for; None: all."""
    part: tuple[int, int, int, int] | None = None
    """Left, top, width and height of what ``classes`` covers, where that is not the whole picture; shares are shares of that."""

    def shares(self) -> list[tuple[int, str, float]]:
        """Class id, name and share of the picture's area of each class that occurs, largest first."""
        counts = np.bincount(self.classes.ravel())
        present = np.flatnonzero(counts)
        if self.class_ids is not None:
            present = present[np.isin(present, self.class_ids)]
        order = present[np.argsort(-counts[present], kind="stable")]
        return [(i, name_of(self.names, i), counts[i] / self.classes.size) for i in order.tolist()]

    def rle(self, class_id: int) -> list[int]:
        """Where one class is, as COCO's run lengths in the source picture."""
        import cv2

        mask = (self.classes == class_id).astype(np.uint8)
        left, top, width, height = self.part or (0, 0, self.width, self.height)
        grown = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        if self.part is not None:
            whole = np.zeros((self.height, self.width), np.uint8)
            whole[top : top + height, left : left + width] = grown
            grown = whole
        return run_lengths(np.asarray(grown, np.bool_))


def name_of(names: Sequence[str], class_id: int) -> str:
    """A class's name, or its number."""
    return names[class_id] if 0 <= class_id < len(names) else str(class_id)
