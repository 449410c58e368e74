"""YOLO's focus: every second pixel into channels, then a convolution. Folded into one convolution."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.quantize.graph import Graph, attribute, with_shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Order = list[tuple[int, int, int]]
"""Of each channel: the row and column (0 or 1) that its pixels come from, and the picture's channel."""


def fold_focus(model: ModelProto) -> ModelProto | None:
    """YOLO's first step (every second pixel into channels, then a convolution) as one convolution of twice the size.

    The same sums, so exact but for rounding; ONNX Runtime is faster on it. None where there is no such step.
    """
    from onnx import helper, numpy_helper

    graph = Graph(model)
    for node in model.graph.node:
        order, source = _origin(graph, node.input[0]) if node.op_type == "Conv" else ([], "")
        weight = next((w for w in model.graph.initializer if order and w.name == node.input[1]), None)
        pads = attribute(node, "pads", [0, 0, 0, 0]) if order else []
        plain = order and {*attribute(node, "strides", [1, 1]), *attribute(node, "dilations", [1, 1]), attribute(node, "group", 1)} == {1}
        if weight is None or not plain or len(graph.consumers[node.input[1]]) > 1:
            continue
        small = numpy_helper.to_array(weight)
        channels = small.shape[1] // 4
        large = np.zeros((small.shape[0], channels, 2 * small.shape[2], 2 * small.shape[3]), np.float32)
        for position, (down, across, channel) in enumerate(order):
            large[:, channel, down::2, across::2] = small[:, position]
        folded = copy.deepcopy(model)
        next(w for w in folded.graph.initializer if w.name == weight.name).CopyFrom(numpy_helper.from_array(large, weight.name))
        conv = next(n for n in folded.graph.node if n.name == node.name)
        conv.input[0] = source
        del conv.attribute[:]
        sizes = {"kernel_shape": list(large.shape[2:]), "strides": [2, 2], "pads": [2 * p for p in pads]}
        conv.attribute.extend(helper.make_attribute(key, value) for key, value in sizes.items())
        return with_shapes(_without_dead(folded))
    return None


def _origin(graph: Graph, tensor: str) -> tuple[Order, str]:
    """Where the channels of ``tensor`` come from, and the picture; nothing where it is no focus."""
    node = graph.producer.get(tensor)
    if node is None:
        return [], ""
    if node.op_type == "Concat" and attribute(node, "axis", 0) == 1 and len(node.input) == 4:
        return _sliced(graph, node)
    indices = None
    if node.op_type == "Gather" and attribute(node, "axis", 0) == 1:
        indices = _constant(graph, node.input[1])
        node = graph.producer.get(node.input[0])
        if indices is None:
            return [], ""
    if node is None or node.op_type != "SpaceToDepth" or attribute(node, "blocksize", 0) != 2:
        return [], ""
    channels = graph.shapes[node.input[0]][1]
    order = [(block // 2, block % 2, channel) for block in range(4) for channel in range(channels)]
    if indices is not None:
        order = [order[i] for i in indices] if len(indices) == len(order) else []
    return order, node.input[0]


def _sliced(graph: Graph, join: NodeProto) -> tuple[Order, str]:
    """The form of the export, of slices in both directions; newer versions of ONNX Runtime make a SpaceToDepth of it."""
    parts, sources = [], set()
    for part in join.input:
        offsets: dict[int, int] = {}
        name = part
        node = graph.producer.get(name)
        while node is not None and node.op_type == "Slice" and len(node.input) == 5:
            starts, ends, axes, steps = (_constant(graph, other) or [] for other in node.input[1:])
            whole = len(starts) == 1 and steps == [2] and axes[0] in {2, 3} and ends[0] >= graph.shapes[node.input[0]][axes[0]]
            if not whole or axes[0] in offsets or starts[0] not in {0, 1}:
                return [], ""
            offsets[axes[0]] = starts[0]
            name = node.input[0]
            node = graph.producer.get(name)
        if set(offsets) != {2, 3}:
            return [], ""
        parts.append((offsets[2], offsets[3]))
        sources.add(name)
    if len(sources) != 1 or len(set(parts)) != 4:
        return [], ""
    source = sources.pop()
    return [(down, across, channel) for down, across in parts for channel in range(graph.shapes[source][1])], source


def _constant(graph: Graph, name: str) -> list[int] | None:
    from onnx import numpy_helper

    found = next((w for w in graph.model.graph.initializer if w.name == name), None)
    return None if found is None else [int(value) for value in numpy_helper.to_array(found).reshape(-1)]


def _without_dead(model: ModelProto) -> ModelProto:
    live, kept = {output.name for output in model.graph.output}, []
    for node in reversed(model.graph.node):
        if live.intersection(node.output):
            kept.append(node)
            live.update(node.input)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    return model
