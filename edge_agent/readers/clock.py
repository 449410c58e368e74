"""Whether the wall clock is kept by somebody, and whether it jumped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from edge_agent import host
from edge_agent.host_event import ClockHealth
from edge_agent.readers.base import ReaderContext, Readings

STEP_S = 0.5
"""NTP slews less than this; what is more between two looks is a step."""


class Clock:
    """``ask`` is the kernel."""

    def __init__(self, context: ReaderContext, ask: Callable[[], host.ClockState | None] = host.kernel_clock) -> None:
        self._context, self._ask = context, ask
        self._offset: float | None = None
        """Wall clock minus the time since boot, which nobody sets."""
        self._steps = 0
        self._last_step_s: float | None = None

    def read(self, now: float, readings: Readings) -> Readings:
        self._note_step()
        state = host.clock_state(self._context.tree.root, self._ask)
        part = ClockHealth(state.synced, state.told_by, state.max_error_s, self._steps, self._last_step_s)
        return replace(readings, host=replace(readings.host, clock=part))

    def _note_step(self) -> None:
        offset = self._context.wall() - self._context.boottime()
        if self._offset is not None and abs(offset - self._offset) > STEP_S:
            self._steps, self._last_step_s = self._steps + 1, round(offset - self._offset, 3)
        self._offset = offset

    def reasons(self) -> Sequence[str]:
        return ()  # many boxes never see a time server, and are none the worse: consumers look at ``clock_synced``


def build(context: ReaderContext) -> Clock:
    """For edge_agent/vitals.py."""
    return Clock(context)
