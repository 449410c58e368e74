"""The closed loop on a simulated clock: cameras, lanes and the time between, thousands of scenarios, nothing of it left to chance.

The scheduler, the slots and the captures are the real ones; what is simulated is when frames come and how long inferences take.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.capture import MOST_WAITING, Capture
from edge_agent.frame import Frame
from edge_agent.image import BgrImage
from edge_agent.scheduler import RECENT, Job, Scheduler
from edge_agent.sources.base import Reading, Source, StreamInfo
from tests.conftest import make_config

PIXEL = BgrImage(np.zeros((1, 1, 3), np.uint8))
START = 1000.0


class NoSource(Source):
    """The simulation puts frames into the slots itself."""

    live = True
    wanted_at = 0.0

    def skip_until(self, at: float, cheaper_by: float = 0.0) -> None:
        self.wanted_at = at

    def open(self) -> StreamInfo:
        raise NotImplementedError

    def read(self) -> Reading:
        raise NotImplementedError

    def close(self) -> None:
        pass


@dataclass
class Feed:
    """One simulated camera."""

    arrivals: Iterator[float]
    """Times of its frames, rising."""
    service_s: Callable[[float], float]
    """How long a frame that is taken then occupies a lane."""
    keys: dict[str, object] = field(default_factory=dict)
    obeys: bool = False
    """Whether it leaves out what it is told that nobody is going to take."""


@dataclass
class Outcome:
    """What became of one camera's frames."""

    taken: list[Job] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)


