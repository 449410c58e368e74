"""What families share that say something of the whole picture."""

from __future__ import annotations

import numpy as np

from edge_agent.models._boxes import Floats, softmax, strongest
from edge_agent.models._preprocess import IMAGENET, InputFormat, input_layout, pixels_as_they_are
from edge_agent.models._results import More
from edge_agent.models.base import Candidates, Thresholds
from edge_agent.runtimes.base import GraphSpec, TensorSpec

MOST_CLASSES = 5
"""How many are reported at most, however many pass the threshold."""


def scores_of(graph: GraphSpec) -> int | None:
    """How many numbers the graph's one output has, if it is one row of them."""
    if len(graph.outputs) != 1 or not 2 <= len(graph.outputs[0].shape) <= 4:
        return None
    shape = graph.outputs[0].shape
    long = [size for size in shape if size != 1]
    return long[0] if len(long) == 1 and -1 not in shape else None


def usual_format(graph: GraphSpec, spec: TensorSpec) -> InputFormat:
    """What models of the whole picture were trained on, by the kind of file they come in."""
    if graph.metadata.get("task"):
        return InputFormat("RGB", "none", scale=1 / 255)
    if input_layout(spec)[0] == "NCHW":
        return InputFormat.normalised("RGB", "none", *IMAGENET)
    return pixels_as_they_are(spec, InputFormat("RGB", "none", scale=1 / 127.5, offset=-1.0))


def as_probabilities(scores: Floats) -> Floats:
    """Scores as they are if they may be probabilities, else their softmax.

    They need not add up to 1: of a thousand classes in 8 bits most are rounded away, and some models judge each class on its own.
    """
    return scores if scores.min() >= 0 and scores.max() <= 1 else softmax(scores)


def ranked(probabilities: Floats, thresholds: Thresholds) -> Candidates:
    """The best few classes above the threshold and among those wanted, for the whole picture."""
    kept = probabilities >= thresholds.confidence
    if thresholds.class_ids is not None:
        kept &= np.isin(np.arange(len(probabilities)), thresholds.class_ids)
    index = np.flatnonzero(kept)
    index = index[strongest(probabilities[index], min(MOST_CLASSES, thresholds.max_detections))]
    none = Candidates.none()
    return Candidates(none.xyxy, none.confidence, none.class_id, More(ranked=(index.astype(np.int32), probabilities[index])))
