"""Which nodes could take INT8 together: a few whole plans, from everything to only the heaviest convolutions.

What is fastest depends on the machine. INT8 convolutions are two to four times faster than float ones, but each border between
INT8 and float costs a pass over the tensor, depthwise convolutions gain nothing on x86, and SiLU has no INT8 kernel: it is a table
and a multiplication, slower than the float one. So the plans are timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.quantize.graph import QUANTIZABLE, WEIGHTED, Graph, fold_focus, fuse_silu
from edge_agent.quantize.ranges import Histogram

if TYPE_CHECKING:
    from onnx import ModelProto

_SHARES = (0.9, 0.75, 0.5, 0.25, 0.15)
"""Of the convolutions, the heaviest for their borders' size."""


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


def make(model: ModelProto, histograms: dict[str, Histogram]) -> list[Plan]:
    """All plans for a float graph; none where nothing in it can be quantized."""
    graph = Graph(model)
    tail = graph.tail
    able = {n.name for n in model.graph.node if n.op_type in QUANTIZABLE and n.name not in tail and _calibrated(graph, n.name, histograms)}
    if not any(graph.nodes[name].op_type in WEIGHTED for name in able):
        return []
    plans = [Plan("everything", model, frozenset(able))]
    fused = fuse_silu(model)
    base = model if fused is None else fused
    if fused is not None:
        left = {node.name for node in fused.graph.node if node.op_type in QUANTIZABLE}
        plans.append(Plan("all but SiLU", fused, frozenset(able & left)))
    weighted = sorted((name for name in able if graph.nodes[name].op_type in WEIGHTED), key=lambda n: -graph.intensity(graph.nodes[n]))
    dense = [name for name in weighted if graph.intensity(graph.nodes[name]) > 0]
    seen = {plan.nodes for plan in plans}
    for share in _SHARES:
        chosen = frozenset(dense[: max(1, round(share * len(dense)))])
        if dense and chosen not in seen:
            seen.add(chosen)
            plans.append(Plan(f"the {len(chosen)} heaviest convolutions", base, chosen))
    return plans


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
