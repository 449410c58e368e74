"""Tasks other than boxes, through whole models in small files: from a picture to places in that picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

from edge_agent.detections import Masks, Segmentation, run_lengths
from edge_agent.errors import ConfigError
from edge_agent.image import BgrImage
from edge_agent.models._preprocess import Placement
from edge_agent.models._results import More, SoftMasks, masks_in_source
from edge_agent.models.base import Thresholds
from tests.models.files import load, write
from tests.models.graphs import ROWS

WIDE = BgrImage(np.zeros((96, 128, 3), np.uint8))
"""Twice as wide as an input of 64 x 96: placed at half size, 24 rows below the top."""
THRESHOLDS = Thresholds(0.3, 0.45, 10)


def cells(numbers: int) -> NDArray[np.float32]:
    """A head of the input's 126 cells that sees a box at 32, 48 of 20 x 10 in class 0."""
    head: NDArray[np.float32] = np.zeros((1, numbers, ROWS), np.float32)
    head[0, 0, :] = 60  # cells lie all over the input, whatever they see
    head[0, :5, 7] = [32, 48, 20, 10, 0.8]
    return head


@pytest.mark.parametrize("last", [False, True])
def test_masks_come_out_in_pixels_of_the_picture(tmp_path: Path, last: bool) -> None:
    """The prototype is positive in the left half of the input, so the mask is the left half of the box."""
    head = cells(4 + 3 + 32)
    head[0, 7, 7] = 1.0
    prototypes = np.zeros((1, 32, 24, 16), np.float32)
    prototypes[0, 0, :, :8], prototypes[0, 0, :, 8:] = 1, -1
    model = load(write(tmp_path / "m.onnx", head, prototypes.transpose(0, 2, 3, 1).copy() if last else prototypes))
    found = model(WIDE, THRESHOLDS).detections
    assert (model.family.name, model.family.task, model.family.class_count) == ("yolov8_seg", "instance segmentation", 3)
    assert found.xyxy.tolist() == [[44, 38, 84, 58]]
    assert found.mask is not None
    assert found.mask.shape == (1, 96, 128)
    rows, columns = np.nonzero(found.mask[0])
    assert (rows.min(), rows.max(), columns.min()) == (38, 57, 44)
    assert columns.max() in {63, 64}
    assert found.mask.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)


def test_a_mask_is_the_interpolation_of_its_prototypes() -> None:
    """Against OpenCV's own enlargement of the whole map, cut to the box afterwards."""
    random = np.random.default_rng(3)
    prototypes = random.normal(0, 1, (4, 24, 16)).astype(np.float32)
    weights = random.normal(0, 1, (3, 4)).astype(np.float32)
    boxes = np.array([[0, 0, 64, 96], [10.3, 20.7, 40.2, 70.9], [50, 80, 64, 96]], np.float32)
    image = BgrImage(np.zeros((192, 128, 3), np.uint8))
    place = Placement.of(image, (64, 96), "none")
    masks = masks_in_source(More(masks=SoftMasks(weights, prototypes)), boxes, (place, image, (64, 96)))
    assert masks is not None
    for mask, weight, box in zip(masks.dense(), weights, place.to_source(boxes, image), strict=True):
        whole = cv2.resize(np.tensordot(weight, prototypes, 1), (128, 192), interpolation=cv2.INTER_LINEAR) > 0
        left, top, right, bottom = (int(v) for v in (*np.floor(box[:2]), *np.ceil(box[2:])))
        inside = np.zeros_like(whole)
        inside[top:bottom, left:right] = True
        assert (mask & ~inside).sum() == 0
        assert (mask != (whole & inside)).mean() < 0.002


@pytest.mark.parametrize("numbers", [3, 2])
@pytest.mark.parametrize("fractions", [False, True])
def test_keypoints_come_out_in_pixels_of_the_picture(tmp_path: Path, numbers: int, fractions: bool) -> None:
    head = cells(5 + 2 * numbers)
    head[0, 5 : 5 + 2 * numbers, 7] = [30, 46, 0.9, 40, 50, 0.2] if numbers == 3 else [30, 46, 40, 50]
    if fractions:
        head[0, [0, 2]] /= 64
        head[0, [1, 3]] /= 96
        for point in range(2):
            head[0, 5 + point * numbers] /= 64
            head[0, 6 + point * numbers] /= 96
    path = write(tmp_path / "m.onnx", head, metadata={"task": "pose", "kpt_shape": f"[2, {numbers}]", "names": "{0: 'hand'}"})
    found = load(path)(WIDE, THRESHOLDS).detections
    assert found.label == ["hand"]
    np.testing.assert_allclose(found.xyxy, [[44, 38, 84, 58]], atol=1e-4)
    assert found.keypoints is not None
    expected = [[[60, 44, 0.9], [80, 52, 0.2]]] if numbers == 3 else [[[60, 44, 1], [80, 52, 1]]]
    np.testing.assert_allclose(found.keypoints, expected, atol=1e-4)


