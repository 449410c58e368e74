"""What one latency costs and how true its percentiles are: ours, and those libraries that are installed (decision 0018).

    python -m pip install fastdigest crick ddsketch hdrhistogram tdigest    # any of them; none is needed
    python benchmarks/sketch.py [--values N] [--rounds N]

Log-normal values around 10 ms. Microseconds of CPU for one value, the least of the rounds, which take turns; the last column is
as many times ours. The error is the largest of p50, p95 and p99 against all values, sorted.
"""

from __future__ import annotations

import argparse
import importlib
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from edge_agent.stats import Sketch

WHICH = (50, 95, 99)
WINDOW = 512
HOURS_US = 3 * 3600 * 1_000_000


@dataclass(frozen=True)
class Way:
    """How to add a value in milliseconds, and how to ask for a percentile of them."""

    add: Callable[[float], object]
    ask: Callable[[int], float]


def ours() -> Way:
    """With its lock, its clock and its forgetting."""
    sketch = Sketch()
    return Way(sketch.add, lambda which: (sketch.percentiles((which,)) or {})[f"p{which}"])


def window() -> Way:
    """The last values as they are, sorted when asked: covers as little of the time as there is much to do."""
    last: deque[float] = deque(maxlen=WINDOW)
    return Way(last.append, lambda which: sorted(last)[int(which * (len(last) - 1) / 100)])


def fastdigest() -> Way:
    """Rust, t-digest."""
    digest = _library("fastdigest").TDigest()
    return Way(digest.update, lambda which: float(digest.quantile(which / 100)))


def crick() -> Way:
    """C, t-digest."""
    digest = _library("crick").TDigest()
    return Way(digest.add, lambda which: float(digest.quantile(which / 100)))


def ddsketch() -> Way:
    """Python, the mapping that ours has too."""
    sketch = _library("ddsketch").DDSketch(0.01)
    return Way(sketch.add, lambda which: float(sketch.get_quantile_value(which / 100)))


def hdrhistogram() -> Way:
    """C; whole microseconds to two digits."""
    histogram = _library("hdrh.histogram").HdrHistogram(1, HOURS_US, 2)
    record = histogram.record_value
    return Way(lambda value: record(int(value * 1e3)), lambda which: histogram.get_value_at_percentile(which) / 1e3)


def tdigest() -> Way:
    """Python, t-digest."""
    digest = _library("tdigest").TDigest()
    return Way(digest.update, lambda which: float(digest.percentile(which)))


def _library(name: str) -> Any:
    return importlib.import_module(name)


def microseconds(make: Callable[[], Way], values: Sequence[float]) -> float:
    """CPU of one value."""
    add = make().add
    began = time.thread_time()
    for value in values:
        add(value)
    return (time.thread_time() - began) / len(values) * 1e6


def error(make: Callable[[], Way], values: Sequence[float]) -> float:
    """Percent, the largest of all percentiles."""
    way, ranked = make(), sorted(values)
    for value in values:
        way.add(value)
    true = {which: ranked[int(which * (len(ranked) - 1) / 100)] for which in WHICH}
    return max(abs(way.ask(which) / true[which] - 1) for which in WHICH) * 100


def installed() -> dict[str, Callable[[], Way]]:
    """Ours first."""
    found: dict[str, Callable[[], Way]] = {"stats.Sketch, with lock and forgetting": ours, f"the last {WINDOW}, sorted": window}
    for make in (fastdigest, crick, ddsketch, hdrhistogram, tdigest):
        try:
            make()
        except ImportError:
            print(f"{make.__name__}: not installed, left out")
            continue
        found[f"{make.__name__} {version(make.__name__)}"] = make
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    dice = random.Random(18)
    values = [dice.lognormvariate(math.log(10), 0.7) for _ in range(arguments.values)]
    ways = installed()
    costs: dict[str, float] = dict.fromkeys(ways, float("inf"))
    for _ in range(arguments.rounds):
        for name, make in ways.items():
            costs[name] = min(costs[name], microseconds(make, values))
    base = next(iter(costs.values()))
    print(f"{'':40} one value, us   error, %   of ours")
    for name, make in ways.items():
        print(f"{name:40} {costs[name]:13.2f} {error(make, values):10.2f} {costs[name] / base:9.2f}")


if __name__ == "__main__":
    main()
