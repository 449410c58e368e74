"""A publisher and a receiver that is there but takes nothing, or comes and goes: by an injected clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest

from edge_agent.errors import Rejected, SinkUnavailable
from edge_agent.events import STATUS_OFFLINE, STATUS_ONLINE, Message
from edge_agent.publisher import Publisher
from edge_agent.retry import BackoffPolicy
from tests.conftest import wait_until
from tests.test_publisher import AT_ONCE, ScriptedSink, event, health, spool


class Clock:
    """Seconds that pass when it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FullSink(ScriptedSink):
    """Stands, and takes nothing that is ``full`` for ten seconds."""

    def __init__(self, full: Callable[[Message], bool]) -> None:
        super().__init__()
        self.full: Callable[[Message], bool] = full
        self.refusals = 0
        self.checks = threading.Event()

    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        for position, message in enumerate(messages):
            if self.full(message):
                self.refusals += 1
                super().write(messages[:position])
                raise SinkUnavailable("quota exceeded", position, retry_after_s=10, standing=True)
        return super().write(messages)

    def check(self) -> None:
        self.checks.set()


@contextmanager
def driven(sink: ScriptedSink, policy: BackoffPolicy = AT_ONCE) -> Iterator[tuple[Publisher, Clock]]:
    clock = Clock()
    publisher = Publisher(sink, spool(100, 10_000), policy, clock=clock)
    publisher.publish(STATUS_ONLINE)
    publisher.start()
    try:
        yield publisher, clock
    finally:
        publisher.stop(5)


def test_a_receiver_that_is_full_is_left_alone_with_events_only_and_nobody_is_told_that_we_are_gone() -> None:
    sink = FullSink(lambda message: message.kind is event(0).kind)
    with driven(sink) as (publisher, clock):
        publisher.publish(event(1))
        wait_until(lambda: publisher.error)
        publisher.publish(event(2))
        for number in range(3):  # meanwhile state goes on
            publisher.publish(health(number))
            wait_until(partial(sink.written.__contains__, health(number)))
        clock.now += 9.9
        sink.checks.clear()
        assert sink.checks.wait(5)
        assert (sink.refusals, sink.connects, publisher.connected) == (1, 1, True)
        sink.full = lambda _: False
        clock.now += 0.2
        wait_until(lambda: sink.events == [1, 2])
        wait_until(lambda: publisher.error is None)
        assert (sink.connects, sink.closes) == (1, 0)
    assert sink.written.count(STATUS_ONLINE) == 1
    assert sink.written[-1] == STATUS_OFFLINE


def test_state_that_is_refused_waits_too_and_is_no_hot_loop() -> None:
    sink = FullSink(lambda _: True)
    with driven(sink) as (publisher, clock):
        publisher.publish(event(1))
        wait_until(lambda: publisher.error)
        for _ in range(3):
            sink.checks.clear()
            assert sink.checks.wait(5)
        assert sink.refusals == 1
        sink.full = lambda _: False
        clock.now += 10.1
        wait_until(lambda: sink.events == [1])
        assert sink.written[0] == STATUS_ONLINE


def test_the_end_does_not_wait_for_a_receiver_that_is_full() -> None:
    sink = FullSink(lambda message: message.kind is event(0).kind)
    with driven(sink) as (publisher, _):
        publisher.publish(event(1))
        wait_until(lambda: publisher.error)
        assert publisher.stop(3)
        assert publisher.counts.dropped["shutdown"] == 1
        assert STATUS_OFFLINE not in sink.written  # that is its will's to say: the connection was not ended well


class Unproven(ScriptedSink):
    """Connects to anything, as what speaks HTTP does."""

    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        try:
            outcomes = super().write(messages)
        except SinkUnavailable:
            self.proven = False
            raise
        self.proven = True
        return outcomes


def test_after_a_refusal_only_what_is_taken_shows_that_the_receiver_is_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sink = Unproven()
    sink.failing_writes = 5
    with driven(sink) as (publisher, _):
        wait_until(lambda: sink.written)
        wait_until(lambda: publisher.connected)
        assert sink.connects == 6
        assert publisher.counts.connections == 2
        assert publisher.error is None
    assert [record.message.split()[0] for record in caplog.records if record.message.startswith(("connected", "sink"))] == [
        "connected", *["sink"] * 5, "connected",
    ]  # fmt: skip


@pytest.mark.parametrize(("stood_s", "attempts"), [(29.9, 6), (30.1, 1)])
def test_attempts_are_forgotten_once_a_connection_stood_for_long_enough(stood_s: float, attempts: int) -> None:
    sink = ScriptedSink()
    sink.failing_writes = 5
    with driven(sink, BackoffPolicy(first_s=0.001, least_s=0.001, cap_s=0.01, stable_s=30)) as (publisher, clock):
        wait_until(lambda: sink.written)
        assert publisher._backoff._attempts == 5
        clock.now += stood_s
        sink.failing_writes = 1
        publisher.publish(event(1))
        wait_until(lambda: sink.events == [1])
        assert publisher._backoff._attempts == attempts
