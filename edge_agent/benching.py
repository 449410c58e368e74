"""``edge-agent model bench``: how long each stage takes on this machine, by threads and by file, and what to set.

All are run in turn within one process, on pictures of a real source and, as in the daemon, beside threads that are as busy
as decoders: whatever else the machine does meanwhile falls on all of them alike.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent import camera_sources, config_file, demo, plugins
from edge_agent.errors import ConfigError, EndOfStream
from edge_agent.host import read_process
from edge_agent.image import BgrImage, Image
from edge_agent.models import _loading, _threads
from edge_agent.models.base import Model, Thresholds, Timings
from edge_agent.redaction import redact
from edge_agent.sources.base import FrameUnreadable

STAGES = ("preprocess", "infer", "postprocess")
PICTURES = 16
"""Pictures that are kept of the source, and shown again and again."""
_FEWEST = 5
_GAIN = 0.93
"""As where threads are chosen at start: one thread more must bring the time down to this."""


@dataclass(frozen=True)
class Request:
    """What is to be measured. ``model`` holds keys of [model] besides path and threads."""

    file: Path
    against: Path | None
    source: str | None
    seconds: float
    decoders: int
    model: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One file at one number of threads. Milliseconds: stage -> [p50, p95, p99]; ``total`` is their sum, frame by frame."""

    file: str
    precision: str
    threads: int
    runs: int
    ms: dict[str, list[float]]

    @property
    def typical(self) -> float:
        """Median milliseconds of a frame."""
        return self.ms["total"][0]


