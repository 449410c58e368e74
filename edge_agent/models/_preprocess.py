"""Pictures into tensors, and places in the tensor back into places of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import ModelBroken
from edge_agent.image import Image, Order, Pixels
from edge_agent.runtimes.base import Tensor, TensorSpec

Letterbox = Literal["none", "top_left", "centre"]
Channels = tuple[float, float, float]
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Mean and deviation of ImageNet's red, green and blue, which much training code uses."""


@dataclass(frozen=True)
class InputFormat:
    """How a family wants its picture. The real value of a pixel is ``pixel * scale + offset``, for each channel where they differ."""

    order: Order
    letterbox: Letterbox
    scale: float | Channels = 1.0
    offset: float | Channels = 0.0
    pad: int = 114

    @classmethod
    def normalised(
        cls, order: Order, letterbox: Letterbox, mean: Sequence[float], deviation: Sequence[float], pad: int = 114
    ) -> InputFormat:
        """The input is (pixel - mean) / deviation; both are in the order of the channels, for pixels from 0 to 255."""
        (a, b, c), (x, y, z) = mean, deviation
        return cls(order, letterbox, (1 / x, 1 / y, 1 / z), (-a / x, -b / y, -c / z), pad)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the source picture lies in the model's input."""

    width: int
    height: int
    left: int
    top: int

    @classmethod
    def of(cls, image: Image, size: tuple[int, int], letterbox: Letterbox) -> Placement:
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
        factor, offset, limit = _mapping(self, image.width, image.height)
        boxes: NDArray[np.float32] = xyxy * factor
        boxes += offset
        np.maximum(boxes, np.float32(0), out=boxes)
        return np.minimum(boxes, limit, out=boxes)

    def points_to_source(self, points: NDArray[np.float32], image: Image) -> NDArray[np.float32]:
        """Points [..., 3] of the input (x, y, score) as points of the source picture, not clipped."""
        factor = np.array([image.width / self.width, image.height / self.height, 1], np.float32)
        return (points - np.array([self.left, self.top, 0], np.float32)) * factor


