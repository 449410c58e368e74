"""An ONNX file whose picture's size is fixed, with that size left open.

For nets that are all convolutions, whose authors exported them with some size or other, or for a batch of many.

Source: onnx/onnx.proto. Only the sizes in the graph's inputs and outputs are rewritten; weights are copied as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

_GRAPH, _INPUT, _OUTPUT, _VALUE_INFO = 7, 11, 12, 13
_NAME, _TYPE, _TENSOR, _ELEMENT, _SHAPE, _DIM, _DIM_VALUE, _DIM_PARAM = 1, 2, 1, 1, 2, 1, 1, 2
_PICTURE_RANK = 4

Field = tuple[int, bytes, bytes]
"""Number, the whole field as it stands in the file, and its content (of numbers: their bytes)."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(data: bytes) -> Iterator[Field]:
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        if key & 7 == 2:
            length, content = _varint(data, at)
            at = content + length
        else:
            content = at
            at = _varint(data, at)[1] if key & 7 == 0 else at + (8 if key & 7 == 1 else 4)
        yield key >> 3, data[start:at], data[content:at]


def _message(number: int, content: bytes) -> bytes:
    return _encoded(number << 3 | 2) + _encoded(len(content)) + content


def _changed(data: bytes, number: int, change: bytes | None) -> bytes:
    """A message with its (one) field ``number`` given another content; None: without it."""
    replaced = b"" if change is None else _message(number, change)
    return b"".join(replaced if field == number else whole for field, whole, _ in _fields(data))


def _first(data: bytes, number: int) -> bytes:
    return next((content for field, _, content in _fields(data) if field == number), b"")


def _sizes(info: bytes) -> list[int]:
    shape = _first(_first(_first(info, _TYPE), _TENSOR), _SHAPE)
    dims = [content for field, _, content in _fields(shape) if field == _DIM]
    return [_varint(value, 0)[0] if (value := _first(dim, _DIM_VALUE)) else -1 for dim in dims]


def _with_sizes(info: bytes, sizes: list[int | str]) -> bytes:
    """A ValueInfoProto with other sizes; text is a size left open."""
    dims = [_message(_DIM_PARAM, size.encode()) if isinstance(size, str) else _encoded(_DIM_VALUE << 3) + _encoded(size) for size in sizes]
    shape = b"".join(_message(_DIM, dim) for dim in dims)
    kind = _first(info, _TYPE)
    tensor = _first(kind, _TENSOR)
    elements = b"".join(whole for field, whole, _ in _fields(tensor) if field == _ELEMENT)
    return _changed(info, _TYPE, _changed(kind, _TENSOR, elements + _message(_SHAPE, shape)))


def reopened(data: bytes, picture: str) -> bytes:
    """The file ``data`` with the size of its input ``picture``, the batch included, left open."""
    return b"".join(_message(_GRAPH, _graph(content, picture)) if field == _GRAPH else whole for field, whole, content in _fields(data))


def _graph(data: bytes, picture: str) -> bytes:
    parts = []
    for field, whole, content in _fields(data):
        if field == _INPUT and _first(content, _NAME).decode() == picture:
            sizes = _sizes(content)
            channels = 1 if len(sizes) == _PICTURE_RANK and sizes[1] in {1, 3} else len(sizes) - 1
            parts.append(_message(_INPUT, _with_sizes(content, [s if i == channels else f"size{i}" for i, s in enumerate(sizes)])))
        elif field == _OUTPUT:
            parts.append(_message(_OUTPUT, _with_sizes(content, [f"out{i}" for i in range(len(_sizes(content)))])))
        elif field != _VALUE_INFO:
            parts.append(whole)
    return b"".join(parts)
