"""Each family's decoding against a straightforward one, on random heads, and how graphs are recognised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent import plugins
from edge_agent.errors import ConfigError
from edge_agent.models import _families
from edge_agent.models.base import Candidates, Thresholds
from edge_agent.runtimes.base import FileFacts, GraphSpec, Quantization, TensorSpec
from tests.models import reference
from tests.models.graphs import ASKED, LOOK_ALIKE, ONE_OF_EACH, ROWS, SIZE, described
from tests.models.reference import Found

THRESHOLDS = Thresholds(0.3, 0.45, 100)


def graph(*shapes: tuple[int, ...], runtime: str = "ONNX Runtime", quantization: Quantization | None = None, **more: Any) -> GraphSpec:
    dtype = np.dtype(np.int8 if quantization else np.float32)
    picture = TensorSpec("images", (1, 3, SIZE[1], SIZE[0]), np.dtype(np.float32))
    outputs = tuple(TensorSpec(f"output{i}", shape, dtype, quantization) for i, shape in enumerate(shapes))
    more.setdefault("file", FileFacts({"Conv": 9}))
    return GraphSpec((picture,), outputs, runtime, "CPU", "float32", **more)


def random_rows(seed: int, rows: int, classes: int, *, objectness: bool, extent: tuple[float, float] = SIZE) -> NDArray[np.float32]:
    """Rows of plausible boxes, many of them overlapping, with scores on both sides of the threshold."""
    random = np.random.default_rng(seed)
    centres = random.uniform(0.2, 0.8, (rows, 2)) * extent
    sizes = random.uniform(0.05, 0.4, (rows, 2)) * extent
    scores = random.uniform(0, 1, (rows, classes + objectness)) ** 2
    return np.concatenate((centres, sizes, scores), axis=1).astype(np.float32)


def assert_same(found: Candidates, expected: Sequence[Found], tolerance: float = 1e-3) -> None:
    assert len(found.confidence) == len(expected)
    assert (np.diff(found.confidence) <= 1e-6).all()
    ours = sorted(zip(found.class_id.tolist(), found.confidence.tolist(), found.xyxy.tolist(), strict=True), key=lambda f: (f[0], -f[1]))
    theirs = sorted(((f.class_id, f.confidence, list(f.box)) for f in expected), key=lambda f: (f[0], -f[1]))
    for (our_class, our_confidence, our_box), (class_id, confidence, box) in zip(ours, theirs, strict=True):
        assert our_class == class_id
        assert our_confidence == pytest.approx(confidence, abs=tolerance)
        assert our_box == pytest.approx(box, abs=tolerance * 100, rel=1e-3)


def decode(spec: GraphSpec, *outputs: NDArray[Any], thresholds: Thresholds = THRESHOLDS) -> Candidates:
    return _families.family_for(spec, None).decode(outputs, SIZE, thresholds)


@pytest.mark.parametrize("seed", range(5))
def test_yolox(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random_rows(seed, ROWS, 7, objectness=True)
    rows[:, :2] = random.normal(0.5, 0.5, (ROWS, 2))
    rows[:, 2:4] = random.normal(0.5, 0.7, (ROWS, 2))
    spec = graph((1, ROWS, 12))
    expected = reference.suppress(reference.yolox(rows.tolist(), SIZE, 0.3), 0.45)
    assert len(expected) > 10
    assert_same(decode(spec, rows[None]), expected[:100])
    assert _families.family_for(spec, None).name == "yolox"


@pytest.mark.parametrize("runtime", ["ONNX Runtime", "LiteRT"])
@pytest.mark.parametrize("seed", range(3))
def test_yolov5(seed: int, runtime: str) -> None:
    rows = random_rows(seed, 3 * ROWS, 7, objectness=True)
    expected = reference.suppress(reference.with_objectness(rows.tolist(), 0.3, lambda box: box), 0.45)
    assert len(expected) > 10
    if runtime == "LiteRT":
        rows[:, :4] /= [*SIZE, *SIZE]
    assert_same(decode(graph((1, 3 * ROWS, 12), runtime=runtime), rows[None]), expected[:100])


@pytest.mark.parametrize("runtime", ["ONNX Runtime", "LiteRT"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_yolov8(seed: int, runtime: str, transposed: bool) -> None:
    rows = random_rows(seed, ROWS, 7, objectness=False)
    expected = reference.suppress(reference.without_objectness(rows.tolist(), 0.3, lambda box: box), 0.45)
    if runtime == "LiteRT":
        rows[:, :4] /= [*SIZE, *SIZE]
    names: dict[str, Any] = {"metadata": {"names": "..."}, "labels": tuple("abcdefg")}
    spec = graph((1, ROWS, 11) if transposed else (1, 11, ROWS), runtime=runtime, **names)
    assert_same(decode(spec, rows[None] if transposed else rows.T[None].copy()), expected[:100])


def test_yolov8_quantized_outputs_use_the_tensors_own_parameters() -> None:
    quantization = Quantization(0.0039, -128)
    rows = random_rows(1, ROWS, 7, objectness=False, extent=(1, 1))
    stored = np.clip(np.round(rows / quantization.scale) + quantization.zero_point, -128, 127).astype(np.int8)
    real = ((stored.astype(np.float64) + 128) * 0.0039).tolist()
    expected = reference.without_objectness(real, 0.3, lambda b: (b[0] * SIZE[0], b[1] * SIZE[1], b[2] * SIZE[0], b[3] * SIZE[1]))
    spec = graph((1, 11, ROWS), runtime="LiteRT", quantization=quantization)
    found = decode(spec, stored.T[None].copy(), thresholds=Thresholds(0.3, 1.0, 1000))
    assert len(found.confidence) == len(expected)
    assert sorted(found.confidence.tolist()) == pytest.approx(sorted(f.confidence for f in expected), abs=1e-5)


def test_end_to_end() -> None:
    rows = np.array([[10, 20, 30, 40, 0.9, 2], [5, 5, 9, 9, 0.2, 1], [1, 2, 3, 4, 0.5, 0], [11, 20, 30, 40, 0.8, 2]], np.float32)
    found = decode(graph((1, 4, 6)), rows[None])
    assert found.class_id.tolist() == [2, 2, 0]
    assert found.confidence.tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert found.xyxy[2].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("tf2_order", [False, True])
def test_ssd_ignores_the_rows_past_the_count_and_scales_to_the_input(tf2_order: bool) -> None:
    boxes = np.array([[[0.5, 0.25, 1.0, 0.75], [0, 0, 1, 1], [0, 0, 0.5, 0.5]]], np.float32)
    classes, scores, count = np.array([[3.0, 1.0, 2.0]], np.float32), np.array([[0.6, 0.7, 0.9]], np.float32), np.array([2.0], np.float32)
    outputs = [scores, boxes, count, classes] if tf2_order else [boxes, classes, scores, count]
    file = FileFacts({"TFLite_Detection_PostProcess": 1})
    found = decode(graph(*(o.shape for o in outputs), runtime="LiteRT", file=file), *outputs)
    assert found.class_id.tolist() == [1, 3]
    assert found.xyxy[1].tolist() == [0.25 * 64, 0.5 * 96, 0.75 * 64, 96]


@pytest.mark.parametrize("shape", [(1, ROWS, 12), (1, 3 * ROWS, 12), (1, 11, ROWS)])
def test_only_the_wanted_classes_compete(shape: tuple[int, ...]) -> None:
    """A class that is not asked for must not hide one that is."""
    rows: NDArray[np.float32] = np.zeros((max(shape[1:]), 12), np.float32)
    rows[5, :4] = [20, 20, 2, 2]
    rows[5, 4:] = [1.0, 0.9, 0.0, 0.5, 0, 0, 0, 0]
    if shape[1] == 11:
        rows = np.delete(rows, 4, axis=1).T
    found = decode(graph(shape), rows[None].copy(), thresholds=Thresholds(0.3, 0.45, 10, np.array([2, 6], np.int32)))
    assert found.class_id.tolist() == [2]
    assert found.confidence.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("shape", [(1, ROWS, 12), (1, 3 * ROWS, 12), (1, 11, ROWS), (1, 100, 6)])
def test_nothing_seen_is_no_error(shape: tuple[int, ...]) -> None:
    found = decode(graph(shape), np.zeros(shape, np.float32))
    assert found.xyxy.shape == (0, 4)


def test_no_more_than_the_limit_and_the_strongest_of_them() -> None:
    rows = random_rows(3, ROWS, 7, objectness=False)
    found = decode(graph((1, 11, ROWS)), rows.T[None].copy(), thresholds=Thresholds(0.01, 1.0, 5))
    assert found.confidence.tolist() == pytest.approx(sorted(rows[:, 4:].max(axis=1), reverse=True)[:5])


def test_an_unknown_head_names_the_families_and_the_line_that_decides() -> None:
    with pytest.raises(ConfigError, match=r"no model family has outputs \[1, 17, 3, 2\].*yolox.*family = "):
        _families.family_for(graph((1, 17, 3, 2)), None)


def test_an_ambiguous_head_names_the_candidates_and_the_line_that_decides() -> None:
    # 126 rows of six: a YOLOX with one class, or final boxes
    with pytest.raises(ConfigError, match=r'end_to_end or yolox .*decide with family = "end_to_end"'):
        _families.family_for(graph((1, ROWS, 6)), None)
    assert _families.family_for(graph((1, ROWS, 6)), "yolox").name == "yolox"


def test_a_stated_family_that_cannot_read_the_outputs_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be read as 'ssd'"):
        _families.family_for(graph((1, 17, 3, 2)), "ssd")
    with pytest.raises(ConfigError, match="'resnet' is not a kind of model; there are: centerface, classify"):
        _families.family_for(graph((1, 17, 3, 2)), "resnet")


@pytest.mark.parametrize("stated", ONE_OF_EACH)
@pytest.mark.parametrize("of", ONE_OF_EACH)
def test_a_stated_family_reads_its_own_shapes_and_refuses_those_of_every_other(of: str, stated: str) -> None:
    spec = ONE_OF_EACH[of]
    if of == stated or (of, stated) in LOOK_ALIKE:
        assert _families.family_for(spec, stated).name == stated
        return
    with pytest.raises(ConfigError, match=f"cannot be read as '{stated}'"):
        _families.family_for(spec, stated)


@pytest.mark.parametrize("name", [name for name in ONE_OF_EACH if name not in ASKED])
def test_each_is_recognised_by_its_own_family_alone(name: str) -> None:
    assert _families.family_for(ONE_OF_EACH[name], None).name == name


def test_every_family_is_held_against_the_others() -> None:
    assert tuple(ONE_OF_EACH) == plugins.names("models")


@pytest.mark.parametrize(
    ("spec", "candidates"),
    [
        (described((1, ROWS, 12), operators=None), "yolox or yolox_decoded"),
        (described((1, 56, ROWS)), r"yolov8 or yolov8_pose \(yolov8 with 52 classes, yolov8_pose with 1 classes\)"),
        (described((1, ROWS, 112)), "nanodet or yolox"),
        (ONE_OF_EACH["detr_softmax"], "detr or detr_softmax"),
        (ONE_OF_EACH["yolov7_raw"], "yolov5_raw or yolov7_raw; "),
    ],
)
def test_what_could_be_two_names_both_and_the_line_that_decides(spec: GraphSpec, candidates: str) -> None:
    with pytest.raises(ConfigError, match=rf"{candidates}.*decide with family = "):
        _families.family_for(spec, None)


@pytest.mark.parametrize(("labels", "name"), [(52, "yolov8"), (1, "yolov8_pose")])
def test_the_number_of_class_names_decides_where_it_can(labels: int, name: str) -> None:
    assert _families.family_for(described((1, 56, ROWS)), None, labels).name == name
    with pytest.raises(ConfigError, match="decide"):
        _families.family_for(described((1, 56, ROWS)), None, 7)


def test_a_transposed_yolov8_is_told_from_a_yolox_by_the_softmax_of_its_distances() -> None:
    assert _families.family_for(described((1, ROWS, 12), operators=("Conv", "Softmax")), None).name == "yolov8"


def test_oriented_boxes_are_not_taken_for_upright_ones() -> None:
    with pytest.raises(ConfigError, match="no model family"):
        _families.family_for(described((1, 12, ROWS), metadata={"task": "obb"}), None)
