"""The quantizer's parts on graphs small enough to know what must come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_agent import evaluation
from edge_agent.detections import Detections
from edge_agent.errors import ConfigError, ModelError
from edge_agent.evaluation import ModelOptions
from edge_agent.quantize import correction, focus, graph, insertion, plans, ranges, sessions, timing
from edge_agent.quantize.accuracy import Judge, agreement
from edge_agent.quantize.graph import Graph
from edge_agent.quantize.ranges import BINS, Histogram
from edge_agent.quantize.simulation import Simulation
from tests.quantize.detectors import SIDE, head_of_yolox, squares

U8 = insertion.TYPES["x86-vnni"]


def pictures(count: int = 4) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(1)
    found = []
    for _ in range(count):
        picture = random.uniform(0, 12, (1, 3, SIDE, SIDE)).astype(np.float32)
        picture[..., 16:32, 32:48] = 240
        found.append(picture)
    return found


def output(model: onnx.ModelProto, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(sessions.Session(model).run({"images": picture})[0], np.float32)


def prepared(path: Path) -> onnx.ModelProto:
    return graph.prepared(path, onnx.load(str(path)))


def quiet(_done: int, _of: int) -> None:
    """No progress is shown."""


def test_preparing_converts_the_opset_and_changes_no_result(tmp_path: Path) -> None:
    path = head_of_yolox(tmp_path / "m.onnx", opset=11)
    model = prepared(path)
    assert next(entry.version for entry in model.opset_import if not entry.domain) == 13
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    np.testing.assert_allclose(output(model, pictures()[0]), output(onnx.load(str(path)), pictures()[0]), atol=1e-4)


@pytest.mark.parametrize("as_exported", [False, True])
def test_a_folded_focus_and_a_fused_silu_compute_the_same(tmp_path: Path, as_exported: bool) -> None:
    """As the slices of the export, and as what ONNX Runtime's own optimisation makes of them, if it does."""
    path = head_of_yolox(tmp_path / "m.onnx", focus=True)
    model = graph.with_shapes(graph.named(onnx.load(str(path)))) if as_exported else prepared(path)
    expected = output(model, pictures()[0])
    folded = focus.fold_focus(model)
    assert folded is not None
    assert not {"SpaceToDepth", "Gather"}.intersection(node.op_type for node in folded.graph.node)
    np.testing.assert_allclose(output(folded, pictures()[0]), expected, atol=1e-4)
    fused = graph.fuse_silu(folded)
    assert fused is not None
    assert sum(node.op_type == "QuickGelu" for node in fused.graph.node) == 4
    assert not any(node.op_type == "Mul" for node in fused.graph.node)
    np.testing.assert_allclose(output(fused, pictures()[0]), expected, atol=1e-4)
    assert focus.fold_focus(folded) is None
    assert graph.fuse_silu(fused) is None


def test_the_tail_that_joins_boxes_and_scores_stays_float(tmp_path: Path) -> None:
    model = prepared(head_of_yolox(tmp_path / "m.onnx"))
    tail = {Graph(model).nodes[name].op_type for name in Graph(model).tail}
    assert {"Concat", "Sigmoid", "Reshape"} <= tail
    assert "Conv" not in tail
    histograms = ranges.collect(model, pictures(), quiet)
    made = plans.make(model, histograms, pictures()[0], U8, 1)
    assert made[0].name == "everything"
    assert all(plan.nodes.isdisjoint(Graph(plan.model).tail) for plan in made)
    assert all({"first", "level1"} <= plan.nodes for plan in made[:2])
    assert 0 < plans.work_share(Graph(model), frozenset({"first"})) < 1


