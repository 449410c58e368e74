"""Against a plain ``cv2.VideoCapture`` loop and Roboflow's ``InferencePipeline``: the same model on the same camera and file.

    python benchmarks/peers.py --model yolox_nano.onnx [--peer-environment FOLDER] [--only CASES] [--rounds N] [--seconds N] [--json]

Each side runs in a process of its own, in turns (A B C A B C ...), and calls the same model object of this project: the same
preprocessing, postprocessing and session of ONNX Runtime, in the same version, with as many threads. "theirs" is the package
streamvision (Apache-2.0), which holds the pipeline of roboflow/inference, in an environment that this script makes with pip in
the folder given (default: ~/.cache/edge-agent-bench) and keeps.

Age: each frame of the camera has its number burned in; the RTSP server tells when it sent it, and the model's input tells each side's
number, read by the same function. Theirs and plain's ends in their handler, ours when a subscriber has the event from the broker.
A side's own clock or timestamps do not come into it. CPU and peak memory are the process's own, ours with MQTT and health; from those
of the others what this project's modules weigh in them is taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from _broker import broker
from _clips import encoded, frame_count, repeated
from _rtsp import Camera, available, numbered
from paho.mqtt.enums import CallbackAPIVersion

import edge_agent

PEER = "streamvision==0.1.3"
CONTENDER = Path(__file__).with_name("_contender.py")
SIDES = ("plain", "theirs", "ours")
WARM_UP_S = 4.0
"""Also until the first key frame: some sides show what they make of a stream before that, in which no number can be read."""
CLIP_FRAMES = 450
FILE_FRAMES = 600
SIZE = (1920, 1080)
END_S = 300.0


@dataclass(frozen=True)
class Case:
    """What all sides are given."""

    name: str
    live: bool = True
    real_fps: float = 30.0
    repeat: int = 1
    """Inferences for each frame: a model that is so many times as slow."""


CASES = {
    "live": Case("1080p30 RTSP, the model is not the limit"),
    "limit": Case("1080p30 RTSP, the model is the limit (each inference 4 times)", repeat=4),
    "late": Case("1080p RTSP that declares 30 fps and sends 25", real_fps=25.0),
    "file": Case("1080p file, every frame", live=False),
}


@dataclass(frozen=True)
class Figures:
    """One run of one side."""

    fps: float
    cpu_ms: float
    peak_mb: float
    age_p50_ms: float = 0.0
    age_p95_ms: float = 0.0


class Events:
    """When each detections message arrived at a subscriber."""

    def __init__(self, port: int) -> None:
        self.at: list[float] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda *_: self.at.append(time.monotonic())
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe("edge/bench/camera/+/detections", qos=0)
        if not subscribed.wait(10.0):
            raise RuntimeError("the broker does not confirm a subscription")

    def close(self) -> None:
        """Unsubscribe and leave."""
        self._client.disconnect()
        self._client.loop_stop()


def peer_python(folder: Path) -> Path:
    """The interpreter of their environment, which is made where it is not there."""
    python, done = folder / "bin" / "python", folder / "complete"
    wanted = [PEER, f"onnxruntime=={version('onnxruntime')}", f"pydantic-settings=={version('pydantic-settings')}"]
    if not done.exists() or done.read_text("utf-8") != " ".join(wanted):
        print(f"making an environment with {', '.join(wanted)} in {folder} (about 0.75 GB)", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        done.write_text(" ".join(wanted), "utf-8")
    return python


@dataclass
class Comparison:
    """What every run needs."""

    folder: Path
    port: int
    model: Path
    peer: Path
    threads: int
    seconds: float
    stream: Path
    file: Path
    default_sessions: bool

    def run(self, side: str, case: Case) -> Figures:
        """One side, once."""
        camera = Camera(self.stream, 30, case.real_fps, tell=True) if case.live else None
        events = Events(self.port)
        try:
            found = self._contend(side, case, camera.url if camera else str(self.file))
        finally:
            events.close()
            if camera is not None:
                camera.stop()
        if camera is not None:
            return self._live(side, found, camera.sent, events.at)
        return self._every(side, found)

    def _contend(self, side: str, case: Case, source: str) -> dict[str, Any]:
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        # As many inferences' threads in all: where every frame counts, the agent takes one lane for each core.
        lanes = self.threads if side == "ours" and not case.live else 1
        arguments = {
            "source": source, "model": self.model, "state": self.folder / "state", "result": result, "port": self.port,
            "threads": self.threads // lanes, "lanes": lanes, "repeat": case.repeat,
            "seconds": WARM_UP_S + self.seconds if case.live else 0,
        }  # fmt: skip
        command = [self.peer if side == "theirs" else sys.executable, CONTENDER, side]
        command += [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
        command += ["--default-session"] if self.default_sessions and side != "ours" else []
        environment = os.environ | {"PYTHONPATH": str(Path(edge_agent.__file__).parents[1])}
        with (self.folder / f"{side}.log").open("w") as log:
            outcome = subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=END_S, check=False)
        if not result.exists():
            text = (self.folder / f"{side}.log").read_text("utf-8")[-2000:]
            raise RuntimeError(f"{side} ended with {outcome.returncode} and no result:\n{text}")
        found: dict[str, Any] = json.loads(result.read_text("utf-8"))
        if found["versions"]["onnxruntime"] != version("onnxruntime"):
            raise RuntimeError(f"{side} ran another ONNX Runtime: {found['versions']}")
        return found

    def _live(self, side: str, found: dict[str, Any], sent: Sequence[float], arrived: Sequence[float]) -> Figures:
        records = found["records"]
        ends = [at for _, at, _ in records]
        if side == "ours":  # in order, one event for each frame; the last may be on its way
            if not len(records) - 3 <= len(arrived) <= len(records):
                raise RuntimeError(f"{len(records)} frames were inferred, and {len(arrived)} events arrived")
            records, ends = records[: len(arrived)], list(arrived)
        counted = [index for index, record in enumerate(records) if record[1] > records[0][1] + WARM_UP_S - 1]
        first, last = counted[0], counted[-1]
        numbers = unwrapped([records[index] for index in counted], sent)
        ages = [(ends[index] - sent[number]) * 1e3 for index, number in zip(counted, numbers, strict=True)]
        served = last - first
        wall, cpu = records[last][1] - records[first][1], records[last][2] - records[first][2]
        p50, p95 = (float(value) for value in np.percentile(ages, (50, 95)))
        return Figures(served / wall, cpu / served * 1e3, peak_mb(side, found), p50, p95)

    def _every(self, side: str, found: dict[str, Any]) -> Figures:
        records = found["records"]
        if len(records) != frame_count(self.file):
            raise RuntimeError(f"{len(records)} of {frame_count(self.file)} frames of the file were served")
        (_, began, cpu_began), (_, ended, cpu_ended) = records[20], records[-1]
        served = len(records) - 21
        return Figures(served / (ended - began), (cpu_ended - cpu_began) / served * 1e3, peak_mb(side, found))


def peak_mb(side: str, found: dict[str, Any]) -> float:
    """The others would not have this project's modules."""
    return float(found["peak_mb"]) - (0.0 if side == "ours" else float(found["ours_mb"]))


