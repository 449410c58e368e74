"""Model = family x runtime: preprocess, infer, postprocess, with the time each took."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.detections import Detections
from edge_agent.errors import ModelError
from edge_agent.image import Image, Order, Pixels
from edge_agent.runtimes.base import GraphSpec, Runtime, Tensor, TensorSpec


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

    @classmethod
    def none(cls) -> Candidates:
        """Nothing found."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


@dataclass(frozen=True)
class InputFormat:
    """How a family wants its picture. The real value of a pixel is ``pixel * scale + offset``."""

    order: Order
    letterbox: Literal["none", "top_left", "centre"]
    scale: float = 1.0
    offset: float = 0.0
    pad: int = 114


class Family(ABC):
    """Tensors to boxes for one way of laying out a head. Stateless after construction."""

    name: str
    input_format: InputFormat
    class_count: int | None = None
    """None where the graph does not tell."""

    @abstractmethod
    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        """``outputs`` as stored (quantized ones not yet converted); ``size`` is the input's width and height.

        Returns candidates, most confident first, already suppressed and filtered by ``thresholds``.
        """


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the source picture lies in the model's input."""

    width: int
    height: int
    left: int
    top: int

    @classmethod
    def of(cls, image: Image, size: tuple[int, int], letterbox: Literal["none", "top_left", "centre"]) -> Placement:
        """Fill the input, or keep the aspect and pad."""
        width, height = size
        if letterbox == "none":
            return cls(width, height, 0, 0)
        ratio = min(width / image.width, height / image.height)
        inner_width, inner_height = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
        if letterbox == "top_left":
            return cls(inner_width, inner_height, 0, 0)
        return cls(inner_width, inner_height, (width - inner_width) // 2, (height - inner_height) // 2)

    def to_source(self, xyxy: NDArray[np.float32], image: Image) -> NDArray[np.float32]:
        """Boxes of the input as boxes of the source picture, clipped to it."""
        if len(xyxy) == 0:
            return xyxy
        offset = np.array([self.left, self.top] * 2, np.float32)
        factor = np.array([image.width / self.width, image.height / self.height] * 2, np.float32)
        limit = np.array([image.width, image.height] * 2, np.float32)
        boxes: NDArray[np.float32] = np.minimum(np.maximum((xyxy - offset) * factor, np.float32(0)), limit)
        return boxes


class Preprocessor:
    """A picture into a tensor that is allocated once. Not thread-safe: each lane has its own."""

    def __init__(self, spec: TensorSpec, form: InputFormat) -> None:
        self.layout, self.size = input_layout(spec)
        self._format = form
        width, height = self.size
        shape = (1, height, width, 3) if self.layout == "NHWC" else (1, 3, height, width)
        self._tensor = np.zeros(shape, spec.dtype)
        self._canvas = np.full((height, width, 3), form.pad, np.uint8)
        self._placed: Placement | None = None
        self._is_bytes = spec.dtype.itemsize == 1
        table = _byte_table(spec, form) if self._is_bytes else None
        is_identity = table is not None and bool((table == np.arange(256)).all())
        self._table = None if is_identity else table

    def __call__(self, image: Image) -> tuple[Tensor, Placement]:
        """The input tensor, valid until the next call, and where the picture lies in it."""
        placement = Placement.of(image, self.size, self._format.letterbox)
        pixels = image.resized(placement.width, placement.height, self._format.order)
        if (placement.width, placement.height) != self.size:
            pixels = self._pad(pixels, placement)
        return self._fill(pixels), placement

    def _pad(self, pixels: Pixels, at: Placement) -> Pixels:
        if self._placed != at:  # another source size: the border lies elsewhere
            self._canvas[:] = self._format.pad
            self._placed = at
        self._canvas[at.top : at.top + at.height, at.left : at.left + at.width] = pixels
        return self._canvas

    def _fill(self, pixels: Pixels) -> Tensor:
        import cv2

        tensor = self._tensor
        if self._is_bytes:
            stored = pixels if self._table is None else cv2.LUT(pixels, self._table)
            if self.layout == "NHWC":
                return stored.view(tensor.dtype)[np.newaxis]
            tensor[0] = stored.view(tensor.dtype).transpose(2, 0, 1)
            return tensor
        if self.layout == "NHWC":
            np.multiply(pixels, np.float32(self._format.scale), out=tensor[0], casting="unsafe")
        else:
            for channel, plane in enumerate(cv2.split(pixels)):
                np.multiply(plane, np.float32(self._format.scale), out=tensor[0, channel], casting="unsafe")
        if self._format.offset:
            tensor += np.asarray(self._format.offset, tensor.dtype)
        return tensor


def only_output(graph: GraphSpec) -> TensorSpec:
    """The one output [1, rows, columns] of the families that have one. Raises ValueError."""
    if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 3 or graph.outputs[0].shape[0] not in {1, -1}:
        raise ValueError("not one output of three dimensions")
    return graph.outputs[0]


def input_layout(spec: TensorSpec) -> tuple[Literal["NCHW", "NHWC"], tuple[int, int]]:
    """Layout, and (width, height), of an image input. Raises ModelError for anything else."""
    shape = spec.shape
    if len(shape) == 4 and shape[0] in {1, -1} and all(size > 0 for size in shape[1:]):
        if shape[3] == 3:
            return "NHWC", (shape[2], shape[1])
        if shape[1] == 3:
            return "NCHW", (shape[3], shape[2])
    open_ones = "; export it with a fixed input size" if -1 in shape[1:] else ""
    raise ModelError(f"input {spec.name!r} has shape {list(shape)}, not one picture of 3 channels{open_ones}")


def _byte_table(spec: TensorSpec, form: InputFormat) -> NDArray[np.uint8]:
    """For 8-bit inputs: the stored byte of each pixel value, by the tensor's own scale and zero point."""
    pixels: NDArray[np.float64] = np.arange(256, dtype=np.float64)
    limits = np.iinfo(spec.dtype.name)
    if spec.quantization is None:  # an integer input without parameters takes pixels as they are
        stored: NDArray[np.float64] = pixels if spec.dtype == np.uint8 else pixels - 128
    else:
        stored = np.round((pixels * form.scale + form.offset) / spec.quantization.scale) + spec.quantization.zero_point
    return np.clip(stored, limits.min, limits.max).astype(spec.dtype).view(np.uint8)


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds of each stage of one inference."""

    preprocess: float
    infer: float
    postprocess: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one frame came to."""

    detections: Detections
    timings: Timings


class Model:
    """A detector: a picture in, detections in the picture's own pixels out. Not thread-safe: each lane has its own."""

    def __init__(self, runtime: Runtime, family: Family, labels: Sequence[str]) -> None:
        self.family, self.labels = family, tuple(labels)
        self._runtime = runtime
        self._preprocess = Preprocessor(runtime.spec.inputs[0], family.input_format)

    @property
    def graph(self) -> GraphSpec:
        """What the file says of itself."""
        return self._runtime.spec

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the input."""
        return self._preprocess.size

    def __call__(self, image: Image, thresholds: Thresholds) -> Prediction:
        """Infer one picture. Raises ModelError; the next picture may well do."""
        started = time.perf_counter()
        try:
            tensor, placement = self._preprocess(image)
        except ValueError as error:
            raise ModelError(f"the picture cannot be used: {error}") from None
        preprocessed = time.perf_counter()
        outputs = self._runtime.infer(tensor)
        inferred = time.perf_counter()
        found = self.family.decode(outputs, self.input_size, thresholds)
        boxes = placement.to_source(found.xyxy, image)
        detections = Detections(boxes, found.confidence, found.class_id, self.labels)
        done = time.perf_counter()
        timings = Timings((preprocessed - started) * 1e3, (inferred - preprocessed) * 1e3, (done - inferred) * 1e3)
        return Prediction(detections, timings)
