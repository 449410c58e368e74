"""The contract of a runtime, and what a model file says of itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_agent.config_values import Table
from edge_agent.errors import ConfigError, ModelBroken, ModelError
from edge_agent.host import read_host

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
class Normalisation:
    """(pixel - mean) / deviation, for each channel in the input's own order, pixels from 0 to 255."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class FileFacts:
    """What can be read from a model file without a runtime."""

    operators: Mapping[str, int]
    """How many there are of each, by ONNX's names where TFLite has the same."""
    custom_operators: tuple[str, ...] = ()
    """Those that neither format defines."""
    opset: str = ""
    producer: str = ""
    constants: Mapping[str, int] = field(default_factory=dict)
    """How many numbers the graph's constants hold, by their type."""
    missing_files: tuple[str, ...] = ()
    """What is wrong with the files that hold the weights beside it, a line for each."""
    anchors: Mapping[int, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    """Constants [rows, 4], by their number of rows."""
    normalisation: Normalisation | None = None
    """What the file's metadata ask for."""

    @property
    def parameters(self) -> int:
        """Numbers in the graph's constants."""
        return sum(self.constants.values())

    @property
    def precision(self) -> str:
        """``int8``, ``float16`` or ``float32``: what most of the weights are stored in, which is what most arithmetic is done in.

        Where there are no weights of these types: float32.
        """
        weights = {
            "float32": self.constants.get("float32", 0),
            "float16": self.constants.get("float16", 0),
            "int8": self.constants.get("int8", 0) + self.constants.get("uint8", 0),
        }
        return max(weights, key=weights.__getitem__)


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
    file: FileFacts | None = None
    """None where the file cannot be read without its runtime (.ort)."""

    def has_operator(self, name: str) -> bool | None:
        """Whether an operator occurs in the graph; None where that cannot be told."""
        return None if self.file is None else name in self.file.operators


class Runtime(ABC):
    """A loaded model file. Not thread-safe: each lane has its own."""

    spec: GraphSpec
    """Of one picture, which is its first input, whatever the file's batch is."""
    batch: int = 1
    """The most pictures that one inference takes."""
    can_spin: ClassVar[bool] = False
    """Whether ``RuntimeContext.spin`` changes anything."""

    @abstractmethod
    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        """Run the graph on its one input, of the input's shape and dtype, with as many rows as :meth:`rows_for` says. Raises ModelError.

        The outputs stay valid until the next call.
        """

    def rows_for(self, pictures: int) -> int:
        """How many rows the tensor of so many pictures, ``batch`` at most, must have; whatever is in those beyond them is ignored."""
        return pictures

    def fix(self, name: str, value: Tensor) -> None:
        """Give an input besides the picture its value, for all inferences. Raises ModelError where there is none such."""
        raise ModelError(f"{self.spec.runtime} takes no input {name!r} besides the picture")


def refusal(text: str, *, elsewhere: bool = False) -> ModelError:
    """Why a file was not loaded, as the error to raise: trying again helps only where memory or another device was short.

    ``elsewhere``: a device that may come and go was to run it.
    """
    return ModelError(text) if elsewhere or "alloc" in text.rpartition("can run: ")[2].lower() else ModelBroken(text)


def silent(_what: str, _seconds: float) -> None:
    """Announces nothing."""


@dataclass(frozen=True)
class RuntimeContext:
    """What a runtime is given besides its own ``Config``."""

    path: Path
    threads: int
    input_size: tuple[int, int] | None = None
    """Width and height for a file that leaves them open."""
    spin: bool = False
    """Whether threads wait busily for the next part of an inference, where the library lets one choose."""
    sha256: str = ""
    """Of the file; empty where nobody has worked it out: then nothing that is compiled of it is kept."""
    state: Path | None = None
    """Folder in which what was compiled for this machine may be kept."""
    batch: int = 1
    """How many pictures one inference is to take, at most. A file that is made for exactly so many takes its own number."""
    announce: Callable[[str, float], None] = silent
    """Called with what takes long, and how many seconds it may at most."""


def one_at_a_time(path: Path, batch: int, reason: str) -> ConfigError:
    """Why a file cannot take several pictures in one inference, as the error to raise."""
    flags = {
        ".onnx": "dynamic=True of Ultralytics, --dynamic of YOLOX and YOLOv5, dynamic_axes of torch.onnx.export leave its batch open",
        ".tflite": f"batch={batch} of Ultralytics, or an input_shape of {batch} pictures where it is converted",
    }
    hint = flags.get(path.suffix.lower(), "leave its batch open where it is exported")
    return ConfigError(
        f"model.batch: {path} takes one picture at a time, not {batch}: {reason}; export it again ({hint}), or set batch = 1"
    )


class NoConfig(Table):
    """A plugin without keys of its own."""


def dequantize(tensor: Tensor, spec: TensorSpec) -> NDArray[np.float32]:
    """Stored values as real ones, float32, by the tensor's own scale and zero point."""
    if spec.quantization is None:
        return tensor.astype(np.float32, copy=False)
    scale, zero = np.float32(spec.quantization.scale), np.float32(spec.quantization.zero_point)
    real: NDArray[np.float32] = (tensor.astype(np.float32) - zero) * scale
    return real


def with_fixed_size(spec: TensorSpec, size: tuple[int, int] | None, path: Path) -> TensorSpec:
    """A picture's input whose open sizes are filled in: one picture, and ``size`` (width, height).

    Raises ConfigError for a file that leaves its size open where ``size`` is None, and for one that has another; ModelError for
    a picture that does not fit into this machine's memory.
    """
    shape = list(spec.shape)
    if len(shape) != 4:
        return spec
    shape[0] = 1 if shape[0] == -1 else shape[0]
    across = (2, 1) if shape[3] in {1, 3} else (3, 2)
    if any(shape[axis] == -1 for axis in across) and size is None:
        raise ConfigError(
            f"model.input_size: {path} leaves the size of its input {spec.name!r} open; set input_size = 640, or as it was trained"
        )
    for axis, wanted in zip(across, size or (0, 0), strict=True):
        if shape[axis] == -1:
            shape[axis] = wanted
    if size is not None and tuple(shape[axis] for axis in across) != size:
        own = "x".join(str(shape[axis]) for axis in across)
        raise ConfigError(f"model.input_size: {path} is made for pictures of {own}, and cannot be used for {size[0]}x{size[1]}")
    if -1 in shape:  # the channels
        shape[shape.index(-1)] = 3
    _refuse_larger_than_memory(shape, spec.dtype, path)
    return replace(spec, shape=tuple(shape))


def of_one_picture(graph: GraphSpec, rows: int) -> GraphSpec:
    """What a graph that is made for exactly ``rows`` pictures says of each of them."""

    def one(spec: TensorSpec) -> TensorSpec:
        return replace(spec, shape=(1, *spec.shape[1:])) if spec.shape[:1] == (rows,) else spec

    return replace(graph, inputs=(one(graph.inputs[0]), *graph.inputs[1:]), outputs=tuple(map(one, graph.outputs)))


def _refuse_larger_than_memory(shape: Sequence[int], dtype: np.dtype[np.generic], path: Path) -> None:
    needed = math.prod(shape) * dtype.itemsize
    available = read_host().memory_available_bytes
    if available is not None and needed > available:
        left = f"this machine has {available / 1e9:.1f} GB left"
        raise ModelError(f"{path}: its input {list(shape)} takes {needed / 1e9:.1f} GB, and {left}")
