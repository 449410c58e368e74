"""Exports that look like another family's, and heads that an exporter left undecoded: read as what they are, or refused, never misread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.errors import ConfigError, ModelError
from edge_agent.image import BgrImage
from edge_agent.models import _families
from edge_agent.models.base import Candidates, Thresholds
from edge_agent.models.efficientdet_raw import anchors
from edge_agent.runtimes.base import FileFacts, GraphSpec, Quantization, TensorSpec
from tests.models import reference
from tests.models.files import load, write
from tests.models.graphs import CELLS, ROWS, SIZE, described, tensor
from tests.models.test_families import THRESHOLDS, assert_same, random_rows

Floats = NDArray[np.float32]
GREY = BgrImage(np.full((96, 64, 3), 114, np.uint8))
MAPS = [(1, 3, -(-SIZE[1] // stride), -(-SIZE[0] // stride), 12) for stride in CELLS]
DETECTION = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")


def decode(spec: GraphSpec, outputs: Sequence[NDArray[Any]], stated: str | None = None) -> Candidates:
    return _families.family_for(spec, stated).decode(outputs, SIZE, THRESHOLDS)


def random_maps(seed: int) -> list[Floats]:
    random = np.random.default_rng(seed)
    return [random.normal(-0.5, 1.5, shape).astype(np.float32) for shape in MAPS]


@pytest.mark.parametrize(("family", "sides"), [("yolov5_raw", reference.YOLOV5_ANCHORS), ("yolov7_raw", reference.YOLOV7_ANCHORS)])
@pytest.mark.parametrize("form", ["maps", "any order", "channels", "probabilities"])
def test_maps_of_anchors_that_the_graph_does_not_decode(family: str, sides: list[list[tuple[int, int]]], form: str) -> None:
    maps = random_maps(4)
    expected = reference.suppress(reference.anchor_grid([one[0].tolist() for one in maps], sides, 0.3), 0.45)
    assert len(expected) > 10
    if form == "any order":
        maps = [maps[2], maps[0], maps[1]]
    if form == "channels":  # [1, 3 * 12, h, w]
        maps = [one.transpose(0, 1, 4, 2, 3).reshape(1, 36, *one.shape[2:4]) for one in maps]
    if form == "probabilities":
        maps = [np.asarray(1 / (1 + np.exp(-one)), np.float32) for one in maps]
    assert_same(decode(described(*(one.shape for one in maps)), maps, family), expected[:100])


def test_whose_anchors_they_are_is_asked_with_the_line_that_decides() -> None:
    with pytest.raises(ConfigError, match=r'yolov5_raw or yolov7_raw; decide with family = "yolov5_raw"'):
        _families.family_for(described(*MAPS), None)


def test_models_of_four_strides_have_the_same_anchors_in_both() -> None:
    spec = described(*MAPS, (1, 3, 2, 1, 12))
    assert _families.family_for(spec, None).name == "yolov5_raw"
    maps = [*random_maps(1), np.full((1, 3, 2, 1, 12), -9, np.float32)]
    maps[3][0, 1, 1, 0] = [0, 0, 0, 0, 9, 9, *[-9] * 6]  # the second anchor of the last map, in the middle of its cell
    found = decode(spec, maps)
    assert [32 - 739 / 2, 96 - 380 / 2, 32 + 739 / 2, 96 + 380 / 2] in [pytest.approx(box, abs=0.01) for box in found.xyxy.tolist()]


def test_a_decoded_output_may_have_the_raw_maps_beside_it() -> None:
    """As releases of YOLOv5 before 6.2 export."""
    rows = random_rows(1, 3 * ROWS, 7, objectness=True)
    expected = reference.suppress(reference.with_objectness(rows.tolist(), 0.3, lambda box: box), 0.45)
    for outputs in ([rows[None], *random_maps(2)], [*random_maps(2), rows[None]]):
        spec = described(*(one.shape for one in outputs))
        assert _families.family_for(spec, None).name == "yolov5"
        assert_same(decode(spec, outputs), expected[:100])


def test_yolov6_is_not_taken_for_the_yolox_that_its_shape_is() -> None:
    rows = random_rows(2, ROWS, 7, objectness=True)
    rows[:, 4] = 1
    expected = reference.suppress(reference.with_objectness(rows.tolist(), 0.3, lambda box: box), 0.45)
    for operators in (("Conv", "ConvTranspose"), ("Conv", "ConvTranspose", "Softmax")):  # n and s; m and l
        spec = described((1, ROWS, 12), operators=operators)
        family = _families.family_for(spec, None)
        assert (family.name, family.input_format.order, family.input_format.letterbox) == ("yolov6", "RGB", "centre")
        assert_same(family.decode([rows[None]], SIZE, THRESHOLDS), expected[:100])


def test_boxes_that_are_no_raw_terms_are_refused_rather_than_made_huge(tmp_path: Path) -> None:
    head = np.zeros((1, ROWS, 12), np.float32)
    head[0, 7] = [32, 48, 20, 10, 1, 0.8, *[0] * 6]
    model = load(write(tmp_path / "m.onnx", head))
    assert model.family.name == "yolox"
    with pytest.raises(ModelError, match=r'no raw terms of a YOLOX.*family = "yolox_decoded"'):
        model(GREY, Thresholds(0.3, 0.45, 10))
    assert len(load(tmp_path / "m.onnx", family="yolov6")(GREY, Thresholds(0.3, 0.45, 10)).detections) == 1


def test_a_confidence_above_one_is_refused(tmp_path: Path) -> None:
    """YOLOv6-Lite has as many rows as NanoDet-Plus, whose classes are where it has pixels."""
    head = np.zeros((1, ROWS + 2, 40), np.float32)
    head[0, 7] = [32, 48, 20, 10, 1, 0.8, *[0] * 34]
    model = load(write(tmp_path / "m.onnx", head))
    with pytest.raises(ModelError, match="a confidence of 48 is no probability, so the model is no nanodet"):
        model(GREY, Thresholds(0.3, 0.45, 10))


@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64)])
@pytest.mark.parametrize("grouped", [False, True])
def test_nanodet_may_have_two_outputs_for_each_stride(strides: tuple[int, ...], grouped: bool) -> None:
    random = np.random.default_rng(7)
    counts = [-(-SIZE[0] // stride) * -(-SIZE[1] // stride) for stride in strides]
    head = np.concatenate((random.uniform(0, 1, (sum(counts), 7)) ** 4, random.normal(0, 2, (sum(counts), 32))), axis=1).astype(np.float32)
    plus = len(strides) == 4
    expected = reference.suppress(reference.nanodet(head.tolist(), 7, SIZE, 0.3, plus=plus), 0.45)
    assert len(expected) > 10
    levels = np.split(head[None], np.cumsum(counts)[:-1], axis=1)
    outputs = [level[..., part] for level in levels for part in (slice(7), slice(7, None))]
    outputs = outputs[::2] + outputs[1::2] if grouped else outputs
    spec = described(*(one.shape for one in outputs))
    assert _families.family_for(spec, None).name == "nanodet"
    assert_same(decode(spec, outputs), expected[:100])


def test_what_has_no_reading_is_not_taken_for_a_look_alike() -> None:
    levels = [(1, count, numbers) for count in (*CELLS.values(), 2) for numbers in (7, 32)]
    for spec in (
        described((1, ROWS, 4), (1, ROWS, 80)),  # YOLO-NAS: corners and scores of cells
        described((1, 2000, 1, 4), (1, 2000, 80), operators=("Conv", "Exp")),  # YOLOv4
        described(*levels, operators=("Conv", "HardSwish")),  # PP-PicoDet
    ):
        with pytest.raises(ConfigError, match="no model family has outputs"):
            _families.family_for(spec, None)


@pytest.mark.parametrize("form", ["two", "two reversed", "maps", "maps of channels", "probabilities"])
@pytest.mark.parametrize("classes", [7, 4])
def test_efficientdet_before_its_post_processing(form: str, classes: int) -> None:
    random = np.random.default_rng(3)
    levels = [(-(-SIZE[1] // stride), -(-SIZE[0] // stride)) for stride in (8, 16, 32, 64, 128)]
    count = 9 * sum(high * wide for high, wide in levels)
    steps, stored = random.normal(0, 0.3, (count, 4)).astype(np.float32), random.normal(-4, 2, (count, classes)).astype(np.float32)
    probabilities = 1 / (1 + np.exp(-stored))
    around = reference.efficientdet_anchors(SIZE, 4.0)
    expected = reference.suppress(reference.efficientdet(steps.tolist(), probabilities.tolist(), around, 0.3), 0.45)
    assert len(expected) > 10
    named = [("class", probabilities.astype(np.float32) if form == "probabilities" else stored), ("box", steps)]
    if form.startswith("maps"):
        ends = np.cumsum([9 * high * wide for high, wide in levels])[:-1]
        split = [(name, np.split(rows, ends)) for name, rows in named]
        maps = [(name, part.reshape(1, *level, -1)) for name, parts in split for part, level in zip(parts, levels, strict=True)]
        named = [(name, one.transpose(0, 3, 1, 2) if form == "maps of channels" else one) for name, one in maps]
    else:
        named = [(name, rows[None]) for name, rows in named][:: -1 if form == "two reversed" else 1]
    spec = described(*(tensor(one.shape, f"{name}{i}") for i, (name, one) in enumerate(named)))
    family = _families.family_for(spec, None)
    assert (family.name, family.class_count) == ("efficientdet_raw", classes)
    assert_same(family.decode([one for _, one in named], SIZE, THRESHOLDS), expected[:100])


@pytest.mark.parametrize(("side", "scale"), [(320, 3.0), (512, 4.0)])
def test_the_anchors_of_efficientdet_depend_on_the_size(side: int, scale: float) -> None:
    expected: NDArray[np.float64] = np.array(reference.efficientdet_anchors((side, side), scale), np.float64)
    found = anchors((side, side))
    np.testing.assert_allclose(found[:, :2], (expected[:, [1, 0]] + expected[:, [3, 2]]) / 2, atol=1e-3)
    np.testing.assert_allclose(found[:, 2:], expected[:, [3, 2]] - expected[:, [1, 0]], rtol=1e-5)


@pytest.mark.parametrize("order", [1, -1])
def test_an_ssd_that_decodes_its_boxes_is_not_decoded_again(order: int) -> None:
    """As jetson-inference exports: its graph holds the very constant that the anchors of a raw SSD would be taken from."""
    count = 1000
    random = np.random.default_rng(6)
    rows = random_rows(6, count, 3, objectness=False, extent=(1, 1))
    corners = np.concatenate((rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2), axis=1).astype(np.float32)
    scores = np.concatenate((random.uniform(0, 1, (count, 1)).astype(np.float32), rows[:, 4:]), axis=1)
    wide = np.concatenate((rows[:, :4] * [*SIZE, *SIZE], rows[:, 4:]), axis=1).tolist()
    expected = reference.suppress(reference.without_objectness(wide, 0.3, lambda box: box), 0.45)
    assert len(expected) > 10
    both: list[tuple[TensorSpec, Floats]] = [
        (tensor((1, count, 4), "scores"), scores[None]),
        (tensor((1, count, 4), "boxes"), corners[None]),
    ]
    both = both[::order]
    file = FileFacts(dict.fromkeys(("Conv", "Exp", "Softmax"), 1), anchors={count: np.asarray(corners, np.float32)})
    spec = described(*(one for one, _ in both), file=file)
    family = _families.family_for(spec, None)
    assert (family.name, family.class_count) == ("ssd_decoded", 3)
    assert_same(family.decode([one for _, one in both], SIZE, THRESHOLDS), expected[:100])


def ssd_outputs() -> dict[str, NDArray[np.float32]]:
    """One object of TensorFlow's class 3, which is the third, and one that is not sure."""
    return {
        "detection_boxes": np.array([[[0.5, 0.25, 1.0, 0.75], [0, 0, 1, 1]]], np.float32),
        "detection_classes": np.array([[3.0, 1.0]], np.float32),
        "detection_scores": np.array([[0.9, 0.1]], np.float32),
        "num_detections": np.array([2.0], np.float32),
        "raw_detection_boxes": np.zeros((1, 50, 4), np.float32),
    }


