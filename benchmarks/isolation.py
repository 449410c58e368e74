"""What a process per camera costs, and what it saves: the figures of docs/decisions/0007-threads-or-processes.md.

    python benchmarks/isolation.py [--rounds N] [--only transfer,camera,agent,recovery] [--json]

transfer: CPU of handing one picture from process to process, by its form, and bytes copied.
camera:   CPU per frame, start, and memory of one source in a thread and in a process.
agent:    memory of the whole agent with one 1080p camera, by isolation.
recovery: what becomes of the camera, and of the service, when a source hangs or dies in each of several ways.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _clips import encoded, repeated

from edge_agent import config_file
from edge_agent.camera_sources import camera_source
from edge_agent.camera_state import CameraState
from edge_agent.capture import Capture
from edge_agent.config import AgentConfig
from edge_agent.image import BgrImage, Image, JpegImage, PlanarImage, YuyvImage
from edge_agent.plugins import PluginKinds
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.sources._process import ProcessSource
from edge_agent.sources._shared import Receiver, Sender
from edge_agent.sources.base import Source

Row = dict[str, Any]
ISOLATIONS = ("thread", "process")
MODULE = """
import ctypes, fcntl, os, pathlib, signal, time, numpy
MARK = pathlib.Path(__file__).with_name("mark")
def frames():
    if {exclusive}:  # as a camera that only one may have
        device = open(MARK.with_name("device"), "w")
        fcntl.flock(device, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for number in range(10**9):
        time.sleep(0.01)
        if number == 20 and not MARK.exists():
            MARK.touch()
            {what}
        yield numpy.zeros((120, 160, 3), "uint8")
"""
WAYS = {
    "Python code that waits": "time.sleep(10**6)",
    "C that waits, GIL released": "ctypes.CDLL(None).pause()",
    "C that waits with the GIL": "ctypes.PyDLL(None).pause()",
    "segmentation fault": "ctypes.string_at(0)",
}
WAIT, *_ = WAYS
TRIALS = [(WAIT, False), *((way, True) for way in WAYS)]
"""What happens, and whether it happens to a device that only one may have."""
TRIAL_S = 15.0
WEBCAM = """
import time, numpy
picture = numpy.random.default_rng(1).integers(0, 256, (1080, 1920, 3), numpy.uint8)
def frames():
    time.sleep(1 / 30)
    return picture
"""
"""A process that holds neither decoder nor OpenCV, as a webcam's."""


def configuration(**camera: Any) -> AgentConfig:
    """One camera, as from agent.toml."""
    return config_file.build({"cameras": [{"id": "bench", **camera}]}, PluginKinds(), environ={})


def source_of(config: AgentConfig) -> Source:
    """The source of its camera."""
    return camera_source(config, config.cameras[0])


def memory_mb(pid: int | str) -> tuple[float, float]:
    """RSS and PSS of a process; what is shared counts in full in the one, and by its share in the other."""
    lines = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return tuple(int(lines[name].split()[0]) / 1024 for name in ("Rss", "Pss"))  # type: ignore[return-value]


def cpu_s(pid: int | str) -> float:
    """CPU that a process has used."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


# -- transfer -----------------------------------------------------------------------------------------------------------


def forms() -> dict[str, tuple[Image, int]]:
    """Pictures as cameras give them, and how many bytes they are."""
    noise = np.random.default_rng(1).integers(0, 256, (1080, 1920, 3), np.uint8)
    picture = np.asarray(cv2.GaussianBlur(noise, (9, 9), 0), np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].reshape(-1)
    y, chroma = picture[..., 0].copy(), picture[::2, ::2, :2].copy()
    yuyv = picture[:720, :1280, :2].copy()
    return {
        "MJPG 1080p": (JpegImage(jpeg, 1920, 1080), jpeg.nbytes),
        "YUYV 720p": (YuyvImage(yuyv), yuyv.nbytes),
        "NV12 1080p": (PlanarImage(y, (chroma,)), y.nbytes + chroma.nbytes),
        "BGR 1080p": (BgrImage(picture), picture.nbytes),
    }


def transfers(rounds: int) -> Iterator[Row]:
    """Packing and unpacking, in turns over the forms."""
    pairs = {name: (Sender(), Receiver()) for name in forms()}
    used: dict[str, list[float]] = {name: [] for name in pairs}
    pictures = forms()
    for _ in range(rounds * 60):
        for name, (image, _) in pictures.items():
            sender, receiver = pairs[name]
            began = time.thread_time()
            sender.freed(receiver.freed())
            parcel = sender.pack(image)
            if parcel.new_fd is not None:
                receiver.map(parcel.buffer, parcel.new_fd, parcel.size)
            receiver.unpack(parcel.pickled, parcel.buffer, parcel.layout)
            used[name].append(time.thread_time() - began)
    for name, (_, size) in pictures.items():
        yield {"form": name, "kB copied": round(size / 1e3), "ms CPU": round(statistics.median(used[name]) * 1e3, 3)}


# -- one camera ---------------------------------------------------------------------------------------------------------


def cameras(folder: Path, rounds: int) -> Iterator[Row]:
    """Sources as they are, in both ways."""
    clip = repeated(encoded(folder / "one.mp4", (1920, 1080), 30), folder / "clip.mp4", 10)
    tables = {
        "H.264 1080p file": {"source": str(clip), "loop": True},
        "test pattern 1080p": {"source": "synthetic", "width": 1920, "height": 1080, "fps": 1000},
    }
    for name, table in tables.items():
        results: dict[str, list[Row]] = {isolation: [] for isolation in ISOLATIONS}
        for _ in range(rounds):
            for isolation in ISOLATIONS:
                results[isolation].append(one_camera(configuration(**table, isolation=isolation)))
        for isolation, rows in results.items():
            yield {"source": name, "isolation": isolation} | {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}


def one_camera(config: AgentConfig) -> Row:
    """300 frames of it."""
    source = source_of(config)
    began = time.monotonic()
    source.open()
    source.read()
    started = time.monotonic() - began
    source.close()
    began = time.monotonic()
    source.open()
    source.read()
    again = time.monotonic() - began
    child = source.pid if isinstance(source, ProcessSource) else None
    pids = ["self"] if child is None else ["self", str(child)]
    before, wall = sum(map(cpu_s, pids)), time.monotonic()
    for _ in range(300):
        source.read()
    used, wall = sum(map(cpu_s, pids)) - before, time.monotonic() - wall
    rss, pss = memory_mb(child) if child else (0.0, 0.0)
    source.close()
    source.dispose()
    return {
        "first frame ms": started * 1e3, "reopened ms": again * 1e3, "CPU ms/frame": used / 300 * 1e3, "wall ms/frame": wall / 300 * 1e3,
        "child RSS MB": rss, "child PSS MB": pss,
    }  # fmt: skip


# -- the agent ----------------------------------------------------------------------------------------------------------


def agents(folder: Path) -> Iterator[Row]:
    """`edge-agent run` with one 1080p camera of 30 frames a second, after ten seconds."""
    clip = repeated(encoded(folder / "one.mp4", (1920, 1080), 30), folder / "clip.mp4", 20)
    (folder / "bench_webcam.py").write_text(WEBCAM)
    tables = {
        "H.264": f'source = "{clip}"\nrealtime = true\nloop = true\n',
        "BGR from Python": f'source = "bench_webcam:frames"\nfolder = "{folder}"\n',
    }
    for name, table in tables.items():
        for isolation in ISOLATIONS:
            path = folder / f"{isolation}.toml"
            head = f'[device]\nstate_dir = "{folder}/{isolation}"\n[mqtt]\nport = 9\n[[cameras]]\nid = "c"\nmode = "freshest"\n'
            path.write_text(f'{head}isolation = "{isolation}"\n{table}')
            yield {"camera": name, "isolation": isolation} | one_agent(path)


def one_agent(path: Path) -> Row:
    """Memory after ten seconds, and CPU of the next five."""
    with subprocess.Popen([sys.executable, "-m", "edge_agent", "run", "--config", str(path)], stderr=subprocess.DEVNULL) as agent:
        time.sleep(10)
        children = [(task / "children").read_text().split() for task in Path(f"/proc/{agent.pid}/task").iterdir()]
        pids = [str(agent.pid), *(pid for each in children for pid in each)]
        rss, pss = (sum(each) for each in zip(*map(memory_mb, pids), strict=True))
        before = sum(map(cpu_s, pids))
        time.sleep(5)
        cpu = (sum(map(cpu_s, pids)) - before) / 5
        agent.send_signal(signal.SIGTERM)
    return {"processes": len(pids), "RSS MB": round(rss), "PSS MB": round(pss), "CPU % of a core": round(cpu * 100)}


# -- recovery -----------------------------------------------------------------------------------------------------------


def recoveries(folder: Path) -> Iterator[Row]:
    """Each way of hanging, in a process that is the service."""
    for number, (way, exclusive) in enumerate(TRIALS):
        for isolation in (*ISOLATIONS, "auto"):
            place = folder / f"{isolation}-{number}"
            place.mkdir()
            (place / "bench_camera.py").write_text(MODULE.format(what=WAYS[way], exclusive=exclusive))
            command = [sys.executable, __file__, "--trial", isolation, str(place)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=2 * TRIAL_S, check=False)
                outcome = done.stdout.strip() or f"the service is ended by {signal.Signals(-done.returncode).name}"
            except subprocess.TimeoutExpired:
                outcome = "the service hangs"
            yield {"what": way, "exclusive": exclusive, "isolation": isolation, "outcome": outcome}


def trial(isolation: str, folder: Path) -> None:
    """Be the service: one camera that will misbehave, looked after twice a second as health.py does."""
    config = configuration(source="bench_camera:frames", folder=str(folder), timeout_s=1, isolation=isolation)
    camera = config.cameras[0]
    backoff = Backoff(BackoffPolicy(first_s=0.5, cap_s=1))

    def another() -> Source:
        return camera_source(config, camera, after_wedge=True)

    capture = Capture(camera, source_of(config), threading.Condition(), backoff=backoff, another=another)
    capture.start()
    until((folder / "mark").exists)
    began = time.monotonic()

    def back() -> bool:
        capture.check(time.monotonic())
        return capture.status.reconnects > 0 and capture.status.state is CameraState.ONLINE

    recovered = until(back)
    error = capture.status.error
    told = (
        f"frames again after {time.monotonic() - began:.1f} s, in a {capture.status.isolation}"
        if recovered
        else f"no frames again: {error}"
    )
    print(f"{told}; {capture.left_behind} threads hang", flush=True)
    os._exit(0)


def until(condition: Callable[[], bool]) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + TRIAL_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="transfer,camera,agent,recovery")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trial", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trial:
        trial(arguments.trial[0], Path(arguments.trial[1]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], Iterator[Row]]] = {
            "transfer": lambda: transfers(arguments.rounds),
            "camera": lambda: cameras(folder, arguments.rounds),
            "agent": lambda: agents(folder),
            "recovery": lambda: recoveries(folder),
        }
        for part in arguments.only.split(","):
            for row in parts[part]():
                print(
                    json.dumps(row) if arguments.json else f"{part}: " + ", ".join(f"{key} {value}" for key, value in row.items()),
                    flush=True,
                )


if __name__ == "__main__":
    main()
