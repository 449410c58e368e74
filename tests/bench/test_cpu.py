"""CPU seconds, by what threads are for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.bench import cpu
from edge_agent.errors import ModelError
from edge_agent.runtimes.base import Runtime, Tensor


def burn(seconds: float) -> None:
    """So much of this thread's own CPU time, whatever else the machine does."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_what_a_thread_used_is_counted_by_its_name() -> None:
    meter = cpu.CpuMeter()
    gate = threading.Event()

    def work() -> None:
        burn(0.2)
        gate.wait(10)

    thread = threading.Thread(target=work, name="lane-0")
    thread.start()
    while meter.used[cpu.LANES] < 0.19:
        meter.sample()
        time.sleep(0.01)
    gate.set()
    thread.join()
    assert meter.used[cpu.LANES] < 0.35
    assert meter.used[cpu.CAPTURE] < 0.05


def test_another_process_is_counted_from_when_it_is_known() -> None:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        meter = cpu.CpuMeter()
        while meter.used[cpu.CAPTURE] < 0.05:
            meter.sample([process.pid])
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert cpu.process_time(process.pid) == 0.0


@pytest.mark.parametrize(
    ("name", "kernel_name", "expected"),
    [
        ("capture-front", "python", cpu.CAPTURE), ("capture-front-2", "python", cpu.CAPTURE), ("lane-1", "python", cpu.LANES),
        ("publisher", "python", cpu.PUBLISH), ("health", "python", cpu.HEALTH), ("agent", "python", cpu.OTHER),
        (None, "av:h264:df0", cpu.CAPTURE), (None, "python", cpu.INFER),
    ],
)  # fmt: skip
def test_a_thread_is_for_what_its_name_says(name: str | None, kernel_name: str, expected: str) -> None:
    assert cpu.purpose(name, kernel_name, "python") == expected


def test_without_the_schedulers_account_ticks_are_taken(tmp_path: Path) -> None:
    task = tmp_path / "proc/self/task/77"
    task.mkdir(parents=True)
    (task / "comm").write_text("a b) c\n")
    (task / "stat").write_text("77 (a b) c) S " + " ".join(["0"] * 10) + " 150 50 " + " ".join(["0"] * 30))
    assert cpu.thread_times(tmp_path) == {77: ("a b) c", 200 / os.sysconf("SC_CLK_TCK"))}
    (task / "schedstat").write_text("1500000000 7 9\n")
    assert cpu.thread_times(tmp_path)[77][1] == 1.5


def test_what_the_whole_machine_used_is_that_of_the_cores_that_are_ours(tmp_path: Path) -> None:
    mine = min(os.sched_getaffinity(0))
    (tmp_path / "proc").mkdir()
    rows = ["cpu 9 9 9 9 9 9 9 9", f"cpu{mine} 100 10 20 5000 70 1 2 3 50 50", "cpu4096 9 9 9 9 9 9 9 9", "intr 7"]
    (tmp_path / "proc/stat").write_text("\n".join(rows))
    assert cpu.machine_time(tmp_path) == pytest.approx(136 / os.sysconf("SC_CLK_TCK"))
    assert cpu.machine_time(tmp_path / "none") == 0.0
    before = cpu.machine_time()
    burn(0.2)
    assert cpu.machine_time() - before >= 0.15


def test_a_machine_without_proc_tells_nothing(tmp_path: Path) -> None:
    meter = cpu.CpuMeter(tmp_path)
    meter.sample([1])
    assert sum(meter.used.values()) == 0


class Burning(Runtime):
    """Takes so much CPU time, then fails if it is to."""

    def __init__(self, seconds: float, *, fails: bool = False) -> None:
        self._seconds, self._fails = seconds, fails

    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        burn(self._seconds)
        time.sleep(0.05)  # a device works meanwhile: that is no CPU time
        if self._fails:
            raise ModelError("no")
        return [tensor]


def test_inference_is_measured_by_cpu_time_of_each_runtime_also_where_it_fails() -> None:
    meter, tensor = cpu.InferMeter(), np.zeros(1)
    good, bad = Burning(0.03), Burning(0.02, fails=True)
    meter.watch(good)
    meter.watch(bad)
    assert good.infer(tensor)[0] is tensor
    with pytest.raises(ModelError):
        bad.infer(tensor)
    assert 0.05 <= meter.seconds < 0.08


def test_the_lanes_time_goes_to_the_stages_and_what_is_left_to_events() -> None:
    found = cpu.by_stage(
        {cpu.LANES: 10.0, cpu.INFER: 2.0, cpu.CAPTURE: 1.0}, 6.0, {cpu.PREPROCESS: 1.0, cpu.POSTPROCESS: 0.5, cpu.CAPTURE: 2.0}
    )
    assert found == {cpu.INFER: 8.0, cpu.PREPROCESS: 1.0, cpu.POSTPROCESS: 0.5, cpu.CAPTURE: 3.0, cpu.EVENTS: 0.5}


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))
def test_no_cpu_time_is_made_up_or_lost(lanes: float, infer: float, before: float, after: float) -> None:
    found = cpu.by_stage({cpu.LANES: lanes, cpu.PUBLISH: 1.0}, infer, {cpu.PREPROCESS: before, cpu.POSTPROCESS: after})
    assert cpu.LANES not in found
    assert all(used >= 0 for used in found.values())
    assert sum(found.values()) == pytest.approx(lanes + 1.0, abs=1e-6)
