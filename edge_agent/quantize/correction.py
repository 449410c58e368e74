"""Bias correction, and each layer's own error against float.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721), section 4.2,
with the means measured on the calibration pictures. Beside each convolution stands its quantized shadow on the same float input;
the mean of their difference, for each channel, is what the bias takes over.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.quantize.graph import Graph
from edge_agent.quantize.ranges import Range, grid
from edge_agent.quantize.sessions import Session
from edge_agent.runtimes.base import Tensor

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class LayerError:
    """Of one convolution whose input and weights take 8 bits."""

    mean: NDArray[np.floating[Any]]
    """Quantized less float output, for each channel."""
    sqnr_db: float
    """Power of the float output over that of the difference, in decibel."""


def layer_errors(model: ModelProto, nodes: Sequence[str], ranges: Mapping[str, Range], pictures: Sequence[Tensor]) -> dict[str, LayerError]:
    """By node name, for those of ``nodes`` that are convolutions with a bias."""
    from onnx import TensorProto, helper, numpy_helper

    shadowed = copy.deepcopy(model)
    graph = Graph(shadowed)
    arrays = {w.name: w for w in model.graph.initializer}
    convolutions = [graph.nodes[name] for name in nodes if _is_candidate(graph, graph.nodes[name], ranges)]
    added: list[NodeProto] = []
    for node in convolutions:
        weight = rounded_weights(numpy_helper.to_array(arrays[node.input[1]]))
        shadowed.graph.initializer.append(numpy_helper.from_array(weight, f"{node.name}/weight"))
        scale, low, high = grid(ranges[node.input[0]])
        numbers = {"step": scale, "low": low, "high": high}
        shadowed.graph.initializer.extend(numpy_helper.from_array(np.array(v, np.float32), f"{node.name}/{k}") for k, v in numbers.items())
        added += _shadow(node)
        for key in ("mean", "noise", "power"):
            shadowed.graph.output.append(helper.make_tensor_value_info(f"{node.name}/{key}", TensorProto.FLOAT, None))
    shadowed.graph.node.extend(added)
    if not convolutions:
        return {}
    session = Session(shadowed)
    source = model.graph.input[0].name
    names = [f"{node.name}/{key}" for node in convolutions for key in ("mean", "noise", "power")]
    sums = [np.sum(values, axis=0) for values in zip(*(session.run({source: picture}, names) for picture in pictures), strict=True)]
    found = {}
    for position, node in enumerate(convolutions):
        mean, noise, power = sums[3 * position : 3 * position + 3]
        ratio = float(np.sum(power)) / max(float(np.sum(noise)), 1e-20)
        found[node.name] = LayerError(
            np.asarray(mean, np.float32).reshape(-1) / len(pictures), round(10 * float(np.log10(max(ratio, 1e-9))), 1)
        )
    return found


def corrected(model: ModelProto, errors: Mapping[str, LayerError]) -> ModelProto:
    """``model`` with each convolution's mean error taken off its bias."""
    from onnx import numpy_helper

    done = copy.deepcopy(model)
    nodes = {node.name: node for node in done.graph.node}
    biases = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    for name, error in errors.items():
        bias = (biases[nodes[name].input[2]] - error.mean).astype(np.float32)
        nodes[name].input[2] = f"{name}/bias"  # its own: equal ones may be shared
        done.graph.initializer.append(numpy_helper.from_array(bias, f"{name}/bias"))
    return done


def rounded_weights(weights: NDArray[np.generic]) -> NDArray[np.float32]:
    """As signed 8 bits with a scale for each output channel hold them."""
    largest = np.abs(weights.reshape(len(weights), -1)).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1).reshape(-1, *[1] * (weights.ndim - 1))
    result: NDArray[np.float32] = (np.round(weights / scale) * scale).astype(np.float32)
    return result


def _is_candidate(graph: Graph, node: NodeProto, ranges: Mapping[str, Range]) -> bool:
    constant = len(node.input) == 3 and node.input[1] in graph.weights and node.input[2] in graph.weights
    return node.op_type == "Conv" and constant and node.input[0] in ranges


def _shadow(node: NodeProto) -> list[NodeProto]:
    from onnx import helper

    name = node.name
    shadow = copy.deepcopy(node)
    shadow.name = f"{name}/shadow_node"
    shadow.input[0], shadow.input[1] = f"{name}/rounded", f"{name}/weight"
    shadow.output[0] = f"{name}/shadow"

    def step(kind: str, inputs: list[str], output: str) -> NodeProto:
        return helper.make_node(kind, inputs, [f"{name}/{output}"], name=f"{name}/{output}_node")

    return [
        step("Max", [node.input[0], f"{name}/low"], "above"),
        step("Min", [f"{name}/above", f"{name}/high"], "clipped"),
        step("Div", [f"{name}/clipped", f"{name}/step"], "divided"),
        step("Round", [f"{name}/divided"], "whole"),
        step("Mul", [f"{name}/whole", f"{name}/step"], "rounded"),
        shadow,
        step("Sub", [f"{name}/shadow", node.output[0]], "difference"),
        step("GlobalAveragePool", [f"{name}/difference"], "mean"),
        step("ReduceSumSquare", [f"{name}/difference"], "noise"),
        step("ReduceSumSquare", [node.output[0]], "power"),
    ]
