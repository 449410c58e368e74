from collections.abc import Sequence
from typing import Any

from onnx import ModelProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData

class QDQQuantizer:
    model: Any
    def __init__(
        self,
        model: ModelProto,
        per_channel: bool,
        reduce_range: bool,
        weight_qType: QuantType,
        activation_qType: QuantType,
        tensors_range: TensorsData,
        nodes_to_quantize: Sequence[str],
        nodes_to_exclude: Sequence[str],
        op_types_to_quantize: Sequence[str],
        extra_options: dict[str, Any],
    ) -> None: ...
    def quantize_model(self) -> object: ...
