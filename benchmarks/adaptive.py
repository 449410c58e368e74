"""Any camera, any model: what is served over what could be, and how old it is. Real clock, the agent as it is.

    python benchmarks/adaptive.py [--cells WORDS] [--seconds N] [--model FILE] [--json]

A camera here is a source whose frames arrive at times that are known beforehand, whatever rate it declares. The model does a real
model's pre- and postprocessing, and its inference takes as long as the cell says: asleep, as with an accelerator, or at work.

The bars: served at least 0.95 x min(real rate, 1 / service time); p95 of the age at most the service time, the mean interval of the
camera's frames, and 10 ms; decoded at most 1.3 x served.

Beside the first stands "the best", by a simulation over the very arrivals of the run: a model that is free takes the newest frame
that it has not had, at once, and nothing is queued. No order of serving only the newest frame serves more; the agent may, where
several frames that came together fit into the time until the camera's next (1 and above).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _agent import BenchAgent, Detector, configured
from _broker import broker
from _timed import TimedSource, bursty, steady, variable

SERVICES_MS = (5, 20, 50, 200)
WAYS = ("asleep", "at work")
WARM_UP_S = 1.2
SERVICES_IN_A_CELL = 25
SERVED_BAR, DECODED_BAR, MARGIN_S = 0.95, 1.3, 0.010


@dataclass(frozen=True)
class CameraKind:
    """A row of the table."""

    name: str
    declared: float
    arrivals: Callable[[], Iterator[float]]


KINDS = (
    CameraKind("30/30", 30, lambda: steady(30)),
    CameraKind("30/29.7", 30, lambda: steady(29.7)),
    CameraKind("30/29.5", 30, lambda: steady(29.5)),
    CameraKind("30/25", 30, lambda: steady(25)),
    CameraKind("30/15", 30, lambda: steady(15)),
    CameraKind("25/25", 25, lambda: steady(25)),
    CameraKind("60/60", 60, lambda: steady(60)),
    CameraKind("30/bursty 15", 30, lambda: bursty(15)),
    CameraKind("30/variable 5-30", 30, lambda: variable(5, 30)),
)


@dataclass(frozen=True)
class Cell:
    """One camera and one model."""

    kind: CameraKind
    service_ms: int
    way: str

    @property
    def name(self) -> str:
        """As ``--cells`` finds it."""
        return f"{self.kind.name} at {self.service_ms} ms {self.way}"


@dataclass(frozen=True)
class Result:
    """What became of a cell."""

    cell: str
    real_fps: float
    service_ms: float
    """Median of the model's calls."""
    served_fps: float
    ratio: float
    """Time that the best order takes for as many frames, over the time it took."""
    of_rates: float
    """Served over min(real rate, 1 / service time)."""
    age_p50_ms: float
    age_p95_ms: float
    age_part: float
    """p95 of the age over (service time + the mean interval + 10 ms)."""
    decoded: float
    """Frames decoded for each that was served."""

    @property
    def misses(self) -> list[str]:
        """The bars that it does not clear."""
        bars = {"served": self.of_rates < SERVED_BAR, "age": self.age_part > 1, "decoded": self.decoded > DECODED_BAR}
        return [name for name, missed in bars.items() if missed]


def best(arrived: Sequence[float], free_at: float, had: int, service_s: float, frames: int) -> float:
    """When ``frames`` more are done at the earliest, by a model that is free at ``free_at`` and has had frame ``had``."""
    newest, arrivals = had, len(arrived)
    for count in range(frames):
        while newest + 1 < arrivals and arrived[newest + 1] <= free_at:
            newest += 1
        if newest == had:  # nothing new: the next one is begun as it comes
            newest += 1
            if newest == arrivals:  # the run served more, as some of its calls were shorter than usual
                return free_at + (frames - count) * service_s
            free_at = arrived[newest]
        had, free_at = newest, free_at + service_s
    return free_at


def measure(cell: Cell, detector: Detector, seconds: float) -> Result:
    """Run one cell."""
    model = detector.paced(cell.service_ms / 1e3, at_work=cell.way == "at work")
    sources: list[TimedSource] = []

    def make() -> TimedSource:
        sources.append(TimedSource(cell.kind.declared, cell.kind.arrivals()))
        return sources[-1]

    agent = BenchAgent(detector.config, [model], {"cam": make})
    agent.run_for(WARM_UP_S + max(seconds, SERVICES_IN_A_CELL * cell.service_ms / 1e3))
    source = sources[0]
    service_s = float(np.median([call.ended - call.began for call in model.calls[3:]]))
    return evaluated(cell, source, agent.recorder.events(), service_s)


