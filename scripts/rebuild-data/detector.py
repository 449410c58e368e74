#!/usr/bin/env python3
# mypy: disable-error-code="import-untyped, import-not-found, no-any-return"
"""detector.py FLOAT16.tflite CALIBRATION RESULT.tflite: MediaPipe's SSD as INT8, with its post-processing inside.

Re-creates the float16 graph in TensorFlow operator by operator, adds TFLite_Detection_PostProcess, and lets TensorFlow's
converter quantize it. CALIBRATION is a folder of .jpg photographs, from which the converter takes the ranges of the activations.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it on import

import flatbuffers
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

Array = npt.NDArray[Any]

SIZE = 300
OPERATOR = "TFLite_Detection_PostProcess"
ATTRIBUTES: dict[str, bool | int | float] = {
    "max_detections": 25,
    "max_classes_per_detection": 1,
    "use_regular_nms": True,
    "detections_per_class": 100,
    "nms_score_threshold": 0.05,
    "nms_iou_threshold": 0.6,
    "num_classes": 23,
    "y_scale": 10.0,
    "x_scale": 10.0,
    "h_scale": 5.0,
    "w_scale": 5.0,
}
OUTPUTS = (OPERATOR, f"{OPERATOR}:1", f"{OPERATOR}:2", f"{OPERATOR}:3")  # boxes, classes, scores, count
FEATURE_MAPS = (19, 10, 5, 3, 2, 1)


def anchors() -> Array:
    """[1917, 4]: centre y, centre x, height, width as fractions, as MediaPipe and the TF Object Detection API lay them out.

    The package holds no anchors; that these are the ones follows from their number and from the boxes being right.
    """
    scales = [0.2 + 0.75 * i / (len(FEATURE_MAPS) - 1) for i in range(len(FEATURE_MAPS))] + [1.0]
    rows = []
    for level, cells in enumerate(FEATURE_MAPS):
        shapes = [(ratio, scales[level]) for ratio in (1.0, 2.0, 0.5, 3.0, 1 / 3.0)]
        shapes.append((1.0, (scales[level] * scales[level + 1]) ** 0.5))
        if level == 0:
            shapes = [(1.0, 0.1), (2.0, scales[0]), (0.5, scales[0])]
        rows += [
            ((y + 0.5) / cells, (x + 0.5) / cells, scale / ratio**0.5, scale * ratio**0.5)
            for y in range(cells)
            for x in range(cells)
            for ratio, scale in shapes
        ]
    return np.array(rows, np.float32)


class Graph:
    """The graph of a .tflite file of floats, to be called on a TensorFlow tensor: the same arithmetic, constants as float32."""

    _dtypes = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16, schema.TensorType.INT32: np.int32}
    _activations = {
        schema.ActivationFunctionType.NONE: lambda x: x,
        schema.ActivationFunctionType.RELU: tf.nn.relu,
        schema.ActivationFunctionType.RELU6: tf.nn.relu6,
    }
    _paddings = {schema.Padding.SAME: "SAME", schema.Padding.VALID: "VALID"}
    _names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}

    def __init__(self, content: bytes) -> None:
        self._model = schema.Model.GetRootAsModel(content, 0)
        self._graph = self._model.Subgraphs(0)

    def __call__(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        values = {self._graph.Inputs(0): image}
        for j in range(self._graph.OperatorsLength()):
            operator = self._graph.Operators(j)
            inputs = [values[i] if i in values else self._constant(i) for i in operator.InputsAsNumpy()]
            values[operator.Outputs(0)] = self._apply(operator, inputs)
        outputs = [values[self._graph.Outputs(k)] for k in range(self._graph.OutputsLength())]
        encodings, logits = sorted(outputs, key=lambda output: int(output.shape[-1]))
        return {"box_encodings": encodings, "logits": logits}

    def _constant(self, index: int) -> Array:
        tensor = self._graph.Tensors(index)
        content: Array = self._model.Buffers(tensor.Buffer()).DataAsNumpy()
        shaped: Array = content.view(self._dtypes[tensor.Type()]).reshape(tensor.ShapeAsNumpy())
        return shaped

    def _apply(self, operator: Any, inputs: list[Any]) -> Any:
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        match name := self._names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]:
            case "DEQUANTIZE":
                return tf.constant(inputs[0].astype(np.float32))
            case "CONV_2D":
                return self._convolve(tf.nn.conv2d, inputs, _options(operator, schema.Conv2DOptions))
            case "DEPTHWISE_CONV_2D":
                return self._convolve(tf.nn.depthwise_conv2d, inputs, _options(operator, schema.DepthwiseConv2DOptions))
            case "ADD":
                return self._activations[_options(operator, schema.AddOptions).FusedActivationFunction()](inputs[0] + inputs[1])
            case "RESHAPE":
                return tf.reshape(inputs[0], self._graph.Tensors(operator.Outputs(0)).ShapeAsNumpy())
            case "CONCATENATION":
                return tf.concat(inputs, _options(operator, schema.ConcatenationOptions).Axis())
            case _:
                raise ValueError(f"the source has an operator that is not known here: {name}")

    def _convolve(self, convolution: Any, inputs: list[Any], options: Any) -> tf.Tensor:
        image, weights, bias = inputs
        kernel = tf.transpose(weights, [1, 2, 3, 0])
        strides = [1, options.StrideH(), options.StrideW(), 1]
        result = tf.nn.bias_add(convolution(image, kernel, strides, self._paddings[options.Padding()]), bias)
        return self._activations[options.FusedActivationFunction()](result)


def _options(operator: Any, kind: Any) -> Any:
    union, options = operator.BuiltinOptions(), kind()
    options.Init(union.Bytes, union.Pos)
    return options


def detector(source: bytes) -> tf.Module:
    """A module whose ``detect`` takes an image of -1..1 and ends in the post-processing operator."""
    spec = [tf.TensorSpec([1, SIZE, SIZE, 3], tf.float32, name="image")]
    network = tf.function(Graph(source), input_signature=spec)

    def stand_in(box_encodings: tf.Tensor, class_predictions: tf.Tensor, anchors: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(tf.constant(0.0, tf.float32, name=name) for name in ("boxes", "classes", "scores", "num"))

    # The converter puts the named operator in place of a function marked so.
    post_process = tf.function(stand_in, experimental_implements=" ".join([f'name: "{OPERATOR}"', *map(_attribute, ATTRIBUTES)]))

    def detect(image: tf.Tensor) -> tuple[tf.Tensor, ...]:
        raw = network(image)
        return post_process(raw["box_encodings"], tf.sigmoid(raw["logits"]), tf.constant(anchors()))

    module = tf.Module()
    module.network, module.post_process = network, post_process
    module.detect = tf.function(detect, input_signature=spec)
    return module


def _attribute(name: str) -> str:
    value = ATTRIBUTES[name]
    kind = "b" if isinstance(value, bool) else "i" if isinstance(value, int) else "f"
    return f'attr {{ key: "{name}" value {{ {kind}: {str(value).lower()} }} }}'


def photographs(folder: Path) -> Iterator[list[Array]]:
    """Each .jpg of the folder, in the order of their names, as the network's input."""
    for path in sorted(folder.glob("*.jpg")):
        image = cv2.imread(str(path))
        if image is None:
            raise ValueError(f"{path} is not a photograph")
        pixels = cv2.resize(image[..., ::-1], (SIZE, SIZE)).astype(np.float32)
        yield [(pixels / 127.5 - 1)[None]]


def quantized(module: tf.Module, calibration: Path) -> bytes:
    """INT8 inside, pixels in, floats out."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.detect.get_concrete_function()], module)
    converter.allow_custom_ops = True
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: photographs(calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.float32
    return _outputs_in_order(converter.convert())


def _outputs_in_order(content: bytes) -> bytes:
    """The converter leaves the outputs in any order, under names of its own: put them in the operator's order, and name them."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    graph = model.subgraphs[0]
    numbers = {int(graph.tensors[i].name.decode().rpartition(":")[2]): i for i in graph.outputs}  # StatefulPartitionedCall:2
    graph.outputs = np.array([numbers[k] for k in range(len(OUTPUTS))], np.int32)
    for index, name in zip(graph.outputs, OUTPUTS, strict=True):
        graph.tensors[index].name = name.encode()
    graph.tensors[graph.inputs[0]].name = b"image"
    model.signatureDefs = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def main() -> None:
    """Make the model."""
    source, calibration, result = map(Path, sys.argv[1:])
    if not any(calibration.glob("*.jpg")):
        sys.exit(f"error: no .jpg in {calibration}")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    result.write_bytes(quantized(detector(source.read_bytes()), calibration))


if __name__ == "__main__":
    main()
