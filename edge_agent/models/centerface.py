"""CenterFace: a heat map of faces' centres, with sizes, offsets and five landmarks at a quarter of the input's size.

Source: Xu et al., "CenterFace" (arXiv 1911.03599), and Star-Clouds/CenterFace prj-python/centerface.py: heat map
[1, 1, h, w] of probabilities; sizes [1, 2, h, w] as logarithms of height and width in cells; offsets [1, 2, h, w] of y and x;
landmarks [1, 10, h, w] as y, x in shares of the box. The input is RGB from 0 to 255.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.models._boxes import Floats, survivors
from edge_agent.models._preprocess import InputFormat, input_layout
from edge_agent.models._results import More
from edge_agent.models.base import Candidates, Family, Thresholds
from edge_agent.runtimes.base import GraphSpec, NoConfig, Tensor, dequantize

Config = NoConfig
STRIDE = 4
_CHANNELS = [1, 2, 2, 10]
_LARGEST_EXPONENT = 10.0


def recognise(graph: GraphSpec) -> str | None:
    """Four maps of 1, 2, 2 and 10 channels at a quarter of the input's size."""
    _, (width, height) = input_layout(graph.inputs[0])
    wanted = [(1, channels, height // STRIDE, width // STRIDE) for channels in _CHANNELS]
    if [output.shape for output in graph.outputs] == wanted:
        return "maps of centres, sizes, offsets and landmarks"
    return None


class CenterFace(Family):
    """Faces and their landmarks: eyes, nose, corners of the mouth."""

    name = "centerface"
    task = "keypoints"
    class_count = 1
    default_labels = ("face",)
    input_format = InputFormat("RGB", "none")

    def __init__(self, graph: GraphSpec) -> None:
        if recognise(graph) is None:
            raise ValueError("not maps of centres, sizes, offsets and landmarks")
        self._specs = graph.outputs

    def decode(self, outputs: Sequence[Tensor], size: tuple[int, int], thresholds: Thresholds) -> Candidates:
        heat, sizes, offsets, landmarks = (
            dequantize(output[0].reshape(channels, -1), spec)
            for output, channels, spec in zip(outputs, _CHANNELS, self._specs, strict=True)
        )
        index = np.flatnonzero(heat[0] >= thresholds.confidence)
        if thresholds.class_ids is not None and 0 not in thresholds.class_ids:
            index = index[:0]
        rows, columns = np.divmod(index, size[0] // STRIDE)
        sides = np.exp(np.minimum(sizes[:, index], _LARGEST_EXPONENT)) * STRIDE
        tops = (rows + offsets[0, index] + 0.5) * STRIDE - sides[0] / 2
        lefts = (columns + offsets[1, index] + 0.5) * STRIDE - sides[1] / 2
        boxes: Floats = np.stack((lefts, tops, lefts + sides[1], tops + sides[0]), axis=1).astype(np.float32)
        points = np.ones((len(index), 5, 3), np.float32)
        points[:, :, 1] = (landmarks[0::2, index] * sides[0] + tops).T
        points[:, :, 0] = (landmarks[1::2, index] * sides[1] + lefts).T
        confidence, class_id = heat[0, index], np.zeros(len(index), np.int32)
        points[:, :, 2] = confidence[:, None]
        kept = survivors(boxes, confidence, class_id, thresholds)
        return Candidates(boxes[kept], confidence[kept], class_id[kept], More(keypoints=points[kept]))


def build(graph: GraphSpec) -> Family:
    """For a graph that ``recognise`` accepts, or that the user says is one."""
    return CenterFace(graph)
