"""Exponential backoff with full jitter, and when to forget about it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class BackoffPolicy:
    """Ceilings grow from ``first_s`` by doubling up to ``cap_s``; each delay is drawn evenly from ``least_s`` to the ceiling.

    Full jitter keeps a fleet from reconnecting in step (the "full jitter" of AWS's architecture blog, 2015);
    ``least_s`` keeps it from ever being a hot loop.
    ``stable_s``: the attempt counter is only forgotten after success lasted this long, so that something that
    opens and dies at once is not hammered.
    """

    first_s: float = 0.5
    least_s: float = 0.1
    cap_s: float = 30.0
    stable_s: float = 10.0


class Backoff:
    """The state of one thing that is tried again and again. Not thread-safe; owned by one runner."""

    def __init__(self, policy: BackoffPolicy, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._policy = policy
        self._uniform = uniform
        self._attempts = 0
        self._up_since: float | None = None

    def next_delay(self, cap_s: float | None = None) -> float:
        """Seconds to wait before the next attempt. Never ends and never exceeds the cap: ``cap_s``, or else the policy's."""
        policy = self._policy
        ceiling = min(policy.cap_s if cap_s is None else cap_s, policy.first_s * 2 ** min(self._attempts, 30))
        self._attempts += 1
        return max(policy.least_s, self._uniform(0.0, ceiling))

    def up(self, now: float) -> None:
        """It worked, at monotonic ``now``."""
        if self._up_since is None:
            self._up_since = now

    def down(self, now: float) -> None:
        """It failed, at monotonic ``now``; the attempts are forgotten if it had been up long enough."""
        if self._up_since is not None and now - self._up_since >= self._policy.stable_s:
            self._attempts = 0
        self._up_since = None
