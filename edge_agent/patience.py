"""Keeps the service manager waiting while a start takes long for a reason, such as an accelerator's engine being compiled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edge_agent.notify import Notifier

EVERY_S, EXTEND_S = 10.0, 40.0
"""Asked for again every ten seconds, each time for so long from then on: a process that is gone, or stopped, is not waited for."""
LEAST_CPU = 0.02
"""Of one core: what is compiled keeps a processor at work; what hangs does not."""
MOST_S = 3600.0


class Patience:
    """``announce`` from any thread during a start, which ``close`` ends.

    The time that was announced is granted; what takes longer is granted it for as long as it keeps a processor at work, up to
    an hour.
    """

    def __init__(
        self,
        notifier: Notifier,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._notifier, self._every_s, self._clock, self._cpu = notifier, every_s, clock, cpu
        self._lock = threading.Lock()
        self._what, self._began, self._granted_s = "", 0.0, 0.0
        self._cpu_before = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """The start is over."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def announce(self, what: str, seconds: float) -> None:
        """It may take so long from now on."""
        with self._lock:
            self._what, self._began, self._granted_s = what, self._clock(), seconds
            self._cpu_before = self._cpu()
        self._notifier.extend_timeout(EXTEND_S)
        self._notifier.status(what)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="patience", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            self.tick()

    def tick(self) -> bool:
        """Ask for more time, if it is still deserved; whether it was."""
        with self._lock:
            since_s, cpu = self._clock() - self._began, self._cpu()
            at_work = cpu - self._cpu_before >= LEAST_CPU * self._every_s
            self._cpu_before = cpu
            what, deserved = self._what, since_s < min(self._granted_s, MOST_S) or (at_work and since_s < MOST_S)
        if deserved:
            self._notifier.extend_timeout(EXTEND_S)
            self._notifier.status(f"{what} (for {since_s:.0f} s)")
        return deserved
