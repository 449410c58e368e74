"""Small ONNX files, made for a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_agent.models import _loading
from edge_agent.models.base import Model
from tests.conftest import make_config

Sizes = Sequence[int | str]


def one_object(shape: tuple[int, ...] = (1, 11, 126)) -> NDArray[np.float32]:
    """A YOLOv8's head for an input of 64 x 96 that sees one object of class 3."""
    head: NDArray[np.float32] = np.zeros(shape, np.float32)
    head[0, :4, 7] = [32, 48, 20, 10]
    head[0, 4 + 3, 7] = 0.8
    return head


def write(
    path: Path,
    *outputs: NDArray[Any],
    picture: Sizes = (1, 3, 96, 64),
    declared: Sizes | None = None,
    names: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    opset: int = 13,
    operator: tuple[str, str] = ("", "ReduceSum"),
    external: bool = False,
) -> Path:
    """A graph that gives ``outputs`` whatever picture it is shown; ``declared``: the sizes of the first as the file states them."""
    outputs = outputs or (one_object(),)
    domain, kind = operator
    nodes = [
        helper.make_node(kind, ["images"], ["sum"], domain=domain),
        helper.make_node("Mul", ["sum", "zero"], ["nothings"]),
        helper.make_node("Squeeze", ["nothings"], ["nothing"]),
    ]
    constants = [numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    found = []
    for index, value in enumerate(outputs):
        name = names[index] if names else f"output{index}"
        constants.append(numpy_helper.from_array(value, f"head{index}"))
        kind_of = helper.np_dtype_to_tensor_dtype(value.dtype)
        nodes.append(helper.make_node("Cast", ["nothing"], [f"typed{index}"], to=kind_of))
        nodes.append(helper.make_node("Add", [f"typed{index}", f"head{index}"], [name]))
        found.append(helper.make_tensor_value_info(name, kind_of, list(declared if declared and index == 0 else value.shape)))
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, list(picture))]
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(helper.make_graph(nodes, "tiny", inputs, found, constants), opset_imports=opsets)
    model.ir_version = 8
    for key, text in (metadata or {}).items():
        model.metadata_props.append(onnx.StringStringEntryProto(key=key, value=text))
    onnx.save(model, str(path), save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def load(path: Path | str, **settings: Any) -> Model:
    """The model as the agent loads it."""
    config = make_config({"model": {"path": str(path), **settings}, "cameras": [{"id": "x", "source": "synthetic"}]})
    return _loading.load(config).lanes[0]
