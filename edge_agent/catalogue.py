"""Models that ``edge-agent model pull`` knows by name: where they are, what they must be, and under which licence.

Only permissive licences, only addresses that name one commit, and only files whose SHA-256 was taken from the very file that
this project's tests run. A model without a known hash has no place here: pull it by its address.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_CORAL = "https://raw.githubusercontent.com/google-coral/test_data/104342d2d3480b3e66203073dac24f4e2dbb4c41/"
_YOLOX = "https://raw.githubusercontent.com/Kazuhito00/YOLOX-ONNX-TFLite-Sample/3d4f1119d0694200671c08069ecb847aa0d8495a/model/"
_SUPPORT = "https://raw.githubusercontent.com/tensorflow/tflite-support/dd3362ea685bb7ab1f7268c81ec567d3b720ae57/"


@dataclass(frozen=True)
class Entry:
    """One model. ``size`` in bytes; ``sha256`` in lower case; ``licence`` as SPDX writes it."""

    name: str
    url: str
    sha256: str
    size: int
    licence: str
    what: str

    @property
    def file(self) -> str:
        """What the file is called."""
        return self.url.rpartition("/")[2]

    def as_json(self) -> dict[str, Any]:
        """Every field, and the file's name."""
        return {**asdict(self), "file": self.file}


CATALOGUE: tuple[Entry, ...] = (
    Entry(
        "yolox_nano",
        _YOLOX + "yolox_nano.onnx",
        "695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14",
        3660092,
        "Apache-2.0",
        "boxes, COCO's 80 classes (no names in the file), 416x416, float32",
    ),
    Entry(
        "yolox_nano_f16",
        _YOLOX + "yolox_nano_float16_quantize.tflite",
        "6518faf758f5827fb8412c38d2240b7722027c299596518e1f94e678af1e6e29",
        1949744,
        "Apache-2.0",
        "boxes, COCO's 80 classes (no names in the file), 416x416, weights in float16",
    ),
    Entry(
        "ssd_mobilenet_v1",
        _SUPPORT + "tensorflow_lite_support/cc/test/testdata/task/vision/coco_ssd_mobilenet_v1_1.0_quant_2018_06_29.tflite",
        "61d598093ed03ed41aa47c3a39a28ac01e960d6a810a5419b9a5016a1e9c469b",
        4185023,
        "Apache-2.0",
        "boxes, COCO's 80 classes, 300x300, uint8, at most 10 boxes",
    ),
    Entry(
        "movenet_lightning",
        _CORAL + "movenet_single_pose_lightning_ptq.tflite",
        "cd7cc22fa946e5d146a7b98d496853e1923e22828d3972d579973f27f91bb105",
        2894840,
        "Apache-2.0",
        "17 keypoints of one person, 192x192, uint8",
    ),
    Entry(
        "deeplab_v3",
        _CORAL + "deeplabv3_mnv2_dm05_pascal_quant.tflite",
        "0470d2a782aa54eeeb99d32e7b6b3fb7722905c7c4f5d26bd957ec861366d48b",
        760904,
        "Apache-2.0",
        "class map, Pascal VOC's 21 classes (no names in the file), 513x513, uint8",
    ),
    Entry(
        "mobilenet_v1_025",
        _CORAL + "mobilenet_v1_0.25_128_quant.tflite",
        "cb273c23ee76374b05b9583177e28aa19744858a7679c56a250e83d0333da785",
        525598,
        "Apache-2.0",
        "classification, ImageNet's 1001 classes (no names in the file), 128x128, uint8",
    ),
)
