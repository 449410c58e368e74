"""Memory of inputs and outputs is allocated once, and what is in it is what the library computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_agent.runtimes import onnx as onnx_runtime
from edge_agent.runtimes import tflite
from edge_agent.runtimes.base import Runtime, RuntimeContext, Tensor
from tests.conftest import MODEL

SHAPE = (1, 3, 4, 4)


def doubling(path: Path, declared: tuple[int | str, ...] = SHAPE, *, operator: str = "Add", asks: bool = False) -> Runtime:
    """A graph that gives twice its picture; ``asks``: plus a number that is a second input."""
    value = helper.make_tensor_value_info
    nodes = [helper.make_node(operator, ["x", "x"], ["y"])] if operator == "Add" else [helper.make_node(operator, ["x"], ["y"])]
    nodes += [helper.make_node("Add", ["y", "more"], ["z"])] if asks else []
    inputs = [value("x", TensorProto.FLOAT, list(SHAPE)), *([value("more", TensorProto.FLOAT, [1])] if asks else [])]
    kind = TensorProto.INT64 if operator == "NonZero" else TensorProto.FLOAT
    graph = helper.make_graph(nodes, "g", inputs, [value("z" if asks else "y", kind, list(declared))])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return onnx_runtime.build(RuntimeContext(path, 1), onnx_runtime.Config())


def picture(value: float) -> Tensor:
    return np.full(SHAPE, value, np.float32)


def test_outputs_of_stated_sizes_stay_where_they_are(tmp_path: Path) -> None:
    runtime = doubling(tmp_path / "m.onnx")
    tensor = picture(1)
    first = runtime.infer(tensor)[0]
    for value in (2, 3, 4):
        tensor[:] = value
        found = runtime.infer(tensor)[0]
        assert found.ctypes.data == first.ctypes.data
        assert (found == 2 * value).all()


def test_another_array_and_one_that_lies_otherwise_are_read_anew(tmp_path: Path) -> None:
    runtime = doubling(tmp_path / "m.onnx")
    for value in (1, 2, 3):
        assert (runtime.infer(picture(value))[0] == 2 * value).all()
    turned = np.zeros((1, 4, 4, 3), np.float32).transpose(0, 3, 1, 2)
    for value in (4, 5):
        turned[:] = value
        assert (runtime.infer(turned)[0] == 2 * value).all()


def test_sizes_that_depend_on_what_is_seen_are_not_bound(tmp_path: Path) -> None:
    runtime = doubling(tmp_path / "m.onnx", (4, "found"), operator="NonZero")
    for count in (3, 0, 5):
        tensor = picture(0)
        tensor.reshape(-1)[:count] = 1
        assert runtime.infer(tensor)[0].shape == (4, count)


@pytest.mark.filterwarnings("ignore")
def test_a_graph_that_states_a_wrong_size_is_read_as_it_is(tmp_path: Path) -> None:
    runtime = doubling(tmp_path / "m.onnx", (4, 3), operator="NonZero")
    for count in (3, 2, 5):  # the first is as stated
        tensor = picture(0)
        tensor.reshape(-1)[:count] = 1
        assert runtime.infer(tensor)[0].shape == (4, count)


def test_an_input_besides_the_picture_is_bound_too_and_may_change(tmp_path: Path) -> None:
    runtime = doubling(tmp_path / "m.onnx", asks=True)
    for more in (1, 7):
        runtime.fix("more", np.array([more], np.float32))
        for value in (1, 2, 3):
            assert (runtime.infer(picture(value))[0] == 2 * value + more).all()


@pytest.mark.tflite
def test_outputs_of_tflite_stay_where_they_are() -> None:
    runtime = tflite.build(RuntimeContext(MODEL, 1), tflite.Config())
    spec = runtime.spec.inputs[0]
    random = np.random.default_rng(1)
    pictures = [random.integers(0, 255, spec.shape).astype(spec.dtype) for _ in range(2)]
    before = [output.copy() for output in runtime.infer(pictures[0])]
    places = [output.ctypes.data for output in runtime.infer(pictures[1])]
    after = runtime.infer(pictures[0])
    assert [output.ctypes.data for output in after] == places
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
