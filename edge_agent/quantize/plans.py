"""Which nodes could take INT8 together: a few whole plans, from everything to only the heaviest convolutions.

What is fastest depends on the machine. INT8 convolutions are two to four times faster than float ones, but each border between
INT8 and float costs a pass over the tensor, depthwise convolutions gain nothing on x86, and SiLU has no INT8 kernel: it is a table
and a multiplication, slower than the float one. So the plans are timed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.quantize.focus import fold_focus
from edge_agent.quantize.graph import QUANTIZABLE, WEIGHTED, Graph, fuse_silu
from edge_agent.quantize.insertion import Types, insert
from edge_agent.quantize.ranges import Histogram, min_max
from edge_agent.quantize.sessions import node_times
from edge_agent.runtimes.base import Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

_SHARES = (1.0, 0.8, 0.5)
"""Of what INT8 saves in all convolutions that gain by it."""
_BY_WEIGHT = (0.6, 0.4, 0.2)
"""Of the convolutions, those with the most to do for the size of their borders."""
_RUNS = 40
_BORDERS = {"QuantizeLinear", "DequantizeLinear", "Transpose"}


@dataclass(frozen=True)
class Plan:
    """A float graph and the nodes of it that are to take INT8."""

    name: str
    model: ModelProto
    nodes: frozenset[str]


def float_variants(model: ModelProto) -> dict[str, ModelProto]:
    """The prepared graph, and its exact rewritings, which may be faster in float already."""
    folded = fold_focus(model)
    return {"as it is": model} | ({"focus folded": folded} if folded is not None else {})


def make(model: ModelProto, histograms: dict[str, Histogram], picture: Tensor, types: Types, threads: int) -> list[Plan]:
    """All plans for a float graph; none where nothing in it can be quantized."""
    graph = Graph(model)
    tail = graph.tail
    able = {n.name for n in model.graph.node if n.op_type in QUANTIZABLE and n.name not in tail and _calibrated(graph, n.name, histograms)}
    weighted = [name for name in able if graph.nodes[name].op_type in WEIGHTED]
    if not weighted:
        return []
    plans = [Plan("everything", model, frozenset(able))]
    fused = fuse_silu(model)
    base = model if fused is None else fused
    if fused is not None:
        left = {node.name for node in fused.graph.node if node.op_type in QUANTIZABLE}
        plans.append(Plan("all but SiLU", fused, frozenset(able & left)))
    seen = {plan.nodes for plan in plans}
    for kind, chosen in _islands(Graph(base), weighted, histograms, (picture, types, threads)):
        if chosen and chosen not in seen:
            seen.add(chosen)
            plans.append(Plan(f"{len(chosen)} of {len(weighted)} convolutions {kind}", base, chosen))
    return plans


def _islands(
    graph: Graph, weighted: list[str], histograms: dict[str, Histogram], how: tuple[Tensor, Types, int]
) -> list[tuple[str, frozenset[str]]]:
    """Sets of convolutions that are worth INT8 in the midst of float, and by what they were chosen."""
    gains = _gains(graph, weighted, histograms, how)
    heavy = sorted(weighted, key=lambda name: -graph.intensity(graph.nodes[name]))
    by_weight = [("by work", frozenset(heavy[: max(1, round(share * len(heavy)))])) for share in _BY_WEIGHT]
    if len(gains) < len(weighted) / 2:
        return by_weight
    order = sorted((name for name, gain in gains.items() if gain > 0), key=lambda name: -gains[name])
    total = sum(gains[name] for name in order)
    sets = []
    for share in _SHARES:
        chosen, saved = [], 0.0
        for name in order:
            if saved < share * total:
                chosen.append(name)
                saved += gains[name]
        sets.append(("by time saved", frozenset(chosen)))
    return [*sets, *((kind, some.intersection(order)) for kind, some in by_weight)]


def _gains(graph: Graph, weighted: list[str], histograms: dict[str, Histogram], how: tuple[Tensor, Types, int]) -> dict[str, float]:
    """Milliseconds that INT8 saves in each convolution, less what its borders take; those whose time can be told in both."""
    picture, types, threads = how
    limits = {name: min_max(histogram) for name, histogram in histograms.items()}
    before = node_times(graph.model, picture, _RUNS, threads)
    after = node_times(insert(graph.model, weighted, limits, types), picture, _RUNS, threads)
    border = sum(ms for (_, operator), ms in after.items() if operator in _BORDERS)
    border -= sum(ms for (_, operator), ms in before.items() if operator in _BORDERS)
    sizes = {name: _numbers(graph, name) for name in weighted}
    for_each = max(0.0, border) / max(1, sum(sizes.values()))
    slow, fast = _by_node(graph, before), _by_node(graph, after)
    return {name: slow[name] - fast[name] - for_each * sizes[name] for name in weighted if name in slow and name in fast}


def _numbers(graph: Graph, name: str) -> int:
    """In and out of a node."""
    node = graph.nodes[name]
    return sum(int(np.prod(graph.shapes.get(tensor, (0,)))) for tensor in (node.input[0], node.output[0]))


def _by_node(graph: Graph, times: dict[tuple[str, str], float]) -> dict[str, float]:
    """Times of the graph's own nodes: ONNX Runtime adds to their names, or calls them by what they make."""
    found = {}
    for (name, _), ms in times.items():
        plain = re.sub(r"_token_\d+$", "", name)
        node = graph.nodes.get(plain) or graph.producer.get(plain.removesuffix("_nchwc"))
        if node is not None:
            found[node.name] = ms
    return found


def _calibrated(graph: Graph, name: str, histograms: dict[str, Histogram]) -> bool:
    """Whether the node works on float pictures whose values were seen; constants and shapes are left alone."""
    node = graph.nodes[name]
    if node.op_type in WEIGHTED and (len(node.input) < 2 or node.input[1] not in graph.weights):
        return False
    return node.input[0] in histograms and all(output in histograms for output in node.output)


def work_share(graph: Graph, nodes: frozenset[str]) -> float:
    """Share of the graph's multiplications that these nodes do."""

    def work(name: str) -> int:
        node = graph.nodes[name]
        if node.op_type not in WEIGHTED:
            return 0
        return int(np.prod(graph.shapes.get(node.output[0], (0,)))) * int(np.prod(graph.weights.get(node.input[1], (0, 0))[1:]))

    total = sum(map(work, graph.nodes))
    return sum(map(work, nodes)) / total if total else 0.0
