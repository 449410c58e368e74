"""What a kernel answered once, in place of a device: see tests/lab/v4l2_record.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "v4l2"


class Recording:
    """Answers each request that was recorded as it was then; controls that are set afterwards keep their value."""

    def __init__(self, name: str) -> None:
        self.calls: dict[str, str] = json.loads((FOLDER / f"{name}.json").read_text())["calls"]

    def call(self, request: int, buffer: bytearray) -> None:
        answer = self.calls[f"{request:08x} {bytes(buffer).rstrip(bytes(1)).hex()}"]
        if answer.startswith("errno "):
            number = int(answer[6:])
            raise OSError(number, os.strerror(number))
        buffer[:] = bytes.fromhex(answer).ljust(len(buffer), b"\0")