def test_what_cannot_be_quantized_is_refused(tmp_path: Path) -> None:
    done = insertion.insert(prepared(head_of_yolox(tmp_path / "m.onnx")), {"first"}, {"images": (0, 255), "first": (-1, 1)}, U8)
    onnx.save(done, str(tmp_path / "q.onnx"))
    with pytest.raises(ConfigError, match=r"q.onnx is quantized already \(it has DequantizeLinear, QuantizeLinear\)"):
        graph.check(tmp_path / "q.onnx")
    half = onnx.load(str(tmp_path / "m.onnx"))
    half.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float16), "h"))
    onnx.save(half, str(tmp_path / "h.onnx"))
    with pytest.raises(ConfigError, match=r"holds float16 weights"):
        graph.check(tmp_path / "h.onnx")
    (tmp_path / "t.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:200])
    with pytest.raises(ModelError, match=r"t.onnx cannot be read as ONNX"):
        graph.check(tmp_path / "t.onnx")


def histogram(values: NDArray[np.float64]) -> Histogram:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return Histogram(low, high, np.histogram(values, BINS, (low, high))[0].astype(np.int64))


def test_every_method_draws_a_range_and_percentiles_cut_an_outlier() -> None:
    values = np.concatenate((np.random.default_rng(0).normal(0, 1, 200_000), [400.0]))
    found = {name: draw(histogram(values)) for name, draw in ranges.METHODS.items()}
    assert found["min-max"] == pytest.approx((values.min(), 400))
    assert found["percentile 99.9"] == pytest.approx((-3.1, 3.1), abs=0.15)
    assert 3 < found["percentile 99.99"][1] < found["percentile 99.999"][1] < 10
    assert found["entropy"][1] < 400
    assert found["mse"][1] <= 400
    for low, high in found.values():
        assert low <= 0 <= high


def test_least_squares_beat_the_others_in_squares() -> None:
    values = np.random.default_rng(2).laplace(0, 1, 100_000)
    drawn = {name: draw(histogram(values)) for name, draw in ranges.METHODS.items()}
    errors = {name: float(((ranges.rounded(values, limits) - values) ** 2).mean()) for name, limits in drawn.items()}
    assert errors["mse"] <= 1.02 * min(errors.values())
    assert errors["mse"] < 0.9 * errors["min-max"]


@pytest.mark.parametrize("limits", [(-1.0, 3.0), (0.0, 6.0), (0.5, 2.0), (-2.0, -1.0), (0.0, 0.0)])
def test_zero_is_always_one_of_the_values(limits: tuple[float, float]) -> None:
    scale, low, high = ranges.grid(limits)
    assert scale > 0
    assert low <= 0 <= high
    assert round(low / scale) == pytest.approx(low / scale)
    assert ranges.rounded(np.zeros(1), limits).tolist() == [0]


def test_calibration_sees_every_value_of_every_picture(tmp_path: Path) -> None:
    model = prepared(head_of_yolox(tmp_path / "m.onnx"))
    calls = []
    found = ranges.collect(model, pictures(3), lambda done, of: calls.append((done, of)))
    assert (found["images"].low, found["images"].high) == (0, 240)
    assert found["images"].counts.sum() == 3 * 3 * SIDE * SIDE
    assert found["first"].counts.sum() == 3 * 8 * (SIDE // 2) ** 2
    assert calls[-1] == (6, 6)


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("aarch64", "", "arm64"),
        ("armv7l", "", "arm64"),
        ("x86_64", "flags : avx2 avx512_vnni", "x86-vnni"),
        ("x86_64", "flags : avx2 avx_vnni", "x86-vnni"),
        ("x86_64", "flags : avx2 avx512f", "x86"),
    ],
)
def test_number_types_follow_the_cpu(machine: str, flags: str, expected: str) -> None:
    assert insertion.this_cpu(machine, flags) == expected


@pytest.mark.parametrize("cpu", ["arm64", "x86-vnni", "x86"])
def test_weights_have_a_scale_for_each_channel_and_activations_the_cpus_type(tmp_path: Path, cpu: insertion.Cpu) -> None:
    model = prepared(head_of_yolox(tmp_path / "m.onnx"))
    types = insertion.TYPES[cpu]
    done = insertion.insert(model, {"first"}, {"images": (0, 255), "first": (-1, 3)}, types)
    arrays = {w.name: numpy_helper.to_array(w) for w in done.graph.initializer}
    weight = arrays["first_w_quantized"]
    assert weight.dtype == np.int8
    assert (np.abs(weight.reshape(8, -1)).max(axis=1) == (64 if types.reduced else 127)).all()
    assert next(v for k, v in arrays.items() if k.startswith("first_w_scale")).shape == (8,)
    assert next(v for k, v in arrays.items() if k.startswith("images_zero")).dtype == (np.int8 if types.signed else np.uint8)
    assert sum(node.op_type == "QuantizeLinear" for node in done.graph.node) == 2


