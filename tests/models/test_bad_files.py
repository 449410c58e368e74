"""Files that are no models, or models that cannot be used: one clear line each, through the loader that the agent uses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper, save

from edge_agent.errors import ConfigError, ModelBroken, ModelError
from edge_agent.image import BgrImage
from edge_agent.models.base import Thresholds
from edge_agent.runtimes import _onnx_file, _tflite_file
from edge_agent.runtimes.base import refusal
from tests.conftest import MODEL
from tests.models.files import load, one_object, write
from tests.models.reference import iou

GREY = BgrImage(np.full((96, 64, 3), 114, np.uint8))
THRESHOLDS = Thresholds(0.4, 0.45, 10)


def refused(path: Path, **settings: object) -> str:
    with pytest.raises((ModelError, ConfigError)) as caught:
        load(path, **settings)
    assert "\n" not in str(caught.value)
    assert str(path.parent) in str(caught.value) or "model." in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_file_cut_anywhere_never_reaches_the_library(tmp_path: Path, suffix: str) -> None:
    """A library may crash on it; our own reading of its structure comes first."""
    whole = MODEL.read_bytes() if suffix == ".tflite" else write(tmp_path / "whole.onnx").read_bytes()
    read = _tflite_file.read if suffix == ".tflite" else _onnx_file.read
    error = _tflite_file.Damaged if suffix == ".tflite" else _onnx_file.Damaged
    for share in (0.02, 0.3, 0.7, 0.999):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(error):
            read(path)
    assert "is not a model that" in refused(path)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_noise_is_refused_and_not_misread(tmp_path: Path, suffix: str, seed: int) -> None:
    noise = np.random.default_rng(seed).bytes(3000)
    path = tmp_path / f"noise{suffix}"
    path.write_bytes((b"\x08" if suffix == ".onnx" else b"\x1c\x00\x00\x00TFL3") + noise)
    refused(path)


def test_what_is_no_model_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_text("hello")
    assert "does not begin like one" in refused(tmp_path / "a.onnx")
    (tmp_path / "b.tflite").write_bytes(b"")
    assert "it is empty" in refused(tmp_path / "b.tflite")


def test_an_opset_from_the_future_is_named_with_what_is_known(tmp_path: Path) -> None:
    assert "it needs opset 99, and this version knows up to" in refused(write(tmp_path / "m.onnx", opset=99))


@pytest.mark.parametrize("made", [{"opset": 99}, {"operator": ("my.ops", "Frobnicate")}])
def test_what_no_further_try_can_help_is_not_tried_again(tmp_path: Path, made: dict[str, Any]) -> None:
    """systemd starts an agent again that ends with 1, and not one that ends with 78."""
    with pytest.raises(ModelBroken) as caught:
        load(write(tmp_path / "m.onnx", **made))
    assert caught.value.exit_code == 78


def test_memory_that_was_short_may_be_there_the_next_time() -> None:
    assert refusal("m.onnx is not a model that X can run: std::bad_alloc").exit_code == 1
    assert refusal("/allocated/m.onnx is not a model that X can run: its graph is invalid").exit_code == 78
    assert refusal("m.onnx is not a model that X can run: no device", elsewhere=True).exit_code == 1


def test_operators_of_the_files_own_are_named(tmp_path: Path) -> None:
    message = refused(write(tmp_path / "m.onnx", operator=("my.ops", "Frobnicate")))
    assert "it has operators of its own: my.ops.Frobnicate; export it without them" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [(b"Frobnicate_Detections_Again0", "operators of its own: Frobnicate_"), (b"FlexCombinedNonMaxSuppressio", "operators of TensorFlow")],
)
def test_operators_that_tflite_has_not_are_named(tmp_path: Path, name: bytes, message: str) -> None:
    data = MODEL.read_bytes().replace(b"TFLite_Detection_PostProcess\0", name + b"\0")
    (tmp_path / "m.tflite").write_bytes(data)
    assert message in refused(tmp_path / "m.tflite")


def test_weights_beside_the_file_must_be_there_and_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", external=True)
    assert len(load(path)(GREY, THRESHOLDS).detections) == 1
    os.truncate(tmp_path / "m.onnx.data", 100)
    assert "m.onnx.data is" in (message := refused(path))
    assert "bytes too short" in message
    (tmp_path / "m.onnx.data").unlink()
    assert "m.onnx.data does not exist" in refused(path)


OPEN = ("batch", 3, "height", "width")


def test_an_open_size_is_asked_for_with_the_line_that_sets_it(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", picture=OPEN, declared=("batch", 11, "cells"))
    assert "model.input_size" in (message := refused(path))
    assert "set input_size = 640" in message
    model = load(path, input_size=[64, 96])
    assert (model.family.name, model.input_size) == ("yolov8", (64, 96))
    assert len(model(GREY, THRESHOLDS).detections) == 1


def test_an_open_size_is_taken_from_ultralytics_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", picture=OPEN, declared=("batch", 11, "cells"), metadata={"imgsz": "[96, 64]"})
    assert load(path).input_size == (64, 96)


def test_an_open_batch_alone_is_one(tmp_path: Path) -> None:
    assert load(write(tmp_path / "m.onnx", picture=("n", 3, 96, 64), declared=("n", 11, 126))).input_size == (64, 96)


@pytest.mark.tflite
def test_a_tflite_file_of_another_size_is_refused(assets: Path) -> None:
    path = assets / "models" / "mobilenet_v1_0.25_128_quant.tflite"
    assert load(path, input_size=128).input_size == (128, 128)
    assert "is made for pictures of 128x128, and cannot be used for 320x240" in refused(path, input_size=[320, 240])


def test_a_net_of_convolutions_can_be_given_another_size(assets: Path) -> None:
    path = assets / "models" / "yolox_nano.onnx"
    street = BgrImage(np.asarray(cv2.imread(str(assets / "images/coco_val2017_ccby33/images/000000183709.jpg")), np.uint8))
    labels = str(assets / "models" / "coco80.txt")
    sure = Thresholds(0.75, 0.45, 10)
    own, smaller = (load(path, labels=labels, **size)(street, sure).detections for size in ({}, {"input_size": [352, 320]}))
    people = [[d.xyxy[i].tolist() for i, label in enumerate(d.label) if label == "person"] for d in (own, smaller)]
    assert len(people[0]) == 2
    assert all(any(iou(box, other) > 0.8 for other in people[1]) for box in people[0])


@pytest.mark.parametrize("size", [None, [64, 96]])
def test_a_batch_of_many_becomes_one(tmp_path: Path, size: list[int] | None) -> None:
    """As the authors of CenterFace exported it: a batch of 10, of a size that means nothing."""
    path = write(tmp_path / "m.onnx", picture=(10, 3, 96, 64) if size is None else (10, 3, 32, 32))
    model = load(path, **({} if size is None else {"input_size": size}))
    assert model.input_size == (64, 96)
    assert len(model(GREY, THRESHOLDS).detections) == 1


def test_a_size_that_the_graph_cannot_take_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", picture=OPEN, declared=("batch", 11, "cells"))
    assert "no model family has outputs [1, 11, 126]" in refused(path, input_size=640)


def test_class_names_must_be_as_many_as_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    (tmp_path / "m.txt").write_text("a\nb\n")
    assert "2 class names, but the model has 7 classes" in refused(path)


def test_an_input_larger_than_memory_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    assert "takes 480.0 GB, and this machine has" in refused(write(tmp_path / "m.onnx", picture=(1, 3, 200_000, 200_000)))
    path = write(tmp_path / "open.onnx", picture=OPEN, declared=("batch", 11, "cells"))
    assert "takes 480.0 GB" in refused(path, input_size=200_000)


def test_a_second_input_is_named(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Add", ["images", "prompt"], ["out"])]
    inputs = [value("prompt", TensorProto.FLOAT, [1]), value("images", TensorProto.FLOAT, [1, 3, 8, 8])]
    graph = helper.make_graph(nodes, "two", inputs, [value("out", TensorProto.FLOAT, [1, 3, 8, 8])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    save(model, str(tmp_path / "m.onnx"))
    assert "this one also wants 'prompt'" in refused(tmp_path / "m.onnx")


def test_a_graph_without_inputs_is_told(tmp_path: Path) -> None:
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [2])
    node = helper.make_node("Constant", [], ["out"], value=helper.make_tensor("c", TensorProto.FLOAT, [2], [1.0, 2.0]))
    model = helper.make_model(helper.make_graph([node], "none", [], [out]), opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    save(model, str(tmp_path / "m.onnx"))
    assert "has no input" in refused(tmp_path / "m.onnx")


@pytest.mark.parametrize("where", ["everywhere", "scores", "boxes"])
def test_outputs_that_are_no_numbers_are_an_error_of_that_frame(tmp_path: Path, where: str) -> None:
    """Comparisons with NaN are false, so it would look as if nothing were there."""
    head = one_object()
    head[0, {"everywhere": slice(None), "scores": slice(4, None), "boxes": slice(0, 2)}[where]] = np.nan
    model = load(write(tmp_path / "m.onnx", head))
    with pytest.raises(ModelError, match="not numbers"):
        model(GREY, THRESHOLDS)


def test_a_normalisation_takes_both_numbers(tmp_path: Path) -> None:
    assert "mean and std come together" in refused(write(tmp_path / "m.onnx"), mean=[1, 2, 3])


def test_the_input_is_as_the_user_says(tmp_path: Path) -> None:
    settings = {"mean": [1, 2, 3], "std": [2, 4, 8], "colour": "BGR", "letterbox": "none"}
    form = load(write(tmp_path / "m.onnx"), **settings).family.input_format
    assert (form.order, form.letterbox) == ("BGR", "none")
    assert form.scale == (0.5, 0.25, 0.125)
    assert form.offset == (-0.5, -0.5, -0.375)
