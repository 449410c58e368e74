"""What a model saw in one frame, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


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

    def __len__(self) -> int:
        return len(self.confidence)

    @property
    def label(self) -> list[str]:
        """N class names; a class without a name is called by its number."""
        return [self.names[i] if 0 <= i < len(self.names) else str(i) for i in self.class_id.tolist()]

    @classmethod
    def empty(cls, names: Sequence[str] = ()) -> Detections:
        """Nothing seen."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), names)
