"""The spool against a model, with a disk that fails at random: nothing lost that it does not count, nothing invented, in order."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent._spool_disk import Disk
from edge_agent._spool_rows import StoreError
from edge_agent._spool_store import Store
from edge_agent.spool import Spool, SpoolLimits
from tests.test_spool import Clock, balanced, event, numbers

ERRORS = {
    "full": sqlite3.OperationalError("database or disk is full"),
    "read-only": sqlite3.OperationalError("attempt to write a readonly database"),
    "broken": sqlite3.OperationalError("disk I/O error"),
    "corrupt": sqlite3.DatabaseError("database disk image is malformed"),
    "gone": sqlite3.OperationalError("disk I/O error"),
}
"""The last is of the whole disk: nothing else can be written there either."""


class Connection(sqlite3.Connection):
    """SQLite over a disk that fails at the moments the test chooses."""

    fails: str | None = None
    after = 0
    """So many calls still work."""

    def _perhaps(self) -> None:
        if Connection.fails is not None:
            Connection.after -= 1
            if Connection.after < 0:
                raise ERRORS[Connection.fails]

    def execute(self, *given: Any) -> sqlite3.Cursor:
        self._perhaps()
        return super().execute(*given)

    def executemany(self, *given: Any) -> sqlite3.Cursor:
        self._perhaps()
        return super().executemany(*given)

    def commit(self) -> None:
        self._perhaps()
        super().commit()


class DiskFails(Store):
    """With "gone" it is the disk that fails, and not the file."""

    def _probe(self, why: object) -> None:
        if Connection.fails == "gone":
            raise StoreError(f"no disk ({why})")
        super()._probe(why)


def connect(path: Path, **given: Any) -> sqlite3.Connection:
    return sqlite3.connect(path, factory=Connection, **given)


class SpoolMachine(RuleBasedStateMachine):
    """Puts, takes, settles, waits, fails, ends cleanly, and is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.put_total = 0
        self.delivered: list[int] = []
        self.taken: list[int] = []
        self.file_lost = False
        Connection.fails = None
        self._open()

    def _open(self) -> None:
        limits = SpoolLimits(12, 1 << 20, max_bytes=1 << 20, drain_per_s=1e12)
        self.spool = Spool(limits, Disk(DiskFails(self.folder / "mqtt.db", connect)), clock=self.clock)
        self.spool.open()
        self.delivered_now = 0
        self.was_away = False
        """Events that could not be read for a while come late: after others, in this run."""

    @rule(count=st.integers(1, 9))
    def put(self, count: int) -> None:
        for _ in range(count):
            self.spool.put(event(self.put_total))
            self.put_total += 1

    @precondition(lambda self: not self.taken)
    @rule(most=st.integers(1, 9))
    def take(self, most: int) -> None:
        self.taken = numbers(self.spool.take(most))
        assert len(self.taken) <= most

    @precondition(lambda self: self.taken)
    @rule(share=st.sampled_from([0.0, 0.5, 1.0]))
    def settle(self, share: float) -> None:
        done = int(len(self.taken) * share)
        self.spool.settle(done)
        new = self.taken[:done]
        assert new == sorted(set(new))
        if new and self.delivered_now and not self.was_away:
            assert new[0] > self.delivered[-1], "in order, and once within a run"
        self.delivered += new
        self.delivered_now += done
        self.taken = []

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.spool.maintain()

    @rule(which=st.sampled_from(sorted(ERRORS)), after=st.integers(0, 6))
    def fail(self, which: str, after: int) -> None:
        Connection.fails, Connection.after = which, after

    @initialize(loses=st.booleans())
    def decide(self, loses: bool) -> None:
        self.loses_files = loses

    @precondition(lambda self: self.loses_files)
    @rule()
    def lose_the_file(self) -> None:
        """Somebody removes it, the daemon notices, and all that is still in memory must be written again."""
        Connection.fails = None
        self.file_lost = True
        for file in self.folder.glob("mqtt.db*"):
            file.unlink()
        self.clock.now += 6
        self.spool.maintain()

    @rule()
    def mend(self) -> None:
        Connection.fails = None

    @rule()
    def kill(self) -> None:
        """As kill -9: nothing is said any more, the file is what it is."""
        Connection.fails = None
        safe = self.spool.on_disk
        assert self.spool.disk is not None
        self.spool.disk.close()
        self.taken = []
        self._open()
        assert self.spool.counts.recovered >= safe

    @rule()
    def end_and_start(self) -> None:
        Connection.fails = None
        queued = self.spool.queued[0]
        self.taken = []
        lost = self.spool.close()
        assert lost == 0, "the disk works, so everything is kept"
        self._open()
        assert self.spool.counts.recovered >= queued

    @invariant()
    def all_is_accounted_for(self) -> None:
        assert balanced(self.spool, self.delivered_now)
        assert self.spool.queued[0] >= 0
        assert self.spool._queue.only >= 0

    @invariant()
    def nothing_is_given_up(self) -> None:
        """What is on a disk that cannot be read now may be there again later; what is whole in a damaged file is saved."""
        assert self.file_lost or not self.spool.counts.dropped["damaged"]
        self.was_away = self.was_away or self.spool._queue.away is not None

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.spool._queue.memory) <= 12

    def teardown(self) -> None:
        Connection.fails = None
        self.clock.now += 10
        self.spool.maintain()
        if self.taken:
            self.spool.settle(0)
        run = []
        while batch := self.spool.take(5):
            run += numbers(batch)
            self.spool.settle(len(batch))
        assert len(run) == len(set(run)), "once within a run"
        assert run == sorted(run) or self.was_away, "in order"
        assert set(self.delivered) | set(run) <= set(range(self.put_total)), "none is invented"
        assert self.spool.queued[0] == 0
        self.spool.close()
        shutil.rmtree(self.folder)


TestSpool = SpoolMachine.TestCase
TestSpool.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
