"""The float model made ready: checked, opset 13, shapes inferred, constants folded, and two exact rewritings that save time."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_agent.errors import ConfigError, ModelError
from edge_agent.quantize import sessions

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET = 13
"""The first whose QuantizeLinear knows channels."""
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger", "QLinearMatMul")
WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
QUANTIZABLE = WEIGHTED | {
    "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul", "Pad", "Relu", "Reshape",
    "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
_STOPS = WEIGHTED | {"Clip", "Relu", "LeakyRelu"}


class Graph:
    """A model with what is asked of it again and again. The model is not changed."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: dict[str, NodeProto] = {node.name: node for node in model.graph.node}
        self.producer: dict[str, NodeProto] = {output: node for node in model.graph.node for output in node.output}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.weights: dict[str, tuple[int, ...]] = {w.name: tuple(w.dims) for w in model.graph.initializer}
        values = [*model.graph.value_info, *model.graph.output, *model.graph.input]
        self.shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == 1} - set(self.weights)

    @property
    def tail(self) -> set[str]:
        """Names of the nodes between the last convolutions and the outputs.

        They put terms of different size into one tensor (boxes beside scores), for which one scale is not enough, and cost
        next to nothing in float.
        """
        found: set[str] = set()
        pending = [output.name for output in self.model.graph.output]
        while pending:
            node = self.producer.get(pending.pop())
            if node is not None and node.op_type not in _STOPS and node.name not in found:
                found.add(node.name)
                pending += node.input
        return found

    def intensity(self, node: NodeProto) -> float:
        """Multiplications for each number that goes in or out: what INT8 can save against what its borders cost."""
        weight = self.weights.get(node.input[1], ())
        if len(weight) < 2 or attribute(node, "group", 1) > 1:
            return 0.0
        into, out = (int(np.prod(self.shapes.get(name, (0,)))) for name in (node.input[0], node.output[0]))
        kernel = int(np.prod(weight[1:])) if node.op_type == "Conv" else int(weight[0])
        return kernel * out / (into + out) if into and out else 0.0


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute's value."""
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def check(path: Path) -> None:
    """Raises ConfigError for a file that cannot be quantized, ModelError for one that is no ONNX."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's, of no useful common base
        raise ModelError(f"{path} cannot be read as ONNX: {_first_line(error)}") from None
    done = sorted({node.op_type for node in model.graph.node}.intersection(_QUANTIZED))
    if done:
        raise ConfigError(f"{path} is quantized already (it has {', '.join(done)}): start from the float32 export")
    half = [w.name for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT16]
    if half:
        raise ConfigError(f"{path} holds float16 weights ({half[0]!r}, ...): start from the float32 export")


def fix_shape(model: ModelProto, shape: tuple[int, ...]) -> None:
    """Fill in the picture's size where the file leaves it open."""
    for axis, dimension in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        if not dimension.dim_value:
            dimension.dim_value = shape[axis]


def prepared(path: Path, model: ModelProto) -> ModelProto:
    """``model``, of the file ``path``, as a graph that can be quantized; its input has a fixed shape. Raises ModelError."""
    from onnx import version_converter

    opset = max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)
    if opset < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except Exception as error:
            raise ModelError(
                f"{path} has opset {opset}, which cannot be converted to {OPSET} ({_first_line(error)}): export it again"
            ) from None
    ready = sessions.optimised(model)
    used = {node.domain for node in ready.graph.node} | {""}
    kept = [entry for entry in ready.opset_import if entry.domain in used]  # the library lists every domain it knows
    del ready.opset_import[:]
    ready.opset_import.extend(kept)
    return with_shapes(named(ready))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def named(model: ModelProto) -> ModelProto:
    """Every node with a name of its own: lists of nodes are lists of names."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}_"
        taken.add(node.name)
    return model


def with_shapes(model: ModelProto) -> ModelProto:
    """Shapes inferred anew: those of an optimised file name tensors that are gone."""
    import onnx

    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def fuse_silu(model: ModelProto) -> ModelProto | None:
    """X * sigmoid(x) as ONNX Runtime's one float operator, which it finds by itself only where nothing is quantized around it.

    None where there is none. The operator is com.microsoft.QuickGelu, with alpha 1.
    """
    from onnx import helper

    fused = copy.deepcopy(model)
    graph = Graph(fused)
    dropped = set()
    for node in fused.graph.node:
        if node.op_type != "Mul":
            continue
        for plain, other in (tuple(node.input), tuple(node.input)[::-1]):
            gate = graph.producer.get(other)
            if gate is not None and gate.op_type == "Sigmoid" and gate.input[0] == plain and len(graph.consumers[other]) == 1:
                dropped.add(gate.name)
                node.op_type, node.domain = "QuickGelu", "com.microsoft"
                del node.input[:]
                node.input.append(plain)
                node.attribute.append(helper.make_attribute("alpha", 1.0))
                break
    if not dropped:
        return None
    _keep(fused, (node for node in fused.graph.node if node.name not in dropped))
    if all(entry.domain != "com.microsoft" for entry in fused.opset_import):
        fused.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return fused


def _keep(model: ModelProto, nodes: Iterable[NodeProto]) -> None:
    kept = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(kept)