@pytest.mark.parametrize("names", [DETECTION, DETECTION[::-1], sorted([*DETECTION, "raw_detection_boxes"])])
@pytest.mark.parametrize("suffix", ["", ":0"])
def test_tensorflows_names_tell_classes_from_scores_in_any_order(names: Sequence[str], suffix: str) -> None:
    outputs = ssd_outputs()
    spec = described(*(tensor(outputs[name].shape, name + suffix) for name in names))
    found = decode(spec, [outputs[name] for name in names])
    assert _families.family_for(spec, None).name == "ssd"
    assert (found.class_id.tolist(), found.confidence.tolist()) == ([2], [pytest.approx(0.9)])  # they begin with 1
    assert found.xyxy.tolist() == [[0.25 * 64, 0.5 * 96, 0.75 * 64, 96]]


def test_four_outputs_of_which_nothing_tells_the_order_are_not_guessed() -> None:
    with pytest.raises(ConfigError, match="no model family has outputs"):
        _families.family_for(described((1, 10, 4), (1, 10), (1, 10), (1,)), None)


@pytest.mark.parametrize("first", ["???", "background", "person"])
def test_a_label_file_of_an_ssd_may_begin_with_nothing(tmp_path: Path, first: str) -> None:
    outputs = ssd_outputs()
    path = write(tmp_path / "m.onnx", *(outputs[name] for name in DETECTION), names=DETECTION)
    (tmp_path / "m.txt").write_text("\n".join([first, "person", "bicycle", "car"][first == "person" :]))
    assert load(path).labels == ("person", "bicycle", "car")
    assert load(path)(GREY, Thresholds(0.4, 0.45, 10)).detections.label == ["car"]


