from enum import Enum

class CalibrationMethod(Enum):
    MinMax = 0

class QuantType(Enum):
    QInt8 = 0
    QUInt8 = 1
