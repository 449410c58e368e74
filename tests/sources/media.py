"""Small clips in many containers, made from the built-in one, and what FFmpeg's own programs say of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_agent.errors import EndOfStream
from edge_agent.image import Pixels
from edge_agent.sources.base import FrameUnreadable, Reading, Source, SourceContext
from tests.conftest import CLIP, needs

SIZE = (160, 90)
FRAMES = 30

B_FRAMES = ("-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "12")
WITH_SOUND = ("-f", "lavfi", "-i", "sine=duration=2")
RECIPES: dict[str, tuple[str, ...]] = {
    "plain.mp4": B_FRAMES,
    "index_first.mp4": (*B_FRAMES, "-movflags", "+faststart"),
    "fragmented.mp4": (*B_FRAMES, "-movflags", "frag_keyframe+empty_moov"),
    "phone.mov": B_FRAMES,
    "old.avi": ("-c:v", "mpeg4", "-bf", "2"),
    "h264.avi": B_FRAMES,
    "screen.mkv": B_FRAMES,
    "web.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"),
    "recorder.ts": B_FRAMES,
    "raw.h264": B_FRAMES,
    "full_range.mp4": ("-c:v", "libx264", "-pix_fmt", "yuvj420p", "-preset", "veryfast"),
    "ten_bits.mkv": ("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-preset", "ultrafast", "-x265-params", "log-level=none"),
    "jpegs.avi": ("-c:v", "mjpeg", "-q:v", "3"),
}
SOUND_FIRST = "sound_first.mp4"


@dataclass(frozen=True)
class Media:
    """A folder of clips."""

    folder: Path
    ffmpeg: Callable[..., None]

    def clip(self, name: str) -> Path:
        """The clip of that name, made when it is asked for first."""
        path = self.folder / name
        if not path.exists():
            picture = ("-vf", f"scale={SIZE[0]}:{SIZE[1]}", "-frames:v", str(FRAMES))
            if name == SOUND_FIRST:
                self.ffmpeg("-i", CLIP, *WITH_SOUND, "-map", "1:a", "-map", "0:v", *picture, *B_FRAMES, "-c:a", "aac", path)
            else:
                self.ffmpeg("-i", CLIP, *picture, *RECIPES[name], path)
        return path


def frame_count(path: Path) -> int:
    """As ffprobe counts, by decoding."""
    command = [needs("ffprobe", "ffmpeg"), "-v", "error", "-count_frames", "-select_streams", "v:0"]
    command += ["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0].strip(","))


def shown_by_ffmpeg(path: Path, width: int, height: int) -> list[Pixels]:
    """Every frame as ffmpeg shows it, turned as the container says."""
    command = [needs("ffmpeg", "ffmpeg"), "-nostdin", "-v", "error", "-i", str(path), "-fps_mode", "passthrough"]
    command += ["-f", "rawvideo", "-pix_fmt", "bgr24", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return list(np.frombuffer(data, np.uint8).reshape(-1, height, width, 3))


def context(source: str | Path, secret: str = "") -> SourceContext:
    return SourceContext("front", str(source), lambda path: Path(path).absolute(), lambda _: secret)


def read_to_end(source: Source, *, at_most: int = 10_000) -> tuple[list[Reading], int]:
    """Every picture, and how many could not be read. Raises what the source raises, except its end."""
    readings: list[Reading] = []
    unreadable = 0
    while len(readings) < at_most:
        try:
            readings.append(source.read())
        except FrameUnreadable:
            unreadable += 1
        except EndOfStream:
            break
    return readings, unreadable


def self_signed(path: Path) -> Path:
    """A certificate for 127.0.0.1, signed by itself, with its key beside it (``.key``)."""
    command = [needs("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=camera"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path
