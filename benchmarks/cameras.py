"""Many cameras, one model: the total over one camera's, and how evenly it is shared. Real clock, the agent as it is.

    python benchmarks/cameras.py [--only timed,rtsp] [--counts 1,2,4,8,16] [--service MS] [--seconds N] [--rounds N] [--json]

timed: 720p sources of 30 frames a second whose frames arrive at known times. rtsp: one GStreamer server for each camera, 360p15
H.264. The inference is asleep as with an accelerator, so that the model is the limit and not the machine. The same with one camera
that hangs for good, and with one that sends its frames in bursts: what the others then get is over what they get without it.

Jain's index: (sum of rates)^2 / (cameras * sum of squares); 1 is even, 1 / cameras is one that has all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _agent import BenchAgent, Detector, configured
from _broker import broker
from _rtsp import Camera, available, numbered
from _timed import TimedSource, bursty, steady

from edge_agent.sources.base import Source

COUNTS = (1, 2, 4, 8, 16)
SPECIALS = ("", "one hung", "one bursting")
WARM_UP_S = 4.0
TOTAL_BAR, JAIN_BAR = 0.95, 0.95
FPS, RTSP_FPS = 30.0, 15


@dataclass
class Fleet:
    """Cameras of one kind, made and let go of."""

    kind: str
    clip: Path
    servers: list[Camera] = field(default_factory=list)
    timed: list[TimedSource] = field(default_factory=list)

    def cameras(self, count: int, special: str) -> tuple[list[dict[str, Any]], Mapping[str, Callable[[], Source]]]:
        """Tables of agent.toml, and what makes the sources that are our own. The special one is "cam0"."""
        if self.kind == "rtsp":
            self.servers = [Camera(self.clip, RTSP_FPS) for _ in range(count)]
            return [{"id": f"cam{index}", "source": server.url} for index, server in enumerate(self.servers)], {}
        tables = [{"id": f"cam{index}", "source": "synthetic", "isolation": "thread"} for index in range(count)]
        return tables, {f"cam{index}": self._maker(index, special if index == 0 else "") for index in range(count)}

    def _maker(self, index: int, special: str) -> Callable[[], Source]:
        def make() -> TimedSource:
            if special == "one bursting":
                source = TimedSource(FPS, bursty(FPS, together=30, apart_s=0.001))
            else:
                source = TimedSource(FPS, steady(FPS), hang_after_s=WARM_UP_S / 2 if special == "one hung" else float("inf"))
            self.timed.append(source)
            return source

        return make

    def hang(self) -> None:
        """The first RTSP camera answers nothing any more."""
        self.servers[0].halt()

    def close(self) -> None:
        """Let go of all."""
        for server in self.servers:
            server.stop()
        for source in self.timed:
            source.release()
        self.servers, self.timed = [], []


@dataclass(frozen=True)
class Shares:
    """Frames per second of each camera that is not special."""

    rates: tuple[float, ...]
    special: float = 0.0

    @property
    def total(self) -> float:
        """Of all, the special one too."""
        return sum(self.rates) + self.special

    @property
    def jain(self) -> float:
        """Of those that are not special."""
        squares = sum(rate * rate for rate in self.rates)
        return sum(self.rates) ** 2 / (len(self.rates) * squares) if squares else 0.0


@dataclass
class Bench:
    """What every run needs."""

    folder: Path
    port: int | None
    seconds: float
    service_s: float
    model: Mapping[str, str]
    clip: Path

    def run(self, kind: str, count: int, special: str) -> Shares:
        """So many cameras, once."""
        fleet = Fleet(kind, self.clip)
        try:
            tables, sources = fleet.cameras(count, special)
            config = configured(self.folder, self.port, tables, **self.model)
            model = Detector(config).paced(self.service_s, at_work=False)
            agent = BenchAgent(config, [model], sources)
            if kind == "rtsp" and special == "one hung":
                threading.Timer(WARM_UP_S / 2, fleet.hang).start()
            served: list[Counter[str]] = []
            clock = threading.Timer(WARM_UP_S, lambda: served.append(counted(agent)))
            clock.start()
            agent.run_for(WARM_UP_S + self.seconds, lambda: served.append(counted(agent)))
        finally:
            fleet.close()
        rates = {table["id"]: (served[1][table["id"]] - served[0][table["id"]]) / self.seconds for table in tables}
        alone = {"cam0"} if special else set()
        return Shares(tuple(rate for camera, rate in rates.items() if camera not in alone), sum(rates[camera] for camera in alone))


def counted(agent: BenchAgent) -> Counter[str]:
    """Frames served so far, by camera."""
    return Counter({capture.camera.id: capture.counts.served for capture in agent.captures})


def measure(bench: Bench, kind: str, counts: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """The table of one kind of camera: in each round all counts, in turns."""
    cases = [(count, special) for count in counts for special in SPECIALS if not special or count > 1]
    if kind == "rtsp":
        cases = [(count, special) for count, special in cases if special != "one bursting"]
    runs: dict[tuple[int, str], list[Shares]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            runs[case].append(bench.run(kind, *case))
            shown = runs[case][-1]
            print(f"{kind}: {case[0]} cameras {case[1]}: total {shown.total:.2f}, Jain {shown.jain:.4f}", file=sys.stderr, flush=True)
    ones = runs[counts[0], ""]
    found = []
    for (count, special), shares in runs.items():
        ratio = statistics.median(each.total / one.total for each, one in zip(shares, ones, strict=True))
        jain = statistics.median(each.jain for each in shares)
        found.append(
            {
                "kind": kind, "cameras": count, "special": special, "total_fps": statistics.median(each.total for each in shares),
                "ratio": ratio, "jain": jain, "least_fps": min(min(each.rates) for each in shares),
                "most_fps": max(max(each.rates) for each in shares), "special_fps": statistics.median(each.special for each in shares),
                "misses": [name for name, missed in (("total", ratio < TOTAL_BAR), ("Jain", jain < JAIN_BAR)) if missed],
            }
        )  # fmt: skip
    return found


def table(found: Sequence[Mapping[str, Any]], service_ms: float) -> str:
    """For people, and for docs/performance.md."""
    heads = ("cameras", "served in all, fps", f"/ that of the first row (1 / service: {1e3 / service_ms:.0f})", "Jain",
             "least / most of the others, fps", "the special one, fps", "misses")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in found:
        name = f"{row['cameras']} {row['kind']}" + (f", {row['special']}" if row["special"] else "")
        figures = f"{row['total_fps']:.2f} | {row['ratio']:.3f} | {row['jain']:.4f} | {row['least_fps']:.2f} / {row['most_fps']:.2f}"
        special = f"{row['special_fps']:.2f}" if row["special"] else ""
        lines.append(f"| {name} | {figures} | {special} | {', '.join(row['misses'])} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="timed,rtsp", metavar="LIST", help="some of timed,rtsp")
    parser.add_argument(
        "--counts", default=",".join(map(str, COUNTS)), metavar="LIST", help="numbers of cameras; ratios are over the first"
    )
    parser.add_argument("--service", type=float, default=50.0, metavar="MS", help="service time of the model (default 50)")
    parser.add_argument("--seconds", type=float, default=8.0, metavar="N", help="measured in each run, after 4 s (default 8)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="turns (default 1)")
    parser.add_argument("--model", metavar="FILE", help="a .onnx or .tflite detector for pre- and postprocessing; default: built in")
    parser.add_argument("--json", action="store_true", help="results as JSON instead of a table")
    options = parser.parse_args()
    options.only, options.counts = options.only.split(","), [int(count) for count in options.counts.split(",")]
    if unknown := set(options.only) - {"timed", "rtsp"}:
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    if "rtsp" in options.only and not available():
        print("rtsp: left out, GStreamer's RTSP server or its Python bindings are not installed", file=sys.stderr)
        options.only.remove("rtsp")
    return options


def main() -> None:
    """Measure and print."""
    options = arguments()
    model = {"path": str(Path(options.model).absolute())} if options.model else {}
    load = os.getloadavg()[0]
    found = []
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as name, broker() as port:
        folder = Path(name)
        clip = numbered(folder / "camera.h264", (640, 360), RTSP_FPS, 10 * RTSP_FPS, gop=2 * RTSP_FPS) if "rtsp" in options.only else folder
        bench = Bench(folder, port, options.seconds, options.service / 1e3, model, clip)
        for kind in options.only:
            found += measure(bench, kind, options.counts, options.rounds)
    if options.json:
        print(json.dumps({"load1_before": load, "rows": found}, indent=2))
    else:
        print(table(found, options.service))
        print(f"\nload before: {load:.2f}")


if __name__ == "__main__":
    main()