def detr_outputs(queries: int) -> list[tuple[TensorSpec, Floats]]:
    """Three queries see something; all the others are sure of the last class, nothing."""
    boxes, logits = np.zeros((1, queries, 4), np.float32), np.full((1, queries, 4), -5, np.float32)
    logits[0, :, 3] = 6
    boxes[0, 7], logits[0, 7] = [0.5, 0.5, 0.5, 0.25], [3.0, 1.0, 0.0, 2.0]
    boxes[0, 8], logits[0, 8] = [0.25, 0.25, 0.1, 0.1], [0.0, 0.0, 5.0, 1.0]
    return [(tensor(logits.shape, "logits"), logits), (tensor(boxes.shape, "pred_boxes"), boxes)]


def test_a_detr_with_a_softmax() -> None:
    both = detr_outputs(100)
    spec = described(*(one for one, _ in both))
    with pytest.raises(ConfigError, match=r"detr or detr_softmax \(detr with 4 classes, detr_softmax with 3 classes\)"):
        _families.family_for(spec, None)
    assert _families.family_for(spec, None, 3).name == "detr_softmax"
    assert _families.family_for(spec, None, 4).name == "detr"
    found = _families.family_for(spec, None, 3).decode([one for _, one in both], SIZE, THRESHOLDS)
    assert found.class_id.tolist() == [2, 0]
    shares = [np.exp(5) / (np.exp(5) + 2 + np.exp(1)), np.exp(3) / (np.exp(3) + np.exp(1) + 1 + np.exp(2))]
    assert found.confidence.tolist() == pytest.approx(shares, abs=1e-4)
    assert found.xyxy.ravel().tolist() == pytest.approx([12.8, 19.2, 19.2, 28.8, 16, 36, 48, 60], abs=1e-3)


