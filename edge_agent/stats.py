"""Counters and recent latencies, cheap enough for every frame."""

from __future__ import annotations

import builtins
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


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
    it out, as nobody would have taken it), ``muted``, ``paused``."""
    dropped: ReasonCounter = field(default_factory=ReasonCounter)
    """Lost: ``model_error``, ``unreadable`` (a damaged picture), ``shutdown``."""

    @property
    def in_flight(self) -> int:
        """Frames waiting for the model or inside it."""
        return self.captured - self.served - self.skipped.sum - self.dropped.sum


class Window:
    """The last ``size`` values of something measured per frame, for percentiles. Thread-safe."""

    def __init__(self, size: int = 512) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """One more measurement."""
        with self._lock:
            self._values.append(value)

    def percentiles(self, which: Sequence[int] = (50, 95, 99)) -> dict[str, float] | None:
        """``{"p50": ...}``, or None before the first value."""
        with self._lock:
            values = list(self._values)
        if not values:
            return None
        found = np.percentile(np.asarray(values), which)
        return {f"p{name}": round(float(value), 3) for name, value in zip(which, found, strict=True)}


LEAST_SPAN_S = 0.25


class RateMeter:
    """Events per second over a span: a count over the time between its first and last event. Thread-safe."""

    def __init__(self, span_s: float = 10.0) -> None:
        self._span_s = span_s
        self._times: deque[float] = deque(maxlen=4096)
        self._lock = threading.Lock()

    def tick(self, now: float) -> None:
        """An event at monotonic ``now``."""
        with self._lock:
            self._times.append(now)

    def rate(self, now: float) -> float:
        """Events per second in the last span before ``now``; 0 when there were fewer than two."""
        with self._lock:
            times = self._times
            while times and now - times[0] > self._span_s:
                times.popleft()
            if len(times) < 2:
                return 0.0
            # Once events stop, the time since the last one counts too, so that the rate falls instead of freezing.
            mean = (times[-1] - times[0]) / (len(times) - 1)
            span = times[-1] - times[0] + max(0.0, now - times[-1] - mean)
            return round((len(times) - 1) / max(span, LEAST_SPAN_S), 2) if span > 0 else 0.0  # a burst is no rate yet


def merged(counts: Mapping[str, int]) -> dict[str, int]:
    """A plain, sorted copy for a payload."""
    return dict(sorted(counts.items()))
