"""One interpreter of TFLite, for inputs of one size, with the memory of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_agent.errors import ModelError
from edge_agent.runtimes.base import Tensor


class Engine:
    """An ``Interpreter`` whose tensors are allocated. Not thread-safe."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        inputs = sorted(interpreter.get_input_details(), key=lambda details: len(details["shape"]) != 4)  # the picture first
        outputs = interpreter.get_output_details()
        self._input = inputs[0]["index"]
        self._outputs = [output["index"] for output in outputs]
        self._buffers = [np.empty(tuple(output["shape"]), output["dtype"]) for output in outputs]

    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        """As :meth:`edge_agent.runtimes.base.Runtime.infer`."""
        try:
            self._interpreter.set_tensor(self._input, tensor)
            self._interpreter.invoke()
            return [self._output(place, index) for place, index in enumerate(self._outputs)]
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"inference failed: {error}") from None

    def _output(self, place: int, index: int) -> Tensor:
        """In a buffer that is allocated once. The library's own memory must not be held while it infers."""
        stored = self._interpreter.tensor(index)()
        if stored.shape != self._buffers[place].shape:  # sizes that depend on what is seen
            self._buffers[place] = np.empty(stored.shape, stored.dtype)
        np.copyto(self._buffers[place], stored)
        return self._buffers[place]
