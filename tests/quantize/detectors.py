"""Small detectors that really detect: bright squares on dark ground, through convolutions made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 64
SQUARE = 16


def head_of_yolox(path: Path, *, opset: int = 13, focus: bool = False, size: tuple[Any, Any] = (SIDE, SIDE), wild: float = 1.0) -> Path:
    """A YOLOX-shaped graph with two classes: each cell's objectness is the mean brightness around its centre.

    ``wild`` makes one channel of the first layer so much larger than the others: what breaks a common scale.
    """
    random = np.random.default_rng(3)
    constants: dict[str, NDArray[Any]] = {}
    nodes = []
    source, channels = "images", 3
    if focus:
        ends = np.array([2**31 - 1], np.int64)
        parts = []
        for across in (0, 1):
            for down in (0, 1):
                for axis, offset, before, after in (
                    (2, down, "images", f"r{down}{across}"),
                    (3, across, f"r{down}{across}", f"c{down}{across}"),
                ):
                    names = [f"{after}_{key}" for key in ("start", "end", "axis", "step")]
                    for name, value in zip(names, (np.array([offset]), ends, np.array([axis]), np.array([2])), strict=True):
                        constants[name] = value.astype(np.int64)
                    nodes.append(helper.make_node("Slice", [before, *names], [after]))
                parts.append(f"c{down}{across}")
        nodes.append(helper.make_node("Concat", parts, ["focused"], axis=1))
        source, channels = "focused", 12

    def convolve(name: str, into: str, weights: NDArray[Any], bias: NDArray[Any], stride: int, pad: int) -> str:
        constants[f"{name}_w"], constants[f"{name}_b"] = weights.astype(np.float32), bias.astype(np.float32)
        side = weights.shape[2]
        nodes.append(
            helper.make_node(
                "Conv", [into, f"{name}_w", f"{name}_b"], [name], name=name, kernel_shape=[side, side], strides=[stride] * 2, pads=[pad] * 4
            )
        )
        return name

    def silu(into: str) -> str:
        nodes.append(helper.make_node("Sigmoid", [into], [f"{into}_gate"]))
        nodes.append(helper.make_node("Mul", [into, f"{into}_gate"], [f"{into}_silu"]))
        return f"{into}_silu"

    first = random.normal(0, 0.02, (8, channels, 3, 3)) / 255
    first[0] = 1 / (channels * 9 * 255)
    first[1] = wild / (channels * 9 * 255)
    tensor = silu(convolve("first", source, first, np.zeros(8), 1 if focus else 2, 1))
    outputs = []
    for level, stride in enumerate((8, 16, 32)):
        step = stride // 2
        mix = np.zeros((8, 8, step, step))
        mix[0, 0] = 1 / step**2
        mix[1:] = random.normal(0, 0.01, (7, 8, step, step))
        middle = silu(convolve(f"level{level}", tensor, mix, np.zeros(8), step, 0))
        weights = np.zeros((7, 8, 1, 1))
        weights[4, 0] = 30.0
        # 0.38 is what a cell amid a square of full brightness comes to, after two SiLUs
        bias = np.array([0.5, 0.5, np.log(SQUARE / stride), np.log(SQUARE / stride), -8.0 if level == 1 else -40.0, 6.0, -6.0])
        raw = convolve(f"head{level}", middle, weights, bias, 1, 0)
        constants |= {name: np.array([value], np.int64) for name, value in (("zero", 0), ("four", 4), ("seven", 7), ("one", 1))}
        nodes.append(helper.make_node("Slice", [raw, "zero", "four", "one"], [f"box{level}"]))
        nodes.append(helper.make_node("Slice", [raw, "four", "seven", "one"], [f"logit{level}"]))
        nodes.append(helper.make_node("Sigmoid", [f"logit{level}"], [f"score{level}"]))
        nodes.append(helper.make_node("Concat", [f"box{level}", f"score{level}"], [f"row{level}"], axis=1))
        constants["flat"] = np.array([1, 7, -1], np.int64)
        nodes.append(helper.make_node("Reshape", [f"row{level}", "flat"], [f"flat{level}"]))
        outputs.append(f"flat{level}")
    nodes.append(helper.make_node("Concat", outputs, ["cells"], axis=2))
    nodes.append(helper.make_node("Transpose", ["cells"], ["output"], perm=[0, 2, 1]))
    used = {name for node in nodes for name in node.input}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used]
    cells = sum((SIDE // s) ** 2 for s in (8, 16, 32))
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, cells, 7])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path


def squares(folder: Path, count: int = 8) -> tuple[Path, Path, Path]:
    """Pictures with one square each on the grid of stride 16: the folder, its annotations, and the label file."""
    images = folder / "images"
    images.mkdir()
    random = np.random.default_rng(7)
    listed, boxes = [], []
    for number in range(1, count + 1):
        picture = random.integers(0, 12, (SIDE, SIDE, 3)).astype(np.uint8)
        left, top = (int(v) * SQUARE for v in random.integers(0, SIDE // SQUARE, 2))
        picture[top : top + SQUARE, left : left + SQUARE] = random.integers(215, 255)
        cv2.imwrite(str(images / f"{number}.png"), picture)
        listed.append({"id": number, "file_name": f"{number}.png"})
        boxes.append({"image_id": number, "category_id": 1, "bbox": [left, top, SQUARE, SQUARE]})
    data = {"images": listed, "categories": [{"id": 1, "name": "square"}], "annotations": boxes}
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "labels.txt").write_text("square\nother\n")
    return images, folder / "truth.json", folder / "labels.txt"
