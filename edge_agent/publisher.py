"""Drives one sink: its thread, its reconnects, its counters, and the bounded buffer that messages wait in.

The buffer is the second of the two places where something changes thread. State (status, health) is kept as a last
value, goes first, and is sent again on every connection; events wait in order, and when there are too many the
oldest go, counted.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edge_agent.errors import Rejected, SinkUnavailable
from edge_agent.events import STATUS_OFFLINE, Kind, Message
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.sinks.base import Sink
from edge_agent.stats import HALF_S, ReasonCounter, Sketch, percentiles

log = logging.getLogger(__name__)

SINK_BACKOFF = BackoffPolicy(first_s=1.0, cap_s=60.0, stable_s=30.0)
IDLE_S = 0.5
"""How often an idle publisher looks whether the connection still stands."""


@dataclass
class DeliveryCounts:
    """accepted = delivered + dropped + queued (those being written included)."""

    accepted: int = 0
    delivered: int = 0
    dropped: ReasonCounter = field(default_factory=ReasonCounter)
    """``buffer_full``, ``rejected``, ``shutdown``."""
    connections: int = 0


class Publisher:
    """One sink's runner. Every method may be called from any thread."""

    def __init__(
        self,
        sink: Sink,
        max_events: int,
        max_bytes: int,
        policy: BackoffPolicy = SINK_BACKOFF,
        on_change: Callable[[], None] = lambda: None,
        linger_s: float = 0.0,
    ) -> None:
        """``linger_s``: how long an event may wait for company; what is sent together costs less of the CPU."""
        self.sink = sink
        self.counts = DeliveryCounts()
        self.connected = False
        self.error: str | None = None
        self._max_events, self._max_bytes = max_events, max_bytes
        self._backoff = Backoff(policy)
        self._on_change, self._linger_s = on_change, linger_s
        self._changed = threading.Condition()
        self._states: dict[tuple[Kind, str | None], Message] = {}
        self._unsent: dict[tuple[Kind, str | None], Message] = {}
        self._events: deque[Message] = deque()
        self._bytes = 0
        self._writing: list[Message] = []
        self._wake_at = 1
        """Events that must wait before the thread is woken for them."""
        self._acknowledged: dict[str | None, Sketch] = {}
        """By camera: from an event's hand-over to its acknowledgement."""
        self._stopping = self._keep_trying = False
        self._polling: int | None = None
        """An eventfd, while the thread waits for it and for what comes in: it would not hear the condition."""
        self._abandon = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Begin to connect, in the runner's own thread."""
        self._thread.start()

    def publish(self, message: Message) -> None:
        """Accept a message. Never blocks and never raises; beyond the bounds the oldest events are dropped."""
        with self._changed:
            if message.kind.is_state:
                key = (message.kind, message.camera)
                self._states[key] = self._unsent[key] = message
            else:
                self.counts.accepted += 1
                self._events.append(message)
                self._bytes += len(message.payload)
                self._make_room()
            if message.kind.is_state or self._is_worth_waking():
                self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._polling is not None:
            os.eventfd_write(self._polling, 1)

    def _make_room(self) -> None:
        """Bounds what waits. What is being written cannot be taken back, and is bounded by the sink's ``most``."""
        while self._events and (len(self._events) > self._max_events or self._bytes > self._max_bytes):
            self._bytes -= len(self._events.popleft().payload)
            self.counts.dropped["buffer_full"] += 1
            if self.counts.dropped["buffer_full"] == 1:
                log.warning("buffer full, the oldest events are dropped from now on sink=%s", self.sink.name)

    @property
    def is_alive(self) -> bool:
        """Whether the runner's thread runs."""
        return self._thread.is_alive()

    @property
    def queued(self) -> tuple[int, int]:
        """Events that wait or are being written, and their bytes."""
        with self._changed:
            return len(self._events) + len(self._writing), self._bytes + sum(len(m.payload) for m in self._writing)

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
            left = len(self._events) + len(self._writing)
            if left:
                self.counts.dropped["shutdown"] += left
                log.warning("events lost at shutdown sink=%s events=%d", self.sink.name, left)
            self._events.clear()
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
            self.connected, self.error = True, None
            self.counts.connections += 1
            self._unsent = dict(self._states)
        self._backoff.up(time.monotonic())
        log.info("connected sink=%s queued=%d", self.sink.name, len(self._events))
        self._on_change()
        while not self._abandon.is_set():
            batch = self._next_batch()
            if batch:
                self._write(batch)
            elif self._stopping:
                return
            else:
                self.sink.check()

    def _pending(self) -> bool:
        with self._changed:
            return bool(self._unsent or self._events)

    def _await_work(self) -> None:
        if not self._unsent and not self._events and not self._stopping:
            self._idle()
        if self._linger_s and self._events:
            self._wake_at = max(1, min(self.sink.most, self._max_events // 2))
            self._changed.wait_for(lambda: self._unsent or self._stopping or self._is_worth_waking(), self._linger_s)
            self._wake_at = 1

    def _idle(self) -> None:
        """Until there is something to send, or to read. The lock is held, though not while this waits."""
        incoming = self.sink.fileno()
        if incoming is None:
            self._changed.wait(IDLE_S)
            return
        wake_up = self._polling = os.eventfd(0)
        self._changed.release()
        try:
            poll = select.poll()  # not select(): it fails with more than 1024 open files
            for descriptor in (incoming, wake_up):
                poll.register(descriptor, select.POLLIN)
            poll.poll(IDLE_S * 1e3)
        finally:
            self._changed.acquire()
            self._polling = None
            os.close(wake_up)

    def _is_worth_waking(self) -> bool:
        return len(self._events) >= self._wake_at or 2 * self._bytes >= self._max_bytes

    def _next_batch(self) -> list[Message]:
        """State first, so that a backlog never delays it; then events in order."""
        with self._changed:
            self._await_work()
            # "offline" is the last word: it waits until nothing else is left
            last = self._unsent.get((Kind.STATUS, None)) is STATUS_OFFLINE
            states = [m for key, m in self._unsent.items() if not (last and key == (Kind.STATUS, None))]
            states = states[: self.sink.most]
            for message in states:
                del self._unsent[(message.kind, message.camera)]
            events = [self._events.popleft() for _ in range(min(self.sink.most - len(states), len(self._events)))]
            self._writing = events
            self._bytes -= sum(len(m.payload) for m in events)
            if not states and not events and last:
                return [self._unsent.pop((Kind.STATUS, None))]
            return states + events

    def _write(self, batch: list[Message]) -> None:
        try:
            outcomes = self.sink.write(batch)
        except BaseException as error:
            confirmed, rejected = (error.confirmed, error.rejected) if isinstance(error, SinkUnavailable) else (0, {})
            self._settled(batch, [rejected.get(position) for position in range(confirmed)])
            raise
        self._settled(batch, outcomes)

    def _settled(self, batch: Sequence[Message], outcomes: Sequence[Rejected | None]) -> None:
        """With the first of the batch the sink is done, and how; what is beyond them waits again."""
        done = len(outcomes)
        self._settle(batch[:done], outcomes, batch[done:])
        for outcome in outcomes:
            if outcome is not None:
                log.error("message rejected sink=%s reason=%s", self.sink.name, outcome)

    def _settle(self, done: Sequence[Message], outcomes: Sequence[Rejected | None], put_back: Sequence[Message]) -> None:
        """Count what is done with, and put the rest back where it was, before what came since."""
        now = time.monotonic()
        delays: list[tuple[str | None, float]] = []
        with self._changed:
            self._writing = []
            for message, outcome in zip(done, outcomes, strict=True):
                if message.kind.is_state:
                    continue
                if outcome is None:
                    self.counts.delivered += 1
                    delays.append((message.camera, (now - message.at) * 1e3))
                else:
                    self.counts.dropped["rejected"] += 1
            events = [m for m in put_back if not m.kind.is_state]
            self._events.extendleft(reversed(events))
            self._bytes += sum(len(m.payload) for m in events)
            for message in put_back:
                if message.kind.is_state:
                    self._unsent.setdefault((message.kind, message.camera), message)
            self._make_room()
            for camera in {camera for camera, _ in delays} - self._acknowledged.keys():
                self._acknowledged[camera] = Sketch()
        for camera, delay_ms in delays:  # without the lock, which the line waits for
            self._acknowledged[camera].add(delay_ms)

    def _wait_after(self, reason: str, least_s: float = 0.0) -> None:
        self.sink.close()
        self._backoff.down(time.monotonic())
        delay = max(least_s, self._backoff.next_delay())
        with self._changed:
            self.connected, self.error = False, reason
        log.warning("sink unavailable sink=%s retry_in=%.1fs queued=%d reason=%s", self.sink.name, delay, self.queued[0], reason)
        self._on_change()
        with self._changed:
            if self._stopping and not self._keep_trying:
                self._abandon.set()
            elif self._stopping:
                self._changed.wait(min(delay, IDLE_S))
            else:
                self._changed.wait_for(lambda: self._stopping, delay)