def judge(folder: Path, model: Path) -> Judge:
    images, _, labels = squares(folder)
    loaded = evaluation.load_model(model, ModelOptions(labels=labels))
    shown = {number: evaluation.read_picture(file) for number, file in enumerate(sorted(images.iterdir()))}
    return Judge(loaded, shown, None)


def test_a_tensor_whose_scale_one_wild_channel_spoils_is_found(tmp_path: Path) -> None:
    damages = []
    for folder, wild in ((tmp_path / "tame", 1.0), (tmp_path / "wild", 300.0)):
        folder.mkdir()
        path = head_of_yolox(folder / "m.onnx", wild=wild)
        model = prepared(path)
        simulation = Simulation(model, insertion.tensors(Graph(model), {"first", "level1"}), judge(folder, path), 6)
        drawn = {name: ranges.min_max(h) for name, h in ranges.collect(model, pictures(), quiet).items()}
        assert simulation.damage({}) < 0.001  # nothing rounded
        damages.append(simulation.rank(drawn, quiet))
    tame, wild_ones = damages
    assert list(tame.values()) == sorted(tame.values(), reverse=True)
    assert wild_ones["first_silu"] > 3 * tame["first_silu"] + 0.005
    assert wild_ones["images"] == pytest.approx(tame["images"], abs=0.005)


def test_bias_correction_takes_the_mean_error_away(tmp_path: Path) -> None:
    model = prepared(head_of_yolox(tmp_path / "m.onnx"))
    coarse = {"images": (0.0, 200.0), "first_silu": (-0.3, 0.6)}  # cut above: outputs come out too small
    errors = correction.layer_errors(model, ["first", "level1"], coarse, pictures())
    assert set(errors) == {"first", "level1"}
    assert errors["first"].mean[0] < -0.005
    assert 0 < errors["first"].sqnr_db < 40
    changed = correction.corrected(model, errors)
    picture = pictures()[0]
    shown = [ranges.collect(m, [picture], quiet)["first"] for m in (model, changed)]
    shift = [float((h.centres * h.counts).sum() / h.counts.sum()) for h in shown]
    assert shift[1] - shift[0] == pytest.approx(-float(errors["first"].mean.mean()), abs=1e-3)


def seen(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


def test_agreement_falls_with_place_confidence_class_and_what_is_missing() -> None:
    one = seen((0, 0, 10, 10, 0.8, 0), (50, 50, 90, 90, 0.5, 1))
    assert agreement({1: one}, {1: one}) == 1
    assert agreement({1: seen()}, {1: seen()}) == 1
    assert agreement({1: one}, {1: seen()}) == 0
    moved = seen((0, 0, 10, 8, 0.8, 0), (50, 50, 90, 90, 0.5, 1))
    assert agreement({1: one}, {1: moved}) == pytest.approx((0.8 * 0.8 + 0.5) / 1.3, abs=1e-4)
    weaker = seen((0, 0, 10, 10, 0.4, 0), (50, 50, 90, 90, 0.5, 1))
    assert agreement({1: one}, {1: weaker}) == pytest.approx(0.9 / 1.1, abs=1e-4)
    other = seen((0, 0, 10, 10, 0.8, 1), (50, 50, 90, 90, 0.5, 1))
    assert agreement({1: one}, {1: other}) == pytest.approx(0.5 / 1.3, abs=1e-4)


def test_speeds_are_told_in_turn_and_from_the_quiet_rounds() -> None:
    nodes = [helper.make_node("Relu", ["images"], ["y"], name="r")]
    spec = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 4])]
    made = helper.make_graph(nodes, "g", spec, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    ticks = iter(x for turn in range(10) for x in (0, 0.004 + (turn % 3), 10, 10.002 + (turn % 2)))  # seconds: held up now and then
    speeds = timing.measure({"a": model, "b": model}, "a", np.zeros((1, 4), np.float32), threads=1, rounds=10, clock=lambda: next(ticks))
    assert speeds["a"].ms == pytest.approx(4, abs=0.01)
    assert speeds["b"].ratio == pytest.approx(2, abs=0.01)
