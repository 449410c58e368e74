"""How many threads one inference gets, and whether they spin between its parts: measured while decoders work beside it.

On a machine whose cores are shared with decoders, more threads can be several times slower than one: each waits for the last.
So one more thread is taken only while that is faster by more than noise. A few seconds once, then the answer is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.durable import write_whole
from edge_agent.errors import EdgeAgentError
from edge_agent.runtimes.base import Runtime, Tensor

log = logging.getLogger(__name__)

FILE = "threads.json"
LONGEST_S = 3.0
MOST_LANES = 4
"""Side by side; each holds the model once more."""
MOST_BATCH = 4
MOST_THREADS = 4
"""More in one inference of a detector for such machines gain little."""
_ROUNDS = 15
_FEWEST = 3
_GAIN = 0.93
"""What one more thread must bring the time down to: less is noise, and its core is better left to others."""
_SPIN_GAIN = 0.85
"""Threads that wait busily take a core's power and time also where nothing is inferred."""
_KEPT = 16
ELSEWHERE = ("Tensorrt", "CUDA", "OpenVINO", "delegate")
"""What works without these threads."""

Opener = Callable[[int, bool], Runtime]
"""Loads the model with so many threads that spin or do not."""


@dataclass(frozen=True)
class Choice:
    """Threads of one inference, whether they wait busily, and the reason for a person."""

    threads: int
    spin: bool
    why: str
    lanes: int = 1
    """Inferences side by side."""
    batch: int = 1
    """Pictures of one inference, at most."""


@dataclass(frozen=True)
class Subject:
    """What the answer holds for."""

    sha256: str
    input_size: tuple[int, int] | None
    cores: int
    decoders: int
    """Threads of decoders that will work beside it."""
    purpose: str = "latency"
    """What counts: latency, throughput, or whether so many lanes of so many threads do better with a batch."""

    @property
    def key(self) -> str:
        """Anything that makes the answer another: file, size, machine, load beside it."""
        text = f"{self.sha256} {self.input_size} {self.cores} {self.decoders} {_processor()}"
        if self.purpose != "latency":
            text += f" {self.purpose}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def by_rule(cores: int) -> int:
    """Where nothing is measured: one core is left to the decoders."""
    return max(1, min(MOST_THREADS, cores - 1))


def opened(
    open_model: Opener, subject: Subject, folder: Path | None, clock: Callable[[], float] = time.perf_counter
) -> tuple[Runtime, Choice]:
    """The model with the threads that serve it best here. What is measured is kept in ``folder`` (None: nowhere).

    Raises what ``open_model`` raises for the first time it is called; whatever fails later leaves the rule in force.
    """
    most = by_rule(subject.cores)
    if most == 1:
        return open_model(1, False), Choice(1, False, f"{subject.cores} cores, one of them for decoders")
    kept, version = kept_choice(folder, subject.key)
    started = clock()
    first = open_model(kept.threads, kept.spin) if kept else open_model(1, False)  # an answer for another library is seen only then
    opening_s = clock() - started
    if first.spec.accelerator.startswith(ELSEWHERE) and not first.spec.accelerator.endswith("(CPU)"):  # as OpenVINO may be
        return first, Choice(1, False, f"{first.spec.accelerator} does the work")
    if kept and version == first.spec.runtime:
        return first, kept
    if kept:
        del first  # two models at once are enough
        first = open_model(1, False)
    runtime, choice = _measured(open_model, first, most, subject.decoders, opening_s, clock)
    keep_choice(folder, subject.key, choice, runtime.spec.runtime)
    return runtime, choice


def _measured(
    open_model: Opener, first: Runtime, most: int, decoders: int, opening_s: float, clock: Callable[[], float]
) -> tuple[Runtime, Choice]:
    deadline = clock() + LONGEST_S
    best, threads, spin, told = first, 1, False, []
    try:
        with busy(decoders):
            for count, spins in _ladder(most):
                if spins and (threads == 1 or not first.can_spin):
                    break
                if clock() + opening_s > deadline:
                    told.append("time was up")
                    break
                wanted = threads if spins else count
                other = open_model(wanted, spins)
                before, after = in_turn((best, other), deadline, clock)
                told.append(f"{_name(threads, spin)} {before:.1f} ms, {_name(wanted, spins)} {after:.1f} ms")
                if after < before * (_SPIN_GAIN if spins else _GAIN):
                    best, threads, spin = other, wanted, spins
    except EdgeAgentError as error:
        told.append(f"not measured further: {error}")
    return best, Choice(threads, spin, f"measured with {decoders} busy beside: {'; '.join(told)}")


