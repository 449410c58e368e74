"""Inferences side by side: what is measured, when it is believed, and what is kept of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edge_agent.errors import ModelError
from edge_agent.models import _lanes, _loading
from edge_agent.models._threads import FILE, LONGEST_S, Choice, Subject
from edge_agent.runtimes import onnx
from edge_agent.runtimes.base import Runtime, RuntimeContext
from tests.conftest import MODEL, make_config
from tests.models.files import write
from tests.runtimes.test_threads import Machine, Slow


class Bench:
    """A machine whose rates are given by lanes and threads."""

    def __init__(self, rates: dict[tuple[int, int], float], noise: Callable[[], float] = lambda: 1.0) -> None:
        self.rates, self.noise = rates, noise
        self.machine = Machine({(threads, False): float(threads) for _, threads in rates} | {(1, False): 1.0})
        self.measured = 0
        self.took_s = 0.1

    def rate(self, runtimes: Sequence[Runtime], _seconds: float) -> float:
        first = runtimes[0]
        assert isinstance(first, Slow)
        self.measured += 1
        self.machine.now += self.took_s
        return self.rates[len(runtimes), int(first.ms)] * self.noise()

    def choose(self, folder: Path | None, cores: int = 4, by_rule: int = 1) -> Choice:
        what = Subject("abc", None, cores, 0, "throughput")
        runtimes, choice = _lanes.opened(self.machine.open, what, folder, by_rule, rate=self.rate, clock=lambda: self.machine.now)
        assert len(runtimes) == choice.lanes
        assert {int(runtime.ms) for runtime in runtimes if isinstance(runtime, Slow)} == {choice.threads}
        return choice


@pytest.mark.parametrize(
    ("rates", "cores", "expected"),
    [
        ({(1, 1): 10, (2, 1): 20, (3, 1): 30, (4, 1): 40, (1, 4): 25}, 4, (4, 1)),
        ({(1, 1): 10, (2, 1): 19, (3, 1): 19.5, (1, 4): 18}, 4, (2, 1)),  # the caches are the limit
        ({(1, 1): 10, (2, 1): 10.5, (1, 4): 20}, 4, (1, 4)),
        ({(1, 1): 10, (2, 1): 10, (1, 2): 9}, 2, (1, 1)),
        ({(1, 1): 10, (2, 1): 20, (1, 2): 12}, 2, (2, 1)),
        ({(1, 1): 10}, 1, (1, 1)),
    ],
)
def test_what_does_most_is_taken_and_kept(
    tmp_path: Path, rates: dict[tuple[int, int], float], cores: int, expected: tuple[int, int]
) -> None:
    bench = Bench(rates)
    choice = bench.choose(tmp_path, cores)
    assert (choice.lanes, choice.threads) == expected, choice.why
    measured = bench.measured
    assert (bench.choose(tmp_path, cores).lanes, bench.choose(tmp_path, cores).threads) == expected
    assert bench.measured == measured, "measured once"


def test_on_a_machine_that_is_busy_with_something_else_the_rule_holds_and_nothing_is_kept(tmp_path: Path) -> None:
    noise = itertools.cycle([1.0, 0.3, 0.6, 0.9])
    bench = Bench({(lanes, 1): 10.0 * lanes for lanes in (1, 2, 3, 4)} | {(1, 4): 25}, lambda: next(noise))
    choice = bench.choose(tmp_path, by_rule=3)
    assert (choice.lanes, choice.threads) == (3, 1)
    assert "busy" in choice.why
    assert not (tmp_path / FILE).exists()


def test_a_slow_model_is_not_measured_for_ever(tmp_path: Path) -> None:
    bench = Bench({(1, 1): 1, (2, 1): 2})
    bench.took_s = LONGEST_S
    choice = bench.choose(tmp_path, by_rule=2)
    assert (choice.lanes, choice.threads) == (2, 1)
    assert "no time" in choice.why
    assert bench.machine.now <= 2 * LONGEST_S


def test_where_a_further_one_cannot_be_loaded_those_that_can_be_are_used(tmp_path: Path) -> None:
    bench = Bench({(1, 1): 10, (2, 1): 20})
    opened = bench.machine.open
    loads = itertools.count()

    def scarce(threads: int, spin: bool) -> Runtime:
        if next(loads) >= 2:
            raise ModelError("no memory left")
        return opened(threads, spin)

    bench.machine.open = scarce  # type: ignore[method-assign]
    choice = bench.choose(None)
    assert (choice.lanes, choice.threads) == (2, 1)
    assert "no memory left" in choice.why


def test_an_accelerator_gets_two_lanes_unmeasured(tmp_path: Path) -> None:
    bench = Bench({(1, 1): 1})
    bench.machine.accelerator = "CUDAExecutionProvider"
    assert bench.choose(tmp_path).lanes == 2
    assert bench.measured == 0


def test_real_inferences_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "tiny.onnx")
    runtimes = [onnx.build(RuntimeContext(path, 1), onnx.Config()) for _ in range(2)]
    assert _lanes.inferences_per_second(runtimes, 0.02) > 0


@pytest.mark.parametrize(
    ("cameras", "measured"),
    [([{"source": "synthetic"}], False), ([{"source": "synthetic"}, {"source": "synthetic"}], True)],
)
def test_one_live_camera_is_served_for_latency_and_several_for_throughput(
    monkeypatch: pytest.MonkeyPatch, cameras: list[dict[str, str]], measured: bool
) -> None:
    asked: list[str] = []

    def noted(opener: Callable[[int, bool], Runtime], subject: Subject, *_: object, **__: object) -> tuple[list[Runtime], Choice]:
        asked.append(subject.purpose)
        return [opener(1, False)], Choice(1, False, "")

    monkeypatch.setattr(_lanes, "opened", noted)
    config = make_config({"model": {"path": str(MODEL)}, "cameras": [{"id": f"c{i}", **camera} for i, camera in enumerate(cameras)]})
    _loading.load(config)
    assert asked == (["throughput"] if measured else [])
