"""What is read from model files without their libraries."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.runtimes import _onnx_file, _tflite_file
from edge_agent.runtimes.base import Normalisation
from tests.conftest import MODEL
from tests.models.files import write


def test_an_onnx_file_as_the_package_onnx_reads_it(assets: Path) -> None:
    """Every model that is here: operators, opset and the number of parameters."""
    for path in [*sorted((assets / "models").glob("*.onnx")), *sorted((assets / "ship" / "models").glob("*.onnx"))]:
        found, truth = _onnx_file.read(path), onnx.load(str(path))
        operators: dict[str, int] = {}
        for node in truth.graph.node:
            operators[node.op_type] = operators.get(node.op_type, 0) + 1
        constants = [a.t for node in truth.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
        tensors = [*truth.graph.initializer, *constants]
        assert found.operators == operators
        assert found.opset == f"opset {next(o.version for o in truth.opset_import if not o.domain)}"
        assert found.parameters == sum(int(np.prod(t.dims)) for t in tensors)
        assert found.custom_operators == ()
        assert found.missing_files == ()


def test_a_constant_of_four_columns_may_be_anchors(tmp_path: Path) -> None:
    anchors = np.random.default_rng(1).uniform(0, 1, (150, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(anchors, "anchors"), helper.make_tensor("short", TensorProto.FLOAT, [10, 4], np.zeros(40))],
    )
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    found = _onnx_file.read(tmp_path / "m.onnx").anchors
    assert list(found) == [150]
    np.testing.assert_array_equal(found[150], anchors)
    graph.initializer[0].CopyFrom(helper.make_tensor("anchors", TensorProto.FLOAT, [150, 4], anchors.ravel()))  # packed, not raw
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    np.testing.assert_array_equal(_onnx_file.read(tmp_path / "m.onnx").anchors[150], anchors)


def test_operators_of_nested_graphs_count_too(tmp_path: Path) -> None:
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])]
    branches = [helper.make_graph([helper.make_node(kind, ["x"], ["y"])], kind, [], out) for kind in ("Exp", "Neg")]
    node = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    inputs = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    onnx.save(helper.make_model(helper.make_graph([node], "g", inputs, out)), str(tmp_path / "m.onnx"))
    assert _onnx_file.read(tmp_path / "m.onnx").operators == {"If": 1, "Exp": 1, "Neg": 1}


def test_files_of_external_weights_are_looked_for_beside_the_model(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", external=True)
    assert _onnx_file.read(path).missing_files == ()
    (tmp_path / "m.onnx.data").rename(tmp_path / "elsewhere")
    assert "does not exist" in _onnx_file.read(path).missing_files[0]


def test_a_tflite_file_tells_operators_parameters_and_normalisation(assets: Path) -> None:
    found = _tflite_file.read(assets / "models" / "mobilenet_v1_0.25_128_quant.tflite")
    assert found.operators["Conv"] == 15
    assert found.operators["DepthwiseConv"] == 13
    assert found.operators["Softmax"] == 1
    assert 460_000 < found.parameters < 480_000  # 0.47 million, says the paper of MobileNets
    assert found.normalisation == Normalisation((127.5,) * 3, (127.5,) * 3)


def test_the_operator_of_tflites_own_nms_is_no_custom_one() -> None:
    found = _tflite_file.read(MODEL)
    assert found.operators["TFLite_Detection_PostProcess"] == 1
    assert found.custom_operators == ()
    assert found.normalisation is None


@pytest.mark.parametrize("seed", range(40))
def test_bytes_that_are_changed_are_refused_or_read_and_nothing_else(tmp_path: Path, seed: int) -> None:
    """Whatever a damaged disk makes of a file, there is no other exception, and no end without one."""
    random = np.random.default_rng(seed)
    for read, whole, error in (
        (_tflite_file.read, MODEL.read_bytes()[:200_000], _tflite_file.Damaged),
        (_onnx_file.read, write(tmp_path / "m.onnx").read_bytes(), _onnx_file.Damaged),
    ):
        data = bytearray(whole)
        for place in random.integers(4, min(len(data), 3000), 8):
            data[place] = random.integers(256)
        (tmp_path / "changed").write_bytes(data)
        with contextlib.suppress(error):
            read(tmp_path / "changed")


@pytest.mark.parametrize(
    ("file", "precision"),
    [
        ("models/yolox_nano.onnx", "float32"),
        ("models/yolox_nano_float16_quantize.tflite", "float16"),
        ("models/broken/yolox_nano_only_int8_quantize.tflite", "float32"),  # its weights are 4 bytes each, whatever its name says
        ("models/movenet_single_pose_lightning_ptq.tflite", "int8"),
        ("ship/models/ped_int8.onnx", "int8"),
        ("ship/models/ped_f32.onnx", "float32"),
    ],
)
def test_precision_is_that_of_most_weights(assets: Path, file: str, precision: str) -> None:
    read = _onnx_file.read if file.endswith(".onnx") else _tflite_file.read
    assert read(assets / file).precision == precision
