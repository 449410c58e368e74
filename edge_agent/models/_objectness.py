"""Decoded heads with objectness: rows of centre x, centre y, width, height, objectness, and a score for each class."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.models._boxes import Unit, best_class, from_centres, smallest_step, suppress
from edge_agent.models._raw_maps import decoded_output
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, Tensor, dequantize

COARSE = 0.02
"""Steps of a score beyond which thresholds mean little."""


class Decoded(Family):
    """Boxes with objectness, in pixels or fractions of the input; ``allowed`` are the numbers of rows that the family has."""

    def __init__(self, graph: GraphSpec, allowed: set[int]) -> None:
        index = decoded_output(graph)
        if index is None:
            raise ValueError("not one output of three dimensions")
        self._index, self._spec = index, graph.outputs[index]
        self.class_count = self._spec.shape[2] - 5
        if self._spec.shape[1] not in allowed or self.class_count < 1:
            raise ValueError("not the rows of this family, of 5 + classes")
        self._unit = Unit(self._spec)

    def doubts(self) -> list[str]:
        return coarse_scores(self._spec.name, smallest_step(self._spec))

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        every = dequantize(outputs[self._index][0], self._spec)
        rows = every[every[:, 4] >= thresholds.confidence]
        class_id, score = best_class(rows[:, 5:], thresholds.class_ids)
        score = score * rows[:, 4]
        kept = score >= thresholds.confidence
        boxes = self._unit.in_pixels(rows[kept, :4], size, met=every[:, 0])
        return suppress(from_centres(boxes), score[kept], class_id[kept], thresholds)


def coarse_scores(name: str, step: float) -> list[str]:
    """What is wrong with a quantized tensor whose one scale must serve boxes in pixels, and so has no steps for scores."""
    if step <= COARSE:
        return []
    why = f"the scores are broken: output {name!r} is quantized with one scale of {step:.3g}, made for boxes in pixels"
    return [f"{why}, so the scores in the same tensor are all but rounded away; export it with boxes as fractions, or its head in float"]
