"""What a frame costs before the model: skipped, and served at a model's size, against plain OpenCV in the same run.

    python benchmarks/capture.py [--rounds N] [--only buffers,h264,skipping] [--json]

"Plain" is ``cv2.VideoCapture.read()`` and one ``cv2.resize``. Without a camera at hand, a webcam's buffers are made here.
For MJPG, plain reads those very JPEGs from an AVI by OpenCV's own backend for them, which decodes as its V4L2 backend does
(``imdecode`` into a picture of its own, which is copied for the caller). For raw formats there is no such file, and plain is
the conversion alone (``cv2.cvtColor``), less than ``read()`` does. CPU is that of the thread, or of the process where FFmpeg
decodes. Plain keeps a picture until the next is there, as a loop around ``read()`` does: let go of sooner, its memory goes
back to the system each time, and plain costs up to twice as much. The figures last taken are in docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from _clips import BUILTIN_FPS, encoded, repeated
from _live import Sender, with_skippable_frames

from edge_agent import config_file
from edge_agent.capture import Capture
from edge_agent.demo import clip_path
from edge_agent.errors import EndOfStream
from edge_agent.image import Image, JpegImage, Pixels, PlanarImage, YuyvImage
from edge_agent.plugins import PluginKinds
from edge_agent.scheduler import Scheduler
from edge_agent.sources._ffmpeg import FfmpegSource, FfmpegTarget
from edge_agent.sources.base import Reading, Source, StreamInfo

SIZES = ((320, 180), (416, 234), (640, 360))
"""A 16:9 picture in square models of 320, 416 and 640."""
BUFFERS = 60
"""Of a webcam, in turns: more than the caches hold."""
FOREVER = float("inf")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    measure: str
    value: float
    unit: str
    ratio: float | None = None
    """Over plain, measured in the same rounds."""
    aim: str = ""


# -- webcam buffers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """How a webcam's buffers become pictures: ours, lazily, and OpenCV's, in read()."""

    name: str
    buffers: Sequence[Pixels]
    lazy: Callable[[Pixels], Image]
    plain: Callable[[Pixels], Pixels]
    """A buffer as ``read()`` gives it; where it reads for itself, the buffers are those that it reads, in turn."""
    aim: str


class Reader:
    """``cv2.VideoCapture.read()`` of JPEGs, over and over."""

    def __init__(self, jpegs: Sequence[Pixels], path: Path) -> None:
        self._path = str(path)
        with av.open(self._path, "w", format="avi") as sink:
            stream = sink.add_stream("mjpeg", rate=30)
            stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuvj420p"
            for count, jpeg in enumerate(jpegs):
                packet = av.Packet(jpeg.tobytes())
                packet.pts = packet.dts = count
                packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 30), stream, True
                sink.mux(packet)
        self._capture = cv2.VideoCapture(self._path, cv2.CAP_OPENCV_MJPEG)

    def __call__(self, _buffer: Pixels) -> Pixels:
        ok, picture = self._capture.read()
        if not ok:
            self._capture = cv2.VideoCapture(self._path, cv2.CAP_OPENCV_MJPEG)
            ok, picture = self._capture.read()
            assert ok
        return _pixels(picture)


def formats(folder: Path) -> list[Format]:
    """The same pictures in the formats of webcams."""
    with av.open(clip_path()) as container:
        pictures = [frame for _, frame in zip(range(BUFFERS), container.decode(video=0), strict=False)]
    large = [np.asarray(f.reformat(1920, 1080, "bgr24").to_ndarray(), np.uint8) for f in pictures]
    jpegs = [np.asarray(cv2.imencode(".jpg", p, (cv2.IMWRITE_JPEG_QUALITY, 85))[1], np.uint8).reshape(-1) for p in large]
    usual = (cv2.IMWRITE_JPEG_QUALITY, 40, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422)
    smaller = [np.asarray(cv2.imencode(".jpg", p, usual)[1], np.uint8).reshape(-1) for p in large]
    packed = [_yuyv(f) for f in pictures]
    nv12 = [np.asarray(f.reformat(1920, 1080, "nv12").to_ndarray(), np.uint8) for f in pictures]
    return [
        Format("MJPG 1080p, 288 KB", jpegs, _from_jpeg, Reader(jpegs, folder / "jpegs.avi"), "<= 0.5"),
        Format("MJPG 1080p, 148 KB, 4:2:2", smaller, _from_jpeg, Reader(smaller, folder / "smaller.avi"), "<= 0.5"),
        Format("YUYV 720p", packed, YuyvImage, lambda b: _pixels(cv2.cvtColor(b, cv2.COLOR_YUV2BGR_YUYV)), "<= 1"),
        Format("NV12 1080p", nv12, _from_nv12, lambda b: _pixels(cv2.cvtColor(b, cv2.COLOR_YUV2BGR_NV12)), "<= 1"),
    ]


def _yuyv(frame: av.VideoFrame) -> Pixels:
    plane = frame.reformat(1280, 720, "yuyv422").planes[0]
    rows: Pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(720, plane.line_size)
    packed: Pixels = rows[:, :2560].reshape(720, 1280, 2).copy()
    return packed


def _pixels(picture: object) -> Pixels:
    return np.asarray(picture, np.uint8)


def _from_jpeg(data: Pixels) -> Image:
    return JpegImage(data, 1920, 1080)


def _from_nv12(data: Pixels) -> Image:
    return PlanarImage(data[:1080], (data[1080:].reshape(540, 960, 2),))


class BufferSource(Source):
    """A webcam without a driver: its buffers are copied, as a driver's must be, and handed out lazily."""

    def __init__(self, form: Format, frames: int) -> None:
        self._format, self._frames, self._count = form, frames, 0

    def open(self) -> StreamInfo:
        return StreamInfo(0, 0, None, "none")

    def read(self) -> Reading:
        if self._count == self._frames:
            raise EndOfStream
        buffer = self._format.buffers[self._count % BUFFERS]
        self._count += 1
        return Reading(self._format.lazy(buffer.copy()), time.monotonic())

    def close(self) -> None:
        """Nothing to let go of."""


