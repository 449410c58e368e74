"""Whether frames are inferred several together: measured, where the user leaves it to that.

An accelerator that is not full with one picture does more of several; a processor whose cores are busy with one mostly does
not, and a batch then only makes each frame wait for the others. So it is taken only where it clearly brings frames per second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import EdgeAgentError
from edge_agent.models._lanes import ROUNDS, WINDOW_S, inferences_per_second
from edge_agent.models._threads import LONGEST_S, MOST_BATCH, Choice, Subject, busy, keep_choice, kept_choice
from edge_agent.models.base import Model
from edge_agent.runtimes.base import Runtime

GAIN = 1.10
"""Frames per second that a batch must bring: each frame of it waits for the others."""

Lanes = Callable[[int], tuple[Sequence[Runtime], Sequence[Model]]]
"""Loads the model for so many pictures in an inference, as often as there are lanes."""
Rate = Callable[[Sequence[Runtime], float, int], float]
"""Pictures per second of several runtimes side by side, over so many seconds at least, so many in each inference."""


@dataclass(frozen=True)
class Together:
    """The lanes to work with, how many pictures each infers together, and the reason for a person."""

    lanes: Sequence[Model]
    batch: int
    why: str


def chosen(
    alone: tuple[Sequence[Runtime], Sequence[Model]],
    open_lanes: Lanes,
    subject: Subject,
    folder: Path | None,
    *,
    rate: Rate = inferences_per_second,
    clock: Callable[[], float] = time.perf_counter,
) -> Together:
    """The batch that serves most frames here, of 1, 2 and 4; ``alone`` are the lanes that take one picture each.

    What is measured is kept in ``folder`` (None: nowhere), and measured anew by another version of the library. A file that
    cannot take more than one, or whose rows are then others, is used for one. Raises nothing.
    """
    runtimes, models = alone
    if models[0].batch > 1:
        return Together(models, models[0].batch, "the file is made for so many")
    kept, version = kept_choice(folder, subject.key)
    try:
        if kept and version == runtimes[0].spec.runtime:
            return Together(models if kept.batch == 1 else _tried(open_lanes, kept.batch)[1], kept.batch, kept.why)
        best, told = _measured(alone, open_lanes, subject.decoders, rate, clock)
    except EdgeAgentError as error:
        best, told = models, str(error)
    choice = Choice(1, False, told, 1, best[0].batch)
    keep_choice(folder, subject.key, choice, runtimes[0].spec.runtime)
    return Together(best, choice.batch, told)


def _tried(open_lanes: Lanes, batch: int) -> tuple[Sequence[Runtime], Sequence[Model]]:
    lanes = open_lanes(batch)
    reason = lanes[1][0].why_not_together()
    if reason:
        raise EdgeAgentError(f"not {batch} together: {reason}")
    return lanes


def _measured(
    alone: tuple[Sequence[Runtime], Sequence[Model]], open_lanes: Lanes, decoders: int, rate: Rate, clock: Callable[[], float]
) -> tuple[Sequence[Model], str]:
    began = clock()
    best, told = alone, list[str]()
    try:
        with busy(decoders):
            for batch in (2, MOST_BATCH):
                wider = _tried(open_lanes, batch)
                before, after = _in_turn((best, wider), rate, began + LONGEST_S, clock)
                told.append(f"{best[1][0].batch} together {before:.1f} frames/s, {batch} {after:.1f}")
                if after >= before * GAIN:
                    best = wider
                elif batch == 2 and after < before:  # twice as many will not mend that
                    break
    except EdgeAgentError as error:
        told.append(str(error))
    return best[1], f"measured with {decoders} busy beside: {'; '.join(told)}"


def _in_turn(
    pair: tuple[tuple[Sequence[Runtime], Sequence[Model]], tuple[Sequence[Runtime], Sequence[Model]]],
    rate: Rate,
    deadline: float,
    clock: Callable[[], float],
) -> tuple[float, float]:
    """The best rate of each, in turn: what disturbs a measurement makes it slower. Raises EdgeAgentError where time is up."""
    found: tuple[list[float], list[float]] = ([], [])
    while len(found[0]) < ROUNDS and (clock() < deadline or not found[1]):
        if clock() >= deadline:
            raise EdgeAgentError(f"there was no time for more ({LONGEST_S:.0f} s)")
        for rates, (runtimes, models) in zip(found, pair, strict=True):
            rates.append(rate(runtimes, WINDOW_S, models[0].batch))
    return max(found[0]), max(found[1])
