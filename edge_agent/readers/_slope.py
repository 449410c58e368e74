"""How fast something grows, over the last hour."""

from __future__ import annotations

from collections import deque

SPAN_S, LEAST_SPAN_S, EVERY_S, SETTLING_S = 3600.0, 600.0, 30.0, 60.0


class Slope:
    """Least squares over samples of the last hour, taken no closer than 30 s: 121 of them at most.

    The first minute is left out: libraries are loaded and buffers made then. ``now`` in seconds, of a clock that only goes forward.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()
        self._began: float | None = None

    def note(self, now: float, value: float) -> None:
        """A sample; too early and too close ones are ignored."""
        self._began = now if self._began is None else self._began
        if now - self._began < SETTLING_S or (self._samples and now - self._samples[-1][0] < EVERY_S):
            return
        self._samples.append((now, value))
        while now - self._samples[0][0] > SPAN_S:
            self._samples.popleft()

    @property
    def span_s(self) -> float:
        """From the first sample to the last."""
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0

    @property
    def per_hour(self) -> float | None:
        """None before there are ten minutes of samples."""
        if self.span_s < LEAST_SPAN_S or len(self._samples) < 3:
            return None
        count = len(self._samples)
        mean_t, mean_v = sum(at for at, _ in self._samples) / count, sum(value for _, value in self._samples) / count
        spread = sum((at - mean_t) ** 2 for at, _ in self._samples)
        return 3600 * sum((at - mean_t) * (value - mean_v) for at, value in self._samples) / spread
