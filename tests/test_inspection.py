"""``edge-agent model inspect``, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edge_agent.cli import main
from tests.models.files import write


def inspect(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["model", "inspect", str(path), *options])


def as_json(path: Path, *options: str) -> dict[str, Any]:
    result = inspect(path, "--json", *options)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_model_with_metadata_tells_all_by_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", metadata={"names": str(dict(enumerate("abcdefg"))), "task": "detect"})
    result = inspect(path)
    assert result.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["format"] == "ONNX (opset 13)"
    assert lines["family"] == "yolov8 (126 columns are the cells of strides 8, 16 and 32)"
    assert lines["task"] == "detection"
    assert lines["input"] == "images [1, 3, 96, 64] float32"
    assert lines["picture"] == "NCHW, RGB, 0 to 1, letterbox centre"
    assert lines["output"] == "output0 [1, 11, 126] float32"
    assert lines["classes"] == "7: a, b, c, d, e, f, g"
    assert lines["runs"].startswith("on     ONNX Runtime")
    assert lines["verdict"] == "ready: detection of 7 classes at 64x96, float32 by CPUExecutionProvider"


def test_json_holds_the_same(tmp_path: Path) -> None:
    found = as_json(write(tmp_path / "m.onnx"))
    assert (found["family"], found["task"], found["opset"], found["problem"]) == ("yolov8", "detection", "opset 13", None)
    assert found["parameters"] == 11 * 126 + 1
    assert found["operators"]["ReduceSum"] == 1
    assert found["providers"] == ["CPUExecutionProvider"]
    assert found["inputs"][0]["shape"] == [1, 3, 96, 64]
    assert "give labels" in found["verdict"]


def test_it_is_not_run(tmp_path: Path) -> None:
    """What it would see is of no interest here: numbers that are none do not matter."""
    assert inspect(write(tmp_path / "m.onnx", np.full((1, 11, 126), np.nan, np.float32))).exit_code == 0


def test_what_cannot_be_used_is_still_told(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", np.zeros((1, 56, 126), np.float32))
    result = inspect(path)
    assert result.exit_code == 78
    assert "output      output0 [1, 56, 126] float32" in result.stdout
    assert "could be yolov8 or yolov8_pose" in result.stdout
    assert as_json(path, "--family", "yolov8_pose")["task"] == "keypoints"


def test_an_open_size_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", picture=("n", 3, "h", "w"), declared=("n", 11, "cells"))
    result = inspect(path)
    assert result.exit_code == 78
    assert "set input_size = 640" in result.stdout
    assert as_json(path, "--input-size", "64x96")["input"]["width"] == 64


@pytest.mark.parametrize(
    ("name", "content", "code", "text"),
    [
        ("m.onnx", b"hello", 78, "does not begin like one"),
        ("m.txt", b"hello", 78, "it must end in .onnx"),
        ("m.onnx", b"\x08\x07:\x7f", 78, "it ends in the middle: 127 bytes are missing"),
    ],
)
def test_what_is_no_model_is_one_line(tmp_path: Path, name: str, content: bytes, code: int, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    result = inspect(tmp_path / name)
    assert result.exit_code == code
    assert text in result.output
    assert "Traceback" not in result.output


def test_the_broken_yolox_is_caught_with_the_reason(assets: Path) -> None:
    found = as_json(assets / "models" / "broken" / "yolox_nano_only_int8_quantize.tflite")
    assert found["family"] == "yolox"
    assert "one output scale of 1/256" in found["warnings"][0]
    assert "cannot hold raw box terms" in found["verdict"]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("mobilenet_v1_0.25_128_quant.tflite", ("classify", "classification", 1001, "int8")),
        ("movenet_single_pose_lightning_ptq.tflite", ("movenet", "keypoints", 1, "int8")),
        ("deeplabv3_mnv2_dm05_pascal_quant.tflite", ("semantic", "semantic segmentation", None, "int8")),
        ("coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite", ("ssd", "detection", None, "int8")),
        ("agpl/yolov8n_full_integer_quant.tflite", ("yolov8", "detection", 80, "int8")),
        ("yolox_nano.onnx", ("yolox", "detection", 80, "float32")),
        ("../ship/models/oid_int8.onnx", ("ssd_raw", "detection", 23, "int8")),
    ],
)
def test_real_models(assets: Path, file: str, expected: tuple[Any, ...]) -> None:
    found = as_json(assets / "models" / file)
    assert (found["family"], found["task"], found["class_count"], found["precision"]) == expected
    assert found["warnings"] == []