@dataclass(frozen=True)
class Report:
    """What ``model bench`` tells."""

    runtime: str
    accelerator: str
    family: str
    cores: int
    decoders: int
    source: str
    rows: tuple[Row, ...]
    model_mb: float
    """Memory that the file took when it was loaded and first run."""
    process_mb: float
    recommended: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)

    def table(self) -> str:
        """For a person; ends with lines for agent.toml."""
        best = next(r for r in self.rows if (r.file, r.threads) == (self.recommended["path"], self.recommended["threads"]))
        beside = f"{self.decoders} busy thread{'' if self.decoders == 1 else 's'} beside"
        lines = [f"{self.family}, {self.runtime}, {self.accelerator}; {self.cores} cores, {beside}; pictures of {self.source}", ""]
        width = max(len(Path(row.file).name) for row in self.rows)
        lines.append(f"{'file':{width}s} {'precision':9s} {'threads':>7s} {'p50 ms':>8s} {'p95':>8s} {'p99':>8s} {'runs':>6s}")
        for row in self.rows:
            p50, p95, p99 = row.ms["total"]
            name = Path(row.file).name
            lines.append(f"{name:{width}s} {row.precision:9s} {row.threads:7d} {p50:8.2f} {p95:8.2f} {p99:8.2f} {row.runs:6d}")
        lines += ["", f"stage        {'p50 ms':>8s} {'p95':>8s} {'p99':>8s}   ({Path(best.file).name}, threads {best.threads})"]
        lines += [f"{stage:12s} {p[0]:8.2f} {p[1]:8.2f} {p[2]:8.2f}" for stage, p in best.ms.items()]
        lines += [
            "",
            f"memory       {self.model_mb:.0f} MB for the model, {self.process_mb:.0f} MB for this process with all that was loaded",
        ]
        lines += ["", "[model]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in self.recommended.items())]
        if len({row.file for row in self.rows}) > 1:
            lines.append("# the faster of the two: see with `edge-agent model eval` what it finds")
        return "\n".join(lines)


def bench(request: Request, progress: Callable[[int, int], None]) -> Report:
    """Measure for ``request.seconds``. ``progress`` is told how many hundredths are done.

    Raises ConfigError for what the user can mend, ModelError and SourceError for what file and source are.
    """
    import cv2

    cv2.setNumThreads(1)  # as in the daemon
    pictures = _pictures(request.source or demo.clip_path())
    files = [request.file, *([request.against] if request.against else [])]
    cores = len(os.sched_getaffinity(0))
    before = read_process().rss_bytes
    models: dict[tuple[str, int], Model] = {}
    model_bytes = 0
    for file in files:
        for threads in range(1, min(_threads.MOST_THREADS, cores) + 1):
            model = models[str(file), threads] = load(file, threads, request.model)
            model(pictures[0], thresholds_of(model))
            model_bytes = model_bytes or read_process().rss_bytes - before
    with _threads.busy(request.decoders):
        timings = in_turn(models, pictures, request.seconds, progress)
    rows = tuple(_row(file, models[file, threads], threads, timings[file, threads]) for file, threads in models)
    first = next(iter(models.values()))
    shown = redact(request.source) if request.source else "the clip that comes with edge-agent"
    return Report(
        first.graph.runtime, first.graph.accelerator, first.family.name, cores, request.decoders, shown, rows,
        round(model_bytes / 1e6, 1), round(read_process().rss_bytes / 1e6, 1), {**recommended(rows, cores), **request.model},
    )  # fmt: skip


def load(file: Path, threads: int, given: dict[str, Any]) -> Model:
    """As the daemon loads it. Raises ConfigError, ModelError."""
    table = {**given, "path": str(file.expanduser().absolute()), "threads": threads, "lanes": 1}
    tables = {"model": table, "cameras": [{"id": "bench", "source": "synthetic"}]}
    return _loading.load(config_file.build(tables, plugins.PluginKinds(), environ={})).lanes[0]


def thresholds_of(model: Model) -> Thresholds:
    """Those of a configuration that sets none."""
    return Thresholds(model.family.default_confidence, 0.45, 100)


def in_turn(
    models: dict[tuple[str, int], Model],
    pictures: list[Image],
    seconds: float,
    progress: Callable[[int, int], None],
    clock: Callable[[], float] = time.monotonic,
) -> dict[tuple[str, int], list[Timings]]:
    """Each model once a round, on one picture after the other, until the time is up and each was run a few times."""
    timings: dict[tuple[str, int], list[Timings]] = {key: [] for key in models}
    started, rounds = clock(), 0
    while (past := clock() - started) < seconds or rounds < _FEWEST:
        progress(min(99, int(100 * past / seconds)), 100)
        for key, model in models.items():
            timings[key].append(model(pictures[rounds % len(pictures)], thresholds_of(model)).timings)
        rounds += 1
    progress(100, 100)
    return timings


def _row(file: str, model: Model, threads: int, timings: list[Timings]) -> Row:
    columns = {stage: [getattr(one, stage) for one in timings] for stage in STAGES}
    columns["total"] = [sum(stages) for stages in zip(*columns.values(), strict=True)]
    ms = {stage: [round(float(value), 3) for value in np.percentile(values, (50, 95, 99))] for stage, values in columns.items()}
    return Row(file, model.graph.precision, threads, len(timings), ms)


def recommended(rows: tuple[Row, ...], cores: int) -> dict[str, Any]:
    """Keys of [model]: the faster file, and as many threads as gain something while a core is left to the decoders."""
    best: Row | None = None
    for row in sorted(rows, key=lambda row: row.threads):
        if row.threads > _threads.by_rule(cores):
            continue
        more = best is not None and row.threads > best.threads
        if best is None or row.typical < best.typical * (_GAIN if more else 1.0):
            best = row
    assert best is not None
    return {"path": best.file, "threads": best.threads}


def _pictures(source: str) -> list[Image]:
    """The first pictures of a file, a folder or a camera. Raises ConfigError, SourceError."""
    camera: dict[str, Any] = {"id": "bench", "source": source}
    if os.path.isdir(source):  # noqa: PTH112 - says no to what can be no path, where pathlib raises
        camera["kind"] = "images"
    config = config_file.build({"cameras": [camera]}, plugins.PluginKinds(), environ={})
    opened = camera_sources.build_source(config, config.cameras[0])
    found: list[Image] = []
    try:
        opened.open()
        while len(found) < PICTURES:
            try:
                image = opened.read().image
            except FrameUnreadable:
                continue
            except EndOfStream:
                break
            # what a driver lent must be given back; a file's pictures keep their decoder's form, which costs less to resize
            found.append(BgrImage(image.bgr().copy()) if opened.live else image)
    finally:
        opened.close()
    if not found:
        raise ConfigError(f"--source: no picture can be read from {redact(source)}")
    return found
