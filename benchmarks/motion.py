"""What the motion gate costs and spares, and what it misses.

    python benchmarks/motion.py [--assets FOLDER] [--seconds N] [--rounds N] [--only CASES] [--json]

CPU: the same camera in front of the same still scene with and without the gate, in turns in one run: 1080p at 30 frames a second as
raw pictures (YUYV), JPEGs (MJPG) and H.264 (a file in real time, and over TCP with and without frames that nothing depends on), all
made of the built-in clip's first frame with sensor noise, into the built-in model. CPU is the whole process's. Cameras of raw
pictures and JPEGs hand out pictures that are in memory already: what a driver costs is in neither side.

Misses: each clip after 20 s of its first picture, looked at as the agent does while nothing moves (a few looks a second, and as
seldom as where key frames are waited for); each object of the truth that is there for a second must be served within its first second.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import av
import cv2
import numpy as np
from _live import Sender

from edge_agent import config_file, plugins
from edge_agent.camera_sources import build_source
from edge_agent.capture import Capture
from edge_agent.config import AgentConfig
from edge_agent.config_camera import MotionSettings
from edge_agent.demo import clip_path
from edge_agent.events import Message, ModelInfo
from edge_agent.image import Image, JpegImage, Pixels, PlanarImage, YuyvImage
from edge_agent.models import _loading as model_loading
from edge_agent.models import _thresholds
from edge_agent.motion import MotionGate, plane_size
from edge_agent.pipeline import Crew, Pipeline, PipelineContext
from edge_agent.scheduler import Scheduler
from edge_agent.sources._ffmpeg import FfmpegSource, FfmpegTarget
from edge_agent.sources.base import Reading, Source, StreamInfo

FPS, SIZE = 30, (1920, 1080)
WARM_S = 8.0
"""Until the first frames have passed and been held."""
PICTURES = 24
"""Pictures with noise of their own, over and over."""


class Memory(Source):
    """A camera whose pictures are in memory, at a steady rate."""

    def __init__(self, pictures: list[Callable[[], Image]], fps: float) -> None:
        self._pictures, self._fps = itertools.cycle(pictures), fps
        self._next = 0.0

    def open(self) -> StreamInfo:
        self._next = time.monotonic()
        return StreamInfo(*SIZE, self._fps, "none (memory)")

    def read(self) -> Reading:
        self._next += 1 / self._fps
        time.sleep(max(0.0, self._next - time.monotonic()))
        return Reading(next(self._pictures)(), time.monotonic())

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass
class Run:
    """One camera for so long."""

    cpu: float
    """Of one core."""
    captured_fps: float
    not_decoded_fps: float
    """Frames that the source spared."""
    served_fps: float
    gate_ms: dict[str, float] | None


def first_frame() -> Pixels:
    """The built-in clip's wall, at 1080p."""
    with av.open(clip_path()) as container:
        frame = next(container.decode(video=0))
        return np.asarray(frame.reformat(*SIZE, "bgr24").to_ndarray(), np.uint8)


def noisy(bgr: Pixels) -> Iterator[Pixels]:
    """The same with a sensor's noise."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3, (bgr.shape[0] + PICTURES, *bgr.shape[1:])).astype(np.float32)
    for shift in range(PICTURES):
        yield (bgr + noise[shift : shift + bgr.shape[0]]).clip(0, 255).astype(np.uint8)


def h264(target: Path, frames: list[Pixels], *, spare: int = 0, key_s: int = 2) -> Path:
    """Ten seconds of it, a key frame every ``key_s``; ``spare`` of each ``spare`` + 1 frames are such that nothing depends on them."""
    options = {
        "preset": "veryfast",
        "crf": "26",
        "bf": str(spare),
        "x264-params": f"b-adapt=0:b-pyramid=none:scenecut=0:keyint={key_s * FPS}:open-gop=0",
    }
    with av.open(str(target), "w") as sink:
        stream = sink.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for count in range(10 * FPS):
            frame = av.VideoFrame.from_ndarray(frames[count % len(frames)], format="bgr24").reformat(format="yuv420p")
            frame.pts, frame.time_base = count, 1 / stream.codec_context.framerate
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode())
    return target


class Bench:
    """The model and the scene, made once."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        frames = list(noisy(first_frame()))
        self.yuyv = [self._yuyv(frame) for frame in frames]
        self.jpegs = [cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes() for frame in frames]
        self.plain = h264(folder / "plain.mp4", frames)
        self.often = h264(folder / "often.mp4", frames, key_s=1)
        self.spare = h264(folder / "spare.mp4", frames, spare=2)
        cv2.setNumThreads(1)  # as the agent does
        self._loaded = model_loading.load(self.config("synthetic", gate=False))

    @staticmethod
    def _yuyv(frame: Pixels) -> Callable[[], Image]:
        data = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_YUY2), np.uint8)
        return lambda: YuyvImage(data)

    def config(self, source: str, *, gate: bool, **more: object) -> AgentConfig:
        """As agent.toml would say it."""
        camera = {"id": "cam", "source": source, "mode": "freshest", **more} | ({"motion": {"enabled": True}} if gate else {})
        tables = {"device": {"id": "bench", "state_dir": str(self.folder)}, "model": {"lanes": 1, "threads": 1}, "cameras": [camera]}
        return config_file.build(tables, plugins.PluginKinds(), environ={})

    def run(self, case: str, *, gate: bool) -> Run:
        """One side of one case."""
        with contextlib.ExitStack() as stack:
            config, source = self._camera(case, gate, stack)
            wake = threading.Condition()
            capture = Capture(config.cameras[0], source, wake)
            model = self._loaded.lanes[0]
            thresholds = _thresholds.thresholds_for(config.cameras[0].settings, config.settings.model, model.labels, 0)
            messages: list[Message] = []
            context = PipelineContext("bench", "bench", messages.append, lambda _: range(10**6), lambda: True)
            identity = self._loaded.identity
            info = ModelInfo(identity.name, identity.sha256, identity.precision, identity.runtime)
            pipeline = Pipeline(context, [Crew(Scheduler([capture], wake), [model], {"cam": thresholds}, info)])
            pipeline.start()
            capture.start()
            time.sleep(WARM_S)
            before, cpu, wall = capture.snapshot(), time.process_time(), time.perf_counter()
            time.sleep(self.seconds)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            after = capture.snapshot()
            capture.stop()
            pipeline.stop(5)
            capture.join(5)
            served = after.served - before.served
            spared = after.skipped["not_decoded"] - before.skipped["not_decoded"]
            costs = capture.motion.status().gate_ms if capture.motion else None
            return Run(cpu / wall, (after.captured - before.captured) / wall, spared / wall, served / wall, costs)

    def _camera(self, case: str, gate: bool, stack: contextlib.ExitStack) -> tuple[AgentConfig, Source]:
        if case == "YUYV":
            return self.config("synthetic", gate=gate), Memory(self.yuyv, FPS)
        if case == "MJPG":
            pictures: list[Callable[[], Image]] = [lambda data=data: JpegImage(data, *SIZE) for data in self.jpegs]  # type: ignore[misc]
            return self.config("synthetic", gate=gate), Memory(pictures, FPS)
        if case == "H.264 file":
            config = self.config(str(self.plain), gate=gate, realtime=True, loop=True)
            return config, build_source(config, config.cameras[0])
        sender = Sender(self.spare if "spare" in case else self.often if "second" in case else self.plain, FPS)
        stack.callback(sender.close)
        target = FfmpegTarget(sender.url, sender.url, live=True, open_timeout_s=5, read_timeout_s=5, format="mpegts")
        return self.config("synthetic", gate=gate), FfmpegSource(target)


