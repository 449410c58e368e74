"""How many inferences run side by side, and with how many threads each, where throughput counts: measured, not guessed.

For files and for several cameras what counts is how many frames are inferred in all; for one live camera it is how soon one
is, and there it is one lane whose threads :mod:`edge_agent.models._threads` measures. Several inferences of one thread each
usually do more than one of several threads, since no thread waits for another; but each takes the model's memory once more,
and where caches or memory are the limit they gain nothing. So one more lane is taken only while it brings something.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_agent.errors import EdgeAgentError
from edge_agent.models._threads import (
    ELSEWHERE,
    LONGEST_S,
    MOST_LANES,
    MOST_THREADS,
    Choice,
    Opener,
    Subject,
    blank,
    busy,
    keep_choice,
    kept_choice,
)
from edge_agent.runtimes.base import Runtime

WINDOW_S = 0.1
ROUNDS = 3
_FEWEST = 2
_CLEAR = 0.85
"""The second best of the measurements of one and the same, over its best, where nothing else disturbs them."""
_GAIN = 1.07
"""What one more lane, or threads instead of lanes, must bring: less is noise, or not worth the memory."""

Rate = Callable[[Sequence[Runtime], float], float]
"""Inferences per second of several runtimes side by side, over so many seconds at least."""


class _Unclear(Exception):
    """What is measured tells nothing."""


def opened(
    open_model: Opener,
    subject: Subject,
    folder: Path | None,
    by_rule: int,
    *,
    rate: Rate | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[Runtime], Choice]:
    """The model, as often as it does most here. What is measured is kept in ``folder`` (None: nowhere).

    ``by_rule``: lanes of one thread each where nothing can be told, because others are at work on the machine or time is up;
    the next start then measures anew.

    Raises what ``open_model`` raises for the first time it is called; whatever fails later leaves what was found until then.
    """
    most = max(1, min(MOST_LANES, subject.cores))
    kept, version = kept_choice(folder, subject.key)
    first = open_model(kept.threads if kept else 1, False)
    if first.spec.accelerator.startswith(ELSEWHERE):
        why = f"{first.spec.accelerator} does the work; the one prepares a frame while that of the other is inferred"
        return [first, open_model(1, False)], Choice(1, False, why, 2)
    if kept and version == first.spec.runtime:
        return [first, *(open_model(kept.threads, False) for _ in range(kept.lanes - 1))], kept
    if kept and kept.threads != 1:
        first = open_model(1, False)
    if most == 1:
        return [first], Choice(1, False, "one core")
    try:
        runtimes, choice = _measured(open_model, first, most, subject.decoders, rate or inferences_per_second, clock)
    except _Unclear as reason:
        more = [open_model(1, False) for _ in range(min(by_rule, most) - 1)]
        return [first, *more], Choice(1, False, f"by rule, not measured: {reason}", 1 + len(more))
    keep_choice(folder, subject.key, choice, first.spec.runtime)
    return runtimes, choice


def _measured(
    open_model: Opener, first: Runtime, most: int, decoders: int, rate: Rate, clock: Callable[[], float]
) -> tuple[list[Runtime], Choice]:
    deadline = clock() + LONGEST_S
    best, threads, told = [first], 1, []
    try:
        with busy(decoders):
            for _ in range(most - 1):
                more = [*best, open_model(1, False)]
                before, after = _in_turn((best, more), rate, deadline, clock)
                told.append(f"{len(best)} side by side {before:.0f}/s, {len(more)} {after:.0f}/s")
                if after < before * _GAIN:
                    break
                best = more
            wide = [open_model(min(most, MOST_THREADS), False)]
            before, after = _in_turn((best, wide), rate, deadline, clock)
            told.append(f"one of {min(most, MOST_THREADS)} threads {after:.0f}/s against {before:.0f}/s")
            if after > before * _GAIN:
                best, threads = wide, min(most, MOST_THREADS)
    except EdgeAgentError as error:
        told.append(f"not measured further: {error}")
    return best, Choice(threads, False, f"measured with {decoders} busy beside: {'; '.join(told)}", len(best))


def _in_turn(
    pair: tuple[Sequence[Runtime], Sequence[Runtime]], rate: Rate, deadline: float, clock: Callable[[], float]
) -> tuple[float, float]:
    """The best rate of each, in turn: what disturbs a measurement makes it slower, never faster. Raises _Unclear."""
    found: tuple[list[float], list[float]] = ([], [])
    while len(found[0]) < ROUNDS:
        for rates, runtimes in zip(found, pair, strict=True):
            if clock() > deadline and len(found[1]) < _FEWEST:
                raise _Unclear(f"there was no time for it ({LONGEST_S:.0f} s)")
            rates.append(rate(runtimes, WINDOW_S))
    for rates in found:
        best, second = sorted(rates)[:-3:-1]
        if second < best * _CLEAR:
            raise _Unclear(f"the machine is busy with something else ({second:.0f} and {best:.0f} inferences/s of the same)")
    return max(found[0]), max(found[1])


def inferences_per_second(runtimes: Sequence[Runtime], seconds: float, pictures: int = 1) -> float:
    """Pictures per second, ``pictures`` in each inference.

    Each runtime in a thread of its own, for so long, and once at least; measured from the first's beginning to the last's end.
    """
    tensors = [blank(runtime, pictures) for runtime in runtimes]
    counts = [0] * len(runtimes)
    start = threading.Barrier(len(runtimes) + 1)
    until = 0.0

    def work(index: int) -> None:
        start.wait()
        while counts[index] == 0 or time.perf_counter() < until:
            runtimes[index].infer(tensors[index])
            counts[index] += 1

    threads = [threading.Thread(target=work, args=(index,), name=f"measure-{index}", daemon=True) for index in range(len(runtimes))]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    until = began + seconds
    start.wait()
    for thread in threads:
        thread.join()
    return pictures * sum(counts) / (time.perf_counter() - began)
