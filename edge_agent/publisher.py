"""Drives one sink: its thread, its reconnects, its counters, and what waits for it.

Here is the second of the two places where something changes thread. State (status, health) is kept as a last value, goes first,
and is sent again on every connection; what passes (answers, snapshots) goes next, or is dropped where there is no connection;
events wait in order in a spool, and when there are too many the oldest go. Every loss is counted.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_agent._outbox import Outbox
from edge_agent.errors import Rejected, SinkUnavailable
from edge_agent.events import STATUS_OFFLINE, Message
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.sinks.base import Sink
from edge_agent.spool import Spool
from edge_agent.stats import HALF_S, ReasonCounter, Sketch, percentiles

log = logging.getLogger(__name__)

SINK_BACKOFF = BackoffPolicy(first_s=1.0, cap_s=60.0, stable_s=30.0)
IDLE_S = 0.5
"""How often an idle publisher looks whether the connection still stands."""
PACE_S = 0.02
"""And how often one that may not send yet what waits."""


@dataclass(frozen=True)
class DeliveryCounts:
    """Of events, at one moment: accepted + recovered = delivered + dropped + queued (those being written included) + kept."""

    accepted: int
    delivered: int
    dropped: ReasonCounter
    """By the spool (spool.py), ``rejected`` by the receiver, or at ``shutdown``."""
    connections: int
    recovered: int
    """Found on disk at the start."""
    passing_delivered: int
    passing_dropped: ReasonCounter
    """Answers and snapshots: ``not_connected``, ``buffer_full``, ``rejected``, ``shutdown``."""
    kept: int
    """Left on disk at the end, for the next run."""


class Publisher:
    """One sink's runner, and the only one that uses its spool. Every method may be called from any thread."""

    def __init__(
        self,
        sink: Sink,
        spool: Spool,
        policy: BackoffPolicy = SINK_BACKOFF,
        on_change: Callable[[], None] = lambda: None,
        linger_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``linger_s``: how long an event may wait for company; what is sent together costs less of the CPU.

        ``clock``: seconds, by which connections prove stable, and a receiver that takes no more for now is left alone.
        """
        self.sink, self.spool = sink, spool
        self._clock = clock
        self.connected = False
        self.error: str | None = None
        self._backoff = Backoff(policy)
        self._on_change, self._linger_s = on_change, linger_s
        self._changed = threading.Condition()
        self._outbox = Outbox()
        self._delivered = self._connections = 0
        self._wake_at = 1
        """Events that must wait before the thread is woken for them."""
        self._acknowledged: dict[str | None, Sketch] = {}
        """By camera: from an event's hand-over to its acknowledgement."""
        self._stopping = self._keep_trying = False
        self._rest_until, self._rests_wholly = 0.0, False
        """The receiver takes no events before that; with ``_rests_wholly``, nothing."""
        self._polling: int | None = None
        """An eventfd, while the thread waits for it and for what comes in: it would not hear the condition."""
        self._abandon = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name="spool", daemon=True)
        """Writes to disk, so that neither the line nor delivery waits for it."""

    def start(self) -> None:
        """Begin to connect, in the runner's own thread. Raises AlreadyRunning where another process uses the spool."""
        self.spool.open()
        if self.spool.disk is not None:
            self._keeper.start()
        self._thread.start()

    def _keep(self) -> None:
        disk = self.spool.disk
        while disk is not None and not self.spool.closed:
            self.spool.wait_for_work(disk.interval_s / 4)  # what is half as old as promised is written then
            try:
                self.spool.maintain()
            except Exception:  # a defect there must not end it for ever
                log.exception("spool failed unexpectedly sink=%s", self.sink.name)
                self._abandon.wait(1.0)
            if disk.always:
                with self._changed:
                    self._wake()

    def publish(self, message: Message) -> None:
        """Accept a message. Never raises; beyond the bounds the oldest events are dropped.

        Never blocks, but for an event with ``durability = "always"``: then it returns once the event is on disk, synced.
        """
        keeping = message.kind.keeping
        if keeping == "event":
            self.spool.put(message)
        with self._changed:
            if keeping == "state":
                self._outbox.set_state(message)
            elif keeping == "passing":
                self._outbox.pass_on(message, connected=self.connected)
            if keeping != "event" or self._is_worth_waking():
                self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._polling is not None:
            os.eventfd_write(self._polling, 1)

    @property
    def is_alive(self) -> bool:
        """Whether the runner's thread runs."""
        return self._thread.is_alive()

    @property
    def queued(self) -> tuple[int, int]:
        """Events that wait or are being written, and their bytes."""
        return self.spool.queued

    @property
    def counts(self) -> DeliveryCounts:
        """As of now."""
        spool = self.spool.counts
        with self._changed:
            return DeliveryCounts(
                spool.accepted,
                self._delivered,
                ReasonCounter(spool.dropped),
                self._connections,
                spool.recovered,
                self._outbox.passing_delivered,
                ReasonCounter(self._outbox.passing_dropped),
                spool.kept,
            )

    def acknowledged_ms(self, camera: str | None = None) -> dict[str, float] | None:
        """Percentiles of the time from an event's hand-over to its acknowledgement, of one camera or of all."""
        with self._changed:
            sketches = [sketch for key, sketch in self._acknowledged.items() if camera in {None, key}]
        return percentiles(sketches)

    def forget_delays(self, half_s: float = HALF_S) -> None:
        """Begin ``acknowledged_ms`` anew; ``half_s`` as of Sketch."""
        with self._changed:
            self._acknowledged = {camera: Sketch(half_s) for camera in self._acknowledged}

    def stop(self, timeout_s: float, *, keep_trying: bool = False, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Say ``offline``, deliver what can be delivered in that time, and end. False if the thread is still busy.

        Without a connection that is nothing, at once; or, with ``keep_trying``, what a connection within that time allows.
        ``hurry`` cuts the time short once it says so.
        """
        self.publish(STATUS_OFFLINE)
        with self._changed:
            self._stopping, self._keep_trying = True, keep_trying
            self.spool.hurry()
            if not self.connected and not keep_trying:
                self._abandon.set()
            self._wake()
        if self._thread.ident is not None:
            deadline = time.monotonic() + timeout_s
            while self._thread.is_alive() and time.monotonic() < deadline and not hurry():
                self._thread.join(0.05)
            if self._thread.is_alive():
                self._abandon.set()
                self._thread.join(0.3)
        with self._changed:
            self._outbox.drop_passing("shutdown")
        lost = self.spool.close()
        if lost:
            log.warning("events lost at shutdown sink=%s events=%d", self.sink.name, lost)
        if self.spool.counts.kept:
            kept = "events kept on disk for the next start, or for edge-agent spool drain sink=%s events=%d"
            log.warning(kept, self.sink.name, self.spool.counts.kept)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._abandon.is_set() and not (self._stopping and not self._pending()):
            try:
                self._session()
            except SinkUnavailable as error:
                self._wait_after(str(error), error.retry_after_s)
            except Exception as error:  # a defect in a sink must not end delivery for ever
                log.exception("sink failed unexpectedly sink=%s", self.sink.name)
                self._wait_after(f"unexpected {type(error).__name__}: {error}")
        self.sink.close()

    def _session(self) -> None:
        self.sink.connect()
        with self._changed:
            self._rest_until = 0.0
            self._outbox.begin()
            self.spool.connected()
        if self.sink.proven:
            self._up()
        while not self._abandon.is_set():
            first, events = self._next_batch()
            if first or events:
                self._write(first, events)
            elif self._stopping and not self._pending():
                return
            else:
                self.sink.check()

    def _up(self) -> None:
        """It is there, and takes what it is sent."""
        with self._changed:
            was_connected = self.connected
            self._connections += not was_connected
            self.connected, self.error = True, None
        self._backoff.up(self._clock())
        log.info("%s sink=%s queued=%d", "taken again" if was_connected else "connected", self.sink.name, self.queued[0])
        self._on_change()

    def _pending(self) -> bool:
        with self._changed:
            return bool(self._outbox) or self.spool.waiting[0] > 0

    def _next_batch(self) -> tuple[list[Message], list[Message]]:
        """State and what passes first, so that a backlog never delays it; then events in order."""
        with self._changed:
            self._await_work()
            resting = self._is_resting
            first = [] if resting and self._rests_wholly else self._outbox.take(self.sink.most)
        events = [] if resting else self.spool.take(self.sink.most - len(first))
        if not first and not events and not resting:
            with self._changed:
                first = self._outbox.take_last()
        return first, events

    @property
    def _is_resting(self) -> bool:
        """At the end it is tried once more all the same."""
        return not self._stopping and self._clock() < self._rest_until

    def _await_work(self) -> None:
        if self._is_resting:
            if self._rests_wholly or not self._outbox:
                self._idle(IDLE_S)
            return
        if not self._outbox and not self.spool.ready and (not self._stopping or self.spool.waiting[0]):
            self._idle(PACE_S if self.spool.waiting[0] else IDLE_S)
        if self._linger_s and self.spool.ready:
            self._wake_at = max(1, min(self.sink.most, self.spool.limits.max_events // 2))
            self._changed.wait_for(lambda: self._outbox or self._stopping or self._is_worth_waking(), self._linger_s)
            self._wake_at = 1

    def _idle(self, seconds: float) -> None:
        """Until there is something to send, or to read. The lock is held, though not while this waits."""
        incoming = self.sink.fileno()
        if incoming is None:
            self._changed.wait(seconds)
            return
        wake_up = self._polling = os.eventfd(0)
        self._changed.release()
        try:
            poll = select.poll()  # not select(): it fails with more than 1024 open files
            for descriptor in (incoming, wake_up):
                poll.register(descriptor, select.POLLIN)
            poll.poll(seconds * 1e3)
        finally:
            self._changed.acquire()
            self._polling = None
            os.close(wake_up)

    def _is_worth_waking(self) -> bool:
        events, size = self.spool.waiting
        return events >= self._wake_at or 2 * size >= self.spool.limits.max_memory_bytes

    def _write(self, first: list[Message], events: list[Message]) -> None:
        try:
            outcomes = self.sink.write(first + events)
        except BaseException as error:
            confirmed, rejected = (error.confirmed, error.rejected) if isinstance(error, SinkUnavailable) else (0, {})
            self._settle(first, events, [rejected.get(position) for position in range(confirmed)])
            if not isinstance(error, SinkUnavailable) or not error.standing or self._stopping:
                raise
            self._rest(error, wholly=confirmed < len(first))
            return
        self._settle(first, events, outcomes)
        if self.sink.proven and self.error is not None and not self._is_resting:
            self._up()

    def _rest(self, error: SinkUnavailable, *, wholly: bool) -> None:
        """The receiver takes no more for now: to hang up would only tell everybody that we are gone."""
        with self._changed:
            self.error = str(error)
            self._rest_until, self._rests_wholly = self._clock() + error.retry_after_s, wholly
        log.warning("sink takes no more for now sink=%s retry_in=%.1fs queued=%d reason=%s",
                    self.sink.name, error.retry_after_s, self.queued[0], error)  # fmt: skip
        self._on_change()

    def _settle(self, first: Sequence[Message], events: Sequence[Message], outcomes: Sequence[Rejected | None]) -> None:
        """With the first of the batch the sink is through, and how; the rest waits again where it was, before what came since."""
        refused = [outcome is not None for outcome in outcomes]
        now, of_events = time.monotonic(), refused[len(first) :]
        self.spool.settle(len(of_events), rejected=sum(of_events))
        delivered = [message for message, no in zip(events, of_events, strict=False) if not no]
        with self._changed:
            self._outbox.settled(first, len(outcomes), refused)
            self._delivered += len(delivered)
            for camera in {message.camera for message in delivered} - self._acknowledged.keys():
                self._acknowledged[camera] = Sketch()
        for message in delivered:  # without the lock, which the line waits for
            self._acknowledged[message.camera].add((now - message.at) * 1e3)
        for outcome in outcomes:
            if outcome is not None:
                log.error("message rejected sink=%s reason=%s", self.sink.name, outcome)

    def _wait_after(self, reason: str, least_s: float = 0.0) -> None:
        self.sink.close()
        self._backoff.down(self._clock())
        delay = max(least_s, self._backoff.next_delay())
        with self._changed:
            self.connected, self.error = False, reason
            self._outbox.drop_passing("not_connected")
        log.warning("sink unavailable sink=%s retry_in=%.1fs queued=%d reason=%s", self.sink.name, delay, self.queued[0], reason)
        self._on_change()
        with self._changed:
            if self._stopping and not self._keep_trying:
                self._abandon.set()
            elif self._stopping:
                self._changed.wait(min(delay, IDLE_S))
            else:
                self._changed.wait_for(lambda: self._stopping, delay)