class World:
    """Discrete events: a frame arrives, a lane becomes free, a time comes that a camera was due at."""

    def __init__(self, feeds: list[Feed], lanes: int = 1) -> None:
        self.now = START
        self.feeds = feeds
        wake = threading.Condition()
        tables = [{"id": f"c{i}", "source": "synthetic", **feed.keys} for i, feed in enumerate(feeds)]
        cameras = make_config({"cameras": tables}).cameras
        self.captures = [Capture(camera, NoSource(), wake) for camera in cameras]
        for capture in self.captures:
            capture.slot._clock = lambda: self.now
        self.scheduler = Scheduler(self.captures, wake, lambda: self.now)
        self.outcomes = [Outcome() for _ in feeds]
        self._wake = wake
        self._free = set(range(lanes))
        self._events: list[tuple[float, bool, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for index in range(len(feeds)):
            self._next_arrival(index)

    def run(self, seconds: float) -> list[Outcome]:
        until = START + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, _, happen = heapq.heappop(self._events)
            happen()
            self._serve()
        return self.outcomes

    def at(self, when: float, happen: Callable[[], None], *, first: bool = False) -> None:
        heapq.heappush(self._events, (max(when, self.now), not first, next(self._order), happen))

    def _next_arrival(self, index: int) -> None:
        when = next(self.feeds[index].arrivals, None)
        if when is not None:
            self.at(when, lambda: self._arrive(index), first=True)  # of what happens at one time

    def _arrive(self, index: int) -> None:
        capture, outcome = self.captures[index], self.outcomes[index]
        with self._wake:
            capture.captured_rate.tick(self.now)
            if outcome.arrived:
                capture._asking.rhythm.note(self.now - outcome.arrived[-1])
            if self.feeds[index].obeys and self.now < capture.source.wanted_at:  # type: ignore[attr-defined]
                capture.slot.pass_by("not_decoded")
                capture._asking.hint(self.now)  # as for each that arrives
            else:
                capture.slot.put(Frame(capture.camera.id, len(outcome.arrived), PIXEL, self.now, 0.0))
        outcome.arrived.append(self.now)
        self._next_arrival(index)

    def _serve(self) -> None:
        for lane in sorted(self._free):
            job = self.scheduler.take(0.0, lane=lane)
            if job is None:
                with self._wake:
                    wakes = [due for c in self.captures if (due := c.ready_at(self.now)) is not None]
                    wakes += [self.scheduler._lanes[lane].rests_until] if wakes else []
                if wakes and (later := max(min(wakes), self.scheduler._lanes[lane].rests_until)) > self.now:
                    self.at(later, lambda: None)
                continue
            index = int(job.frame.camera[1:])
            self.outcomes[index].taken.append(job)
            self._free.discard(lane)
            self.at(self.now + self.feeds[index].service_s(self.now), lambda lane=lane, job=job: self._done(lane, job))  # type: ignore[misc]

    def _done(self, lane: int, job: Job) -> None:
        job.capture.served()
        self._free.add(lane)


def steady(fps: float, jitter: Iterator[float] | None = None) -> Iterator[float]:
    """Frames at a rate, each late by what ``jitter`` says, in intervals."""
    latest = START
    for number in itertools.count():
        latest = max(latest, START + (number + (next(jitter) if jitter else 0.0)) / fps)
        yield latest


def best_possible(arrivals: list[float], service_s: float, until: float) -> int:
    """How many frames a model of one lane could serve that always takes the newest one as soon as it is free."""
    served, free = 0, 0.0
    for index, arrival in enumerate(arrivals):
        following = arrivals[index + 1] if index + 1 < len(arrivals) else float("inf")
        begin = max(arrival, free)
        if begin < following and begin <= until:
            served, free = served + 1, begin + service_s
    return served


fps_values = st.floats(0.5, 120)
service_values = st.floats(0.0005, 1.0)


@settings(max_examples=400, deadline=None)
@given(fps_values, service_values, st.lists(st.floats(0, 0.9), min_size=1, max_size=40))
def test_one_camera_is_served_as_often_as_its_arrivals_and_the_model_allow(fps: float, service_s: float, jitter: list[float]) -> None:
    seconds = 40 * max(1 / fps, service_s)
    (outcome,) = World([Feed(steady(fps, itertools.cycle(jitter)), lambda _: service_s)]).run(seconds)
    assert len(outcome.taken) >= best_possible(outcome.arrived, service_s, START + seconds) - 1
    for job in outcome.taken:
        newest = max(arrival for arrival in outcome.arrived if arrival <= job.taken_at)
        assert job.frame.captured_at == newest or job.taken_at - job.frame.captured_at <= 1.1 / fps, "the freshest, or as good as that"


@settings(max_examples=300, deadline=None)
@given(
    st.floats(3, 60),
    st.floats(0.2, 20),
    st.lists(st.floats(0, 0.2), min_size=1, max_size=20),
    st.lists(st.floats(0.97, 1.03), min_size=1, max_size=9),
)
def test_frames_that_are_left_out_by_the_hints_cost_hardly_a_frame_served(
    fps: float, intervals: float, jitter: list[float], wobble: list[float]
) -> None:
    """The model's time in intervals of the camera; both uneven.

    Decoded: what comes in the interval before the model is free, whose both ends may count, and in the time that is uncertain.
    """
    factors = itertools.cycle(wobble)
    usual = intervals / fps
    seconds = 60 * max(1, intervals) / fps
    feed = Feed(steady(fps, itertools.cycle(jitter)), lambda _: usual * next(factors), obeys=True)
    world = World([feed])
    (outcome,) = world.run(seconds)
    possible = min(fps, 1 / (usual * sum(wobble) / len(wobble)))
    assert len(outcome.taken) >= 0.93 * possible * seconds - 3
    counts = world.captures[0].snapshot()
    decoded = counts.captured - counts.skipped["not_decoded"]
    assert decoded <= (2.1 + 0.1 * intervals) * len(outcome.taken) + 12
    ages = sorted(job.taken_at - job.frame.captured_at for job in outcome.taken)
    assert ages[int(len(ages) * 0.95)] <= 1.25 / fps + 0.001


@pytest.mark.parametrize("intervals", [1.5, 2.4, 3.3, 5.7, 6.5, 11.2])
def test_of_a_steady_camera_hardly_a_frame_is_decoded_that_is_not_served(intervals: float) -> None:
    jitter = itertools.cycle([0.0, 0.02, 0.01, 0.03, 0.0, 0.01, 0.02])
    world = World([Feed(steady(30, jitter), lambda _: intervals / 30, obeys=True)])
    (outcome,) = world.run(60.0)
    counts = world.captures[0].snapshot()
    assert (counts.captured - counts.skipped["not_decoded"]) / len(outcome.taken) <= 1.2
    assert len(outcome.taken) >= 0.97 * 60 * 30 / intervals


bursts = st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 8)), min_size=1, max_size=20)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 4), st.floats(0.02, 1.0), st.floats(0.05, 0.9))
def test_frames_that_come_together_are_all_served_where_the_model_has_the_time(count: int, pause_s: float, share: float) -> None:
    """``share``: of a frame's mean interval, that the model needs for it."""
    arrivals = (START + pause_s * burst + 0.001 * pause_s * number for burst in itertools.count() for number in range(count))
    service_s = share * pause_s / count
    begin = START + max(1.2, 5 * pause_s)  # by when the camera's rate is known
    (outcome,) = World([Feed(arrivals, lambda _: service_s)]).run(begin - START + 40 * pause_s)
    settled = len([arrival for arrival in outcome.arrived if arrival > begin])
    served = len([job for job in outcome.taken if job.taken_at > begin])
    fits = min(count, max(1, int(1 / (share * 1.05))) + 1)  # one is with the model
    assert served >= settled * min(1.0, fits / count) * 0.97 - 3
    ages = [job.taken_at - job.frame.captured_at for job in outcome.taken]
    assert max(ages) <= pause_s / count * 1.1 + service_s
    assert [job.frame.frame_id for job in outcome.taken] == sorted(job.frame.frame_id for job in outcome.taken)


