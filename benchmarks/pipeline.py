"""How far the whole line is from what decoder, model and machine allow: ratios, measured in turns within one run.

    python benchmarks/pipeline.py [--model FILE] [--seconds N] [--only file,live,cpu,memory,start] [--json]

Machines differ and are noisy, so what is compared is measured interleaved (A B A B ...) and medians are shown. What the
figures mean, and the last ones taken, are in docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from _broker import FirstMessage, broker
from _clips import BUILTIN_FPS, encoded, frame_count, repeated
from _line import AS_IT_IS, DEVICE, Line, LineRun, Slower, StageMeter, agent_throughput, cores, models

from edge_agent import config_file, plugins
from edge_agent.camera_sources import build_source
from edge_agent.config import AgentConfig
from edge_agent.demo import clip_path
from edge_agent.image import Image
from edge_agent.models import _model_file
from edge_agent.models.base import Thresholds
from edge_agent.sources.file import decoder_threads

SECTIONS = ("file", "live", "cpu", "memory", "start")
FILE_FRAMES = 1500
"""Some ten seconds of the agent: the first half second, in which files and caches warm up, is not what throughput means."""
LIVE_FPS = 30
RSS_BAR_MB = 200
START_BAR_S = 2.5
OVERHEAD_BAR_MS = 2.0
STAGES = (
    "decode", "capture", "schedule", "preprocess", "infer", "postprocess", "encode", "hand over",
    "publisher thread", "paho thread", "health thread", "library threads", "rest",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    section: str
    case: str
    measure: str
    value: float
    unit: str = ""
    ratio: float | None = None
    """Over ``of``; None where the value stands for itself."""
    of: str = ""
    aim: str = ""


@dataclass
class Bench:
    """What every section needs."""

    folder: Path
    port: int | None
    model: str | None
    seconds: float
    rounds: int
    rows: list[Row] = field(default_factory=list)
    made: dict[str, Path] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Keep a result, and show that something happened."""
        self.rows.append(row)
        print(f"{row.section}: {row.case}: {row.measure} = {row.value:.3g} {row.unit}", file=sys.stderr)

    def tables(self, camera: Mapping[str, Any], lanes: int = 1) -> dict[str, Any]:
        """A configuration as agent.toml would hold it."""
        return {
            "device": {"id": DEVICE, "state_dir": str(self.folder / "state")},
            "model": {"lanes": lanes} | ({"path": self.model} if self.model else {}),
            "mqtt": {"host": "127.0.0.1", "port": self.port or 1883},
            "log": {"level": "warning"},
            "cameras": [{"id": "cam"} | dict(camera)],
        }

    def config(self, camera: Mapping[str, Any], lanes: int = 1) -> AgentConfig:
        """The same, validated."""
        return config_file.build(self.tables(camera, lanes), plugins.PluginKinds(), environ={})

    def run(self, camera: Mapping[str, Any], *, lanes: int = 1, seconds: float | None = None, slower: Slower = AS_IT_IS) -> LineRun:
        """One run of the line, with meters in it."""
        return Line(self.config(camera, lanes), mqtt=self.port is not None, slower=slower).run(seconds)

    def throughput(self, camera: Mapping[str, Any], lanes: int) -> tuple[float, float]:
        """Frames per second and CPU seconds per frame of the agent itself, with no meters in it."""
        return agent_throughput(self.config(camera, lanes))

    def clip(self, height: int, fps: int = BUILTIN_FPS, frames: int = FILE_FRAMES) -> Path:
        """A clip of so many frames or a few more, made once."""
        name = f"{height}p{fps}"
        if name not in self.made:
            own = height == 720 and fps == BUILTIN_FPS
            one = Path(clip_path()) if own else encoded(self.folder / f"{name}-one.mp4", (height * 16 // 9, height), fps)
            self.made[name] = repeated(one, self.folder / f"{name}.mp4", -(-frames // frame_count(one)))
        return self.made[name]


# -- file ---------------------------------------------------------------------------------------------------------------


def measure_files(bench: Bench) -> None:
    """Frames per second of a file over the least of what decoder, model and cores allow."""
    for height in (720, 1080):
        for lanes in (1, 2):
            _measure_file(bench, height, lanes)


def _measure_file(bench: Bench, height: int, lanes: int) -> None:
    camera = {"source": str(bench.clip(height))}
    found: dict[str, list[float]] = {}
    for _ in range(bench.rounds):
        turn = _one_turn(bench, camera, lanes)
        for name, value in turn.items():
            found.setdefault(name, []).append(value)
    least = ("decode alone", "model alone", "cores / CPU")
    limit, limited_by = min((statistics.median(found[name]), name) for name in least)
    case = f"{height}p, lanes={lanes}"
    for name in least:
        bench.add(Row("file", case, name, statistics.median(found[name]), "fps"))
    # Each turn's own ratio, then the median: what disturbs one turn then disturbs both of its sides.
    ratio = statistics.median(line / min(others) for line, *others in zip(found["line"], *(found[name] for name in least), strict=True))
    bench.add(Row("file", case, "line", statistics.median(found["line"]), "fps", ratio, f"{limited_by} ({limit:.1f})", ">= 0.9"))
    # By CPU time, which other work on the machine disturbs far less: what the line may do if no core ever idles.
    ceiling = statistics.median(found["ceiling"])
    together = statistics.median(found["cores / CPU"])
    bench.add(Row("file", case, "cores / CPU of the line", ceiling, "fps", ceiling / together, f"cores / CPU ({together:.1f})"))


def _one_turn(bench: Bench, camera: Mapping[str, Any], lanes: int) -> dict[str, float]:
    decode_fps, decode_cpu_s = _decode_alone(Path(str(camera["source"])))
    model = _model_alone(bench.config(camera, lanes))
    line_fps, line_cpu_s = bench.throughput(camera, lanes)
    return {
        "ceiling": cores() / line_cpu_s,
        "line": line_fps,
        "decode alone": decode_fps,
        "model alone": model.fps,
        "cores / CPU": cores() / (decode_cpu_s + model.preprocess_cpu_s + model.infer_cpu_s),
    }


def _decode_alone(path: Path) -> tuple[float, float]:
    """Frames per second, and CPU seconds of a frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count, stream.thread_type = decoder_threads(), "FRAME"  # as _ffmpeg.py sets them
        wall, cpu = time.perf_counter(), time.process_time()
        frames = sum(1 for _ in container.decode(stream))
        return frames / (time.perf_counter() - wall), (time.process_time() - cpu) / frames


@dataclass(frozen=True)
class ModelAlone:
    """The detector with nothing beside it."""

    fps: float
    """Of ``runtime.infer`` on one tensor, all lanes at once."""
    infer_cpu_s: float
    preprocess_cpu_s: float


def _model_alone(config: AgentConfig, seconds: float = 1.5) -> ModelAlone:
    meter = StageMeter()
    lanes, _ = models(config, meter)
    image = _first_image(config)
    thresholds = Thresholds(0.3, 0.45, 100)
    calls = 30
    meter.mark("before")
    for _ in range(calls):
        lanes[0](image, thresholds)
    preprocess = (meter.totals()["preprocess"]) / calls
    counts = [0] * len(lanes)
    until = time.perf_counter() + seconds

    def infer(index: int) -> None:
        spec = lanes[index].graph.inputs[0]
        tensor = np.zeros(spec.shape, spec.dtype)
        while time.perf_counter() < until:
            lanes[index].plain.infer(tensor)
            counts[index] += 1

    wall, cpu = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=infer, args=(index,)) for index in range(len(lanes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    inferred = sum(counts)
    return ModelAlone(inferred / (time.perf_counter() - wall), (time.process_time() - cpu) / inferred, preprocess)


def _first_image(config: AgentConfig) -> Image:
    source = build_source(config, config.cameras[0])
    source.open()
    try:
        return source.read().image
    finally:
        source.close()


# -- live ---------------------------------------------------------------------------------------------------------------


def measure_live(bench: Bench) -> None:
    """Served rate over min(camera, 1 / service time), and age at publish over what it may be."""
    synthetic = {"source": "synthetic", "width": 1280, "height": 720, "fps": LIVE_FPS}
    clip = bench.clip(1080, LIVE_FPS, int(bench.seconds + 2) * LIVE_FPS)
    played = {"source": str(clip), "realtime": True, "mode": "freshest"}
    slow = [(f"{ms} ms {'at work' if at_work else 'asleep'}", Slower(ms / 1e3, at_work)) for ms in (50, 200) for at_work in (False, True)]
    cases = [("synthetic 720p30, model as it is", synthetic, AS_IT_IS)]
    cases += [(f"synthetic 720p30, {name}", synthetic, slower) for name, slower in slow]
    cases += [("file 1080p30 realtime, model as it is", played, AS_IT_IS), ("file 1080p30 realtime, 50 ms at work", played, slow[1][1])]
    runs: dict[str, list[LineRun]] = {}
    for _ in range(bench.rounds):
        for name, camera, slower in cases:
            runs.setdefault(name, []).append(bench.run(camera, seconds=bench.seconds, slower=slower))
    for name, found in runs.items():
        _report_live(bench, name, found)


def _report_live(bench: Bench, name: str, runs: Sequence[LineRun]) -> None:
    services = [statistics.median(run.calls_s) for run in runs]
    may = [min(run.camera_fps, 1 / service) for run, service in zip(runs, services, strict=True)]
    ratio = statistics.median(run.fps / limit for run, limit in zip(runs, may, strict=True))
    of = f"min(camera, 1/service) ({statistics.median(may):.1f})"
    bench.add(Row("live", name, "served", statistics.median(run.fps for run in runs), "fps", ratio, of, ">= 0.95"))
    allowed = [service * 1e3 + 1e3 / run.camera_fps + 10 for run, service in zip(runs, services, strict=True)]
    for percent, aim in ((50, ""), (95, "<= 1")):
        ages = [float(np.percentile(run.ages_ms, percent)) for run in runs]
        part = statistics.median(age / limit for age, limit in zip(ages, allowed, strict=True))
        of = f"service + interval + 10 ms ({statistics.median(allowed):.0f})"
        bench.add(Row("live", name, f"age at publish p{percent}", statistics.median(ages), "ms", part, of, aim))


# -- CPU ----------------------------------------------------------------------------------------------------------------


def measure_cpu(bench: Bench) -> None:
    """CPU per served frame by stage."""
    clip = bench.clip(1080, LIVE_FPS, int(bench.seconds + 2) * LIVE_FPS)
    cases: list[tuple[str, dict[str, Any], float | None]] = [
        ("1080p file, every frame", {"source": str(bench.clip(1080))}, None),
        ("1080p30 realtime, freshest", {"source": str(clip), "realtime": True, "mode": "freshest"}, bench.seconds),
    ]
    runs: dict[str, list[LineRun]] = {}
    for _ in range(bench.rounds):
        for name, camera, seconds in cases:
            runs.setdefault(name, []).append(bench.run(camera, seconds=seconds))
    for name, found in runs.items():
        for stage in STAGES:
            bench.add(Row("cpu", name, stage, statistics.median(run.cpu_ms.get(stage, 0.0) for run in found), "ms"))
        total = statistics.median(run.cpu_ms["total"] for run in found)
        bench.add(Row("cpu", name, "total", total, "ms"))
        own = statistics.median(run.cpu_ms["total"] - run.cpu_ms["decode"] - run.cpu_ms["infer"] for run in found)
        bench.add(Row("cpu", name, "our own (all but decode and infer)", own, "ms", own / total, "total", f"<= {OVERHEAD_BAR_MS:g} ms"))


# -- the daemon ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def daemon(bench: Bench, camera: Mapping[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """``edge-agent run`` as a process of its own."""
    process = subprocess.Popen(_command("run", "-c", str(write_config(bench, camera))))
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edge_agent", *arguments]


def write_config(bench: Bench, camera: Mapping[str, Any]) -> Path:
    """The configuration as a file."""
    lines = []
    tables = bench.tables(camera)
    for name, table in tables.items():
        for entry in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
    path = bench.folder / "agent.toml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def measure_memory(bench: Bench) -> None:
    """Most memory that the daemon ever had, with one 1080p camera."""
    camera = {"source": str(bench.clip(1080)), "realtime": True, "loop": True}
    with daemon(bench, camera) as process:
        sampled = []
        until = time.monotonic() + max(20.0, bench.seconds)
        while time.monotonic() < until and process.poll() is None:
            time.sleep(1.0)
            sampled.append(_status_mb(process.pid, "VmRSS"))
        peak = _status_mb(process.pid, "VmHWM")
    case, later = "1080p file, realtime, looped", sampled[len(sampled) // 2 :]
    bench.add(Row("memory", case, "peak RSS", peak, "MB", peak / RSS_BAR_MB, f"{RSS_BAR_MB} MB", "<= 1"))
    bench.add(Row("memory", case, "RSS, median of the second half", statistics.median(later), "MB"))


def _status_mb(pid: int, key: str) -> float:
    """A memory figure from /proc, in the 10^6 bytes that the bar is counted in."""
    text = Path(f"/proc/{pid}/status").read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024 / 1e6


def measure_start(bench: Bench) -> None:
    """From the start of the process to the first detections at a subscriber; and what is in it."""
    if bench.port is None:
        print("start: skipped, mosquitto is not installed", file=sys.stderr)
        return
    camera = {"source": clip_path(), "realtime": True, "loop": True}
    config = write_config(bench, camera)
    measured: dict[str, Callable[[], float]] = {
        "import edge_agent": lambda: _took([sys.executable, "-c", "import edge_agent"]),
        "edge-agent check": lambda: _took(_command("check", "-c", str(config))),
        "python alone": lambda: _took([sys.executable, "-c", ""]),
    }
    _first_detection(bench, camera)  # warms the disk's cache
    whole: list[float] = []
    parts: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(max(5, bench.rounds)):
        whole.append(_first_detection(bench, camera))
        for name, action in measured.items():
            parts[name].append(action())
    middle = statistics.median(whole)
    bench.add(Row("start", "720p file", "to the first detections message", middle, "s", middle / START_BAR_S, f"{START_BAR_S} s", "<= 1"))
    for name, seconds in parts.items():
        bench.add(Row("start", "720p file", name, statistics.median(seconds), "s"))


def _first_detection(bench: Bench, camera: Mapping[str, Any]) -> float:
    assert bench.port is not None
    subscriber = FirstMessage(bench.port, f"edge/{DEVICE}/camera/+/detections")
    started = time.monotonic()
    try:
        with daemon(bench, camera):
            return subscriber.wait(30.0) - started
    finally:
        subscriber.close()


def _took(command: Sequence[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


# -- main ---------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """The results for people."""
    heads = ("", "case", "measure", "value", "ratio", "of", "aim")
    lines = [heads] + [
        (r.section, r.case, r.measure, f"{r.value:.4g} {r.unit}", "" if r.ratio is None else f"{r.ratio:.3f}", r.of, r.aim) for r in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def conditions(bench: Bench) -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cores": cores(),
        "load1_before": round(os.getloadavg()[0], 2),
        "python": sys.version.split()[0],
        "model": bench.model or _model_file.BUILTIN_FILE,
        "sink": "mqtt to a local mosquitto" if bench.port else "null: mosquitto is not installed",
        "seconds": bench.seconds,
        "rounds": bench.rounds,
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FILE", help="a .onnx or .tflite detector; default: the built-in one")
    parser.add_argument("--seconds", type=float, default=6.0, metavar="N", help="length of each live run (default 6)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each comparison (default 3)")
    parser.add_argument("--only", default=",".join(SECTIONS), metavar="LIST", help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--json", action="store_true", help="results as JSON instead of a table")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"--only: no section {', '.join(sorted(unknown))}")
    return options


def main() -> None:
    """Measure and print."""
    options = arguments()
    actions = dict(zip(SECTIONS, (measure_files, measure_live, measure_cpu, measure_memory, measure_start), strict=True))
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as folder, broker() as port:
        model = str(Path(options.model).absolute()) if options.model else None
        bench = Bench(Path(folder), port, model, options.seconds, options.rounds)
        where = conditions(bench)
        for section in SECTIONS:
            if section in options.only:
                actions[section](bench)
    where["load1_after"] = round(os.getloadavg()[0], 2)
    if options.json:
        print(json.dumps({"conditions": where, "rows": [asdict(row) for row in bench.rows]}, indent=2))
    else:
        print("\n" + "  ".join(f"{name}={value}" for name, value in where.items()))
        print(table(bench.rows))


if __name__ == "__main__":
    main()
