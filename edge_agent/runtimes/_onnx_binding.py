"""An inference whose input and outputs stay where they are: ONNX Runtime's IO binding, on memory that is allocated once.

Only for graphs that state all sizes of their outputs, and whose first outputs have them. See docs/decisions/0013-buffers.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edge_agent.runtimes.base import Tensor


class Binding:
    """A session bound to the buffers of its outputs. Not thread-safe."""

    def __init__(self, ort: Any, session: Any, names: Sequence[str], outputs: Sequence[Tensor], fixed: Mapping[str, Tensor]) -> None:
        """``outputs`` become the buffers; ``fixed`` are inputs besides the picture. Raises what the library raises."""
        self._value_of = ort.OrtValue.ortvalue_from_numpy
        self._session, self._outputs = session, [np.ascontiguousarray(output) for output in outputs]
        self._bound: Tensor | None = None
        self._io = session.io_binding()
        # an OrtValue keeps its array alive, and the binding copies only a reference to it
        self._values = [self._value_of(output) for output in self._outputs]
        for name, value in zip(names, self._values, strict=True):
            self._io.bind_ortvalue_output(name, value)
        for name, array in fixed.items():
            self._io.bind_cpu_input(name, array)

    def run(self, name: str, tensor: Tensor) -> Sequence[Tensor]:
        """Infer ``tensor`` into the buffers, which the next call overwrites. Raises what the library raises."""
        if tensor is not self._bound:
            self._picture = self._value_of(np.ascontiguousarray(tensor))
            self._io.bind_ortvalue_input(name, self._picture)
            self._bound = tensor if tensor.flags.c_contiguous else None  # else what was bound is a copy
        self._session.run_with_iobinding(self._io)
        return self._outputs


def fits(declared: Sequence[Sequence[object]], outputs: Sequence[Tensor]) -> bool:
    """Whether all sizes are stated in the graph, and are those of the outputs met, which are numbers."""
    return all(list(shape) == list(output.shape) and output.dtype.kind in "fiu" for shape, output in zip(declared, outputs, strict=True))