@settings(max_examples=300, deadline=None)
@given(bursts, st.lists(st.floats(0.001, 0.5), min_size=1, max_size=10), st.integers(1, 4))
def test_every_frame_is_accounted_for_whatever_comes_when(pauses: list[tuple[float, int]], services: list[float], lanes: int) -> None:
    def arrivals() -> Iterator[float]:
        now = START
        for pause, count in itertools.islice(itertools.cycle(pauses), 60):
            now += pause
            yield from [now] * count

    durations = itertools.cycle(services)
    world = World([Feed(arrivals(), lambda _: next(durations)), Feed(steady(25), lambda _: next(durations), {"max_fps": 3})], lanes)
    outcomes = world.run(8.0)
    for capture, outcome in zip(world.captures, outcomes, strict=True):
        counts = capture.snapshot()
        assert counts.captured == len(outcome.arrived) == counts.served + counts.skipped.sum + counts.dropped.sum + counts.in_flight
        assert 0 <= counts.in_flight <= lanes + MOST_WAITING
        assert [job.ticket for job in outcome.taken] == list(range(len(outcome.taken)))
        ages = [job.taken_at - job.frame.captured_at for job in outcome.taken]
        assert min(ages, default=0.0) >= 0
    beat = [job.taken_at for job in outcomes[1].taken]
    assert len(beat) <= 3 * 8.0 + 2, "max_fps holds"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=6),
    st.floats(0.01, 0.2),
    st.booleans(),
)
def test_cameras_share_a_busy_model_by_their_weights(weights: list[float], service_s: float, obeys: bool) -> None:
    """Also where the sources leave out what they are told nobody will take: who has the more turns is to be told so."""
    fps = 3 / service_s  # each alone could keep the model busy
    feeds = [Feed(steady(fps), lambda _: service_s, {"weight": weight}, obeys) for weight in weights]
    seconds = 100 * service_s * len(weights)
    outcomes = World(feeds).run(seconds)
    total = sum(len(outcome.taken) for outcome in outcomes)
    assert total >= 0.97 * seconds / service_s - 1
    for outcome, weight in zip(outcomes, weights, strict=True):
        assert len(outcome.taken) == pytest.approx(total * weight / sum(weights), abs=3 + (0.1 if obeys else 0.02) * total)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.floats(0.005, 0.1), st.sampled_from(["dead", "burst", "slow"]))
