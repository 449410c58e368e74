"""Heads beyond the first families: each against a straightforward decoder, or against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.models import _families
from edge_agent.models._anchors import standard_anchors
from edge_agent.models.base import Candidates, Thresholds
from edge_agent.runtimes.base import FileFacts, GraphSpec, Quantization
from tests.models import reference
from tests.models.graphs import ANCHORS, ONE_OF_EACH, ROWS, SIZE, described, tensor
from tests.models.test_families import THRESHOLDS, assert_same, random_rows

Floats = NDArray[np.float32]


def decode(spec: GraphSpec, *outputs: NDArray[np.generic], thresholds: Thresholds = THRESHOLDS) -> Candidates:
    return _families.family_for(spec, None).decode(outputs, SIZE, thresholds)


@pytest.mark.parametrize("seed", range(3))
def test_yolox_decoded(seed: int) -> None:
    rows = random_rows(seed, ROWS, 7, objectness=True)
    expected = reference.suppress(reference.with_objectness(rows.tolist(), 0.3, lambda box: box), 0.45)
    assert len(expected) > 10
    assert_same(decode(ONE_OF_EACH["yolox_decoded"], rows[None]), expected[:100])


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_nanodet(seed: int, plus: bool) -> None:
    random = np.random.default_rng(seed)
    rows = ROWS + 2 if plus else ROWS
    head = np.concatenate((random.uniform(0, 1, (rows, 80)) ** 12, random.normal(0, 2, (rows, 32))), axis=1).astype(np.float32)
    expected = reference.suppress(reference.nanodet(head.tolist(), 80, SIZE, 0.3, plus=plus), 0.45)
    assert len(expected) > 10
    found = _families.family_for(described((1, rows, 112)), "nanodet").decode([head[None]], SIZE, THRESHOLDS)
    assert_same(found, expected[:100])


def test_the_standard_anchors_are_those_of_the_paper() -> None:
    np.testing.assert_allclose(standard_anchors(SIZE), reference.ssd_anchors(SIZE), atol=1e-6)
    assert len(standard_anchors((300, 300))) == 1917


@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("seed", range(2))
def test_ssd_before_its_post_processing(seed: int, order: int, logits: bool) -> None:
    random = np.random.default_rng(seed)
    encodings = random.normal(0, 2, (ANCHORS, 4)).astype(np.float32)
    stored = random.normal(-1.5, 1.5, (ANCHORS, 8)).astype(np.float32)
    probabilities = 1 / (1 + np.exp(-stored))
    expected = reference.ssd(encodings.tolist(), probabilities.tolist(), reference.ssd_anchors(SIZE), SIZE, 0.3)
    expected = reference.suppress(expected, 0.45)
    assert len(expected) > 10
    outputs = [encodings[None], (stored if logits else probabilities.astype(np.float32))[None]][::order]
    assert_same(decode(described(*(o.shape for o in outputs)), *outputs), expected[:100])


@pytest.mark.parametrize("corners", [False, True])
def test_anchors_come_from_the_graph_where_it_holds_them(corners: bool) -> None:
    random = np.random.default_rng(5)
    centres = np.concatenate((random.uniform(0.2, 0.8, (200, 2)), random.uniform(0.05, 0.3, (200, 2))), axis=1).astype(np.float32)
    stored = np.concatenate((centres[:, :2] - centres[:, 2:] / 2, centres[:, :2] + centres[:, 2:] / 2), axis=1) if corners else centres
    encodings, scores = random.normal(0, 2, (200, 4)).astype(np.float32), random.uniform(0, 1, (200, 3)).astype(np.float32) ** 2
    spec = described((1, 200, 4), (1, 200, 3), file=FileFacts({"Conv": 1}, anchors={200: np.asarray(stored, np.float32)}))
    expected = reference.ssd(encodings.tolist(), scores.tolist(), [tuple(row) for row in centres.tolist()], SIZE, 0.3)
    assert_same(decode(spec, encodings[None], scores[None]), reference.suppress(expected, 0.45)[:100])


@pytest.mark.parametrize("seed", range(3))
def test_fastestdet(seed: int) -> None:
    random = np.random.default_rng(seed)
    grid = np.concatenate((random.uniform(0, 1, (1, 6, 4)), random.normal(0, 1, (4, 6, 4)), random.uniform(0, 1, (7, 6, 4)) ** 2))
    expected = reference.suppress(reference.fastestdet(grid.tolist(), SIZE, 0.3), 0.45)
    assert len(expected) > 5
    assert_same(decode(ONE_OF_EACH["fastestdet"], grid[None].astype(np.float32)), expected)


QUERIES = np.array([[0.5, 0.5, 0.5, 0.25], [0.25, 0.25, 0.1, 0.1], [0.1, 0.2, 0.1, 0.1]], np.float32)
LOGITS = np.array([[2.0, -3.0, 1.0], [-4.0, 0.5, -4.0], [-5.0, -5.0, -5.0]], np.float32)
EXPECTED: list[tuple[float, int, list[float]]] = [
    (0.8808, 0, [16, 36, 48, 60]),
    (0.7311, 2, [16, 36, 48, 60]),
    (0.6225, 1, [12.8, 19.2, 19.2, 28.8]),
]


def assert_queries(found: Candidates) -> None:
    assert [(c, i) for c, i in zip(found.confidence.round(4).tolist(), found.class_id.tolist(), strict=True)] == [
        (pytest.approx(c, abs=1e-4), i) for c, i, _ in EXPECTED
    ]
    np.testing.assert_allclose(found.xyxy, [box for *_, box in EXPECTED], atol=1e-3)


@pytest.mark.parametrize(("boxes_name", "logits_name"), [("pred_boxes", "logits"), ("dets", "labels"), ("boxes", "scores_logits")])
@pytest.mark.parametrize("boxes_first", [False, True])
def test_detr_with_logits_and_boxes(boxes_name: str, logits_name: str, boxes_first: bool) -> None:
    boxes, logits = np.zeros((1, 60, 4), np.float32), np.full((1, 60, 3), -9, np.float32)
    boxes[0, 7:10], logits[0, 7:10] = QUERIES, LOGITS
    both = [(tensor(boxes.shape, boxes_name), boxes), (tensor(logits.shape, logits_name), logits)][:: 1 if boxes_first else -1]
    spec = described(*(s for s, _ in both))
    family = _families.family_for(spec, None)
    assert family.name == "detr"
    assert isinstance(family.input_format.scale, tuple) == (boxes_name == "dets")  # RF-DETR alone is normalised as ImageNet
    assert_queries(family.decode([o for _, o in both], SIZE, THRESHOLDS))
    only = family.decode([o for _, o in both], SIZE, Thresholds(0.3, 0.45, 10, np.array([1], np.int32)))
    assert only.class_id.tolist() == [1]


def test_ultralytics_rt_detr_has_one_output_of_probabilities() -> None:
    head = np.zeros((1, 300, 7), np.float32)
    head[0, 7:10, :4], head[0, 7:10, 4:] = QUERIES, 1 / (1 + np.exp(-LOGITS))
    spec = described((1, 300, 7))
    assert _families.family_for(spec, None).name == "detr"
    assert_queries(decode(spec, head))


def test_a_detr_that_is_told_the_pictures_size_gives_pixels() -> None:
    sizes = tensor((1, 2), "orig_target_sizes", np.int64)
    names = [tensor((1, 300), "labels", np.int64), tensor((1, 300, 4), "boxes"), tensor((1, 300), "scores")]
    spec = described(*names, more_inputs=[sizes])
    family = _families.family_for(spec, None)
    assert family.name == "detr"
    assert {name: value.tolist() for name, value in family.other_inputs(SIZE).items()} == {"orig_target_sizes": [[64, 96]]}
    labels, boxes, scores = np.zeros((1, 300), np.int64), np.zeros((1, 300, 4), np.float32), np.zeros((1, 300), np.float32)
    labels[0, 5], boxes[0, 5], scores[0, 5] = 7, [1, 2, 30, 40], 0.9
    found = family.decode([labels, boxes, scores], SIZE, THRESHOLDS)
    assert (found.class_id.tolist(), found.xyxy.tolist()) == ([7], [[1, 2, 30, 40]])


BOXES = np.array([[10, 20, 30, 40], [1, 2, 3, 4], [5, 6, 7, 8], [9, 9, 60, 90]], np.float32)
SCORES = np.array([0.5, 0.9, 0.1, 0.8], np.float32)
CLASSES = np.array([3, 1, 2, 0], np.int64)


def assert_final(found: Candidates, count: int = 4) -> None:
    rows = [row for row in (1, 3, 0) if row < count]
    assert found.class_id.tolist() == CLASSES[rows].tolist()
    assert found.confidence.tolist() == pytest.approx(SCORES[rows].tolist())
    np.testing.assert_allclose(found.xyxy, BOXES[rows], rtol=1e-6)


@pytest.mark.parametrize("fractions", [False, True])
def test_efficient_nms_has_four_outputs(fractions: bool) -> None:
    spec = described(
        tensor((1, 1), "num_dets", np.int32),
        tensor((1, 4, 4), "det_boxes"),
        tensor((1, 4), "det_scores"),
        tensor((1, 4), "det_classes", np.int32),
    )
    boxes = BOXES / np.array(SIZE * 2, np.float32) if fractions else BOXES
    outputs = [np.array([[3]], np.int32), boxes[None], SCORES[None], CLASSES[None].astype(np.int32)]
    assert_final(decode(spec, *outputs), count=3)


def test_torchvision_has_boxes_labels_and_scores_of_an_open_number() -> None:
    spec = described(tensor((-1, 4), "boxes"), tensor((-1,), "labels", np.int64), tensor((-1,), "scores"))
    assert_final(decode(spec, BOXES, CLASSES, SCORES))
    assert len(decode(spec, BOXES[:0], CLASSES[:0], SCORES[:0]).confidence) == 0


def test_mmdeploy_has_the_score_in_the_fifth_column() -> None:
    spec = described(tensor((1, -1, 5), "dets"), tensor((1, -1), "labels", np.int64))
    assert_final(decode(spec, np.concatenate((BOXES, SCORES[:, None]), axis=1)[None], CLASSES[None]))


def test_yolov7_end_to_end_has_rows_of_seven() -> None:
    rows = np.concatenate((np.zeros((4, 1)), BOXES, CLASSES[:, None], SCORES[:, None]), axis=1).astype(np.float32)
    assert_final(decode(described((-1, 7)), rows))
    assert len(decode(described((-1, 7)), rows[:0]).confidence) == 0


def test_end_to_end_boxes_may_be_fractions_whatever_the_runtime() -> None:
    rows = np.concatenate((BOXES, SCORES[:, None], CLASSES[:, None]), axis=1).astype(np.float32)
    assert_final(decode(described((1, 4, 6)), rows[None]))
    rows[:, :4] /= np.array(SIZE * 2)
    assert_final(decode(described((1, 4, 6)), rows[None]))


def test_a_unit_is_not_guessed_from_a_frame_in_which_nothing_is_seen() -> None:
    family = _families.family_for(described((1, 4, 6)), None)
    assert len(family.decode([np.zeros((1, 4, 6), np.float32)], SIZE, THRESHOLDS).confidence) == 0
    rows = np.concatenate((BOXES, SCORES[:, None], CLASSES[:, None]), axis=1).astype(np.float32)
    assert_final(family.decode([rows[None]], SIZE, THRESHOLDS))


@pytest.mark.parametrize(
    ("shape", "quantization", "doubt"),
    [
        ((1, ROWS, 12), Quantization(1 / 256, -128), "one output scale of 1/256, made for the scores, cannot hold raw box terms"),
        ((1, ROWS, 12), Quantization(0.06, 0), None),
        ((1, 11, ROWS), Quantization(0.5, -128), "scores are broken"),
        ((1, 11, ROWS), Quantization(1 / 256, -128), None),
        ((1, 3 * ROWS, 12), Quantization(0.5, -128), "scores are broken"),
    ],
)
def test_outputs_whose_one_scale_cannot_serve_boxes_and_scores_are_told(
    shape: tuple[int, ...], quantization: Quantization, doubt: str | None
) -> None:
    doubts = _families.family_for(described(tensor(shape, "out", np.int8, quantization)), None).doubts()
    assert len(doubts) == (doubt is not None)
    assert doubt is None or doubt in doubts[0]
