"""Pictures that are inferred together: each one's rows of the outputs, and whether they are what it comes to alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_agent.errors import ModelError
from edge_agent.image import BgrImage
from edge_agent.models._preprocess import Preprocessor
from edge_agent.runtimes.base import GraphSpec, Runtime, Tensor

_CLOSE = 0.99
"""Of the numbers of a row, so many must be those of the picture alone: of boxes that are as likely as each other the order may change."""
_TOLERANCE = 0.02
"""Of each number: other kernels round otherwise."""
_FLOOR = 1e-4
"""Of the largest number: what is near nothing need not be near by its own measure."""
_STEPS = 2
"""By so many steps quantized numbers may differ."""


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
        return next((why for row in (0, count - 1) if (why := _differs(runtime, preprocess, together, row))), "")
    except ModelError as error:
        return str(error)


def _outputs(runtime: Runtime, preprocess: Preprocessor, pictures: Sequence[int]) -> list[Tensor]:
    """What a runtime makes of these pictures of blocks of colours, copied."""
    for row, number in enumerate(pictures):
        blocks = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        preprocess.place(BgrImage(np.kron(blocks, np.ones((10, 10, 1), np.uint8))), row)
    return [np.array(output) for output in runtime.infer(preprocess.tensor(runtime.rows_for(len(pictures))))]


def _differs(runtime: Runtime, preprocess: Preprocessor, together: Sequence[Tensor], row: int) -> str:
    rows = runtime.rows_for(runtime.batch)
    mine = one_of(together, runtime.spec, rows, row)
    alone = one_of(_outputs(runtime, preprocess, [row]), runtime.spec, runtime.rows_for(1), 0)
    for spec, several, single in zip(runtime.spec.outputs, mine, alone, strict=True):
        if several.shape != single.shape:
            return f"of {rows} pictures its output {spec.name!r} is {list(several.shape)}, of one {list(single.shape)}"
        if _share_close(several, single) < _CLOSE:
            return f"its output {spec.name!r} is another for a picture among {rows} than for the same alone"
    return ""


def _share_close(a: Tensor, b: Tensor) -> float:
    if not a.size:
        return 1.0
    first, second = a.astype(np.float64), b.astype(np.float64)
    finite = np.abs(second[np.isfinite(second)])
    largest = float(finite.max()) if finite.size else 0.0
    floor = _FLOOR * largest if a.dtype.kind == "f" else _STEPS * (a.dtype.itemsize == 1)
    return float(np.isclose(first, second, rtol=_TOLERANCE if a.dtype.kind == "f" else 0.0, atol=floor, equal_nan=True).mean())