def test_one_with_a_softmax_is_not_read_as_one_without() -> None:
    both = detr_outputs(300)
    with pytest.raises(ModelError, match=r'most queries are sure of the last class.*family = "detr_softmax"'):
        decode(described(*(one for one, _ in both)), [one for _, one in both])


def test_a_detr_of_two_classes_is_not_taken_for_final_boxes() -> None:
    head = np.zeros((1, 300, 6), np.float32)
    head[0, 3] = [0.5, 0.5, 0.5, 0.25, 0.1, 0.9]
    spec = described((1, 300, 6), operators=("Conv", "GridSample"), metadata={"task": "detect", "names": "..."}, labels=("a", "b"))
    assert _families.family_for(spec, None).name == "detr"
    found = decode(spec, [head])
    assert found.class_id.tolist() == [1]
    assert found.xyxy.tolist() == [[16, 36, 48, 60]]
    assert _families.family_for(described((1, 300, 6)), None).name == "end_to_end"


def test_yolov5_masks(tmp_path: Path) -> None:
    """The prototype is positive in the left half of the input, so the mask is the left half of the box."""
    head = np.zeros((1, 3 * ROWS, 5 + 3 + 32), np.float32)
    head[0, :, 0] = 60
    head[0, 7, :8] = [32, 48, 20, 10, 0.9, 0.1, 0.9, 0.2]
    head[0, 8, :8] = [32, 48, 20, 10, 0.3, 0.1, 0.9, 0.2]  # below the threshold together
    head[0, 7, 8] = 1.0
    prototypes = np.zeros((1, 32, 24, 16), np.float32)
    prototypes[0, 0, :, :8], prototypes[0, 0, :, 8:] = 1, -1
    model = load(write(tmp_path / "m.onnx", head, prototypes))
    found = model(GREY, Thresholds(0.3, 0.45, 10)).detections
    assert (model.family.name, model.family.task, model.family.class_count) == ("yolov5_seg", "instance segmentation", 3)
    assert (found.class_id.tolist(), found.confidence.tolist()) == ([1], [pytest.approx(0.81)])
    assert found.xyxy.tolist() == [[22, 43, 42, 53]]
    assert found.mask is not None
    rows, columns = np.nonzero(found.mask[0])
    assert (rows.min(), rows.max(), columns.min()) == (43, 52, 22)
    assert columns.max() in {31, 32}


