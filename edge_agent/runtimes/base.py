"""The contract of a runtime, and what a model file says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent.config import Table

Tensor = NDArray[np.generic]


@dataclass(frozen=True)
class Quantization:
    """real = (stored - zero_point) * scale, per tensor."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph. ``shape`` has -1 where the graph leaves a dimension open."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    quantization: Quantization | None = None


@dataclass(frozen=True)
class GraphSpec:
    """What a model file says of itself."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    runtime: str
    """Library and version, such as ``ONNX Runtime 1.32.0``."""
    accelerator: str
    """The execution provider or delegate that runs it."""
    precision: str
    """``int8``, ``float16`` or ``float32``: what most of the arithmetic is done in."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    """Class names found inside the file."""


class Runtime(ABC):
    """A loaded model file. Not thread-safe: each lane has its own."""

    spec: GraphSpec

    @abstractmethod
    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        """Run the graph on its one input, which must have the input's shape and dtype. Raises ModelError.

        The outputs stay valid until the next call.
        """


@dataclass(frozen=True)
class RuntimeContext:
    """What a runtime is given besides its own ``Config``."""

    path: Path
    threads: int


class NoConfig(Table):
    """A plugin without keys of its own."""


def dequantize(tensor: Tensor, spec: TensorSpec) -> NDArray[np.float32]:
    """Stored values as real ones, float32, by the tensor's own scale and zero point."""
    if spec.quantization is None:
        return tensor.astype(np.float32, copy=False)
    scale, zero = np.float32(spec.quantization.scale), np.float32(spec.quantization.zero_point)
    real: NDArray[np.float32] = (tensor.astype(np.float32) - zero) * scale
    return real
