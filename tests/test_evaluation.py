"""Average precision: pycocotools through our own line, against a plain implementation of both."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent import evaluation, labelled
from edge_agent.detections import Detections
from edge_agent.errors import ConfigError
from edge_agent.evaluation import ModelOptions
from tests.average_precision import Object, Seen, average_precision
from tests.conftest import CommandLine
from tests.models import reference
from tests.models.test_real_models import tiny_onnx

Pixels = NDArray[np.uint8]
VALIDATION = "images/coco_val2017_ccby33"


def nothing(_done: int, _of: int) -> None:
    """No progress is shown."""


def objects_of(truth: labelled.Truth) -> dict[int, list[Object]]:
    objects: dict[int, list[Object]] = {}
    for box in truth.data["annotations"]:
        objects.setdefault(box["image_id"], []).append(Object(box["category_id"], tuple(box["bbox"]), bool(box["iscrowd"])))
    return objects


def test_the_score_is_that_of_a_plain_implementation(tmp_path: Path) -> None:
    """Random boxes, some moved a little and seen again, with crowds."""
    random = np.random.default_rng(5)
    boxes: list[dict[str, Any]] = []
    found: dict[int, Detections] = {}
    for image in range(1, 13):
        xyxy, confidence, class_id = [], [], []
        for _ in range(9):
            left, top, width, height = random.uniform(0, 200, 2).tolist() + random.uniform(5, 90, 2).tolist()
            kind = int(random.integers(0, 3))
            boxes.append(
                {"image_id": image, "category_id": kind + 1, "bbox": [left, top, width, height], "iscrowd": int(random.random() < 0.15)}
            )
            for _ in range(int(random.integers(0, 3))):
                shift = random.normal(0, min(width, height) / 12, 4)
                xyxy.append([left + shift[0], top + shift[1], left + width + shift[2], top + height + shift[3]])
                confidence.append(float(random.random()))
                class_id.append(kind if random.random() < 0.8 else 2 - kind)
        order = np.argsort(-np.array(confidence))
        columns = np.array(xyxy, np.float32)[order], np.array(confidence, np.float32)[order], np.array(class_id, np.int32)[order]
        found[image] = Detections(*columns)
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in range(1, 13)]
    file = tmp_path / "x.json"
    names = ["a", "b", "c"]
    file.write_text(
        json.dumps({"images": images, "categories": [{"id": n, "name": c} for n, c in enumerate(names, 1)], "annotations": boxes})
    )
    truth = labelled.load(file)
    score = evaluation.score(truth, labelled.mapping(names, 3, truth), found)
    seen = {
        image: [
            Seen(int(kind) + 1, (box[0], box[1], box[2] - box[0], box[3] - box[1]), sure)
            for box, sure, kind in zip(one.xyxy.tolist(), one.confidence.tolist(), one.class_id.tolist(), strict=True)
        ]
        for image, one in found.items()
    }
    ap, ap50 = average_precision(objects_of(truth), seen, [1, 2, 3])
    assert 0.05 < score.ap < 0.9
    assert (score.ap, score.ap50) == pytest.approx((ap, ap50), abs=0.0005)
    assert sum(one.boxes for one in score.classes) == sum(not box["iscrowd"] for box in boxes)


def scene(folder: Path, count: int = 9, size: tuple[float, float] = (40.0, 20.0)) -> tuple[Path, Path]:
    """Pictures in which a forklift stands where ``tiny_onnx`` sees one; ``size`` is the annotated width and height."""
    (folder / "images").mkdir()
    images, boxes = [], []
    for number in range(1, count + 1):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), np.zeros((192, 128, 3), np.uint8))
        images.append({"id": number, "file_name": f"{number}.png"})
        left, top = 64 - size[0] / 2, 96 - size[1] / 2
        boxes.append({"image_id": number, "category_id": 4, "bbox": [left, top, *size]})
    data = {"images": images, "categories": [{"id": 4, "name": "Forklift"}, {"id": 5, "name": "zebra"}], "annotations": boxes}
    (folder / "x.json").write_text(json.dumps(data))
    return folder / "images", folder / "x.json"


NAMES = "{0: 'a', 1: 'b', 2: 'c', 3: 'forklift', 4: 'e', 5: 'f', 6: 'g'}"


def test_eval_reports_each_class_and_what_it_cannot_compare(tmp_path: Path, edge_agent: CommandLine) -> None:
    images, annotations = scene(tmp_path)
    (images / "3.png").write_bytes(b"no picture")
    (images / "4.png").unlink()
    model = tiny_onnx(tmp_path / "m.onnx", names=NAMES)
    done = edge_agent.run("model", "eval", str(model), "--images", str(images), "--annotations", str(annotations), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["images"], result["score"]["ap"], result["score"]["ap50"]) == (7, 1.0, 1.0)
    assert result["score"]["classes"] == [{"name": "Forklift", "ap": 1.0, "ap50": 1.0, "boxes": 7}]
    assert result["unmapped_labels"] == ["a", "b", "c", "e", "f", "g"]
    text = "\n".join(result["warnings"])
    assert "only 8 of the 9 annotated pictures" in text
    assert "3.png is no picture" in text
    shown = edge_agent.run("model", "eval", str(model), "--images", str(images), "--annotations", str(annotations))
    assert "Forklift" in shown.stdout
    assert "all                       1.000  1.000      7" in shown.stdout
    assert "6 of the model's classes are not in the annotations" in shown.stderr


def test_boxes_far_too_small_for_their_objects_are_told(tmp_path: Path) -> None:
    images, annotations = scene(tmp_path, size=(120.0, 100.0))
    model = tiny_onnx(tmp_path / "m.onnx", names=NAMES)
    result = evaluation.evaluate(model, images, annotations, ModelOptions(), nothing)
    assert result.score.ap == 0
    assert any("boxes do not fit" in warning and "one scale" in warning for warning in result.warnings)


def test_a_model_without_names_and_pictures_without_a_file_are_refused(tmp_path: Path, edge_agent: CommandLine) -> None:
    images, annotations = scene(tmp_path)
    model = tiny_onnx(tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match=r"give them with --labels FILE"):
        evaluation.evaluate(model, images, annotations, ModelOptions(), nothing)
    for arguments, text in (
        (("--images", "nowhere", "--annotations", str(annotations)), "nowhere does not exist"),
        (("--images", str(images), "--annotations", "nowhere.json"), "nowhere.json cannot be read"),
        (("--images", str(images), "--annotations", str(model)), "is not JSON"),
    ):
        done = edge_agent.run("model", "eval", str(model), *arguments)
        assert done.returncode == 78
        assert text in done.stderr
        assert "Traceback" not in done.stderr


# The whole line again in the plainest way, on real models and pictures.


def halved(pixels: Pixels, width: int, height: int) -> Pixels:
    """As the line does on purpose: averaged by two while at least twice too large, then bilinear."""
    while pixels.shape[1] >= 2 * width or pixels.shape[0] >= 2 * height:
        x, y = 2 if pixels.shape[1] >= 2 * width else 1, 2 if pixels.shape[0] >= 2 * height else 1
        size = pixels.shape[1] // x, pixels.shape[0] // y
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def boxed(pixels: Pixels, side: int, *, centred: bool) -> tuple[Pixels, float, int, int]:
    """Into a square of grey 114: canvas, ratio, left and top."""
    ratio = min(side / pixels.shape[1], side / pixels.shape[0])
    width, height = round(pixels.shape[1] * ratio), round(pixels.shape[0] * ratio)
    left, top = ((side - width) // 2, (side - height) // 2) if centred else (0, 0)
    canvas = np.full((side, side, 3), 114, np.uint8)
    canvas[top : top + height, left : left + width] = halved(pixels, width, height)
    return canvas, ratio, left, top


def tflite(path: Path) -> Callable[[NDArray[Any]], list[tuple[NDArray[Any], tuple[float, int]]]]:
    """Outputs with their scales and zero points."""
    try:
        library = importlib.import_module("ai_edge_litert.interpreter")
    except ImportError:
        library = importlib.import_module("tflite_runtime.interpreter")
    interpreter: Any = library.Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()

    def run(tensor: NDArray[Any]) -> list[tuple[NDArray[Any], tuple[float, int]]]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], tensor)
        interpreter.invoke()
        return [(interpreter.get_tensor(o["index"]).copy(), o["quantization"]) for o in interpreter.get_output_details()]

    return run


Found = list[tuple[tuple[float, float, float, float], float, int]]


def plain_yolox(path: Path) -> Callable[[Pixels], Found]:
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        run: Callable[[NDArray[Any]], NDArray[Any]] = lambda x: np.asarray(session.run(None, {"images": x})[0])  # noqa: E731
    else:
        interpreter = tflite(path)
        run = lambda x: interpreter(x)[0][0]  # noqa: E731

    def detect(pixels: Pixels) -> Found:
        canvas, ratio, _, _ = boxed(pixels, 416, centred=False)
        rows = run(canvas.transpose(2, 0, 1)[None].astype(np.float32))[0]
        rows[rows[:, 4] < 0.01, 4:] = 0  # cannot pass
        rows[rows[:, 4] == 0, 2:4] = 0
        kept = reference.suppress(reference.yolox(rows.tolist(), (416, 416), 0.01), 0.6)[:100]
        return [(tuple(v / ratio for v in one.box), one.confidence, one.class_id) for one in kept]  # type: ignore[misc]

    return detect


def plain_ssd(path: Path) -> Callable[[Pixels], Found]:
    interpreter = tflite(path)

    def detect(pixels: Pixels) -> Found:
        boxes, classes, scores, count = (out[0] for out in interpreter(halved(pixels, 300, 300)[None, ..., ::-1].copy()))
        height, width = pixels.shape[:2]
        found = []
        for index in range(int(count[0])):
            top, left, bottom, right = boxes[0, index].tolist()
            if scores[0, index] >= 0.01:
                found.append(
                    ((left * width, top * height, right * width, bottom * height), float(scores[0, index]), int(classes[0, index]))
                )
        return found

    return detect


def plain_yolov8(path: Path) -> Callable[[Pixels], Found]:
    interpreter = tflite(path)

    def detect(pixels: Pixels) -> Found:
        canvas, ratio, left, top = boxed(pixels, 640, centred=True)
        stored, (scale, zero) = interpreter((canvas[None, ..., ::-1].astype(np.int16) - 128).astype(np.int8))[0]
        columns = (stored[0].astype(np.float32) - zero) * scale
        rows = columns.T[columns[4:].max(axis=0) >= 0.01]
        found = reference.without_objectness(rows.tolist(), 0.01, lambda box: tuple(v * 640 for v in box))  # type: ignore[arg-type,return-value]
        kept = reference.suppress(found, 0.6)[:100]
        return [
            (
                ((b.box[0] - left) / ratio, (b.box[1] - top) / ratio, (b.box[2] - left) / ratio, (b.box[3] - top) / ratio),
                b.confidence,
                b.class_id,
            )
            for b in kept
        ]

    return detect


def clipped(box: Sequence[float], pixels: Pixels) -> tuple[float, float, float, float]:
    height, width = pixels.shape[:2]
    left, right = (min(max(v, 0.0), float(width)) for v in (box[0], box[2]))
    top, bottom = (min(max(v, 0.0), float(height)) for v in (box[1], box[3]))
    return left, top, right - left, bottom - top


@pytest.mark.slow
@pytest.mark.tflite
@pytest.mark.parametrize(
    ("file", "plain", "labels"),
    [
        ("yolox_nano.onnx", plain_yolox, "coco80.txt"),
        ("yolox_nano_float16_quantize.tflite", plain_yolox, "coco80.txt"),
        ("coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite", plain_ssd, "coco_ssd_labelmap.txt"),
        ("agpl/yolov8n_full_integer_quant.tflite", plain_yolov8, "coco80.txt"),
    ],
)
def test_real_models_score_as_in_a_plain_implementation(
    assets: Path, file: str, plain: Callable[[Path], Callable[[Pixels], Found]], labels: str
) -> None:
    folder, annotations = assets / VALIDATION / "images", assets / VALIDATION / "instances.json"
    names_file = assets / "models" / labels
    options = ModelOptions(labels=names_file if "yolox" in file else None)
    result = evaluation.evaluate(assets / "models" / file, folder, annotations, options, nothing)
    truth = labelled.load(annotations)
    names = names_file.read_text().splitlines()
    detect = plain(assets / "models" / file)
    seen = {}
    for name, number in truth.image_ids.items():
        pixels = np.asarray(cv2.imread(str(folder / name)), np.uint8)
        seen[number] = [
            Seen(truth.categories[names[kind]], clipped(box, pixels), sure)
            for box, sure, kind in detect(pixels)
            if names[kind] in truth.categories
        ]
    ap, ap50 = average_precision(objects_of(truth), seen, sorted(truth.categories.values()))
    print(f"{file}: AP {result.score.ap:.4f} / {ap:.4f}, AP50 {result.score.ap50:.4f} / {ap50:.4f}")
    assert not math.isnan(ap)
    assert (result.score.ap, result.score.ap50) == pytest.approx((ap, ap50), abs=0.002)


@pytest.mark.slow
@pytest.mark.tflite
def test_the_broken_int8_yolox_is_caught_by_its_boxes(assets: Path) -> None:
    path = assets / "models" / "broken" / "yolox_nano_only_int8_quantize.tflite"
    folder = assets / VALIDATION
    options = ModelOptions(labels=assets / "models" / "coco80.txt")
    result = evaluation.evaluate(path, folder / "images", folder / "instances.json", options, nothing)
    assert result.score.ap < 0.1
    assert any("output scale of 1/256" in warning and "broken" in warning for warning in result.warnings)
    assert any("boxes do not fit" in warning for warning in result.warnings)
