"""An hour of trouble in a few minutes: whether the daemon's memory grows, and whether threads or descriptors stay behind.

    python benchmarks/soak.py [--minutes N] [--only WORDS] [--json]

``edge-agent run`` as a process of its own, with an RTSP camera, a Python one and a file that is looped, to a real mosquitto. Over and
over, one after the other: the RTSP server is killed, the RTSP server hangs, the broker is killed, the Python camera raises, the
Python camera stalls; each ends after some seconds, and all is well for some seconds more. So one minute has as much of it as a bad
day. Memory, threads and descriptors are read from /proc each second. A line is laid through them (least squares) once the first
quarter is over, in which buffers and allocators fill; "all is well" samples only, as an outage has fewer threads and a fuller buffer.

At the end each camera's last heartbeat must add up: captured = served + skipped + dropped + in flight.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from _broker import free_port, installed
from _rtsp import Camera, available, numbered
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.demo import clip_path

FPS = 15
WELL_S = 6.0
"""After each trouble: cameras come back within 5 s."""
MEMORY_BAR_MB = 5.0
"""Growth over the measured time that is no leak: pages of allocators that fill late."""
PYTHON_CAMERA = """
import pathlib, time, numpy
HERE = pathlib.Path(__file__).parent
PICTURE = numpy.full((720, 1280, 3), 90, "uint8")
def frames():
    while True:
        if (HERE / "raise").exists():
            raise OSError("as asked")
        while (HERE / "stall").exists():
            time.sleep(0.05)
        time.sleep(1 / 15)
        yield PICTURE
"""


@dataclass(frozen=True)
class Sample:
    """What /proc says, and whether all was well."""

    at: float
    rss_mb: float
    threads: int
    descriptors: int
    well: bool


def sample(pid: int, began: float, *, well: bool) -> Sample:
    """Now. Raises OSError when the process is gone."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    rss_mb = int(status["VmRSS"].split()[0]) * 1024 / 1e6
    return Sample(time.monotonic() - began, rss_mb, int(status["Threads"]), descriptors, well)


class Broker:
    """A mosquitto that can be killed and come back on its port."""

    def __init__(self, folder: Path) -> None:
        binary = installed()
        if binary is None:
            sys.exit("mosquitto is not installed")
        self.port = free_port()
        config = folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest none\n", "utf-8")
        self._command = [binary, "-c", str(config)]
        self.start()

    def start(self) -> None:
        """Serve, and return once it does."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.02)
        raise RuntimeError(f"mosquitto does not answer on port {self.port}")

    def stop(self) -> None:
        """As a power cut would."""
        self._process.kill()
        self._process.wait()


class Heartbeats:
    """The last one, and how many messages came."""

    def __init__(self, port: int) -> None:
        self.last: dict[str, Any] = {}
        self.detections: Counter[str] = Counter()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._on_message
        self._client.on_connect = lambda client, *_: client.subscribe("edge/#", qos=1)
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/health"):
            self.last = json.loads(message.payload)
        elif message.topic.endswith("/detections"):
            self.detections[message.topic.split("/")[-2]] += 1

    def close(self) -> None:
        """Unsubscribe and leave."""
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Trouble:
    """What is done to the daemon, for so long."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], None]
    seconds: float


@dataclass
class Soak:
    """The daemon, its surroundings, and what is seen of it."""

    folder: Path
    broker: Broker
    camera: Camera | None
    samples: list[Sample] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    def configuration(self) -> Path:
        """agent.toml."""
        (self.folder / "soaked.py").write_text(PYTHON_CAMERA, "utf-8")
        cameras = [
            ("file", clip_path(), "realtime = true\nloop = true\n"),
            ("python", "soaked:frames", f"folder = {json.dumps(str(self.folder))}\n"),
        ]
        cameras += [("rtsp", self.camera.url, "")] if self.camera else []
        lines = [f'[device]\nid = "soak"\nstate_dir = {json.dumps(str(self.folder / "state"))}\n']
        lines += [f'[mqtt]\nhost = "127.0.0.1"\nport = {self.broker.port}\n[health]\ninterval_s = 1\n[log]\nlevel = "error"\n']
        lines += [f"[[cameras]]\nid = {json.dumps(name)}\nsource = {json.dumps(source)}\n{more}" for name, source, more in cameras]
        path = self.folder / "agent.toml"
        path.write_text("".join(lines), "utf-8")
        return path

    def troubles(self) -> list[Trouble]:
        """One after the other."""
        flags = [self.folder / name for name in ("raise", "stall")]
        found = [Trouble("broker killed", self.broker.stop, self.broker.start, 3)]
        if self.camera is not None:
            found.insert(0, Trouble("RTSP server killed", self.camera.stop, self.camera.start, 2))
            found.append(Trouble("RTSP server hangs", self.camera.halt, self.camera.go_on, 6))
        found += [Trouble(f"Python camera {flag.name}s", flag.touch, flag.unlink, 3) for flag in flags]
        return found

    def run(self, process: subprocess.Popen[bytes], minutes: float, only: str) -> None:
        """Trouble after trouble. Raises RuntimeError when the daemon ends."""
        began = time.monotonic()
        for trouble in itertools.cycle(each for each in self.troubles() if only in each.name):
            trouble.begin()
            self._watch(process, began, trouble.seconds, well=False)
            trouble.end()
            self.done[trouble.name] += 1
            self._watch(process, began, WELL_S, well=True)
            print(f"{time.monotonic() - began:6.0f} s  after {trouble.name}: {self.samples[-1]}", file=sys.stderr, flush=True)
            if time.monotonic() - began > minutes * 60:
                return

    def _watch(self, process: subprocess.Popen[bytes], began: float, seconds: float, *, well: bool) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            if process.poll() is not None:
                raise RuntimeError(f"the daemon ended with {process.returncode}")
            self.samples.append(sample(process.pid, began, well=well and left <= 1.5))  # by then all are back


