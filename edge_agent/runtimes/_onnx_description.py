"""What a session of ONNX Runtime, and the metadata in its file, tell of a model."""

from __future__ import annotations

import ast
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.runtimes.base import FileFacts, TensorSpec

_QUANTIZED = {"QLinearConv", "DequantizeLinear", "ConvInteger"}
_DTYPES = {
    "float": "float32",
    "float16": "float16",
    "uint8": "uint8",
    "int8": "int8",
    "int32": "int32",
    "int64": "int64",
    "double": "float64",
}


def metadata_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """Width and height of Ultralytics' ``imgsz`` entry, which is the text of a list of height and width."""
    try:
        height, width = ast.literal_eval(metadata.get("imgsz", ""))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return (width, height) if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0 else None


def precision_of(path: Path, facts: FileFacts | None) -> str:
    """By the operators, as weights may be quantized when it is loaded; in a file of the library's own (.ort), by their names in it."""
    if facts is not None:
        return "int8" if _QUANTIZED & facts.operators.keys() else facts.precision
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return "int8" if any(data.find(name.encode()) >= 0 for name in _QUANTIZED) else "float32"


def tensor_spec(node: Any) -> TensorSpec:
    """An input or output of a session; sizes that are left open are -1."""
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape or ())
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(node.name, shape, np.dtype(_DTYPES.get(kind, "float32")))


def class_names(text: str) -> tuple[str, ...]:
    """Class names from Ultralytics' ``names`` entry: the text of a Python dict or list."""
    try:
        names = ast.literal_eval(text) if text else ()
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ()
    if isinstance(names, dict) and names and all(isinstance(key, int) and 0 <= key < 100_000 for key in names):
        return tuple(str(names.get(index, index)) for index in range(max(names) + 1))
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()