def test_a_dead_a_bursty_or_a_slow_camera_takes_nothing_from_the_others(others: int, service_s: float, kind: str) -> None:
    odd = {
        "dead": iter([START]),
        "burst": (START + 0.5 * (n // 100) + 0.0001 * (n % 100) for n in itertools.count()),
        "slow": steady(0.5),
    }[kind]
    fps = 3 / service_s
    feeds = [Feed(odd, lambda _: service_s), *(Feed(steady(fps), lambda _: service_s) for _ in range(others))]
    seconds = 60 * service_s * (others + 1)
    outcomes = World(feeds).run(seconds)
    fair = seconds / service_s / (others + 1)
    served = [len(outcome.taken) for outcome in outcomes[1:]]
    assert min(served) >= 0.97 * fair - 2
    assert max(served) - min(served) <= 2


@settings(max_examples=100, deadline=None)
@given(st.floats(5, 60), st.floats(0.02, 0.4), st.floats(10, 400))
def test_nothing_older_than_its_staleness_is_served(fps: float, service_s: float, staleness_ms: float) -> None:
    world = World([Feed(steady(fps), lambda _: service_s, {"staleness_ms": staleness_ms})])
    (outcome,) = world.run(8.0)
    assert all(job.taken_at - job.frame.captured_at <= staleness_ms / 1e3 for job in outcome.taken)
    counts = world.captures[0].snapshot()
    assert counts.captured == counts.served + counts.skipped.sum + counts.in_flight
    # Where a frame that is skipped for its age was the newest, the next one is served as soon as it comes.
    assert len(outcome.taken) >= 8.0 / (service_s + 1 / fps) * 0.95 - 2


@settings(max_examples=100, deadline=None)
@given(st.floats(1, 60), st.floats(0.3, 5), st.floats(0.001, 0.2))
def test_an_interval_is_kept_on_the_average_and_never_cut_short_by_more_than_a_beat(
    fps: float, interval_s: float, service_s: float
) -> None:
    (outcome,) = World([Feed(steady(fps), lambda _: service_s, {"interval_s": interval_s})]).run(20.0)
    longest = max(interval_s, 1 / fps, service_s)
    assert len(outcome.taken) <= 20.0 / interval_s + 2
    assert len(outcome.taken) >= 20.0 / (longest + 1 / fps) * 0.95 - 2


@settings(max_examples=100, deadline=None)
@given(st.floats(0.05, 1.0), st.floats(0.01, 0.2), st.integers(1, 3))
def test_a_share_of_the_time_is_kept_to(share: float, service_s: float, lanes: int) -> None:
    world = World([Feed(steady(3 * lanes / service_s), lambda _: service_s)], lanes)
    world.scheduler.slow_down(share, "heat")
    seconds = 100 * service_s / share
    (outcome,) = world.run(seconds)
    busy = len(outcome.taken) * service_s / (seconds * lanes)
    assert share * 0.9 - 0.02 <= busy <= share + 0.03


def test_a_frame_that_is_given_back_costs_no_turn_and_tells_nothing_of_the_models_time() -> None:
    world = World([Feed(steady(50), lambda _: 0.1), Feed(steady(50), lambda _: 0.1)])
    world.run(5.0)
    before, usual = len(world.outcomes[0].taken), world.scheduler.service_s("c0")
    done = world._done

    def given_back(lane: int, job: Job) -> None:
        if job.frame.camera == "c1":
            world.scheduler.refund(job, lane=lane)
        done(lane, job)

    world._done = given_back  # type: ignore[method-assign]
    world.feeds[1].service_s = lambda _: 0.001
    world.run(10.0)
    assert world.scheduler.service_s("c0") == usual
    assert world.scheduler.service_s("c1") == pytest.approx(0.1, abs=0.01), "nothing is known of what was not inferred"
    assert len(world.outcomes[0].taken) - before >= 25, "the camera that is inferred keeps its turns"


def test_frames_that_are_given_back_keep_to_the_share_too() -> None:
    world = World([Feed(steady(100), lambda _: 0.05)])
    world.scheduler.slow_down(0.1)
    done = world._done

    def given_back(lane: int, job: Job) -> None:
        world.scheduler.refund(job, lane=lane)
        done(lane, job)

    world._done = given_back  # type: ignore[method-assign]
    (outcome,) = world.run(20.0)
    assert len(outcome.taken) * 0.05 <= 0.12 * 20.0


def test_a_camera_that_is_held_is_passed_over_until_it_is_released() -> None:
    world = World([Feed(steady(100), lambda _: 0.01), Feed(steady(100), lambda _: 0.01)])
    world.scheduler.hold("c0", held=True)
    held, other = world.run(2.0)
    assert not held.taken
    assert len(other.taken) > 150
    world.scheduler.hold("c0", held=False)
    world.run(4.0)
    assert len(held.taken) > 50


def test_of_several_causes_the_least_share_holds() -> None:
    scheduler = World([Feed(iter([]), lambda _: 0.1)]).scheduler
    scheduler.slow_down(0.5, "heat")
    scheduler.slow_down(0.3, "budget")
    assert scheduler.share == 0.3
    scheduler.slow_down(1.0, "budget")
    assert scheduler.share == 0.5
    with pytest.raises(ValueError, match="share"):
        scheduler.slow_down(0.0)


@settings(max_examples=100, deadline=None)
@given(st.floats(0.005, 0.05), st.floats(0.005, 0.3))
def test_a_step_of_the_service_time_is_believed_within_a_few_frames(before_s: float, after_s: float) -> None:
    world = World([Feed(steady(100), lambda now: before_s if now < START + 5 else after_s)])
    (outcome,) = world.run(5 + 2 * RECENT * max(after_s, 0.02))
    assert world.scheduler.service_s("c0") == pytest.approx(after_s, abs=1e-6)
    after = [job for job in outcome.taken if job.taken_at > START + 5 + before_s]
    assert all(job.taken_at - job.frame.captured_at <= 0.01 + 1e-9 for job in after), "no burst of stale frames"


@pytest.mark.parametrize("fps", [0.001, 1000.0])
def test_absurd_rates_and_a_model_a_hundred_times_too_slow_break_nothing(fps: float) -> None:
    (outcome,) = World([Feed(steady(fps), lambda _: 100 / fps)]).run(400 / fps)
    assert len(outcome.taken) >= 3


def test_of_cameras_whose_turn_it_is_the_one_whose_frame_expires_first_goes_first() -> None:
    world = World(
        [Feed(iter([START]), lambda _: 0.1, {"staleness_ms": 900}), Feed(iter([START + 0.01]), lambda _: 0.1, {"staleness_ms": 200})]
    )
    world._free.clear()  # the model is busy until both wait
    world.at(START + 0.05, lambda: world._free.add(0))
    first, second = world.run(1.0)
    assert second.taken[0].taken_at < first.taken[0].taken_at