def _ladder(most: int) -> Iterator[tuple[int, bool]]:
    yield from ((count, False) for count in range(2, most + 1))
    yield 0, True


def _name(threads: int, spin: bool) -> str:
    return f"{threads} thread{'' if threads == 1 else 's'}{' spinning' if spin else ''}"


def in_turn(runtimes: tuple[Runtime, Runtime], deadline: float, clock: Callable[[], float]) -> tuple[float, float]:
    """Median milliseconds of each, in turn, until ``deadline`` of ``clock`` (seconds). The second: infinite if time ran out."""
    tensors = [blank(runtime) for runtime in runtimes]
    for runtime, tensor in zip(runtimes, tensors, strict=True):
        runtime.infer(tensor)
    times: tuple[list[float], list[float]] = ([], [])
    while len(times[0]) < _ROUNDS and (clock() < deadline or not times[0]):
        for taken, runtime, tensor in zip(times, runtimes, tensors, strict=True):
            started = clock()
            runtime.infer(tensor)
            taken.append((clock() - started) * 1e3)
    second = statistics.median(times[1]) if len(times[1]) >= _FEWEST else float("inf")
    return statistics.median(times[0]), second


def blank(runtime: Runtime, pictures: int = 1) -> Tensor:
    """Grey pictures for a runtime, whose other inputs are given ones."""
    for spec in runtime.spec.inputs[1:]:
        runtime.fix(spec.name, np.ones([max(1, size) for size in spec.shape], spec.dtype))
    picture = runtime.spec.inputs[0]
    return np.full(
        [runtime.rows_for(pictures), *(max(1, size) for size in picture.shape[1:])], 0 if picture.dtype == np.int8 else 114, picture.dtype
    )


@contextlib.contextmanager
def busy(threads: int) -> Iterator[None]:
    """So many threads at what decoders' threads do: work on pictures without the GIL."""
    import cv2

    ended = threading.Event()

    def work() -> None:
        picture = np.zeros((1080, 1920, 3), np.uint8)
        while not ended.is_set():
            cv2.resize(picture, (640, 360), interpolation=cv2.INTER_LINEAR)

    workers = [threading.Thread(target=work, name=f"busy-{index}", daemon=True) for index in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        ended.set()
        for worker in workers:
            worker.join()


def _processor() -> str:
    """What tells this machine's processor from another: a card that is moved to another board must be measured again."""
    with contextlib.suppress(OSError):
        return Path("/proc/device-tree/model").read_text("utf-8", "replace").strip("\0")
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return os.uname().machine


def _entries(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def kept_choice(folder: Path | None, key: str) -> tuple[Choice | None, str]:
    """What was measured, and for which library; None where that is not known, or was tampered with."""
    entry = _entries(folder).get(key) if folder is not None else None
    try:
        choice = Choice(int(entry["threads"]), bool(entry["spin"]), str(entry["why"]), int(entry["lanes"]), int(entry.get("batch", 1)))  # type: ignore[index,union-attr]  # refused below
        version = str(entry["runtime"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return None, ""
    possible = 1 <= choice.threads <= MOST_THREADS and 1 <= choice.lanes <= MOST_LANES and 1 <= choice.batch <= MOST_BATCH
    return (choice, version) if possible else (None, "")


def keep_choice(folder: Path | None, key: str, choice: Choice, runtime: str) -> None:
    """Whole or not at all; a folder that cannot be written costs the next start a measurement, and is reported by who needs it."""
    if folder is None:
        return
    entries = _entries(folder)
    entries.pop(key, None)
    entries = dict([*entries.items()][-_KEPT + 1 :])
    entries[key] = {**asdict(choice), "runtime": runtime}
    try:
        write_whole(folder / FILE, json.dumps(entries, indent=1))
    except OSError as error:
        log.debug("threads not kept reason=%s", error.strerror)