def unwrapped(records: Sequence[Sequence[float]], sent: Sequence[float]) -> list[int]:
    """The server's count of each frame: the burned-in one begins anew with each turn of the clip.

    The first was no older than a turn; from one to the next a side has left out less than a turn.
    """
    found: list[int] = []
    for burned, at, _ in records:
        if found:
            count = found[-1] + (int(burned) - found[-1]) % CLIP_FRAMES
        else:
            newest = sum(moment <= at for moment in sent) - 1
            count = newest - (newest - int(burned)) % CLIP_FRAMES
        if burned >= CLIP_FRAMES or not 0 <= count < len(sent) or sent[count] > at:
            raise RuntimeError(f"a frame that says {burned:g} was served before it was sent")
        found.append(count)
    return found


MEASURES = {
    "fps": ("served", "fps", ">= 1.5 where the model is the limit"),
    "age_p50_ms": ("age p50", "ms", ""),
    "age_p95_ms": ("age p95", "ms", "<= 0.6"),
    "cpu_ms": ("CPU per served frame", "ms", "<= 0.6"),
    "peak_mb": ("peak memory", "MB", "<= 0.5"),
}


def rows(case: Case, runs: dict[str, list[Figures]]) -> list[dict[str, Any]]:
    """Medians of each side, and the medians of each round's ratios."""
    found = []
    for key, (name, unit, aim) in MEASURES.items():
        if not case.live and key.startswith("age"):
            continue
        values = {side: [getattr(run, key) for run in each] for side, each in runs.items()}
        row: dict[str, Any] = {"case": case.name, "measure": name, "unit": unit, "aim": aim}
        row |= {side: statistics.median(each) for side, each in values.items()}
        for other in set(values) - {"ours"}:
            if "ours" in values:
                row[f"ours/{other}"] = statistics.median(a / b for a, b in zip(values["ours"], values[other], strict=True))
        found.append(row)
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """For people, and for docs/performance.md."""
    columns = ["case", "measure", *SIDES, "ours/plain", "ours/theirs", "aim"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in found:
        cells = [f"{row[c]:.3g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in columns]
        cells[1] += f", {row['unit']}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FILE", required=True, help="a .onnx detector; the built-in one is TFLite, which theirs has not")
    cache = Path.home() / ".cache" / "edge-agent-bench" / "streamvision"
    parser.add_argument("--peer-environment", type=Path, metavar="FOLDER", default=cache, help=f"default: {cache}")
    parser.add_argument("--only", default=",".join(CASES), metavar="CASES", help=f"some of {','.join(CASES)}")
    parser.add_argument("--sides", default=",".join(SIDES), metavar="SIDES", help=f"some of {','.join(SIDES)}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns (default 3)")
    parser.add_argument("--seconds", type=float, default=12.0, metavar="N", help="measured of each live run, after 4 s (default 12)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="of inference; default: the cores")
    defaults = "the others open ONNX Runtime and OpenCV with their defaults but for the threads, as most programs do; default: as ours"
    parser.add_argument("--default-sessions", action="store_true", help=defaults)
    parser.add_argument("--json", action="store_true", help="results as JSON instead of a table")
    options = parser.parse_args()
    options.only, options.sides = options.only.split(","), options.sides.split(",")
    if unknown := (set(options.only) - set(CASES)) | (set(options.sides) - set(SIDES)):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    if not Path(options.model).is_file() or Path(options.model).suffix != ".onnx":
        parser.error(f"--model: {options.model} is no .onnx file")
    if not available() and any(CASES[name].live for name in options.only):
        parser.error("GStreamer's RTSP server is missing: apt install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good")
    return options


def main() -> None:
    """Measure and print."""
    options = arguments()
    peer = peer_python(options.peer_environment.absolute()) if "theirs" in options.sides else Path()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as name, broker() as port:
        if port is None:
            sys.exit("mosquitto is not installed, and ours is measured at a subscriber")
        folder = Path(name)
        stream, file = folder / "camera.h264", folder / "clip.mp4"
        if any(CASES[key].live for key in options.only):
            numbered(stream, SIZE, 30, CLIP_FRAMES, gop=30)
        if not all(CASES[key].live for key in options.only):
            one = encoded(folder / "one.mp4", SIZE, 30)
            repeated(one, file, -(-FILE_FRAMES // frame_count(one)))
        model = Path(options.model).absolute()
        comparison = Comparison(folder, port, model, peer, options.threads, options.seconds, stream, file, options.default_sessions)
        found = []
        for key in options.only:
            case = CASES[key]
            runs: dict[str, list[Figures]] = {side: [] for side in options.sides}
            for _ in range(options.rounds):
                for side in options.sides:
                    runs[side].append(comparison.run(side, case))
                    print(f"{case.name}: {side}: {runs[side][-1]}", file=sys.stderr, flush=True)
            found += rows(case, runs)
    if options.json:
        print(json.dumps({"load1_before": load, "rows": found}, indent=2))
    else:
        print(table(found))
        print(f"\nload before: {load:.2f}; {options.threads} threads of inference; ONNX Runtime {version('onnxruntime')}; {PEER}", end="")
        print("; the others with default sessions" if options.default_sessions else "")


if __name__ == "__main__":
    main()