def measure_buffers(rounds: int, folder: Path) -> Iterator[Row]:
    """Skipped: the whole way into the slot and out of it unseen. Served: to the size of the model."""
    for form in formats(folder):
        skipped = statistics.median(_skipped_ms(form) for _ in range(rounds))
        yield Row(form.name, "skipped", skipped, "ms", aim="<= 0.2 ms")
        for size in SIZES:
            served = lambda b, form=form, size=size: form.lazy(b.copy()).resized(*size, "BGR")  # noqa: E731
            plain = _kept(form.plain, size)
            yield from _in_turns(f"{form.name} to {size[0]}", form.buffers, served, plain, rounds, form.aim)


def _kept(convert: Callable[[Pixels], Pixels], size: tuple[int, int]) -> Callable[[Pixels], object]:
    """Plain's way, with the last picture kept until the next has been made."""
    last: list[Pixels] = []

    def plain(buffer: Pixels) -> object:
        last[:] = [convert(buffer)]
        return cv2.resize(last[0], size)

    return plain


def _skipped_ms(form: Format, frames: int = 600) -> float:
    """CPU per frame of a capture that nobody takes from."""
    used: list[float] = []

    class Timed(BufferSource):
        def open(self) -> StreamInfo:
            used.append(time.thread_time())
            return super().open()

        def close(self) -> None:
            used.append(time.thread_time())

    config = config_file.build({"cameras": [{"id": "bench", "source": "synthetic", "mode": "freshest"}]}, PluginKinds(), environ={})
    capture = capture_of(config.cameras[0], lambda: Timed(form, frames))
    capture.start()
    while capture.snapshot().captured < frames:
        time.sleep(0.01)
    capture.stop()
    capture.join(5.0)
    return (used[1] - used[0]) / frames * 1e3


def _in_turns(
    case: str, buffers: Sequence[Pixels], ours: Callable[[Pixels], object], plain: Callable[[Pixels], object], rounds: int, aim: str
) -> Iterator[Row]:
    found: list[tuple[float, float]] = []
    for _ in range(rounds):
        turn = []
        for way in (ours, plain):
            begun = time.thread_time()
            for buffer in buffers:
                way(buffer)
            turn.append((time.thread_time() - begun) / len(buffers) * 1e3)
        found.append((turn[0], turn[1]))
    ratio = statistics.median(a / b for a, b in found)
    yield Row(case, "served", statistics.median(a for a, _ in found), "ms", ratio, aim)
    yield Row(case, "plain", statistics.median(b for _, b in found), "ms")


# -- H.264 --------------------------------------------------------------------------------------------------------------


def measure_h264(rounds: int, folder: Path) -> Iterator[Row]:
    """A stream as fast as it can be read, decoded by one thread on both sides."""
    clip = repeated(encoded(folder / "one.mp4", (1920, 1080), BUILTIN_FPS), folder / "h264.ts", 2)
    skippable = with_skippable_frames(folder / "bframes.ts", (1920, 1080), apart=6)
    for name, path in (("H.264 1080p", clip), ("H.264 1080p, 5 of 6 disposable", skippable)):
        skipped = statistics.median(_h264_ours(path, None) for _ in range(rounds))
        yield Row(name, "skipped, for ever", skipped, "ms")
        for size in SIZES:
            pairs = [(_h264_ours(path, size), _h264_plain(path, size)) for _ in range(rounds)]
            ratio = statistics.median(a / b for a, b in pairs)
            yield Row(f"{name} to {size[0]}", "served", statistics.median(a for a, _ in pairs), "ms", ratio, "<= 1")
            yield Row(f"{name} to {size[0]}", "plain", statistics.median(b for _, b in pairs), "ms")