def evaluated(cell: Cell, source: TimedSource, events: Sequence[dict[str, Any]], service_s: float) -> Result:
    """The figures, of what was published after the warm-up."""
    served = [(event["frame_id"], event["latency_ms"]["total"] / 1e3) for event in events]
    arrived = source.arrived
    served = [(number, age) for number, age in served if number + 1 < len(arrived) and arrived[number] - arrived[0] > WARM_UP_S]
    (had, its_age), counted = served[0], served[1:]
    began, ended = arrived[had] + its_age, arrived[counted[-1][0]] + counted[-1][1]
    ages = np.array([age for _, age in counted])
    within = [at for at in arrived if began <= at < ended]
    real_fps = len(within) / (ended - began)
    fps = len(counted) / (ended - began)
    decoded = sum(began <= at < ended for at in source.decoded_at)
    return Result(
        cell=cell.name,
        real_fps=real_fps,
        service_ms=service_s * 1e3,
        served_fps=fps,
        ratio=(best(arrived, began, had, service_s, len(counted)) - began) / (ended - began),
        of_rates=fps / min(real_fps, 1 / service_s),
        age_p50_ms=float(np.percentile(ages, 50)) * 1e3,
        age_p95_ms=float(np.percentile(ages, 95)) * 1e3,
        age_part=float(np.percentile(ages, 95)) / (service_s + 1 / real_fps + MARGIN_S),
        decoded=decoded / len(counted),
    )


def table(results: Sequence[Result]) -> str:
    """For people, and for docs/performance.md."""
    heads = (
        "camera (declared/real fps), service time", "real fps", "served fps", "/ the best", "/ min(real, 1/service)",
        "age p50 / p95, ms", "p95 of age / (service + interval + 10 ms)", "decoded / served", "misses",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in results:
        figures = f"{r.real_fps:.1f} | {r.served_fps:.2f} | {r.ratio:.3f} | {r.of_rates:.3f} | {r.age_p50_ms:.0f} / {r.age_p95_ms:.0f}"
        lines.append(f"| {r.cell} | {figures} | {r.age_part:.2f} | {r.decoded:.2f} | {', '.join(r.misses)} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cells", default="", metavar="WORDS", help="only cells whose name holds one of these, such as '30/25,200 ms,at work'"
    )
    parser.add_argument("--seconds", type=float, default=2.4, metavar="N", help="measured in each cell, after 1.2 s; at least 25 services")
    parser.add_argument(
        "--model", metavar="FILE", help="a .onnx or .tflite detector for pre- and postprocessing; default: the built-in one"
    )
    parser.add_argument("--json", action="store_true", help="results as JSON instead of a table")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = arguments()
    words = [word.strip() for word in options.cells.split(",") if word.strip()]
    cells = [Cell(kind, ms, way) for way in WAYS for kind in KINDS for ms in SERVICES_MS]
    cells = [cell for cell in cells if not words or any(word in cell.name for word in words)]
    if not cells:
        sys.exit(f"--cells: no cell holds {' or '.join(words)}")
    model = {"path": str(Path(options.model).absolute())} if options.model else {}
    load = os.getloadavg()[0]
    results = []
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as folder, broker() as port:
        detector = Detector(configured(Path(folder), port, [{"id": "cam", "source": "synthetic"}], **model))
        for cell in cells:
            results.append(measure(cell, detector, options.seconds))
            r = results[-1]
            print(
                f"{r.cell}: {r.ratio:.3f}, age {r.age_part:.2f}, decoded {r.decoded:.2f} {' '.join(r.misses)}", file=sys.stderr, flush=True
            )
    if options.json:
        print(json.dumps({"load1_before": load, "cells": [asdict(result) for result in results]}, indent=2))
        return
    print(table(results))
    print(f"\n{sum(not r.misses for r in results)} of {len(results)} cells clear every bar; load before: {load:.2f}")


if __name__ == "__main__":
    main()
