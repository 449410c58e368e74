from collections.abc import Mapping
from typing import Any

from onnxruntime.quantization import CalibrationMethod

class TensorsData:
    def __init__(self, calibration_method: CalibrationMethod, data: Mapping[str, tuple[Any, Any]]) -> None: ...
