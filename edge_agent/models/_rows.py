"""Pictures that are inferred together: each one's rows of the outputs, and whether they are what it comes to alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.errors import ModelError
from edge_agent.image import BgrImage
from edge_agent.models._preprocess import Preprocessor
from edge_agent.runtimes.base import GraphSpec, Runtime, Tensor

_CLOSE = 0.1
"""By so much of what lies between two pictures may one's outputs differ from its own: kernels for a batch round otherwise, and of
boxes that are as likely as each other the order may change."""
_ROUNDING = 1e-5
"""Of the outputs themselves: single precision."""


def one_of(outputs: Sequence[Tensor], graph: GraphSpec, rows: int, row: int) -> list[Tensor]:
    """The outputs [1, ...] of one of ``rows`` pictures; one that is the same for all of them, such as a grid, as it is."""
    return [
        output[row : row + 1] if spec.shape[:1] == (1,) and output.shape[:1] == (rows,) else output
        for output, spec in zip(outputs, graph.outputs, strict=True)
    ]


def why_not_together(runtime: Runtime, preprocess: Preprocessor) -> str:
    """Infer different pictures together, and the first and the last of them alone. Why the outputs differ; empty if they do not."""
    count = runtime.batch
    if count == 1:
        return ""
    for output in runtime.spec.outputs:
        if output.shape[:1] != (1,):
            return f"its output {output.name!r} {list(output.shape)} has no row for each picture"
    try:
        together = _outputs(runtime, preprocess, range(count))
        first, last = (one_of(_outputs(runtime, preprocess, [row]), runtime.spec, runtime.rows_for(1), 0) for row in (0, count - 1))
    except ModelError as error:
        return str(error)
    rows = runtime.rows_for(count)
    return _difference(one_of(together, runtime.spec, rows, 0), first, last, runtime.spec) or _difference(
        one_of(together, runtime.spec, rows, count - 1), last, first, runtime.spec
    )


def _outputs(runtime: Runtime, preprocess: Preprocessor, pictures: Sequence[int]) -> list[Tensor]:
    """What a runtime makes of these pictures of blocks of colours, copied."""
    for row, number in enumerate(pictures):
        blocks = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        preprocess.place(BgrImage(np.kron(blocks, np.ones((10, 10, 1), np.uint8))), row)
    return [np.array(output) for output in runtime.infer(preprocess.tensor(runtime.rows_for(len(pictures))))]


def _difference(together: Sequence[Tensor], alone: Sequence[Tensor], other: Sequence[Tensor], graph: GraphSpec) -> str:
    """What differs of a picture among others from the same alone, by the measure of another picture; empty: nothing."""
    for spec, several, single, foreign in zip(graph.outputs, together, alone, other, strict=True):
        if foreign.shape != single.shape:
            return f"its output {spec.name!r} has sizes that depend on what is seen"
        if several.shape != single.shape:
            return f"its output {spec.name!r} is {list(several.shape)} for a picture among others, and {list(single.shape)} for one alone"
        if _apart(several, single) > _CLOSE * _apart(single, foreign) + _ROUNDING * _apart(single, np.zeros_like(single)):
            return f"its output {spec.name!r} is another for a picture among others than for the same alone"
    return ""


def _apart(a: Tensor, b: Tensor) -> float:
    """Euclidean, over what are numbers in both."""
    between = a.astype(np.float64) - b.astype(np.float64)
    return float(np.linalg.norm(between[np.isfinite(between)]))
