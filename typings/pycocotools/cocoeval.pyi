from typing import Any

from pycocotools.coco import COCO

class COCOeval:
    params: Any
    eval: dict[str, Any]
    stats: Any
    def __init__(self, cocoGt: COCO, cocoDt: COCO, iouType: str) -> None: ...
    def evaluate(self) -> None: ...
    def accumulate(self) -> None: ...
