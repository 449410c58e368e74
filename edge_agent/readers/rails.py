"""What the board draws, rail by rail (INA3221 on Jetsons)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge_agent.power import read_rails
from edge_agent.readers.base import ReaderContext, Readings

SELDOM_S = 300.0
"""Where there were none, they are looked for no more often: drivers that are loaded late are found all the same."""


class Rails:
    """Each value is a transfer over I2C, of some milliseconds: read at heartbeats only."""

    def __init__(self, context: ReaderContext) -> None:
        self._tree = context.tree
        self._absent_until = float("-inf")

    def read(self, now: float, readings: Readings) -> Readings:
        rails: dict[str, int] = {}
        if now >= self._absent_until:
            rails = read_rails(self._tree)
            self._absent_until = now + SELDOM_S if not rails else float("-inf")
        return replace(readings, host=replace(readings.host, power_mw=rails or None))

    def reasons(self) -> Sequence[str]:
        return ()


def build(context: ReaderContext) -> Rails:
    """For edge_agent/vitals.py."""
    return Rails(context)