def test_an_image_encoder_may_list_the_states_of_its_patches_too(tmp_path: Path) -> None:
    states, embedding = np.zeros((1, 50, 24), np.float32), np.array([[0.0, 2.0, 0.0]], np.float32)
    np.savez(tmp_path / "texts.npz", names=["dog", "cat"], embeddings=np.array([[1, 0, 0], [0, 1, 0]], np.float32))
    path = write(tmp_path / "m.onnx", states, embedding, names=["last_hidden_state", "image_embeds"])
    model = load(path, text_embeddings=str(tmp_path / "texts.npz"))
    classes = model(GREY, Thresholds(0.2, 0.45, 10)).classes
    assert model.family.name == "zero_shot"
    assert classes is not None
    assert list(classes.label) == ["cat"]


def test_a_segmenter_may_have_the_output_that_it_was_trained_with(tmp_path: Path) -> None:
    scores = np.zeros((1, 3, 96, 64), np.float32)
    scores[0, 2] = 1
    model = load(write(tmp_path / "m.onnx", scores, np.zeros_like(scores), names=["out", "aux"]))
    found = model(GREY, Thresholds(0.4, 0.45, 10)).segmentation
    assert model.family.name == "semantic"
    assert found is not None
    assert [(number, share) for number, _, share in found.shares()] == [(2, 1.0)]


def test_strides_from_four_on_are_read(tmp_path: Path) -> None:
    head = np.zeros((1, 11, ROWS + 16 * 24), np.float32)
    head[0, :4, :] = 60
    head[0, :4, 7], head[0, 4 + 3, 7] = [32, 48, 20, 10], 0.8
    model = load(write(tmp_path / "m.onnx", head))
    assert model.family.name == "yolov8"
    assert model(GREY, Thresholds(0.4, 0.45, 10)).detections.xyxy.tolist() == [[22, 43, 42, 53]]


def test_final_boxes_in_whole_numbers_of_one_scale_are_doubted() -> None:
    spec = described(tensor((1, 100, 6), dtype=np.int8, quantization=Quantization(0.31, -128)))
    assert "the scores are broken" in _families.family_for(spec, None).doubts()[0]
