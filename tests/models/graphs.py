"""Descriptions of graphs, without any file: one of each family, for an input of 64 x 96."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from edge_agent.runtimes.base import FileFacts, GraphSpec, Quantization, TensorSpec

SIZE = (64, 96)
"""Width and height."""
CELLS = {8: 8 * 12, 16: 4 * 6, 32: 2 * 3}
ROWS = sum(CELLS.values())
EFFICIENTDET_CELLS = ROWS + 2 * 1 + 1 * 1
ANCHORS = 3 * 4 * 6 + 6 * (2 * 3 + 1 * 2 + 1 + 1 + 1)
"""Of ssd_mobilenet: strides 16 to 512, three anchors a cell on the first map, six on the others."""


def tensor(
    shape: tuple[int, ...], name: str = "output0", dtype: DTypeLike = np.float32, quantization: Quantization | None = None
) -> TensorSpec:
    return TensorSpec(name, shape, np.dtype(dtype), quantization)


def described(
    *outputs: TensorSpec | tuple[int, ...],
    operators: Sequence[str] | None = ("Conv",),
    more_inputs: Sequence[TensorSpec] = (),
    picture: TensorSpec | None = None,
    **more: Any,
) -> GraphSpec:
    """``operators`` None: the file cannot be read without its runtime."""
    picture = picture or tensor((1, 3, SIZE[1], SIZE[0]), "images")
    specs = tuple(output if isinstance(output, TensorSpec) else tensor(output, f"output{i}") for i, output in enumerate(outputs))
    more.setdefault("file", None if operators is None else FileFacts(dict.fromkeys(operators, 1)))
    return GraphSpec((picture, *more_inputs), specs, "ONNX Runtime", "CPU", "float32", **more)


ONE_OF_EACH = {
    "centerface": described((1, 1, 24, 16), (1, 2, 24, 16), (1, 2, 24, 16), (1, 10, 24, 16)),
    "classify": described((1, 1000)),
    "detr": described(tensor((1, 300, 80), "logits"), tensor((1, 300, 4), "pred_boxes")),
    "detr_softmax": described(tensor((1, 100, 92), "logits"), tensor((1, 100, 4), "pred_boxes")),
    "efficientdet_raw": described((1, 9 * EFFICIENTDET_CELLS, 90), (1, 9 * EFFICIENTDET_CELLS, 4)),
    "end_to_end": described((1, 100, 6)),
    "end_to_end_pose": described((1, 100, 57)),
    "end_to_end_seg": described((1, 100, 38), (1, 32, 24, 16)),
    "fastestdet": described((1, 12, 6, 4)),
    "movenet": described((1, 1, 17, 3)),
    "nanodet": described((1, ROWS + 2, 39)),
    "nms": described(
        tensor((1, 1), "num_dets", np.int32),
        tensor((1, 100, 4), "det_boxes"),
        tensor((1, 100), "det_scores"),
        tensor((1, 100), "det_classes", np.int32),
    ),
    "semantic": described((1, 21, 96, 64)),
    "ssd": described((1, 10, 4), (1, 10), (1, 10), (1,), operators=("Conv", "TFLite_Detection_PostProcess")),
    "ssd_decoded": described((1, 3000, 21), (1, 3000, 4), operators=("Conv", "Exp", "Softmax")),
    "ssd_raw": described((1, ANCHORS, 4), (1, ANCHORS, 8)),
    "yolov5": described((1, 3 * ROWS, 12)),
    "yolov5_raw": described(*((1, 3, -(-SIZE[1] // stride), -(-SIZE[0] // stride), 12) for stride in (8, 16, 32, 64))),
    "yolov5_seg": described((1, 3 * ROWS, 44), (1, 32, 24, 16)),
    "yolov6": described((1, ROWS, 12), operators=("Conv", "ConvTranspose")),
    "yolov7_raw": described(*((1, 3, SIZE[1] // stride, SIZE[0] // stride, 12) for stride in CELLS)),
    "yolov8": described((1, 11, ROWS)),
    "yolov8_pose": described((1, 4 + 2 + 5 * 3, ROWS), metadata={"task": "pose", "kpt_shape": "[5, 3]"}),
    "yolov8_seg": described((1, 43, ROWS), (1, 32, 24, 16)),
    "yolox": described((1, ROWS, 12)),
    "yolox_decoded": described((1, ROWS, 12), operators=("Conv", "Exp")),
    "zero_shot": described(tensor((1, 512), "image_embeds")),
}
ASKED = {"detr_softmax", "yolov7_raw"}
"""Those whose graphs never tell them from another family: the user must say."""
LOOK_ALIKE = {
    ("classify", "zero_shot"),
    ("zero_shot", "classify"),
    ("nms", "ssd"),
    ("nanodet", "yolov8"),  # transposed, with fewer classes
    ("nanodet", "detr"),
    ("end_to_end_pose", "detr"),
    ("yolov8_pose", "yolov8"),
    ("yolox", "yolov8"),
    ("yolox", "yolox_decoded"),
    ("yolox_decoded", "yolox"),
    ("yolox_decoded", "yolov8"),
    ("yolox", "detr"),
    ("yolox_decoded", "detr"),
    ("yolov5", "detr"),
    ("ssd_raw", "detr"),
    ("detr", "detr_softmax"),
    ("detr_softmax", "detr"),
    ("ssd_raw", "detr_softmax"),
    ("nanodet", "yolov6"),
    ("yolov6", "detr"),
    ("yolov6", "yolov8"),
    ("yolov6", "yolox"),
    ("yolov6", "yolox_decoded"),
    ("yolox", "yolov6"),
    ("yolox_decoded", "yolov6"),
    ("yolov5_raw", "yolov7_raw"),
    ("yolov7_raw", "yolov5_raw"),
    ("ssd_raw", "ssd_decoded"),
    ("detr", "ssd_decoded"),
    ("detr_softmax", "ssd_decoded"),
    ("efficientdet_raw", "ssd_decoded"),
}
"""(family, stated): shapes that another family has too, so that who states it is believed."""