def final_row(*more: float) -> NDArray[np.float32]:
    """Two rows, of which the second is a box at 32, 48 of 20 x 10."""
    return np.array([[[0] * (6 + len(more)), [22, 43, 42, 53, 0.8, 1, *more]]], np.float32)


def test_keypoints_of_heads_that_need_no_nms(tmp_path: Path) -> None:
    head = final_row(*[30, 46, 0.9] * 17)
    found = load(write(tmp_path / "m.onnx", head), labels=["a", "b"])(WIDE, THRESHOLDS).detections
    assert (found.label, found.xyxy.tolist()) == (["b"], [[44, 38, 84, 58]])
    assert found.keypoints is not None
    np.testing.assert_allclose(found.keypoints, [[[60, 44, 0.9]] * 17], atol=1e-4)


def test_masks_of_heads_that_need_no_nms(tmp_path: Path) -> None:
    prototypes = np.zeros((1, 32, 24, 16), np.float32)
    prototypes[0, 3] = -1
    found = load(write(tmp_path / "m.onnx", final_row(0, 0, 0, -1, *[0] * 28), prototypes))(WIDE, THRESHOLDS).detections
    assert found.xyxy.tolist() == [[44, 38, 84, 58]]
    assert found.mask is not None
    assert found.mask[0, 38:58, 44:84].all()
    assert found.mask.sum() == 20 * 40


def test_faces_of_centerface_have_landmarks(tmp_path: Path) -> None:
    heat, sizes, offsets, marks = (np.zeros((1, n, 24, 16), np.float32) for n in (1, 2, 2, 10))
    heat[0, 0, 6, 4] = 0.9
    sizes[0, :, 6, 4] = [np.log(5), np.log(2)]  # cells of 4: 20 high, 8 wide
    offsets[0, :, 6, 4] = [0.25, -0.25]
    marks[0, :, 6, 4] = [0.5, 0.25] * 5
    model = load(write(tmp_path / "m.onnx", heat, sizes, offsets, marks))
    found = model(BgrImage(np.zeros((192, 128, 3), np.uint8)), THRESHOLDS).detections
    assert found.label == ["face"]
    # centre (4 + .5 - .25, 6 + .5 + .25) * 4 = (17, 27) of the input, twice that of the picture
    np.testing.assert_allclose(found.xyxy, [[26, 34, 42, 74]], atol=1e-4)
    assert found.keypoints is not None
    np.testing.assert_allclose(found.keypoints[0, :, :2], [[30, 54]] * 5, atol=1e-4)


def movenet(tmp_path: Path, head: NDArray[np.float32]) -> Any:
    return load(write(tmp_path / "m.onnx", head))(WIDE, THRESHOLDS).detections


def test_movenet_gives_the_hull_of_the_sure_points(tmp_path: Path) -> None:
    head = np.zeros((1, 1, 17, 3), np.float32)
    head[0, 0, :, 2] = 0.9
    head[0, 0, :, 0], head[0, 0, :, 1] = 0.5, 0.25
    head[0, 0, 0] = [0.25, 0.5, 0.8]
    head[0, 0, 1] = [0.99, 0.99, 0.05]
    found = movenet(tmp_path, head)
    assert found.label == ["person"]
    assert found.xyxy.tolist() == [[32, 0, 64, 48]]
    assert found.keypoints[0, 0].tolist() == pytest.approx([64, 0, 0.8])
    assert found.confidence.tolist() == pytest.approx([(0.9 * 15 + 0.8 + 0.05) / 17])


