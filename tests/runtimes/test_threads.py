"""How many threads one inference gets: the rule, what is measured, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import ModelError
from edge_agent.models import _loading, _threads
from edge_agent.models._threads import Subject
from edge_agent.runtimes import onnx
from edge_agent.runtimes.base import GraphSpec, Runtime, RuntimeContext, Tensor, TensorSpec
from tests.conftest import MODEL, make_config

SPEC = TensorSpec("picture", (1, 3, 8, 8), np.dtype("float32"))


class Slow(Runtime):
    """Takes as long as it is told."""

    can_spin = True

    def __init__(self, ms: float, machine: Machine) -> None:
        self.spec = GraphSpec((SPEC,), (SPEC,), machine.runtime, machine.accelerator, "float32")
        self.ms, self._machine = ms, machine

    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        self._machine.now += self.ms / 1e3
        return [tensor]


class Machine:
    """Opens models whose inferences take ``ms[threads, spin]``, and notes which it opened."""

    def __init__(self, ms: dict[tuple[int, bool], float], runtime: str = "ONNX Runtime 1", accelerator: str = "CPUExecutionProvider"):
        self.ms, self.runtime, self.accelerator = ms, runtime, accelerator
        self.opened: list[tuple[int, bool]] = []
        self.now = 0.0

    def open(self, threads: int, spin: bool) -> Runtime:
        self.opened.append((threads, spin))
        if (threads, spin) not in self.ms:
            raise ModelError("no memory left")
        return Slow(self.ms[threads, spin], self)

    def choose(self, folder: Path, what: Subject | None = None) -> tuple[Runtime, _threads.Choice]:
        return _threads.opened(self.open, what or subject(), folder, lambda: self.now)


def subject(cores: int = 4) -> Subject:
    return Subject("abc", None, cores, 0)


@pytest.mark.parametrize("cores", [1, 2])
def test_on_one_or_two_cores_nothing_is_measured_or_kept(tmp_path: Path, cores: int) -> None:
    machine = Machine({(1, False): 50})
    _, choice = machine.choose(tmp_path, subject(cores))
    assert (choice.threads, choice.spin, machine.opened) == (1, False, [(1, False)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        ({(1, False): 4, (2, False): 8, (3, False): 12, (3, True): 1}, (1, False)),  # cores are contended
        ({(1, False): 8, (2, False): 4, (3, False): 4, (2, True): 4}, (2, False)),
        ({(1, False): 8, (2, False): 5, (3, False): 3, (3, True): 2}, (3, True)),
        ({(1, False): 8, (2, False): 4}, (2, False)),  # the third cannot be loaded
    ],
)
def test_a_thread_more_is_taken_while_it_gains(tmp_path: Path, ms: dict[tuple[int, bool], float], expected: tuple[int, bool]) -> None:
    runtime, choice = Machine(ms).choose(tmp_path)
    assert (choice.threads, choice.spin) == expected, choice.why
    assert isinstance(runtime, Slow)
    assert runtime.ms == ms[expected]


def test_the_answer_is_kept_for_this_file_and_library(tmp_path: Path) -> None:
    ms = {(1, False): 6.0, (2, False): 3.0, (3, False): 6.0, (2, True): 3.0}
    _, first = Machine(ms).choose(tmp_path)
    again = Machine(ms)
    assert again.choose(tmp_path)[1] == first
    assert again.opened == [(2, False)]
    updated = Machine(ms, "ONNX Runtime 2")
    updated.choose(tmp_path)
    assert len(updated.opened) > 2
    other = Machine(ms)
    other.choose(tmp_path, Subject("def", None, 4, 0))
    assert len(other.opened) > 1


@pytest.mark.parametrize(
    "text", ["", "[]", '{"KEY": 1}', '{"KEY": {"threads": 900, "spin": false, "why": "", "runtime": "ONNX Runtime 1"}}']
)
def test_a_file_that_was_tampered_with_is_measured_again(tmp_path: Path, text: str) -> None:
    (tmp_path / _threads.FILE).write_text(text.replace("KEY", subject().key))
    _, choice = Machine({(1, False): 1, (2, False): 3}).choose(tmp_path)
    assert choice.threads == 1
    assert json.loads((tmp_path / _threads.FILE).read_text())[subject().key]["threads"] == 1


def test_only_so_many_answers_are_kept(tmp_path: Path) -> None:
    for index in range(20):
        _threads.keep_choice(tmp_path, f"key {index}", _threads.Choice(1, False, ""), "x")
    kept = json.loads((tmp_path / _threads.FILE).read_text())
    assert list(kept)[-1] == "key 19"
    assert len(kept) == 16


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_answer(tmp_path: Path) -> None:
    _, choice = Machine({(1, False): 1, (2, False): 3}).choose(tmp_path / "missing")
    assert choice.threads == 1


def test_an_accelerator_is_not_measured(tmp_path: Path) -> None:
    machine = Machine({(1, False): 1, (2, False): 1}, accelerator="CUDAExecutionProvider")
    _, choice = machine.choose(tmp_path)
    assert machine.opened == [(1, False)]
    assert "CUDA" in choice.why


def test_a_slow_model_does_not_hold_the_start_up(tmp_path: Path) -> None:
    machine = Machine({(1, False): 900, (2, False): 300, (3, False): 100})
    _, choice = machine.choose(tmp_path)
    assert machine.now < _threads.LONGEST_S + 2.5  # one round more than fits
    assert choice.threads == 1
    assert choice.why.endswith("time was up")


def test_the_real_library_is_measured_beside_busy_threads(assets: Path, tmp_path: Path) -> None:
    path = assets / "ship" / "models" / "ped_int8.onnx"
    runtime, choice = _threads.opened(
        lambda threads, spin: onnx.build(RuntimeContext(path, threads, spin=spin), onnx.Config()), Subject("abc", None, 3, 1), tmp_path
    )
    assert choice.threads in {1, 2}
    assert "1 busy beside: 1 thread " in choice.why
    assert runtime.infer(_threads.blank(runtime))


@pytest.mark.tflite
@pytest.mark.parametrize(("model", "expected"), [({"threads": 3}, "threads=3 "), ({"lanes": 2}, "threads=1 ")])
def test_what_was_chosen_and_why_is_logged(caplog: pytest.LogCaptureFixture, model: dict[str, int], expected: str) -> None:
    config = make_config({"model": {"path": str(MODEL), **model}, "cameras": [{"id": "x", "source": "synthetic"}]})
    with caplog.at_level("INFO"):
        _loading.load(config)
    assert expected in caplog.text
    assert ("because='configured'" if "threads" in model else "because='one for each lane'") in caplog.text
