"""Writes down what a kernel answers to our questions, for tests/sources/test_v4l2_kernel.py, which then needs no device.

    python tests/lab/v4l2_record.py /dev/video0 YUYV,NV12 >tests/data/v4l2/NAME.json

Each line of "calls" is a request's number, the structure given, and the structure or errno that came back, as hexadecimal
without trailing zeros. Requests that hold a pointer (texts and 64-bit controls, multi-planar buffers) are left out.
"""

from __future__ import annotations

import json
import sys

from edge_agent.sources import _v4l2 as kernel
from edge_agent.sources import _v4l2_controls as v4l2_controls


class RecordingNode:
    def __init__(self, node: kernel.Node) -> None:
        self.node, self.calls = node, dict[str, str]()

    def call(self, request: int, buffer: bytearray) -> None:
        key = f"{request:08x} {trimmed(buffer)}"
        try:
            self.node.call(request, buffer)
        except OSError as error:
            self.calls[key] = f"errno {error.errno}"
            raise
        self.calls[key] = trimmed(buffer)


def trimmed(buffer: bytearray) -> str:
    return bytes(buffer).rstrip(b"\0").hex()


def main(path: str, wanted: str) -> None:
    recorder = RecordingNode(kernel.Node(path))
    capability = kernel.query(recorder)
    kind = capability.buffer_type
    list(kernel.formats(recorder, kind))
    for fourcc in wanted.split(","):
        for size in kernel.sizes(recorder, fourcc):
            kernel.rates(recorder, fourcc, size.min_width, size.min_height)
        kernel.set_format(recorder, kind, kernel.PictureFormat(fourcc, 640, 360))
    kernel.set_rate(recorder, kind, 25)
    for control in v4l2_controls.controls(recorder):
        if control.kind not in {v4l2_controls.Kind.STRING, v4l2_controls.Kind.INTEGER64}:
            v4l2_controls.read(recorder, control)
    json.dump({"node": path, "calls": recorder.calls}, sys.stdout, indent=0)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
