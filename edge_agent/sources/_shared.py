"""Pictures from one process to another: pixels through shared memory, copied once; the rest as a few bytes.

A picture keeps its lazy form. Its arrays are taken out of it by a pickler and put into a buffer that both processes map;
what remains is taken apart again by an unpickler that knows pictures and nothing else. Buffers go back to the sender when
nobody looks at their picture any more.
"""

from __future__ import annotations

import fcntl
import importlib
import io
import mmap
import os
import pickle
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.image import BgrImage, Colours, Image

_ALIGNMENT = 64
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
"""Else the sender could make the receiver fail by shrinking what it reads from."""


@dataclass(frozen=True)
class Parcel:
    """A picture on its way."""

    pickled: bytes
    buffer: int
    layout: list[tuple[int, list[int], str]]
    """Offset, shape and dtype of each array."""
    new_fd: int | None
    """The buffer's descriptor, the first time that it is used."""
    size: int


class _Taker(pickle.Pickler):
    """Leaves arrays out, and keeps them."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.arrays: list[NDArray[Any]] = []

    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, np.ndarray):
            return None
        self.arrays.append(obj)
        return len(self.arrays) - 1


class _Giver(pickle.Unpickler):
    """Puts arrays back in, and makes nothing but pictures."""

    def __init__(self, file: io.BytesIO, arrays: Sequence[NDArray[Any]]) -> None:
        super().__init__(file)
        self._arrays = arrays

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        array: NDArray[Any] = self._arrays[pid]
        return array

    def find_class(self, module_name: str, name: str) -> Any:
        if module_name == "edge_agent.image" or module_name.startswith("edge_agent.sources."):
            found = getattr(importlib.import_module(module_name), name, None)
            if isinstance(found, type) and (issubclass(found, Image) or found is Colours):
                return found
        raise pickle.UnpicklingError(f"{module_name}.{name} is no picture")


class Sender:
    """The process that has the pictures. Not thread-safe."""

    def __init__(self) -> None:
        self._buffers: list[mmap.mmap] = []
        self._free: set[int] = set()
        self._known: set[type[Image]] = set()
        """Kinds of picture that arrive as they are."""

    def freed(self, buffers: Sequence[int]) -> None:
        """The receiver does not look at these any more."""
        self._free.update(buffers)

    def pack(self, image: Image) -> Parcel:
        """Copy the picture's arrays into a buffer. What its decoder alone can convert is converted here."""
        try:
            pickled, arrays = _taken(image)
            if type(image) not in self._known:
                _Giver(io.BytesIO(pickled), arrays).load()  # what the receiver would refuse
                self._known.add(type(image))
        except (TypeError, AttributeError, pickle.PickleError):
            pickled, arrays = _taken(BgrImage(image.bgr()))
        offsets, size = [], 0
        for array in arrays:
            offsets.append(size)
            size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        number, new_fd = self._buffer(max(size, 1))
        memory = np.frombuffer(self._buffers[number], np.uint8)
        for array, offset in zip(arrays, offsets, strict=True):
            place = memory[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
            np.copyto(place, array)
        layout = [(offset, list(array.shape), array.dtype.str) for array, offset in zip(arrays, offsets, strict=True)]
        return Parcel(pickled, number, layout, new_fd, len(self._buffers[number]))

    def _buffer(self, size: int) -> tuple[int, int | None]:
        for number in self._free:
            if len(self._buffers[number]) >= size:
                self._free.discard(number)
                return number, None
        # A power of two: else JPEGs that grow a little with each dawn would leave a buffer of each size behind. What is never
        # written to takes no memory.
        size = max(mmap.PAGESIZE, 1 << (size - 1).bit_length())
        fd = os.memfd_create("edge_agent frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        self._buffers.append(mmap.mmap(fd, size))
        return len(self._buffers) - 1, fd


class Receiver:
    """The process that looks at them. ``unpack`` from one thread; pictures may be let go of in any."""

    def __init__(self) -> None:
        self._buffers: dict[int, mmap.mmap] = {}
        self._freed: list[int] = []

    def map(self, number: int, fd: int, size: int) -> None:
        """A buffer that is used for the first time; takes the descriptor over."""
        try:
            if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS and os.fstat(fd).st_size >= size:
                self._buffers[number] = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)

    def freed(self) -> list[int]:
        """Buffers that nobody looks at any more, each told once."""
        return [self._freed.pop() for _ in range(len(self._freed))]

    def unpack(self, pickled: bytes, number: int, layout: Sequence[Sequence[Any]]) -> Image:
        """The picture, on the sender's memory. Raises ValueError, KeyError or UnpicklingError for what is none."""
        memory = np.frombuffer(self._buffers[number], np.uint8)
        # Every array below is a view of this one and keeps it alive; mmap itself lives as long as the connection.
        weakref.finalize(memory, self._freed.append, number)
        arrays = []
        for offset, shape, dtype in layout:
            kind = np.dtype(dtype)
            size = int(np.prod(shape)) * kind.itemsize
            arrays.append(memory[offset : offset + size].view(kind).reshape(shape))
        image = _Giver(io.BytesIO(pickled), arrays).load()
        if not isinstance(image, Image):
            raise pickle.UnpicklingError("no picture")
        return image


def _taken(image: Image) -> tuple[bytes, list[NDArray[Any]]]:
    file = io.BytesIO()
    taker = _Taker(file)
    taker.dump(image)
    return file.getvalue(), taker.arrays