@lru_cache(maxsize=64)
def _mapping(at: Placement, width: int, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Factor, offset and limit [4] of boxes in a source picture of that size; kept, as small arrays cost more than their arithmetic."""
    factor = np.array([width / at.width, height / at.height] * 2)
    offset = -np.array([at.left, at.top] * 2) * factor
    return factor.astype(np.float32), offset.astype(np.float32), np.array([width, height] * 2, np.float32)


class Preprocessor:
    """Pictures into the rows of a tensor that is allocated once. Not thread-safe: each lane has its own."""

    def __init__(self, spec: TensorSpec, form: InputFormat, rows: int = 1) -> None:
        self.layout, self.size = input_layout(spec)
        self._format = form
        width, height = self.size
        shape = (rows, height, width, 3) if self.layout == "NHWC" else (rows, 3, height, width)
        self._tensor = np.zeros(shape, spec.dtype)
        self._firsts = [self._tensor[: count + 1] for count in range(rows)]
        """The first rows, by their number less one: the same object each time, so that a runtime need not bind it again."""
        self._canvas = np.full((height, width, 3), form.pad, np.uint8)
        self._placed: Placement | None = None
        self._scales = [np.float32(value) for value in _channels(form.scale)]
        self._scale = np.array(self._scales) if isinstance(form.scale, tuple) else self._scales[0]
        offsets = _channels(form.offset)
        self._is_bytes = spec.dtype.itemsize == 1
        if self._is_bytes:
            offsets = (0.0, 0.0, 0.0)  # the table below holds them
        self._offset = np.array(offsets if len(set(offsets)) > 1 else offsets[:1], spec.dtype) if any(offsets) else None
        if self._offset is not None and self.layout == "NCHW":
            self._offset = self._offset.reshape(-1, 1, 1)
        self._planes = [list(row) for row in self._tensor.view(np.uint8)] if self._is_bytes and self.layout == "NCHW" else []
        table = _byte_table(spec, form) if self._is_bytes else None
        is_identity = table is not None and bool((table == np.arange(256)[:, None, None]).all())
        self._table = None if is_identity else table

    def __call__(self, image: Image) -> tuple[Tensor, Placement]:
        """The input tensor of one picture, valid until the next call, and where the picture lies in it."""
        placement = self.place(image)
        return self.tensor(), placement

    def place(self, image: Image, row: int = 0) -> Placement:
        """Fill one row, and say where the picture lies in it. Raises ValueError for a picture that cannot be used."""
        placement = Placement.of(image, self.size, self._format.letterbox)
        pixels = image.resized(placement.width, placement.height, self._format.order)
        if (placement.width, placement.height) != self.size:
            pixels = self._pad(pixels, placement)
        self._fill(pixels, row)
        return placement

    def tensor(self, rows: int = 1) -> Tensor:
        """The first rows, valid until one of them is filled anew."""
        return self._firsts[rows - 1]

    def _pad(self, pixels: Pixels, at: Placement) -> Pixels:
        if self._placed != at:  # another source size: the border lies elsewhere
            self._canvas[:] = self._format.pad
            self._placed = at
        self._canvas[at.top : at.top + at.height, at.left : at.left + at.width] = pixels
        return self._canvas

    def _fill(self, pixels: Pixels, row: int) -> None:
        import cv2

        tensor = self._tensor[row]
        if self._is_bytes:
            stored = pixels if self._table is None else cv2.LUT(pixels, self._table)
            if self.layout == "NCHW":
                cv2.split(stored, self._planes[row])  # nine times faster than numpy's transposed copy
            elif len(self._tensor) == 1:
                self._firsts[0] = stored.view(tensor.dtype)[np.newaxis]  # as it is, without a copy
            else:
                tensor[:] = stored.view(tensor.dtype)
            return
        if self.layout == "NHWC":
            np.multiply(pixels, self._scale, out=tensor, casting="unsafe")
        else:
            for channel, plane in enumerate(cv2.split(pixels)):
                np.multiply(plane, self._scales[channel], out=tensor[channel], casting="unsafe")
        if self._offset is not None:
            tensor += self._offset


def _channels(value: float | Channels) -> Channels:
    return value if isinstance(value, tuple) else (value, value, value)


def input_layout(spec: TensorSpec) -> tuple[Literal["NCHW", "NHWC"], tuple[int, int]]:
    """Layout, and (width, height), of an image input. Raises ModelBroken for anything else."""
    shape = spec.shape
    if len(shape) == 4 and shape[0] in {1, -1} and all(size > 0 for size in shape[1:]):
        if shape[3] == 3:
            return "NHWC", (shape[2], shape[1])
        if shape[1] == 3:
            return "NCHW", (shape[3], shape[2])
    open_ones = "; export it with a fixed input size" if -1 in shape[1:] else ""
    raise ModelBroken(f"input {spec.name!r} has shape {list(shape)}, not one picture of 3 channels{open_ones}")


def _byte_table(spec: TensorSpec, form: InputFormat) -> NDArray[np.uint8]:
    """For 8-bit inputs: the stored byte of each pixel value, by the tensor's own scale and zero point; [256, 1, 1 or 3] for OpenCV."""
    pixels: NDArray[np.float64] = np.arange(256, dtype=np.float64)[:, None]
    limits = np.iinfo(spec.dtype.name)
    if spec.quantization is None:  # an integer input without parameters takes pixels as they are
        stored: NDArray[np.float64] = pixels if spec.dtype == np.uint8 else pixels - 128
    else:
        real = pixels * np.array(_channels(form.scale)) + np.array(_channels(form.offset))
        stored = np.round(real / spec.quantization.scale) + spec.quantization.zero_point
    table = np.clip(stored, limits.min, limits.max).astype(spec.dtype).view(np.uint8)
    if (table == table[:, :1]).all():
        table = table[:, :1]
    return np.ascontiguousarray(table[:, None, :])


def pixels_as_they_are(spec: TensorSpec, otherwise: InputFormat) -> InputFormat:
    """For inputs that hold a pixel in a byte, whatever real values their parameters declare; ``otherwise`` for the rest."""
    if spec.dtype != np.uint8:
        return otherwise
    quantization = spec.quantization
    scale, zero = (quantization.scale, quantization.zero_point) if quantization else (1.0, 0)
    return replace(otherwise, scale=scale, offset=-zero * scale)
