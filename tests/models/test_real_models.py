"""Real models on real pictures: the one that ships against its clip's truth, the others on photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.config import ModelSettings
from edge_agent.errors import ConfigError, ModelError
from edge_agent.image import BgrImage
from edge_agent.models import _loading, _thresholds
from edge_agent.models.base import Model, Thresholds
from edge_agent.sources._ffmpeg_images import image_of
from tests.conftest import CLIP, MODEL, TRUTH, make_config
from tests.models.reference import iou

SSD = "coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite"


def load(path: Path | str, **settings: Any) -> Model:
    config = make_config({"model": {"path": str(path), **settings}, "cameras": [{"id": "x", "source": "synthetic"}]})
    return _loading.load(config).lanes[0]


@pytest.mark.tflite
def test_the_shipped_model_finds_the_people_of_the_shipped_clip() -> None:
    """Every fifth frame: recall over truth boxes at least half in the frame, and precision, at IoU 0.4 and confidence 0.3."""
    model = load("builtin")
    thresholds = Thresholds(0.3, 0.45, 25, np.array([model.labels.index("Person")], np.int32))
    truth = [f["boxes"] for f in json.loads(TRUTH.read_text())["frames"]]
    wanted = hits = reported = 0
    with av.open(str(CLIP)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % 5:
                continue
            found = model(image_of(frame), thresholds).detections.xyxy.tolist()
            boxes = [box["xyxy"] for box in truth[index]]
            visible = [box["xyxy"] for box in truth[index] if box["visible"] >= 0.5]
            wanted += len(visible)
            hits += sum(any(iou(tuple(box), tuple(f)) >= 0.4 for f in found) for box in visible)
            reported += sum(not any(iou(tuple(box), tuple(f)) >= 0.4 for box in boxes) for f in found)
    assert wanted > 30
    assert hits / wanted >= 0.75
    assert reported <= 0.1 * hits


@pytest.mark.tflite
@pytest.mark.parametrize(
    ("file", "labels"),
    [
        (SSD, None),
        ("agpl/yolov8n_full_integer_quant.tflite", None),
        ("yolox_nano_float16_quantize.tflite", "coco80.txt"),
        ("yolox_nano.onnx", "coco80.txt"),
    ],
)
def test_people_and_cars_in_a_street_are_found_where_they_are(assets: Path, file: str, labels: str | None) -> None:
    """Image 183709 of COCO val2017, held against its own annotations."""
    more = {"labels": str(assets / "models" / labels)} if labels else {}
    model = load(assets / "models" / file, **more)
    folder = assets / "images" / "coco_val2017_ccby33"
    annotations = json.loads((folder / "instances.json").read_text())
    names = {c["id"]: c["name"] for c in annotations["categories"]}
    people = [a["bbox"] for a in annotations["annotations"] if a["image_id"] == 183709 and names[a["category_id"]] == "person"]
    large = [(x, y, x + w, y + h) for x, y, w, h in people if w * h > 20_000]
    image = BgrImage(np.asarray(cv2.imread(str(folder / "images" / "000000183709.jpg")), np.uint8))
    found = model(image, Thresholds(0.4, 0.45, 100)).detections
    boxes = [tuple(box) for box, label in zip(found.xyxy.tolist(), found.label, strict=True) if label == "person"]
    assert large
    assert sum(any(iou(box, f) > 0.6 for f in boxes) for box in large) >= len(large) - 1
    assert "car" in found.label


@pytest.mark.tflite
def test_both_formats_of_one_network_agree(assets: Path) -> None:
    labels = str(assets / "models" / "coco80.txt")
    image = BgrImage(np.asarray(cv2.imread(str(assets / "images/coco_val2017_ccby33/images/000000183709.jpg")), np.uint8))
    first, second = (
        load(assets / "models" / file, labels=labels)(image, Thresholds(0.5, 0.45, 100)).detections
        for file in ("yolox_nano.onnx", "yolox_nano_float16_quantize.tflite")
    )
    assert first.label == second.label
    np.testing.assert_allclose(first.confidence, second.confidence, atol=0.02)
    np.testing.assert_allclose(first.xyxy, second.xyxy, atol=3)


def tiny_onnx(path: Path, shape: tuple[int, ...] = (1, 11, 126), names: str | None = None) -> Path:
    """A graph of the shape of a YOLOv8 that sees one object, whatever it is shown."""
    head = np.zeros(shape, np.float32)
    head[0, :4, 7] = [32, 48, 20, 10]
    head[0, 4 + 3, 7] = 0.8
    nodes = [
        helper.make_node("ReduceSum", ["images"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "head"], ["output0"]),
    ]
    constants = [numpy_helper.from_array(head, "head"), numpy_helper.from_array(np.zeros((), np.float32), "zero")]
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 96, 64])]
    outputs = [helper.make_tensor_value_info("output0", TensorProto.FLOAT, list(shape))]
    model = helper.make_model(helper.make_graph(nodes, "tiny", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    if names:
        model.metadata_props.append(onnx.StringStringEntryProto(key="names", value=names))
    onnx.save(model, str(path))
    return path


def test_an_onnx_graph_with_ultralytics_metadata_needs_nothing_typed_by_hand(tmp_path: Path) -> None:
    names = "{0: 'a', 1: 'b', 2: 'c', 3: 'forklift', 4: 'e', 5: 'f', 6: 'g'}"
    model = load(tiny_onnx(tmp_path / "m.onnx", names=names))
    image = BgrImage(np.zeros((192, 128, 3), np.uint8))
    found = model(image, Thresholds(0.4, 0.45, 10)).detections
    assert found.label == ["forklift"]
    assert found.xyxy.tolist() == [[44, 86, 84, 106]]
    assert model.graph.runtime.startswith("ONNX Runtime")


def test_labels_beside_the_model_are_found_and_a_wrong_count_is_refused(tmp_path: Path) -> None:
    path = tiny_onnx(tmp_path / "m.onnx")
    assert load(path).labels == ()
    (tmp_path / "m.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    assert load(path).labels == tuple("abcdefg")
    with pytest.raises(ConfigError, match=r"model.labels: 2 class names, but the model has 7 classes"):
        load(path, labels=["x", "y"])
    (tmp_path / "m.txt").write_text("a\n")
    with pytest.raises(ConfigError, match=r"m.txt: 1 class names, but the model has 7 classes"):
        load(path)


@pytest.mark.tflite
def test_the_built_in_model_takes_no_labels_of_another_count() -> None:
    names = load("builtin").labels
    assert load("builtin", labels=[name.upper() for name in names]).labels[0] == names[0].upper()
    with pytest.raises(ConfigError, match=rf"model.labels: 2 class names, but the model has {len(names)} classes"):
        load("builtin", labels=["x", "y"])


# Not with tflite-runtime, nor with LiteRT before 2.1.6: they may crash the process on such a file.
@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_damaged_model_is_one_clear_line(tmp_path: Path, suffix: str, assets: Path) -> None:
    whole = MODEL if suffix == ".tflite" else assets / "models" / "yolox_nano.onnx"
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises((ModelError, ConfigError), match="is not a model that") as caught:
        load(broken)
    assert "\n" not in str(caught.value)


def test_thresholds_come_from_the_camera_then_the_model_then_the_default() -> None:
    cameras = [
        {"id": "a", "source": "synthetic", "confidence": 0.7, "classes": ["Car", 3]},
        {"id": "b", "source": "synthetic", "iou": 0.2, "max_detections": 3},
    ]
    config = make_config({"model": {"confidence": 0.6, "classes": ["Person"]}, "cameras": cameras})
    labels = ["Person", "Car", "Dog", "Cat"]
    first, second = (_thresholds.thresholds_for(c.settings, config.settings.model, labels, index) for index, c in enumerate(config.cameras))
    assert (first.confidence, first.iou, first.max_detections) == (0.7, 0.45, 100)
    assert first.class_ids is not None
    assert first.class_ids.tolist() == [1, 3]
    assert (second.confidence, second.iou, second.max_detections) == (0.6, 0.2, 3)
    assert second.class_ids is not None
    assert second.class_ids.tolist() == [0]
    default = make_config({"cameras": cameras[1:]})
    assert _thresholds.thresholds_for(default.cameras[0].settings, default.settings.model, labels, 0).confidence == 0.3


def test_a_class_that_the_model_lacks_is_refused_with_the_nearest() -> None:
    config = make_config({"cameras": [{"id": "a", "source": "synthetic", "classes": ["persn"]}]})
    with pytest.raises(ConfigError, match=r"cameras\[0\].classes: 'persn' is no class of this model; did you mean 'person'"):
        _thresholds.thresholds_for(config.cameras[0].settings, config.settings.model, ["car", "person"], 0)


def test_every_unknown_class_of_every_camera_is_told_at_once() -> None:
    cameras: list[dict[str, object]] = [
        {"id": "a", "source": "synthetic", "classes": ["persn", 7, "car"]},
        {"id": "b", "source": "synthetic"},
        {"id": "c", "source": "synthetic"},
        {"id": "d", "source": "synthetic", "classes": ["nothing"], "enabled": False},
    ]
    config = make_config({"model": {"classes": ["cra"]}, "cameras": cameras})
    with pytest.raises(ConfigError) as caught:
        _thresholds.all_thresholds(config, ["car", "person"])
    assert [problem.message.partition(":")[0] for problem in caught.value.problems] == [
        "cameras[0].classes",
        "cameras[0].classes",
        "model.classes",
    ]


@pytest.mark.parametrize(
    ("settings", "only_files", "expected"),
    [
        ({}, False, [(1, 1), (1, 1), (1, 3), (1, 4)]),
        ({}, True, [(1, 1), (2, 1), (4, 1), (4, 1)]),
        ({"lanes": 3}, False, [(3, 1)] * 4),
        ({"threads": 2}, True, [(1, 2), (2, 2), (4, 2), (4, 2)]),
        ({"lanes": 1}, True, [(1, 1), (1, 1), (1, 3), (1, 4)]),
    ],
)
def test_lanes_and_threads_follow_the_work_and_the_cores(
    settings: dict[str, int], only_files: bool, expected: list[tuple[int, int]]
) -> None:
    model = ModelSettings.model_validate(settings)
    assert [_loading.lanes_and_threads(model, only_files=only_files, cores=cores) for cores in (1, 2, 4, 8)] == expected


def picture(path: Path) -> BgrImage:
    return BgrImage(np.asarray(cv2.imread(str(path)), np.uint8))


@pytest.mark.tflite
def test_a_classifier_names_what_fills_the_picture(assets: Path) -> None:
    """Broccoli on a plate, and a coast (images 62554 and 55299 of COCO val2017)."""
    model = load(assets / "models" / "mobilenet_v1_0.25_128_quant.tflite")
    folder = assets / "images" / "coco_val2017_ccby33" / "images"
    for name, expected in (("000000062554", "broccoli"), ("000000055299", "seashore, coast, seacoast, sea-coast")):
        classes = model(picture(folder / f"{name}.jpg"), Thresholds(0.1, 0.45, 10)).classes
        assert classes is not None
        assert expected in classes.label


@pytest.mark.tflite
def test_keypoints_lie_on_the_person(assets: Path) -> None:
    """The astronaut of scikit-image looks at us: her face is at about 225, 115 of 512, her left eye to the right of her right one."""
    model = load(assets / "models" / "movenet_single_pose_lightning_ptq.tflite")
    found = model(picture(assets / "ship" / "media" / "astronaut.png"), Thresholds(0.3, 0.45, 10)).detections
    assert found.label == ["person"]
    assert found.keypoints is not None
    nose, left_eye, right_eye, _, _, left_shoulder, right_shoulder = found.keypoints[0, :7, :2]
    assert np.abs(nose - (225, 115)).max() < 25
    assert left_eye[0] > nose[0] > right_eye[0]
    assert left_shoulder[0] > right_shoulder[0]
    assert min(left_shoulder[1], right_shoulder[1]) > nose[1]


@pytest.mark.tflite
def test_a_class_map_covers_the_people_in_the_picture(assets: Path) -> None:
    """Image 183709: the people of the annotations, and few others' pixels."""
    labels = str(assets / "models" / "pascal_voc_segmentation_labels.txt")
    model = load(assets / "models" / "deeplabv3_mnv2_dm05_pascal_quant.tflite", labels=labels)
    folder = assets / "images" / "coco_val2017_ccby33"
    annotations = json.loads((folder / "instances.json").read_text())
    people = {c["id"] for c in annotations["categories"] if c["name"] == "person"}
    image = picture(folder / "images" / "000000183709.jpg")
    inside = np.zeros((image.height, image.width), bool)
    for annotation in annotations["annotations"]:
        if annotation["image_id"] == 183709 and annotation["category_id"] in people:
            x, y, w, h = (round(v) for v in annotation["bbox"])
            inside[y : y + h, x : x + w] = True
    found = model(image, Thresholds(0.4, 0.45, 10)).segmentation
    assert found is not None
    assert {"background", "person", "car"} <= {name for _, name, _ in found.shares()}
    person = np.asarray(cv2.resize((found.classes == 15).astype(np.uint8), (image.width, image.height)), bool)
    assert (person & inside).sum() > 0.85 * person.sum()
    assert (person & inside).sum() > 0.4 * inside.sum()


@pytest.mark.tflite
@pytest.mark.parametrize("file", ["oid_int8.onnx", "oid_int8_raw.tflite"])
def test_an_ssd_finds_the_same_with_its_post_processing_outside(assets: Path, file: str) -> None:
    image = picture(assets / "images/coco_val2017_ccby33/images/000000183709.jpg")
    folder = assets / "ship" / "models"
    inside = load(folder / "oid_int8_pp.tflite", labels=str(folder / "oid_pp_labels.txt"))(image, Thresholds(0.3, 0.6, 25)).detections
    model = load(folder / file, labels=str(folder / "oid_labels.txt"))
    outside = model(image, Thresholds(0.25, 0.6, 25)).detections
    assert model.family.name == "ssd_raw"
    assert len(inside) > 3
    found = 0
    for box, label in zip(inside.xyxy.tolist(), inside.label, strict=True):
        found += any(o == label and iou(tuple(box), tuple(b)) > 0.7 for b, o in zip(outside.xyxy.tolist(), outside.label, strict=True))
    assert found >= 0.75 * len(inside)
