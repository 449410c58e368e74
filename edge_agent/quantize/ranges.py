"""Calibration: what values each tensor takes on real pictures, and the ranges that five methods draw from that.

Methods: ``min-max``; ``percentile`` (99.9, 99.99 and 99.999 of all values lie within); ``entropy`` (least Kullback-Leibler
divergence, as in Migacz, "8-bit inference with TensorRT", 2017); ``mse`` (least squared error of the rounded values). All work
on one histogram for each tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_agent.quantize.graph import Graph
from edge_agent.quantize.sessions import Session
from edge_agent.runtimes.base import Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

BINS = 4096
LEVELS = 255
_AT_ONCE = 64 << 20
"""Bytes of tensors that are asked for in one run."""
_SHRINK = np.geomspace(0.03, 1.0, 22)
Range = tuple[float, float]


@dataclass
class Histogram:
    """Counts of a tensor's values in BINS equal bins from ``low`` to ``high``, which hold 0."""

    low: float
    high: float
    counts: NDArray[np.int64]

    @property
    def centres(self) -> NDArray[np.float64]:
        """Of the bins."""
        edges = np.linspace(self.low, self.high, BINS + 1)
        centres: NDArray[np.float64] = (edges[1:] + edges[:-1]) / 2
        return centres


def collect(model: ModelProto, pictures: Sequence[Tensor], progress: Callable[[int, int], None]) -> dict[str, Histogram]:
    """A histogram of each float tensor over all pictures (input tensors of the model). ``progress``: runs done, of how many."""
    graph = Graph(model)
    source = model.graph.input[0].name
    names = [name for node in model.graph.node for name in node.output if name in graph.floats]
    groups = _groups(names, graph)
    session = Session(_with_outputs(model, names))
    total, done = 2 * len(groups) * len(pictures), 0
    looked_at = [source, *names] if source in graph.floats else names
    limits = {name: [0.0, 0.0] for name in looked_at}
    counts = {name: np.zeros(BINS, np.int64) for name in looked_at}
    for second in (False, True):
        for group in groups:
            for picture in pictures:
                values = dict(zip(group, session.run({source: picture}, group), strict=True))
                if group is groups[0] and source in limits:
                    values[source] = picture
                for name, value in values.items():
                    if second:
                        counts[name] += _histogram(value, limits[name])
                    else:
                        limits[name] = [min(limits[name][0], float(value.min())), max(limits[name][1], float(value.max()))]
                done += 1
                progress(done, total)
    return {name: Histogram(limits[name][0], limits[name][1], counts[name]) for name in counts}


def _groups(names: Sequence[str], graph: Graph) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    size = 0
    for name in names:
        bytes_ = 4 * int(np.prod(graph.shapes.get(name, (1,))))
        if size + bytes_ > _AT_ONCE and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += bytes_
    return groups


def _with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    import copy

    from onnx import TensorProto, helper

    shown = copy.deepcopy(model)
    have = {output.name for output in model.graph.output}
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in have)
    return shown


def _histogram(value: Tensor, limits: Sequence[float]) -> NDArray[np.int64]:
    low, high = limits
    width = (high - low) or 1.0
    index = ((value.ravel() - np.float32(low)) * np.float32(BINS / width)).astype(np.int32)
    return np.bincount(np.clip(index, 0, BINS - 1, out=index), minlength=BINS)


def min_max(histogram: Histogram) -> Range:
    """All that was met."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, share: float) -> Range:
    """What holds ``share`` of all values, cutting as many at either end."""
    cumulated = np.cumsum(histogram.counts) / max(1, histogram.counts.sum())
    edges = np.linspace(histogram.low, histogram.high, BINS + 1)
    low = edges[int(np.searchsorted(cumulated, 1 - share))]
    high = edges[min(BINS, int(np.searchsorted(cumulated, share)) + 1)]
    return min(0.0, float(low)), max(0.0, float(high))


def mse(histogram: Histogram) -> Range:
    """Both ends chosen so that clipping and rounding together cost least, squared."""
    seen = histogram.counts > 0
    values, weights = histogram.centres[seen], histogram.counts[seen].astype(np.float64)
    best = (np.inf, histogram.low, histogram.high)
    for low in histogram.low * _SHRINK if histogram.low < 0 else (0.0,):
        for high in histogram.high * _SHRINK if histogram.high > 0 else (0.0,):
            error = float((weights * (rounded(values, (low, high)) - values) ** 2).sum())
            best = min(best, (error, float(low), float(high)))
    return best[1], best[2]


def entropy(histogram: Histogram) -> Range:
    """Both ends shrunk alike, to where the rounded values tell least of what the true ones, with all beyond at the ends, did not."""
    centres, counts = histogram.centres, histogram.counts.astype(np.float64)
    best = (np.inf, histogram.low, histogram.high)
    for share in _SHRINK:
        low, high = histogram.low * share, histogram.high * share
        inside = np.flatnonzero((centres >= low) & (centres <= high))
        if inside.size == 0 or not counts[inside].any():
            continue
        true = counts[inside].copy()
        seen = true > 0
        level = ((centres[inside] - low) / ((high - low) or 1.0) * LEVELS).astype(np.int64)
        mean = np.bincount(level, weights=true, minlength=LEVELS + 1) / np.maximum(
            1, np.bincount(level, weights=seen, minlength=LEVELS + 1)
        )
        rough = np.where(seen, mean[level], 0.0)
        true[0] += counts[: inside[0]].sum()
        true[-1] += counts[inside[-1] + 1 :].sum()
        true, rough = true / true.sum(), np.maximum(rough / rough.sum(), 1e-9)
        divergence = float((true[true > 0] * np.log(true[true > 0] / rough[true > 0])).sum())
        best = min(best, (divergence, float(low), float(high)))
    return best[1], best[2]


METHODS: dict[str, Callable[[Histogram], Range]] = {
    "min-max": min_max,
    "percentile 99.9": lambda histogram: percentile(histogram, 0.999),
    "percentile 99.99": lambda histogram: percentile(histogram, 0.9999),
    "percentile 99.999": lambda histogram: percentile(histogram, 0.99999),
    "entropy": entropy,
    "mse": mse,
}


def rounded(values: NDArray[np.float64], limits: Range) -> NDArray[np.float64]:
    """Values as 8 bits over ``limits`` hold them."""
    scale, low, high = grid(limits)
    result: NDArray[np.float64] = np.clip(np.round(values / scale) * scale, low, high)
    return result


def grid(limits: Range) -> tuple[float, float, float]:
    """Scale of 8 bits over a range, and its ends moved so that 0 is one of the values."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    scale = (high - low) / LEVELS or 1.0
    zero = round(-low / scale)
    return scale, -zero * scale, (LEVELS - zero) * scale


def every_method(histograms: dict[str, Histogram]) -> dict[str, dict[str, Range]]:
    """By method, the range of each tensor."""
    return {method: {name: draw(histogram) for name, histogram in histograms.items()} for method, draw in METHODS.items()}