@dataclass(frozen=True)
class Line:
    """What became of one figure."""

    measure: str
    first: float
    last: float
    slope_per_hour: float
    growth: float
    """By the slope, over the measured time."""
    bar: float

    @property
    def is_flat(self) -> bool:
        """Whether it grew no more than the bar."""
        return self.growth <= self.bar


def lines(samples: Sequence[Sample]) -> Iterator[Line]:
    """Of the samples in which all was well, after the first quarter."""
    end = samples[-1].at
    kept = [each for each in samples if each.well and each.at > end / 4]
    if len(kept) < 4:
        raise RuntimeError("too short to say anything: more --minutes")
    at = np.array([each.at for each in kept])
    for measure, bar in (("rss_mb", MEMORY_BAR_MB), ("threads", 1.0), ("descriptors", 2.0)):
        values = np.array([float(getattr(each, measure)) for each in kept])
        slope = float(np.polyfit(at, values, 1)[0])
        part = max(1, len(values) // 4)
        first, last = float(np.median(values[:part])), float(np.median(values[-part:]))
        yield Line(measure, first, last, slope * 3600, slope * float(at[-1] - at[0]), bar)


def unbalanced(heartbeat: dict[str, Any]) -> list[str]:
    """Cameras whose frames do not add up."""
    if not heartbeat.get("cameras"):
        return ["no heartbeat came"]
    found = []
    for name, camera in heartbeat["cameras"].items():
        left, lost = sum(camera["frames_skipped_total"].values()), sum(camera["frames_dropped_total"].values())
        if camera["frames_captured_total"] != camera["frames_served_total"] + left + lost + camera["frames_in_flight"]:
            found.append(f"{name}: {camera}")
    return found


def main() -> None:
    """Soak, and print the slopes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="how long (default 10)")
    parser.add_argument("--only", default="", metavar="WORDS", help="only troubles whose name holds this, such as 'server hangs'")
    parser.add_argument("--json", action="store_true", help="results as JSON instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge-agent-soak-") as name:
        folder = Path(name)
        camera = None
        if available():
            camera = Camera(numbered(folder / "camera.h264", (1280, 720), FPS, 10 * FPS, gop=FPS), FPS)
        else:
            print("no RTSP camera: GStreamer's RTSP server or its Python bindings are not installed", file=sys.stderr)
        broker = Broker(folder)
        soak, heartbeats = Soak(folder, broker, camera), Heartbeats(broker.port)
        process = subprocess.Popen([sys.executable, "-m", "edge_agent", "run", "-c", str(soak.configuration())])
        try:
            time.sleep(WELL_S)
            soak.run(process, options.minutes, options.only)
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            heartbeats.close()
            broker.stop()
            if camera is not None:
                camera.stop()
    report(soak, heartbeats, options)


def report(soak: Soak, heartbeats: Heartbeats, options: argparse.Namespace) -> None:
    """Print; the exit status is 1 where something grew or does not add up."""
    found, wrong = list(lines(soak.samples)), unbalanced(heartbeats.last)
    if options.json:
        print(json.dumps({"troubles": soak.done, "lines": [asdict(each) for each in found], "unbalanced": wrong}, indent=2))
    else:
        print(f"{options.minutes:g} minutes; " + ", ".join(f"{name} {count} times" for name, count in soak.done.items()))
        print("detections delivered: " + ", ".join(f"{name} {count}" for name, count in sorted(heartbeats.detections.items())))
        print("| | first quarter | last quarter | slope, per hour | growth in this run | flat |\n|---|---|---|---|---|---|")
        for each in found:
            figures = f"{each.first:.1f} | {each.last:.1f} | {each.slope_per_hour:+.2f} | {each.growth:+.2f} (bar {each.bar:g})"
            print(f"| {each.measure} | {figures} | {'yes' if each.is_flat else 'NO'} |")
        print(f"frames that do not add up: {'; '.join(wrong) or 'none'}; load: {os.getloadavg()[0]:.2f}")
    sys.exit(0 if all(each.is_flat for each in found) and not wrong else 1)


if __name__ == "__main__":
    main()
