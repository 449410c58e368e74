"""What a TFLite file says of itself, read without a TFLite library, which may crash on a damaged one.

Source: tensorflow/lite/schema/schema.fbs, tflite-support's metadata_schema.fbs, and the FlatBuffers binary format:
a table begins with the signed distance back to its vtable, which holds the 16-bit offset of each field.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from edge_agent.runtimes.base import FileFacts, Normalisation

_NAMES = {3: "Conv", 4: "DepthwiseConv", 6: "DequantizeLinear", 14: "Sigmoid", 25: "Softmax", 32: "Custom", 47: "Exp", 56: "ArgMax",
          67: "ConvTranspose", 114: "QuantizeLinear"}  # fmt: skip
"""Builtin operators by the names that ONNX has for them, where a family asks for them."""
_TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8", 10: "float64", 17: "int4"}
_CUSTOM = 32
_KNOWN_CUSTOM = {"TFLite_Detection_PostProcess"}
_NORMALIZATION = 1


class Damaged(ValueError):
    """The bytes are not what the format says."""


class _Table:
    """One table of a FlatBuffer; fields by their position in the schema."""

    def __init__(self, data: bytes | mmap.mmap, at: int) -> None:
        self._data, self._at = data, at
        self._vtable = at - self._unpack("<i", at)
        self._fields = (self._unpack("<H", self._vtable) - 4) // 2

    def _unpack(self, form: str, at: int) -> int:
        if at < 0 or at + struct.calcsize(form) > len(self._data):
            raise Damaged("it ends in the middle, or points outside of itself")
        return int(struct.unpack_from(form, self._data, at)[0])

    def _field(self, index: int) -> int | None:
        if index >= self._fields:
            return None
        offset = self._unpack("<H", self._vtable + 4 + 2 * index)
        return self._at + offset if offset else None

    def number(self, index: int, form: str = "<i", default: int = 0) -> int:
        """A scalar."""
        at = self._field(index)
        return default if at is None else self._unpack(form, at)

    def _vector(self, index: int, width: int) -> tuple[int, int]:
        """Where a vector's elements begin, and how many there are."""
        at = self._field(index)
        if at is None:
            return 0, 0
        at += self._unpack("<I", at)
        count = self._unpack("<I", at)
        if at + 4 + count * width > len(self._data):
            raise Damaged("it ends in the middle of a list")
        return at + 4, count

    def numbers(self, index: int, kind: str) -> tuple[float, ...]:
        """A vector of scalars, of struct's format ``kind``."""
        at, count = self._vector(index, struct.calcsize(kind))
        return struct.unpack_from(f"<{count}{kind}", self._data, at) if count else ()

    def raw(self, index: int) -> bytes:
        """A vector of bytes, or a string."""
        at, count = self._vector(index, 1)
        return bytes(self._data[at : at + count])

    def size(self, index: int, width: int = 1) -> int:
        """How many elements a vector has."""
        return self._vector(index, width)[1]

    def text(self, index: int) -> str:
        """A string."""
        return self.raw(index).decode("utf-8", "replace")

    def table(self, index: int) -> _Table | None:
        """A nested table."""
        at = self._field(index)
        return None if at is None else _Table(self._data, at + self._unpack("<I", at))

    def tables(self, index: int) -> Iterator[_Table]:
        """A vector of tables."""
        at, count = self._vector(index, 4)
        for element in range(at, at + 4 * count, 4):
            yield _Table(self._data, element + self._unpack("<I", element))


def _root(data: bytes | mmap.mmap) -> _Table:
    if len(data) < 8:
        raise Damaged("it is too short")
    return _Table(data, struct.unpack_from("<I", data, 0)[0])


def _code(operator: _Table) -> int:
    """The newer field of 32 bits, or the older one of 8: whichever is larger, as TFLite itself takes it."""
    return max(operator.number(3), operator.number(0, "<b"))


def _operators(model: _Table) -> tuple[dict[str, int], set[str]]:
    names, custom = [], set()
    for operator in model.tables(1):
        code = _code(operator)
        if code == _CUSTOM:
            custom.add(operator.text(1))
        names.append(operator.text(1) if code == _CUSTOM else _NAMES.get(code, f"builtin {code}"))
    counts: Counter[str] = Counter()
    for graph in model.tables(2):
        for node in graph.tables(3):
            index = node.number(0, "<I")
            if index >= len(names):
                raise Damaged("an operator has no code")
            counts[names[index]] += 1
    return dict(counts), custom - _KNOWN_CUSTOM


def _constants(model: _Table, length: int) -> Counter[str]:
    """Numbers in constant tensors, by type. Raises Damaged for a buffer that reaches past the end."""
    filled = []
    for buffer in model.tables(4):
        offset, size = buffer.number(1, "<Q"), buffer.number(2, "<Q")
        if offset > 1 and offset + size > length:
            raise Damaged(f"it ends in the middle: {offset + size - length} bytes are missing")
        filled.append(bool(buffer.size(0)) or size > 0)
    counts: Counter[str] = Counter()
    for graph in model.tables(2):
        for tensor in graph.tables(0):
            index = tensor.number(2, "<I")
            if index >= len(filled):
                raise Damaged("a tensor has no buffer")
            if filled[index]:
                kind = _TYPES.get(tensor.number(1, "<b"), "other")
                counts[kind] += math.prod(int(size) for size in tensor.numbers(0, "i"))
    return counts


def _normalisation(model: _Table) -> Normalisation | None:
    """Mean and deviation of the first input, from the metadata of TFLite's model maker and Coral's tools."""
    index = next((entry.number(1, "<I") for entry in model.tables(6) if entry.text(0) == "TFLITE_METADATA"), None)
    buffers = list(model.tables(4))
    if index is None or index >= len(buffers):
        return None
    metadata = buffers[index].raw(0)
    for graph in _root(metadata).tables(3):
        for tensor in graph.tables(2):
            for unit in tensor.tables(4):
                options = unit.table(1)
                if unit.number(0, "<B") == _NORMALIZATION and options is not None:
                    mean, deviation = options.numbers(0, "f"), options.numbers(1, "f")
                    if len(mean) in {1, 3} and len(mean) == len(deviation) and all(deviation):
                        return Normalisation((tuple(mean) * 3)[:3], (tuple(deviation) * 3)[:3])
            return None
    return None


def read(path: Path) -> FileFacts:
    """Operators, size and metadata of a file. Raises Damaged with the reason; OSError."""
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise Damaged("it is empty") from None
        with data:
            try:
                model = _root(data)
                operators, custom = _operators(model)
                constants = _constants(model, len(data))
                try:
                    normalisation = _normalisation(model)
                except (Damaged, struct.error):  # a damaged description of a model that is whole
                    normalisation = None
            except (struct.error, OverflowError):
                raise Damaged("it points outside of itself") from None
            if not operators:
                raise Damaged("it holds no operators")
            return FileFacts(
                operators=operators,
                custom_operators=tuple(sorted(custom)),
                opset=f"schema {model.number(0, '<I')}",
                producer=model.text(3),
                constants=dict(constants),
                normalisation=normalisation,
            )
