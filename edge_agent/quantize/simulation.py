"""Which tensor costs accuracy: the float model with 8-bit rounding of any chosen tensors, in one session.

Each tensor goes through clip, divide, round, multiply, whose four numbers are inputs of the graph: a trial of another choice is a
run with other inputs, not another session. A range that is None makes the step so fine that nothing is lost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.quantize.accuracy import Judge
from edge_agent.quantize.graph import Graph
from edge_agent.quantize.ranges import Range, grid
from edge_agent.quantize.sessions import Session
from edge_agent.runtimes.base import Tensor

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_FINE = 2.0**-20
_FAR = 1e30
_WORST = 24
"""Tensors whose method is chosen one by one."""


class Simulation:
    """A float model in which the rounding of ``tensors`` can be switched."""

    def __init__(self, model: ModelProto, tensors: Sequence[str], judge: Judge, pictures: int) -> None:
        self._judge, self._tensors = judge, list(tensors)
        self._ids = judge.some(pictures)
        self._off = {key: value for name in tensors for key, value in _feed(name, None).items()}
        self._model, self._runtime = judge.trial(Session(_with_rounding(model, self._tensors)), self._off)

    def damage(self, ranges: Mapping[str, Range]) -> float:
        """1 - agreement with the float model when these tensors are rounded to 8 bits, and no others."""
        for name in self._tensors:
            for key, value in _feed(name, ranges.get(name)).items():
                self._runtime.fix(key, value)
        return self._judge.damage(self._model, self._ids)

    def rank(self, ranges: Mapping[str, Range], progress: Callable[[int, int], None]) -> dict[str, float]:
        """The damage that each tensor does alone, the worst first."""
        alone = {}
        for done, name in enumerate(self._tensors, 1):
            alone[name] = self.damage({name: ranges[name]})
            progress(done, len(self._tensors))
        return dict(sorted(alone.items(), key=lambda item: -item[1]))


def best_methods(
    simulation: Simulation, damages: Mapping[str, float], by_method: Mapping[str, Mapping[str, Range]], general: str
) -> dict[str, str]:
    """For the tensors that cost most, the method that costs least, where that is not the general one."""
    chosen = {}
    for name in list(damages)[:_WORST]:
        trials = {method: simulation.damage({name: ranges[name]}) for method, ranges in by_method.items() if method != general}
        best = min(trials, key=lambda method: trials[method])
        if trials[best] < 0.9 * damages[name]:
            chosen[name] = best
    return chosen


def _feed(name: str, limits: Range | None) -> dict[str, Tensor]:
    scale, low, high = (_FINE, -_FAR, _FAR) if limits is None else grid(limits)
    values = {"step": scale, "inverse": 1 / scale, "low": low, "high": high}
    return {f"{name}/{key}": np.array(value, np.float32) for key, value in values.items()}


def _with_rounding(model: ModelProto, tensors: Collection[str]) -> ModelProto:
    from onnx import TensorProto, helper

    model = copy.deepcopy(model)
    graph = Graph(model)
    for name in tensors:
        inputs = (helper.make_tensor_value_info(f"{name}/{key}", TensorProto.FLOAT, []) for key in ("step", "inverse", "low", "high"))
        model.graph.input.extend(inputs)
    nodes: list[NodeProto] = []
    for name in tensors:
        if name not in graph.producer:
            nodes += _rounding(name)
    outputs = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name in tensors and name not in outputs:
                node.input[position] = f"{name}/rounded"
        nodes.append(node)
        for name in node.output:
            if name in tensors and name not in outputs:
                nodes += _rounding(name)
    kept = [copy.deepcopy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _rounding(name: str) -> list[NodeProto]:
    from onnx import helper

    steps = (
        ("Max", (name, f"{name}/low"), "above"),
        ("Min", (f"{name}/above", f"{name}/high"), "clipped"),
        ("Mul", (f"{name}/clipped", f"{name}/inverse"), "divided"),
        ("Round", (f"{name}/divided",), "whole"),
        ("Mul", (f"{name}/whole", f"{name}/step"), "rounded"),
    )
    return [helper.make_node(kind, list(inputs), [f"{name}/{output}"], name=f"{name}/{output}_node") for kind, inputs, output in steps]
