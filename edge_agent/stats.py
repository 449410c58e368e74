"""Counters and recent latencies, cheap enough for every frame."""

from __future__ import annotations

import builtins
import math
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


class ReasonCounter(Counter[str]):
    """Counts by reason."""

    @property
    def sum(self) -> int:
        """Over all reasons."""
        return builtins.sum(self.values())


@dataclass
class FrameCounts:
    """What became of one camera's frames. captured = served + skipped + dropped + in flight, always."""

    captured: int = 0
    served: int = 0
    skipped: ReasonCounter = field(default_factory=ReasonCounter)
    """By policy: ``model_busy`` (a fresher one came before the model was free), ``max_fps``, ``not_decoded`` (the source left
    it out, as nobody would have taken it), ``no_motion`` (the motion gate saw nothing), ``muted``, ``paused``."""
    dropped: ReasonCounter = field(default_factory=ReasonCounter)
    """Lost: ``model_error``, ``unreadable`` (a damaged picture), ``shutdown``."""

    @property
    def in_flight(self) -> int:
        """Frames waiting for the model or inside it."""
        return self.captured - self.served - self.skipped.sum - self.dropped.sum


GROWTH = 1.02
"""Each bucket of a sketch is so many times as wide as the one before: what it tells is within 1 % of a value that was measured."""
_PER_BUCKET = 1 / math.log(GROWTH)
_LEAST_MS, _MOST_MS = 1e-3, 1e7
"""What is outside of a microsecond to three hours counts as that."""
_SHIFT = 1 - math.log(_LEAST_MS) * _PER_BUCKET
_BUCKETS = math.ceil(math.log(_MOST_MS / _LEAST_MS) * _PER_BUCKET) + 2
HALF_S = 30.0
FEWEST = 20
"""Values before the older half of a sketch is forgotten: percentiles of the two frames that a slow camera sends meanwhile tell nothing."""


class Sketch:
    """Percentiles of the last 30 to 60 seconds of something measured per frame, in milliseconds. Thread-safe.

    A histogram of buckets that grow by 2 % (the mapping of DDSketch: Masson, Rim, Lee 2019), twice: one that fills, and the one
    before, forgotten when the first is ``half_s`` old and holds enough. Fixed memory of 10 kB, 0.7 us for each value, whatever
    comes. Why not a library's: docs/decisions/0018-latency-sketch.md.
    """

    def __init__(self, half_s: float = HALF_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._half_s, self._clock = half_s, clock
        self._new, self._old = array("I", bytes(4 * _BUCKETS)), array("I", bytes(4 * _BUCKETS))
        self._count, self._began = 0, clock()
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """One more measurement, in milliseconds."""
        bucket = 0 if value <= _LEAST_MS else int(min(math.log(value) * _PER_BUCKET + _SHIFT, _BUCKETS - 1))
        now = self._clock()
        with self._lock:
            if now - self._began > self._half_s and self._count >= FEWEST:
                self._old, self._new = self._new, array("I", bytes(4 * _BUCKETS))
                self._count, self._began = 0, now
            self._new[bucket] += 1
            self._count += 1

    def percentiles(self, which: Sequence[int] = (50, 95, 99)) -> dict[str, float] | None:
        """``{"p50": ...}``, or None before the first value."""
        return percentiles([self], which)

    def mean(self) -> float | None:
        """Milliseconds; None before the first value."""
        counts = self.counts()
        total = sum(counts)
        return sum(_middle(bucket) * count for bucket, count in enumerate(counts) if count) / total if total else None

    def counts(self) -> list[int]:
        """How many values are in each bucket."""
        with self._lock:
            return [new + old for new, old in zip(self._new, self._old, strict=True)]


def percentiles(sketches: Sequence[Sketch], which: Sequence[int] = (50, 95, 99)) -> dict[str, float] | None:
    """Of the values of all these sketches together; None where there are none."""
    if not sketches:
        return None
    counts = [sum(column) for column in zip(*(sketch.counts() for sketch in sketches), strict=True)]
    total = sum(counts)
    if not total:
        return None
    found, below, ranks = {}, 0, [(f"p{name}", name * (total - 1) / 100) for name in sorted(which)]
    for bucket, count in enumerate(counts):
        below += count
        while ranks and below > ranks[0][1]:
            found[ranks.pop(0)[0]] = round(_middle(bucket), 3)
    return found


def _middle(bucket: int) -> float:
    """Milliseconds: as far, in ratio, from the bucket's one end as from its other."""
    return 0.0 if bucket == 0 else math.exp((bucket - _SHIFT + 0.5) / _PER_BUCKET)


LEAST_SPAN_S = 0.25


class RateMeter:
    """Events per second over a span: a count over the time between its first and last event. Thread-safe."""

    def __init__(self, span_s: float = 10.0) -> None:
        self._span_s = span_s
        self._times: deque[float] = deque(maxlen=4096)
        self._lock = threading.Lock()

    def tick(self, now: float, count: int = 1) -> None:
        """``count`` events by monotonic ``now``: those that are told of in a lump came evenly since the last."""
        with self._lock:
            if not self._times or now - self._times[-1] > self._span_s:
                self._times.append(now)  # of a first lump nobody knows when it began
                return
            last = self._times[-1]
            self._times.extend(last + (now - last) * number / count for number in range(1, count + 1))

    def interval_s(self, now: float, least_span_s: float = 1.0) -> float | None:
        """The mean time between the events of the last span; None before they tell as much, over ``least_span_s``."""
        with self._lock:
            times = self._forget(now)
            span = times[-1] - times[0] if len(times) > 3 else 0.0
            return span / (len(times) - 1) if span >= least_span_s else None

    def _forget(self, now: float) -> deque[float]:
        while self._times and now - self._times[0] > self._span_s:
            self._times.popleft()
        return self._times

    def rate(self, now: float) -> float:
        """Events per second in the last span before ``now``; 0 when there were fewer than two."""
        with self._lock:
            times = self._forget(now)
            if len(times) < 2:
                return 0.0
            # Once events stop, the time since the last one counts too, so that the rate falls instead of freezing.
            mean = (times[-1] - times[0]) / (len(times) - 1)
            span = times[-1] - times[0] + max(0.0, now - times[-1] - mean)
            return round((len(times) - 1) / max(span, LEAST_SPAN_S), 2) if span > 0 else 0.0  # a burst is no rate yet


def merged(counts: Mapping[str, int]) -> dict[str, int]:
    """A plain, sorted copy for a payload."""
    return dict(sorted(counts.items()))
