"""ONNX Runtime."""

from __future__ import annotations

import ast
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.config import Table
from edge_agent.errors import ConfigError, ModelError
from edge_agent.runtimes.base import GraphSpec, Runtime, RuntimeContext, Tensor, TensorSpec

_DTYPES = {
    "float": "float32",
    "float16": "float16",
    "uint8": "uint8",
    "int8": "int8",
    "int32": "int32",
    "int64": "int64",
    "double": "float64",
}


class Config(Table):
    """Keys of [model] that only ONNX files have."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    """Execution providers by preference, such as "CUDAExecutionProvider"; what the library lacks is refused."""


class OnnxRuntime(Runtime):
    """An ``InferenceSession`` with the threads asked for and no busy waiting between frames."""

    def __init__(self, context: RuntimeContext, config: Config) -> None:
        ort = _library()
        available = ort.get_available_providers()
        missing = [name for name in config.providers if name not in available]
        if missing:
            raise ConfigError(f"model.providers: this onnxruntime has no {', '.join(missing)}; it has {', '.join(available)}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = context.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(context.path), options, providers=list(config.providers))
        except Exception as error:  # the library's exceptions have no useful common base
            raise ModelError(f"{context.path} is not a model that ONNX Runtime can run: {_first_line(error)}") from None
        self.spec = self._describe(ort, _precision(context.path))
        self._input = self.spec.inputs[0].name
        self._outputs = [output.name for output in self.spec.outputs]

    def _describe(self, ort: Any, precision: str) -> GraphSpec:
        session = self._session
        metadata = dict(session.get_modelmeta().custom_metadata_map)
        return GraphSpec(
            tuple(map(_spec, session.get_inputs())),
            tuple(map(_spec, session.get_outputs())),
            f"ONNX Runtime {ort.__version__}",
            session.get_providers()[0],
            precision,
            metadata,
            _names(metadata.get("names", "")),
        )

    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        try:
            outputs: list[Tensor] = self._session.run(self._outputs, {self._input: tensor})
        except Exception as error:
            raise ModelError(f"inference failed: {_first_line(error)}") from None
        return outputs


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"running .onnx models needs the package onnxruntime: pip install onnxruntime ({error})") from None
    return onnxruntime


def _precision(path: Path) -> str:
    """By the operators' names in the file: parsing it would need the package onnx."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        quantized = any(data.find(name) >= 0 for name in (b"QLinearConv", b"DequantizeLinear", b"ConvInteger"))
    return "int8" if quantized else "float32"


def _spec(node: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape or ())
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(node.name, shape, np.dtype(_DTYPES.get(kind, "float32")))


def _names(text: str) -> tuple[str, ...]:
    """Class names from Ultralytics' ``names`` entry: the text of a Python dict or list."""
    try:
        names = ast.literal_eval(text) if text else ()
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    if isinstance(names, dict) and names and all(isinstance(key, int) and 0 <= key < 100_000 for key in names):
        return tuple(str(names.get(index, index)) for index in range(max(names) + 1))
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def build(context: RuntimeContext, config: Config) -> Runtime:
    """Load a file. Raises ConfigError or ModelError."""
    return OnnxRuntime(context, config)
