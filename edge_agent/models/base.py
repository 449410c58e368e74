"""Model = family x runtime: preprocess, infer, postprocess, with the time each took."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.detections import Classification, Detections, Segmentation
from edge_agent.errors import ConfigError, ModelError, PictureUnusable
from edge_agent.image import Image
from edge_agent.models._preprocess import InputFormat, Placement, Preprocessor
from edge_agent.models._results import More, keypoints_in_source, masks_in_source, segmentation_of_source
from edge_agent.models._rows import one_of, why_not_together
from edge_agent.runtimes.base import GraphSpec, Runtime, Tensor, TensorSpec

Task = Literal["detection", "classification", "instance segmentation", "semantic segmentation", "keypoints", "zero-shot"]
_CERTAIN = 1.01
"""No confidence is above 1, some rounding aside."""
NOT_NUMBERS = (
    "the model's outputs are not numbers (NaN): its weights overflow in this precision, or its input is not what it was trained on"
)

_TOO_SURE = (
    "a confidence of {:.3g} is no probability, so the model is no {}, or was exported without the last step of its scores: "
    "set family = ... in [model], or export it again"
)


@dataclass(frozen=True)
class Thresholds:
    """What is reported, per camera."""

    confidence: float
    iou: float
    max_detections: int
    class_ids: NDArray[np.int32] | None = None
    """Only these; None: all."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a family found, in pixels of the *model's input*: float32 [N, 4], float32 [N], int32 [N]."""

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int32]
    more: More | None = None
    """What else the task has; None for plain boxes."""

    @classmethod
    def none(cls) -> Candidates:
        """Nothing found."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


@dataclass(frozen=True)
class Texts:
    """What a zero-shot model is to look for."""

    names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    """float32 [names, dimensions]."""
    scale: float = 100.0
    """Of the cosines, before they become probabilities (CLIP's logit_scale)."""
    bias: float | None = None
    """With one, each text is judged on its own (SigLIP); without, they compete."""


class Family(ABC):
    """Tensors to boxes for one way of laying out a head. Stateless after construction."""

    name: str
    task: Task = "detection"
    input_format: InputFormat
    class_count: int | None = None
    """None where the graph does not tell."""
    has_background: bool = False
    """Whether label files of such models may begin with a class 0 that is nothing."""
    default_labels: tuple[str, ...] = ()
    """Of families that were only ever trained on these."""
    default_confidence: float = 0.4
    """Where the user gives none."""

    def doubts(self) -> list[str]:
        """Why this file may not see what it should, for a person: what the parameters of its tensors cannot hold."""
        return []

    def other_inputs(self, size: tuple[int, int]) -> dict[str, Tensor]:
        """Values of inputs besides the picture; ``size`` is the picture's width and height."""
        return {}

    def use_texts(self, texts: Texts) -> None:
        """Take what to look for. Raises ConfigError where the family looks for what it was trained on, or where they do not fit."""
        raise ConfigError(f"model.text_embeddings: a {self.name} model finds what it was trained on, and takes none")

    @abstractmethod
    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        """``outputs`` as stored (quantized ones not yet converted); ``size`` is the input's width and height.

        Returns candidates, most confident first, already suppressed and filtered by ``thresholds``.
        """


def only_output(graph: GraphSpec) -> TensorSpec:
    """The one output [1, rows, columns] of the families that have one. Raises ValueError."""
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 3 or graph.outputs[0].shape[0] not in {1, -1}:
        raise ValueError("not one output of three dimensions")
    return graph.outputs[0]


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds of each stage of one inference."""

    preprocess: float
    infer: float
    postprocess: float
    decode: float = 0.0
    """Of ``preprocess``: decoding that was put off until now."""
    together: int = 1
    """How many pictures that inference was of: ``infer`` is the whole call's time for each of them."""

    @property
    def occupied(self) -> float:
        """For how long this picture has kept the model from others: of an inference of several, its part."""
        return self.preprocess + self.infer / self.together + self.postprocess


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one frame came to."""

    detections: Detections
    timings: Timings
    classes: Classification | None = None
    """What the whole picture is; None for tasks that do not ask."""
    segmentation: Segmentation | None = None


@dataclass(frozen=True, slots=True)
class _Placed:
    """A picture that lies in its row of the input."""

    image: Image
    placement: Placement
    thresholds: Thresholds
    preprocess_ms: float
    decode_ms: float


class Model:
    """A detector: a picture in, detections in the picture's own pixels out. Not thread-safe: each lane has its own."""

    def __init__(self, runtime: Runtime, family: Family, labels: Sequence[str]) -> None:
        self.family, self.labels = family, tuple(labels)
        self._runtime = runtime
        self._preprocess = Preprocessor(runtime.spec.inputs[0], family.input_format, runtime.batch)
        for name, value in family.other_inputs(self.input_size).items():
            runtime.fix(name, value)

    @property
    def runtime(self) -> Runtime:
        """What runs the file."""
        return self._runtime

    @property
    def graph(self) -> GraphSpec:
        """What the file says of itself, for one picture."""
        return self._runtime.spec

    @property
    def batch(self) -> int:
        """The most pictures that are inferred together."""
        return self._runtime.batch

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the input."""
        return self._preprocess.size

    def __call__(self, image: Image, thresholds: Thresholds) -> Prediction:
        """Infer one picture. Raises ModelError; the next picture may well do."""
        placed = self._place(image, thresholds, 0)
        outputs, infer_ms = self._infer(1)
        held = self._runtime.rows_for(1)
        return self._seen(placed, outputs if held == 1 else one_of(outputs, self.graph, held, 0), infer_ms)

    def together(self, images: Sequence[Image], thresholds: Sequence[Thresholds]) -> list[Prediction | Exception]:
        """Infer up to ``batch`` pictures in one call: of each what was seen, or why that one came to nothing.

        Raises ModelError where the inference fails, and so all of them.
        """
        found: list[Prediction | Exception | _Placed] = []
        rows = 0
        for image, own in zip(images, thresholds, strict=True):
            try:
                found.append(self._place(image, own, rows))
                rows += 1
            except Exception as error:  # whatever it is, it is this picture's
                found.append(error)
        if not rows:
            return [each for each in found if isinstance(each, Exception)]
        outputs, infer_ms = self._infer(rows)
        held = self._runtime.rows_for(rows)
        row = iter(range(rows))
        return [
            self._seen_or_why(each, one_of(outputs, self.graph, held, next(row)), infer_ms, rows) if isinstance(each, _Placed) else each
            for each in found
        ]

    def why_not_together(self) -> str:
        """Why pictures that are inferred together would not come to what each comes to alone; empty where they do, which is tried."""
        return why_not_together(self._runtime, self._preprocess)

    def _place(self, image: Image, thresholds: Thresholds, row: int) -> _Placed:
        started, decoded = time.perf_counter(), image.decode_ms
        try:
            placement = self._preprocess.place(image, row)
        except ValueError as error:
            raise PictureUnusable(f"the picture cannot be used: {error}") from None
        return _Placed(image, placement, thresholds, (time.perf_counter() - started) * 1e3, image.decode_ms - decoded)

    def _infer(self, rows: int) -> tuple[Sequence[Tensor], float]:
        started = time.perf_counter()
        outputs = self._runtime.infer(self._preprocess.tensor(self._runtime.rows_for(rows)))
        return outputs, (time.perf_counter() - started) * 1e3

    def _seen_or_why(self, placed: _Placed, outputs: Sequence[Tensor], infer_ms: float, together: int) -> Prediction | Exception:
        try:
            return self._seen(placed, outputs, infer_ms, together)
        except Exception as error:  # the others have nothing to do with it
            return error

    def _seen(self, placed: _Placed, outputs: Sequence[Tensor], infer_ms: float, together: int = 1) -> Prediction:
        started = time.perf_counter()
        image, placement, thresholds = placed.image, placed.placement, placed.thresholds
        found = self.family.decode(outputs, self.input_size, thresholds)
        _refuse_nan(found, outputs)
        if len(found.confidence) and found.confidence.item(0) > _CERTAIN:
            raise ModelError(_TOO_SURE.format(found.confidence.item(0), self.family.name))
        boxes = placement.to_source(found.xyxy, image)
        detections = Detections(boxes, found.confidence, found.class_id, self.labels)
        classes = segmentation = None
        if found.more is not None:
            where = (placement, image, self.input_size)
            detections = replace(
                detections,
                keypoints=keypoints_in_source(found.more, placement, image),
                masks=masks_in_source(found.more, found.xyxy, where),
            )
            classes = None if found.more.ranked is None else Classification(*found.more.ranked, self.labels)
            segmentation = segmentation_of_source(found.more, where, self.labels, thresholds.class_ids)
        postprocess_ms = (time.perf_counter() - started) * 1e3
        timings = Timings(placed.preprocess_ms, infer_ms, postprocess_ms, placed.decode_ms, together)
        return Prediction(detections, timings, classes, segmentation)


def _refuse_nan(found: Candidates, outputs: Sequence[Tensor]) -> None:
    """Raises ModelError for outputs that are no numbers: a comparison with one is false, so it would look as if nothing were there.

    Where boxes were found, the first and the last are looked at; else three values of each output are: what is no number spreads
    to all that is computed of it. Single numbers and no arrays, whose functions right after an inference cost some 10 us each.
    """
    if len(found.confidence):
        if math.isnan(found.xyxy.item(0)) or math.isnan(found.xyxy.item(-1)):
            raise ModelError(NOT_NUMBERS)
        return
    for output in outputs:
        if output.dtype.kind == "f" and output.size:
            at = output.size >> 2
            if math.isnan(output.item(at)) or math.isnan(output.item(2 * at)) or math.isnan(output.item(3 * at)):
                raise ModelError(NOT_NUMBERS)