def test_movenet_of_several_people_has_boxes(tmp_path: Path) -> None:
    head = np.zeros((1, 6, 56), np.float32)
    head[0, 2, :51] = np.tile([0.5, 0.25, 0.7], 17)
    head[0, 2, 51:] = [0.25, 0.0, 0.75, 0.5, 0.9]
    found = movenet(tmp_path, head)
    assert found.xyxy.tolist() == [[0, 0, 64, 96]]
    assert found.keypoints[0, 3].tolist() == pytest.approx([32, 48, 0.7])


@pytest.mark.parametrize("scores", [[0.1, 0.7, 0.2], [-1.2, 0.745910, -0.506852]])
def test_classes_of_the_whole_picture_best_first(tmp_path: Path, scores: list[float]) -> None:
    """Probabilities as they are; others through a softmax (the logits here come to the same)."""
    path = write(tmp_path / "m.onnx", np.array([scores], np.float32), metadata={"names": "{0: 'a', 1: 'b', 2: 'c'}"})
    prediction = load(path)(WIDE, Thresholds(0.15, 0.45, 10))
    assert len(prediction.detections) == 0
    assert prediction.classes is not None
    assert prediction.classes.label == ["b", "c"]
    assert prediction.classes.confidence.tolist() == pytest.approx([0.7, 0.2], abs=1e-3)


def test_labels_of_a_classifier_may_begin_with_a_background_that_it_has_not(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", np.array([[0.1, 0.7, 0.2]], np.float32))
    (tmp_path / "m.txt").write_text("background\nx\ny\nz\n")
    assert load(path).labels == ("x", "y", "z")


@pytest.mark.parametrize("form", ["classes", "planes", "channels"])
def test_the_class_of_each_part_of_the_picture(tmp_path: Path, form: str) -> None:
    """The input is filled ("none"), so its left quarter is the picture's."""
    classes = np.zeros((1, 96, 64), np.int64)
    classes[:, :, :16] = 2
    scores = np.stack([classes == c for c in range(3)], axis=1).astype(np.float32)
    output = {"classes": classes, "planes": scores, "channels": scores.transpose(0, 2, 3, 1).copy()}[form]
    model = load(write(tmp_path / "m.onnx", output), labels=["sky", "sea", "land"])
    found = model(WIDE, THRESHOLDS).segmentation
    assert found is not None
    assert found.shares() == [(0, "sky", 0.75), (2, "land", 0.25)]
    assert found.rle(2) == [0, 96 * 32, 96 * 96]
    wanted = model(WIDE, Thresholds(0.3, 0.45, 10, np.array([2], np.int32))).segmentation
    assert wanted is not None
    assert [name for _, name, _ in wanted.shares()] == ["land"]


def test_padding_is_not_part_of_the_picture(tmp_path: Path) -> None:
    classes = np.ones((1, 96, 64), np.int64)
    classes[:, 24:72] = 0
    model = load(write(tmp_path / "m.onnx", classes), letterbox="centre")
    found = model(WIDE, THRESHOLDS).segmentation
    assert found is not None
    assert [(i, share) for i, _, share in found.shares()] == [(0, 1.0)]


def texts(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


EMBEDDINGS = np.array([[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 1]], np.float32)
NAMES = np.array(["a forklift", "a person", "an empty hall"])


def test_what_to_look_for_is_a_file_of_text_embeddings(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", np.array([[0.3, 0.4, 0.0, 0.0]], np.float32))
    file = texts(tmp_path / "t.npz", names=NAMES, embeddings=EMBEDDINGS, logit_scale=np.float32(10))
    prediction = load(path, text_embeddings=str(file))(WIDE, Thresholds(0.05, 0.45, 10))
    assert prediction.classes is not None
    logits = np.exp(10 * np.array([0.6, 0.8, 0.0]))
    assert prediction.classes.label == ["a person", "a forklift"]
    assert prediction.classes.confidence.tolist() == pytest.approx(sorted(logits / logits.sum())[:0:-1], abs=1e-5)


def test_with_a_bias_each_text_is_judged_on_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", np.array([[0.3, 0.4, 0.0, 0.0]], np.float32))
    file = texts(tmp_path / "t.npz", names=NAMES, embeddings=EMBEDDINGS, logit_scale=10.0, logit_bias=-5.0)
    prediction = load(path, text_embeddings=str(file))(WIDE, Thresholds(0.05, 0.45, 10))
    assert prediction.classes is not None
    assert prediction.classes.confidence.tolist() == pytest.approx([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-1))], abs=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"names": NAMES}, "must hold the arrays names and embeddings"),
        ({"names": NAMES[:2], "embeddings": EMBEDDINGS}, "have shapes"),
        ({"names": NAMES, "embeddings": EMBEDDINGS[:, :3]}, "3 numbers each, this model's 4"),
        ({"names": NAMES, "embeddings": EMBEDDINGS * np.nan}, "not all numbers"),
    ],
)
def test_text_embeddings_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "m.onnx", np.array([[0.3, 0.4, 0.0, 0.0]], np.float32))
    with pytest.raises(ConfigError, match=f"model.text_embeddings: .*{message}"):
        load(path, text_embeddings=str(texts(tmp_path / "t.npz", **arrays)))