CASES = ("YUYV", "MJPG", "H.264 file", "H.264 stream", "H.264 stream, a key frame every second", "H.264 stream, spare frames")


def misses(clip: Path, truth: Path) -> dict[str, object]:
    """Whether each object that is there for a second is served within its first, and how many frames were served in all."""
    boxes = json.loads(truth.read_text())
    fps = float(boxes["fps"])
    seen: dict[int, list[int]] = {}
    for frame in boxes["frames"]:
        for box in frame["boxes"]:
            seen.setdefault(box["id"], []).append(frame["frame"])
    settings = MotionSettings()
    return {f"a look every {s:g} s": _missed(clip, seen, fps, s) for s in (1 / settings.looks_per_s, settings.look_within_s)}


def _missed(clip: Path, seen: dict[int, list[int]], fps: float, look_s: float) -> dict[str, object]:
    served, looks = _looked_at(clip, fps, look_s)
    objects = {name: frames for name, frames in seen.items() if len(frames) >= fps}
    first = {name: next((n for n in served if n >= frames[0]), None) for name, frames in objects.items()}
    late = {name: None if n is None else round((n - objects[name][0]) / fps, 2) for name, n in first.items()}
    missed = [name for name, after_s in late.items() if after_s is None or after_s > 1]
    return {"objects": len(objects), "missed": missed, "served after s": late, "looks": looks, "served": len(served)}


def _looked_at(clip: Path, fps: float, look_s: float) -> tuple[list[int], int]:
    gate = MotionGate(MotionSettings(look_every_s=1e9))
    served: list[int] = []
    looks, due, at = 0, 0.0, 0.0
    with av.open(str(clip)) as container:
        frames = [PlanarImage(frame.to_ndarray(format="gray"), ()) for frame in container.decode(video=0)]
    quiet = [0] * round(20 * fps)
    for place, index in enumerate([*quiet, *range(len(frames))]):
        at = place / fps
        if at < due - 1e-9:
            continue
        looks += 1
        if not gate.passes(frames[index].luma(*plane_size(frames[index].width, frames[index].height)), at):
            due = at + look_s
        elif place >= len(quiet):
            served.append(index)
    return served, looks


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, help="a folder of other clips, each with NAME.truth.json beside it")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(CASES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    own = Path(clip_path())
    clips = [own, *(sorted(arguments.assets.rglob("*.mp4")) if arguments.assets else ())]
    report: dict[str, object] = {}
    for clip in clips:
        truth = clip.with_suffix("").with_suffix(".truth.json")
        if truth.is_file():
            report[f"misses: {clip.name}"] = misses(clip, truth)
            print(f"{clip.name}: {report[f'misses: {clip.name}']}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.seconds) if arguments.only else None
        for case in arguments.only:
            assert bench is not None
            pairs = []
            for _ in range(arguments.rounds):
                pairs.append((bench.run(case, gate=False), bench.run(case, gate=True)))
                print(case, *pairs[-1], sep="\n  ", file=sys.stderr)
            ratio = median(gated.cpu / plain.cpu for plain, gated in pairs)
            report[case] = {"CPU with / without": round(ratio, 3), "without": asdict(pairs[-1][0]), "with": asdict(pairs[-1][1])}
            print(f"{case}: CPU with the gate / without = {ratio:.1%}", file=sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
