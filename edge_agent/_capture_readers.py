"""The threads that one camera has had in its sources: the present one, and those that were left behind in calls that hang."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.config import CameraConfig
from edge_agent.reader import Owner, Reader, Superseded
from edge_agent.sources.base import Source

MOST_LEFT_BEHIND = 3
"""Threads of one camera that hang at the same time, before it waits for one of them to come back."""
REPLACED_WITHIN_S = 5.0
"""How long a source that is replaced may take to close, before the next is opened all the same."""


class Readers:
    """See the module. What changes anything wants the wake lock held.

    ``another`` makes the source that follows one whose call never came back; without it, that call is waited for.
    """

    present: Reader

    def __init__(self, camera: CameraConfig, source: Source, another: Callable[[], Source] | None) -> None:
        self.camera, self.source, self.another = camera, source, another
        """``source``: the present one."""
        self.stopping = False
        self._owner: Owner
        self._left_behind: list[Reader] = []
        self._replaced = 0

    def report_to(self, owner: Owner) -> None:
        """Whom every reader reports to. The first one is made here, and not started."""
        source, self._owner = self.source, owner
        self.present = Reader(owner, lambda: source, f"capture-{self.camera.id}")

    @property
    def left_behind(self) -> int:
        """Threads that hang inside a source that was given up. From any thread."""
        return sum(reader.thread.is_alive() for reader in self._left_behind)

    def only_present(self, reader: Reader) -> None:
        """Raises Superseded for any other."""
        if reader is not self.present:
            raise Superseded

    def stop(self) -> None:
        """Ask the present thread to end; it does so at the source's next answer."""
        self.stopping = True
        self.present.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for the present thread, without the lock; False if it is still inside the source, or one that was left behind is."""
        thread = self.present.thread
        if thread.ident is not None:
            thread.join(timeout_s)
        return not thread.is_alive() and not self.left_behind

    def may_leave_behind(self) -> bool:
        """Whether there is a source that can follow, and not too many hang."""
        self._forget_the_ended()
        return self.another is not None and len(self._left_behind) < MOST_LEFT_BEHIND

    def may_move(self) -> bool:
        """Whether the source that comes next would be in a process, and this one is not."""
        return self.another is not None and self.camera.settings.isolation == "auto" and not self.source.isolated and not self.stopping

    def leave_behind(self, number: int, delay_s: float) -> None:
        """Go on in another thread, its camera's ``number``, with another source, after so many seconds; the present call hangs."""
        another, position = self.another, self.source.position
        assert another is not None
        self.present.stop()
        self._left_behind.append(self.present)

        def make() -> Source:
            source = another()
            source.position = position
            return source

        self._begin(make, f"{number}", delay_s)

    def replace(self, camera: CameraConfig, source: Source, another: Callable[[], Source]) -> None:
        """Go on with that source when the present one is closed, or has had some time for that."""
        before = self.present
        before.stop()
        self._forget_the_ended()
        self._left_behind.append(before)
        self.camera, self.source, self.another = camera, source, another

        def make() -> Source:
            before.thread.join(REPLACED_WITHIN_S)  # two cannot have one device
            return source

        self._replaced += 1
        self._begin(make, f"new{self._replaced}", 0.0)

    def _begin(self, make: Callable[[], Source], name: str, delay_s: float) -> None:
        self.present = Reader(self._owner, make, f"capture-{self.camera.id}-{name}", delay_s)
        self.present.thread.start()

    def _forget_the_ended(self) -> None:
        self._left_behind = [each for each in self._left_behind if each.thread.is_alive()]
