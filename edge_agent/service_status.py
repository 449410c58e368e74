"""The line that ``systemctl status`` shows: sent when it says something else, not twice a second."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from edge_agent.notify import Notifier

EVERY_S = 10.0
"""So old may the served frame rate in it become; everything else is sent at once."""
LONGEST = 480


@dataclass(frozen=True)
class ServiceStatus:
    """What is told, the most important first."""

    cameras_online: int
    cameras: int
    served_fps: float
    broker: str
    """Such as ``connected`` or ``away (refused)``."""
    problems: tuple[str, ...] = field(default=())
    """Errors of cameras, what degrades the agent, a configuration that was refused."""
    sink: str = "broker"
    """What ``broker`` is told of, where there is none."""

    def __str__(self) -> str:
        problem = f"; {self.problems[0]}" if self.problems else ""
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        told = f"{self.cameras_online} of {self.cameras} cameras online, {self.served_fps:.1f} fps served, {self.sink} {self.broker}"
        return f"{told}{problem}"[: LONGEST - len(more)] + more


class StatusLine:
    """Sends it. May be called from any thread."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._lock = threading.Lock()
        self._sent: tuple[ServiceStatus, float] | None = None

    def tell(self, status: ServiceStatus, now: float) -> bool:
        """Whether it was sent. ``now`` is monotonic."""
        with self._lock:
            if self._sent is not None and now - self._sent[1] < EVERY_S and _but_for_rate(self._sent[0], status):
                return False
            self._sent = (status, now)
        self._notifier.status(str(status))
        return True


def _but_for_rate(one: ServiceStatus, other: ServiceStatus) -> bool:
    """Whether both say the same, but for the served frame rate."""
    return (one.cameras_online, one.cameras, one.broker, one.problems) == (
        other.cameras_online,
        other.cameras,
        other.broker,
        other.problems,
    )
