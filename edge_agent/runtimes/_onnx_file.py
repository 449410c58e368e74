"""What an ONNX file says of itself, read without the package onnx and without loading the model.

Source: onnx/onnx.proto (field numbers) and the Protocol Buffers wire format. Weights are skipped, not read: a file of
gigabytes is told in milliseconds.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edge_agent.runtimes.base import FileFacts

_STANDARD_DOMAINS = {
    *("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"),
    *("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "com.microsoft.experimental"),
}
_FLOAT = 1
_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64", 16: "bfloat16"}
_MAX_ANCHORS = 1_000_000

Span = tuple[int, int]
Value = int | Span


class Damaged(ValueError):
    """The bytes are not what the format says."""


@dataclass
class Initializer:
    """A constant of the graph. ``data`` is where its raw bytes lie in the file; None where they lie elsewhere."""

    name: str = ""
    shape: tuple[int, ...] = ()
    kind: int = 0
    data: Span | None = None
    location: str = ""
    end: int = 0


@dataclass
class _Contents:
    operators: Counter[str] = field(default_factory=Counter)
    custom: set[str] = field(default_factory=set)
    initializers: list[Initializer] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)
    producer: str = ""
    found_graph: bool = False


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Damaged("a number is cut off")


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Value]]:
    """The fields of a message: their numbers, and their values, or where they lie."""
    at, end = span
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at, end)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at, end)
        elif wire in {1, 5}:
            length = 8 if wire == 1 else 4
        else:
            raise Damaged(f"a field of unknown kind at byte {at}")
        if at + length > end:
            raise Damaged(f"it ends in the middle: {at + length - end} bytes are missing")
        yield number, (at, at + length)
        at += length


def _text(data: mmap.mmap, value: Value) -> str:
    return "" if isinstance(value, int) else data[value[0] : value[1]].decode("utf-8", "replace")


def _nested(data: mmap.mmap, value: Value) -> Iterator[tuple[int, Value]]:
    return iter(()) if isinstance(value, int) else _fields(data, value)


def _node(data: mmap.mmap, span: Value, found: _Contents) -> None:
    kind = domain = ""
    for number, value in _nested(data, span):
        if number == 4:
            kind = _text(data, value)
        elif number == 7:
            domain = _text(data, value)
        elif number == 5:
            _attribute(data, value, found)
    found.operators[kind] += 1
    if domain not in _STANDARD_DOMAINS:
        found.custom.add(f"{domain}.{kind}")


def _attribute(data: mmap.mmap, span: Value, found: _Contents) -> None:
    """Constants (field 5) and the graphs of If and Loop (6) hide in attributes."""
    for number, value in _nested(data, span):
        if number == 6:
            _graph(data, value, found)
        elif number == 5:
            found.initializers.append(_initializer(data, value))


def _initializer(data: mmap.mmap, span: Value) -> Initializer:
    tensor = Initializer()
    shape: list[int] = []
    for number, value in _nested(data, span):
        if number == 1:
            shape += [value] if isinstance(value, int) else _packed(data, value)
        elif number == 2 and isinstance(value, int):
            tensor.kind = value
        elif number == 8:
            tensor.name = _text(data, value)
        elif number in {4, 9} and not isinstance(value, int):  # float_data is packed, and the same bytes as raw_data
            tensor.data = value
        elif number == 13:
            _external(data, value, tensor)
    tensor.shape = tuple(shape)
    return tensor


def _external(data: mmap.mmap, span: Value, tensor: Initializer) -> None:
    entry = {number: _text(data, value) for number, value in _nested(data, span)}
    key, text = entry.get(1, ""), entry.get(2, "")
    if key == "location":
        tensor.location = text
    elif key in {"offset", "length"} and text.isdecimal():
        tensor.end += int(text)


def _packed(data: mmap.mmap, span: Span) -> list[int]:
    found, at = [], span[0]
    while at < span[1]:
        value, at = _varint(data, at, span[1])
        found.append(value)
    return found


def _graph(data: mmap.mmap, span: Value, found: _Contents) -> None:
    for number, value in _nested(data, span):
        if number == 1:
            _node(data, value, found)
        elif number == 5:
            found.initializers.append(_initializer(data, value))


def _contents(data: mmap.mmap) -> _Contents:
    found = _Contents()
    for number, value in _fields(data, (0, len(data))):
        if number == 7:
            found.found_graph = True
            _graph(data, value, found)
        elif number == 8:
            entry = dict(_nested(data, value))
            version = entry.get(2, 0)
            found.opsets[_text(data, entry.get(1, 0))] = version if isinstance(version, int) else 0
        elif number in {2, 3}:
            found.producer = f"{found.producer} {_text(data, value)}".strip()
        elif number == 25:  # a function of the file's own
            entry = dict(_nested(data, value))
            found.functions.add(f"{_text(data, entry.get(10, 0))}.{_text(data, entry.get(1, 0))}")
    return found


def _missing(path: Path, initializers: list[Initializer]) -> tuple[str, ...]:
    """Files of external data that are not there, or too short."""
    needed: dict[str, int] = {}
    for tensor in initializers:
        if tensor.location:
            needed[tensor.location] = max(needed.get(tensor.location, 0), tensor.end)
    missing = []
    for name, end in sorted(needed.items()):
        file = path.parent / PurePosixPath(name)
        try:
            size = file.stat().st_size
        except OSError:
            missing.append(f"{file} does not exist")
            continue
        if size < end:
            missing.append(f"{file} is {end - size} bytes too short")
    return tuple(missing)


def _anchors(data: mmap.mmap, initializers: list[Initializer]) -> dict[int, NDArray[np.float32]]:
    """Float constants [rows, 4], by their number of rows: what may be the anchors of an SSD."""
    found = {}
    for tensor in initializers:
        rows = math.prod(tensor.shape[:-1])
        if tensor.kind == _FLOAT and tensor.data and len(tensor.shape) in {2, 3} and tensor.shape[-1] == 4 and 100 < rows <= _MAX_ANCHORS:
            start, end = tensor.data
            if end - start == rows * 16:
                found[rows] = np.frombuffer(data[start:end], "<f4").reshape(rows, 4).astype(np.float32)
    return found


def _constants(initializers: list[Initializer]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for tensor in initializers:
        counts[_TYPES.get(tensor.kind, "other")] += math.prod(tensor.shape)
    return counts


def read(path: Path) -> FileFacts:
    """Operators, opset, size and constants of a file. Raises Damaged with the reason; OSError."""
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise Damaged("it is empty") from None
        with data:
            try:
                found = _contents(data)
            except RecursionError:
                raise Damaged("it holds graphs within graphs without end") from None
            if not found.found_graph or not found.opsets:
                raise Damaged("it holds no graph" if not found.found_graph else "it names no opset: its end is missing")
            opset = found.opsets.get("", found.opsets.get("ai.onnx", 0))
            return FileFacts(
                operators=dict(found.operators),
                custom_operators=tuple(sorted(found.custom - found.functions)),
                opset=f"opset {opset}",
                producer=found.producer,
                constants=dict(_constants(found.initializers)),
                missing_files=_missing(path, found.initializers),
                anchors=_anchors(data, found.initializers),
            )
