"""What must make progress, or knowingly wait, for the service manager's watchdog to be petted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One of the steps of the line. It is stuck when ``mark`` has been the same for ``patience_s`` while it had work to do.

    A broker that is away, or a camera that is unplugged, is waited for: ``waits`` says so, and nothing is stuck.
    """

    name: str
    mark: Callable[[], Hashable]
    waits: Callable[[], bool]
    patience_s: float


class Stages:
    """For one thread. ``now`` is monotonic."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)
        self._seen: dict[str, tuple[Hashable, float]] = {}

    def stuck(self, now: float) -> dict[str, float]:
        """Seconds since each stage that is stuck made progress last; empty where all do, or wait."""
        found: dict[str, float] = {}
        for stage in self._stages:
            mark = stage.mark()
            before = self._seen.get(stage.name)
            if before is None or before[0] != mark or stage.waits():
                self._seen[stage.name] = (mark, now)
            elif now - before[1] > stage.patience_s:
                found[stage.name] = now - before[1]
        return found