def test_text_embeddings_that_are_none_or_not_needed_are_refused(tmp_path: Path) -> None:
    encoder = write(tmp_path / "m.onnx", np.array([[0.3, 0.4]], np.float32), names=["image_embeds"])
    with pytest.raises(ConfigError, match="set text_embeddings = "):
        load(encoder)
    with pytest.raises(ConfigError, match="does not exist"):
        load(encoder, text_embeddings=str(tmp_path / "none.npz"))
    (tmp_path / "t.npz").write_text("a person\n")
    with pytest.raises(ConfigError, match=r"is not a \.npz file"):
        load(encoder, text_embeddings=str(tmp_path / "t.npz"))
    detector = write(tmp_path / "d.onnx")
    file = texts(tmp_path / "e.npz", names=NAMES, embeddings=EMBEDDINGS)
    with pytest.raises(ConfigError, match="a yolov8 model finds what it was trained on"):
        load(detector, text_embeddings=str(file), family="yolov8")


def test_run_lengths_are_those_of_coco() -> None:
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert run_lengths(mask) == [2, 3, 1]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]
    assert run_lengths(np.zeros((2, 2), bool)) == [4]


def test_polygons_are_outer_contours_in_the_picture() -> None:
    part = np.zeros((6, 8), bool)
    part[1:5, 1:3] = part[1:5, 5:8] = True
    polygons = Masks(100, 50, [(10, 20, part)]).polygons()[0]
    corners = sorted(sorted(polygon) for polygon in polygons)
    assert corners == [[(11, 21), (11, 24), (12, 21), (12, 24)], [(15, 21), (15, 24), (17, 21), (17, 24)]]


def test_shares_add_up_and_classes_without_names_are_numbers() -> None:
    found = Segmentation(np.array([[0, 0, 5], [1, 0, 5]], np.int32), 30, 20, ("a",))
    assert [(name, round(share, 3)) for _, name, share in found.shares()] == [("a", 0.5), ("5", 0.333), ("1", 0.167)]


def test_a_detr_is_told_the_size_of_its_input_by_a_second_one(tmp_path: Path) -> None:
    """The graph's one box is [0, 0, *orig_target_sizes]: all of the input, and so all of the picture."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["orig_target_sizes"], ["sizes"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["corner", "sizes"], ["flat"], axis=1),
        helper.make_node("Reshape", ["flat", "shape"], ["boxes"]),
        helper.make_node("Identity", ["label"], ["labels"]),
        helper.make_node("ReduceMax", ["images"], ["zero"], keepdims=0),
        helper.make_node("Max", ["zero", "score"], ["scores"]),
    ]
    constants = [
        numpy_helper.from_array(np.zeros((1, 2), np.float32), "corner"),
        numpy_helper.from_array(np.array([1, 1, 4], np.int64), "shape"),
        numpy_helper.from_array(np.array([[1]], np.int64), "label"),
        numpy_helper.from_array(np.array([[0.75]], np.float32), "score"),
    ]
    inputs = [value("orig_target_sizes", TensorProto.INT64, [1, 2]), value("images", TensorProto.FLOAT, [1, 3, 96, 64])]
    outputs = [
        value("labels", TensorProto.INT64, [1, 1]),
        value("boxes", TensorProto.FLOAT, [1, 1, 4]),
        value("scores", TensorProto.FLOAT, [1, 1]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    save(model, str(tmp_path / "m.onnx"))
    found = load(tmp_path / "m.onnx", labels=["a", "b"])(WIDE, THRESHOLDS).detections
    assert found.label == ["b"]
    assert found.xyxy.tolist() == [[0, 0, 128, 96]]
