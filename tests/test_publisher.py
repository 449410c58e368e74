"""The publisher against a scripted sink: order, bounds, retries, and what it says at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from edge_agent.errors import Rejected, SinkUnavailable
from edge_agent.events import STATUS_OFFLINE, STATUS_ONLINE, Kind, Message
from edge_agent.publisher import Publisher
from edge_agent.retry import BackoffPolicy
from edge_agent.sinks.base import Sink
from edge_agent.spool import Spool, SpoolLimits
from tests.conftest import wait_until

AT_ONCE = BackoffPolicy(first_s=0.01, least_s=0.01, cap_s=0.02, stable_s=0.0)


def spool(max_events: int, max_bytes: int) -> Spool:
    return Spool(SpoolLimits(max_events, max_bytes))


def event(number: int, size: int = 0) -> Message:
    return Message(Kind.DETECTIONS, "front", b"%d" % number + b" " * size)


def health(number: int) -> Message:
    return Message(Kind.HEALTH, None, b"health %d" % number)


def answer(number: int) -> Message:
    return Message(Kind.COMMAND_RESULT, None, b"answer %d" % number)


class ScriptedSink(Sink):
    """Accepts what its script lets through; ``gate`` holds every write back while it is closed."""

    name = "scripted"

    def __init__(self) -> None:
        self.written: list[Message] = []
        self.batches: list[list[Message]] = []
        self.connects = 0
        self.is_reachable = True
        self.failing_writes = 0
        self.confirm_before_failing: list[int] = []
        self.refuse: Callable[[Message], bool] = lambda _: False
        self.gate = threading.Event()
        self.gate.set()
        self.in_write = threading.Event()
        self.closes = 0

    def connect(self) -> None:
        self.connects += 1
        if not self.is_reachable:
            raise SinkUnavailable("nobody there")

    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        self.in_write.set()
        self.gate.wait(10)
        if self.confirm_before_failing:
            confirmed = self.confirm_before_failing.pop()
            self.written += messages[:confirmed]
            raise SinkUnavailable("cut off in the middle", confirmed)
        if self.failing_writes:
            self.failing_writes -= 1
            raise SinkUnavailable("cut off")
        self.batches.append(list(messages))
        self.written += [m for m in messages if not self.refuse(m)]
        return [Rejected("no") if self.refuse(m) else None for m in messages]

    def check(self) -> None:
        if not self.is_reachable:
            raise SinkUnavailable("gone")

    def close(self) -> None:
        self.closes += 1

    @property
    def events(self) -> list[int]:
        return [int(m.payload) for m in self.written if m.kind is Kind.DETECTIONS]


@pytest.fixture
def sink() -> ScriptedSink:
    return ScriptedSink()


@pytest.fixture
def publisher(sink: ScriptedSink) -> Iterator[Publisher]:
    made = Publisher(sink, spool(100, 10_000), AT_ONCE)
    yield made
    sink.gate.set()
    made.stop(5)


def test_events_arrive_in_order(sink: ScriptedSink, publisher: Publisher) -> None:
    for number in range(50):
        publisher.publish(event(number))
    publisher.start()
    wait_until(lambda: len(sink.events) == 50)
    assert sink.events == list(range(50))
    assert publisher.counts.delivered == publisher.counts.accepted == 50


def test_never_more_than_the_window_is_given_to_one_write(sink: ScriptedSink, publisher: Publisher) -> None:
    sink.most = 7
    for number in range(50):
        publisher.publish(event(number))
    publisher.start()
    wait_until(lambda: len(sink.events) == 50)
    assert max(map(len, sink.batches)) == 7


def test_a_failed_batch_is_written_again_before_what_came_later(sink: ScriptedSink, publisher: Publisher) -> None:
    sink.failing_writes = 3
    for number in range(30):
        publisher.publish(event(number))
    publisher.start()
    wait_until(lambda: len(sink.events) == 30)
    assert sink.events == list(range(30))
    assert sink.connects == 4


def test_what_is_known_to_have_arrived_is_not_written_again(sink: ScriptedSink, publisher: Publisher) -> None:
    sink.most = 10
    sink.confirm_before_failing = [4]
    for number in range(20):
        publisher.publish(event(number))
    publisher.start()
    wait_until(lambda: publisher.queued[0] == 0)
    assert sink.events == list(range(20))
    assert [int(m.payload) for m in sink.batches[0]] == list(range(4, 14))
    assert publisher.counts.delivered == 20


def test_the_oldest_events_go_first_and_are_counted(sink: ScriptedSink, publisher: Publisher) -> None:
    for number in range(130):
        publisher.publish(event(number))
    assert publisher.counts.dropped["buffer_full"] == 30
    publisher.start()
    wait_until(lambda: len(sink.events) == 100)
    assert sink.events == list(range(30, 130))


def test_bytes_are_bounded_too(sink: ScriptedSink, publisher: Publisher) -> None:
    for number in range(10, 20):
        publisher.publish(event(number, size=2498))
    assert publisher.queued == (4, 10_000)
    assert publisher.counts.dropped["buffer_full"] == 6


def test_the_bound_holds_while_a_batch_is_being_written_and_comes_back(sink: ScriptedSink, publisher: Publisher) -> None:
    sink.gate.clear()
    sink.most = 20
    sink.failing_writes = 1
    for number in range(100):
        publisher.publish(event(number))
    publisher.start()
    assert sink.in_write.wait(5)
    for number in range(100, 250):
        publisher.publish(event(number))
        assert publisher.queued[0] <= 120
    sink.gate.set()
    wait_until(lambda: publisher.queued[0] == 0)
    counts = publisher.counts
    assert counts.accepted == counts.delivered + counts.dropped.sum == 250
    assert sink.events == list(range(150, 250))


def test_state_goes_before_a_backlog(sink: ScriptedSink, publisher: Publisher) -> None:
    for number in range(60):
        publisher.publish(event(number))
    publisher.publish(health(1))
    publisher.start()
    wait_until(lambda: len(sink.events) == 60)
    assert sink.batches[0][0] == health(1)


def test_of_a_state_only_the_last_value_is_sent(sink: ScriptedSink, publisher: Publisher) -> None:
    for number in range(20):
        publisher.publish(health(number))
    publisher.start()
    wait_until(lambda: sink.written)
    assert sink.written == [health(19)]


def test_every_state_is_sent_again_on_each_connection(sink: ScriptedSink, publisher: Publisher) -> None:
    publisher.publish(STATUS_ONLINE)
    publisher.publish(health(1))
    publisher.start()
    wait_until(lambda: len(sink.written) == 2)
    sink.is_reachable = False
    wait_until(lambda: not publisher.connected)
    sink.is_reachable = True
    wait_until(lambda: len(sink.written) == 4)
    assert sink.written[2:] == [STATUS_ONLINE, health(1)]


def test_a_newer_state_is_not_overtaken_by_an_older_one_that_failed(sink: ScriptedSink, publisher: Publisher) -> None:
    sink.gate.clear()
    sink.failing_writes = 1
    publisher.publish(health(1))
    publisher.start()
    assert sink.in_write.wait(5)
    publisher.publish(health(2))
    sink.gate.set()
    wait_until(lambda: sink.written)
    assert health(1) not in sink.written
    assert sink.written[-1] == health(2)


def test_what_is_rejected_is_counted_and_not_tried_again(sink: ScriptedSink, publisher: Publisher) -> None:
    sink.refuse = lambda message: message.payload == b"3"
    for number in range(6):
        publisher.publish(event(number))
    publisher.start()
    wait_until(lambda: publisher.queued[0] == 0)
    assert sink.events == [0, 1, 2, 4, 5]
    assert publisher.counts.dropped["rejected"] == 1
    assert publisher.counts.delivered == 5


def test_an_unexpected_error_in_the_sink_ends_nothing(sink: ScriptedSink, publisher: Publisher, caplog: pytest.LogCaptureFixture) -> None:
    refuse_once = iter([True])

    def refuse(_: Message) -> bool:
        if next(refuse_once, False):
            raise RuntimeError("a defect")
        return False

    sink.refuse = refuse
    publisher.publish(event(1))
    publisher.start()
    wait_until(lambda: publisher.counts.delivered == 1)
    assert "a defect" in caplog.text


def test_stop_delivers_what_waits_and_then_says_offline(sink: ScriptedSink, publisher: Publisher) -> None:
    publisher.publish(STATUS_ONLINE)
    publisher.start()
    wait_until(lambda: sink.written)
    sink.gate.clear()
    for number in range(60):
        publisher.publish(event(number))
    threading.Timer(0.1, sink.gate.set).start()
    assert publisher.stop(5)
    assert sink.events == list(range(60))
    assert sink.written[-1] == STATUS_OFFLINE
    assert sink.closes >= 1


def test_stop_without_a_broker_is_prompt_and_counts_the_loss(sink: ScriptedSink, caplog: pytest.LogCaptureFixture) -> None:
    sink.is_reachable = False
    publisher = Publisher(sink, spool(100, 10_000), BackoffPolicy(first_s=1000, least_s=1000, cap_s=1000, stable_s=0))
    for number in range(9):
        publisher.publish(event(number))
    publisher.start()
    wait_until(lambda: publisher.error)
    assert publisher.stop(5)
    assert publisher.counts.dropped["shutdown"] == 9
    assert "events lost at shutdown" in caplog.text


def test_a_run_that_ended_by_itself_keeps_trying_until_it_is_connected(sink: ScriptedSink) -> None:
    sink.is_reachable = False
    publisher = Publisher(sink, spool(100, 10_000), AT_ONCE)
    for number in range(9):
        publisher.publish(event(number))
    publisher.start()
    wait_until(lambda: publisher.error)
    threading.Timer(0.2, lambda: setattr(sink, "is_reachable", True)).start()
    assert publisher.stop(10, keep_trying=True)
    assert sink.events == list(range(9))
    assert sink.written[-1] == STATUS_OFFLINE
    assert publisher.counts.dropped["shutdown"] == 0


def test_stop_is_bounded_when_the_sink_hangs(sink: ScriptedSink) -> None:
    publisher = Publisher(sink, spool(100, 10_000), AT_ONCE)
    sink.gate.clear()
    publisher.publish(event(1))
    publisher.start()
    assert sink.in_write.wait(5)
    assert not publisher.stop(0.1)
    assert publisher.counts.dropped["shutdown"] == 1
    sink.gate.set()


def test_stop_before_start_does_nothing_bad(sink: ScriptedSink) -> None:
    publisher = Publisher(sink, spool(100, 10_000), AT_ONCE)
    publisher.publish(event(1))
    assert publisher.stop(0.1)
    assert publisher.counts.dropped["shutdown"] == 1


def test_events_that_linger_go_together_and_state_does_not_wait_for_them(sink: ScriptedSink) -> None:
    publisher = Publisher(sink, spool(1000, 100_000), AT_ONCE, linger_s=3600)
    publisher.start()
    wait_until(lambda: publisher.connected)
    for number in range(sink.most - 1):
        publisher.publish(event(number))
    assert sink.written == []
    publisher.publish(event(sink.most - 1))
    wait_until(lambda: len(sink.events) == sink.most)
    assert [len(batch) for batch in sink.batches] == [sink.most]
    publisher.publish(event(sink.most))
    publisher.publish(health(1))
    wait_until(lambda: len(sink.events) == sink.most + 1)
    publisher.publish(event(sink.most + 1))
    assert publisher.stop(5)
    assert sink.events == list(range(sink.most + 2))


def test_a_full_buffer_does_not_linger(sink: ScriptedSink) -> None:
    publisher = Publisher(sink, spool(1000, 10_000), AT_ONCE, linger_s=3600)
    publisher.start()
    wait_until(lambda: publisher.connected)
    for number in range(6):
        publisher.publish(event(number, 1000))
    wait_until(lambda: len(sink.events) >= 5)
    publisher.stop(5)
    assert sink.events == list(range(6))
    assert not publisher.counts.dropped


def test_what_passes_goes_after_state_and_before_events(sink: ScriptedSink, publisher: Publisher) -> None:
    sink.gate.clear()
    publisher.publish(health(1))
    publisher.start()
    assert sink.in_write.wait(5)
    for number in range(30):
        publisher.publish(event(number))
    publisher.publish(answer(1))
    publisher.publish(health(2))
    sink.gate.set()
    wait_until(lambda: len(sink.events) == 30)
    assert sink.batches[1][:3] == [health(2), answer(1), event(0)]
    assert publisher.counts.passing_delivered == 1


def test_what_passes_is_dropped_and_counted_without_a_connection(sink: ScriptedSink, publisher: Publisher) -> None:
    publisher.publish(answer(1))
    publisher.start()
    wait_until(lambda: publisher.connected)
    sink.gate.clear()
    sink.failing_writes = 1
    publisher.publish(answer(2))
    assert sink.in_write.wait(5)
    publisher.publish(answer(3))
    sink.gate.set()
    wait_until(lambda: publisher.counts.connections == 2)
    publisher.publish(answer(4))
    wait_until(lambda: sink.written)
    assert sink.written == [answer(4)]
    assert publisher.counts.passing_dropped == {"not_connected": 3}


def test_what_passes_is_bounded(sink: ScriptedSink, publisher: Publisher) -> None:
    sink.gate.clear()
    publisher.publish(health(1))
    publisher.start()
    assert sink.in_write.wait(5)
    for number in range(100):
        publisher.publish(answer(number))
    sink.gate.set()
    wait_until(lambda: publisher.counts.passing_delivered == 64)
    assert sink.written[-1] == answer(99)
    assert publisher.counts.passing_dropped == {"buffer_full": 36}