def _h264_ours(path: Path, size: tuple[int, int] | None) -> float:
    source = FfmpegSource(FfmpegTarget(str(path), path.name, live=True, open_timeout_s=5, read_timeout_s=5))
    source.open()
    if size is None:
        source.skip_until(FOREVER)
    frames, begun = 0, time.process_time()
    try:
        while True:
            reading = source.read()
            frames += 1 + source.left_out()
            if size is not None:
                reading.image.resized(*size, "BGR")
    except EndOfStream:
        frames += source.left_out()
    used = time.process_time() - begun
    source.close()
    return used / frames * 1e3


def _h264_plain(path: Path, size: tuple[int, int]) -> float:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames, begun = 0, time.process_time()
    while True:
        ok, picture = capture.read()
        if not ok:
            break
        cv2.resize(picture, size)
        frames += 1
    used = time.process_time() - begun
    capture.release()
    return used / frames * 1e3


# -- skipping -----------------------------------------------------------------------------------------------------------


def measure_skipping(folder: Path, seconds: float) -> Iterator[Row]:
    """A live stream of which the model takes every sixth frame: how many are decoded for each that is served."""
    streams = {
        "every frame a key frame": encoded(folder / "live-i.mp4", (1280, 720), BUILTIN_FPS, gop=1),
        "16 of 17 disposable": with_skippable_frames(folder / "live-17.mp4", (1280, 720), apart=17),
        "5 of 6 disposable": with_skippable_frames(folder / "live-b.mp4", (1280, 720), apart=6),
        "a key frame every 6": encoded(folder / "live-key.mp4", (1280, 720), BUILTIN_FPS, gop=6),
        "nothing skippable": encoded(folder / "live-p.mp4", (1280, 720), BUILTIN_FPS, gop=10_000),
    }
    for name, clip in streams.items():
        served, decoded, captured = _every_sixth(clip, seconds)
        aim = "" if name.startswith("nothing") else "<= 1.3"
        yield Row(f"H.264 720p, {name}", "decoded / served", decoded / served, "", aim=aim)
        yield Row(f"H.264 720p, {name}", "captured / served", captured / served, "")


def _every_sixth(clip: Path, seconds: float, fps: float = 30.0) -> tuple[int, int, int]:
    """Served, decoded and captured frames of a stream at ``fps`` with a model that takes 6 intervals."""
    service_s = 6 / fps
    made: list[FfmpegSource] = []

    def factory() -> Source:
        target = FfmpegTarget(sender.url, sender.url, live=True, open_timeout_s=5, read_timeout_s=5, format="mpegts")
        made.append(FfmpegSource(target))
        return made[-1]

    config = config_file.build({"cameras": [{"id": "bench", "source": "synthetic", "mode": "freshest"}]}, PluginKinds(), environ={})
    served, settle = -10, (0, 0)  # the first turns are left out: the stream begins with what was buffered for it
    with contextlib.closing(Sender(clip, fps)) as sender:
        wake = threading.Condition()
        capture = capture_of(config.cameras[0], factory, wake)
        scheduler = Scheduler([capture], wake)
        capture.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            job = scheduler.take()
            if job is None:
                continue
            time.sleep(max(0.0, job.taken_at + service_s - time.monotonic()))
            capture.served()
            served += 1
            if served == 0:
                settle = (capture.snapshot().captured, made[0].decoded_total)
        counts, decoded = capture.snapshot(), made[0].decoded_total
        capture.stop()
        capture.join(5.0)
    return served, decoded - settle[1], counts.captured - settle[0]


# -- all ----------------------------------------------------------------------------------------------------------------


def capture_of(camera: object, factory: Callable[[], Source], wake: threading.Condition | None = None) -> Capture:
    """A capture runner of a source that is made here."""
    return Capture(camera, factory(), wake or threading.Condition())  # type: ignore[arg-type]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=12.0, help="of the live streams of 'skipping'")
    parser.add_argument("--only", default="buffers,h264,skipping")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    sections = arguments.only.split(",")
    rows: list[Row] = []
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "buffers" in sections:
            rows += measure_buffers(arguments.rounds, folder)
        if "h264" in sections:
            rows += measure_h264(max(1, arguments.rounds // 2), folder)
        if "skipping" in sections:
            rows += measure_skipping(folder, arguments.seconds)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"cores={len(os.sched_getaffinity(0))}  load1_before={load_before:.2f}  opencv={cv2.__version__}  av={av.__version__}")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} of plain"
        print(f"{row.case:44} {row.measure:20} {row.value:8.3f} {row.unit:3} {ratio:16} {row.aim}")


if __name__ == "__main__":
    main()
