"""How fast models are beside one another: turn by turn, so that what else the machine does hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.quantize.sessions import QUIET, Session
from edge_agent.runtimes.base import Tensor

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Speed:
    """Of one model, against the reference in the same rounds."""

    ms: float
    """One inference, in the least disturbed fifth of the rounds."""
    ratio: float
    """How many times faster than the reference, likewise; above 1 is faster."""


def measure(
    models: Mapping[str, ModelProto],
    reference: str,
    picture: Tensor,
    *,
    threads: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Speed]:
    """Speed of each model on one input, ``rounds`` times in turn after two runs to warm up. Raises ModelError."""
    sessions = {name: (Session(model, threads), model.graph.input[0].name) for name, model in models.items()}
    for session, source in sessions.values():
        for _ in range(2):
            session.run({source: picture})
    times = np.zeros((rounds, len(sessions)))
    for turn in range(rounds):
        for column, (session, source) in enumerate(sessions.values()):
            started = clock()
            session.run({source: picture})
            times[turn, column] = (clock() - started) * 1e3
    quiet = np.quantile(times, QUIET, axis=0)
    base = quiet[list(sessions).index(reference)]
    return {name: Speed(round(float(ms), 3), round(float(base / max(ms, 1e-9)), 3)) for name, ms in zip(sessions, quiet, strict=True)}
