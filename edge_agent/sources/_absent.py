"""A camera whose source cannot even be made yet: a file that is not there, a plugin or a password file that is missing."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.sources.base import Reading, Source, StreamInfo


class AbsentSource(Source):
    """Makes the real one at each ``open``, so that absent at the start is no more than lost later."""

    def __init__(self, make: Callable[[], Source], finite: bool) -> None:
        self.live = not finite
        self._make = make
        self._real: Source | None = None

    def open(self) -> StreamInfo:
        self.close()
        if self._real is None:
            real = self._make()  # raises ConfigError, which the runner shows as the camera's error and tries again
            self.patience_s, self.unpaced = real.patience_s, real.unpaced
            self._real = real
        return self._real.open()

    def read(self) -> Reading:
        assert self._real is not None, "read() before open()"
        return self._real.read()

    def skip_until(self, at: float, cheaper_by: float = 0.0) -> None:
        if self._real is not None:
            self._real.skip_until(at, cheaper_by)

    def left_out(self) -> int:
        return self._real.left_out() if self._real is not None else 0

    def lost_upstream(self) -> int:
        return self._real.lost_upstream() if self._real is not None else 0

    def close(self) -> None:
        if self._real is not None:
            self._real.close()

    def dispose(self) -> None:
        if self._real is not None:
            self._real.dispose()
