"""CPU seconds, by what threads are for."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edge_agent.bench import cpu


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
    while meter.used[cpu.MODEL] < 0.19:
        meter.sample()
        time.sleep(0.01)
    gate.set()
    thread.join()
    assert meter.used[cpu.MODEL] < 0.35
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
        ("capture-front", "python", cpu.CAPTURE), ("capture-front-2", "python", cpu.CAPTURE), ("lane-1", "python", cpu.MODEL),
        ("publisher", "python", cpu.PUBLISH), ("health", "python", cpu.HEALTH), ("agent", "python", cpu.OTHER),
        (None, "av:h264:df0", cpu.CAPTURE), (None, "python", cpu.MODEL),
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


def test_a_machine_without_proc_tells_nothing(tmp_path: Path) -> None:
    meter = cpu.CpuMeter(tmp_path)
    meter.sample([1])
    assert sum(meter.used.values()) == 0
