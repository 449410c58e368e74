"""A live stream as FFmpeg gives it, from a file in the role of a camera that sends faster than any."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from edge_agent.errors import EndOfStream, SourceUnavailable
from edge_agent.sources._ffmpeg import FfmpegSource, FfmpegTarget
from edge_agent.sources.base import FrameUnreadable, Reading
from tests.conftest import CLIP

GOP = 15


@pytest.fixture(scope="session")
def stream(tmp_path_factory: pytest.TempPathFactory, ffmpeg: Callable[..., None]) -> Path:
    path = tmp_path_factory.mktemp("live") / "camera.ts"
    options = (
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-x264-params",
        f"keyint={GOP}:min-keyint={GOP}:scenecut=0:bframes=2:b-pyramid=none",
    )
    ffmpeg("-i", CLIP, "-vf", "scale=160:90", *options, path)
    return path


def live(path: Path) -> FfmpegSource:
    return FfmpegSource(FfmpegTarget(f"file:{path}", str(path), live=True, open_timeout_s=5, read_timeout_s=5))


def fingerprint(reading: Reading) -> str:
    return hashlib.sha256(reading.image.bgr().tobytes()).hexdigest()


def read_out(source: FfmpegSource, after: Callable[[], None] = lambda: None) -> tuple[dict[float | None, str], int]:
    """Fingerprints by time, and how many were left out."""
    found: dict[float | None, str] = {}
    left_out = 0
    source.open()
    while True:
        try:
            reading = source.read()
        except FrameUnreadable:
            continue
        except (EndOfStream, SourceUnavailable):
            left_out += source.left_out()
            source.close()
            return found, left_out
        found[reading.pts_s] = fingerprint(reading)
        left_out += source.left_out()
        after()


def test_pictures_are_the_same_whatever_is_left_out_and_each_frame_is_counted(stream: Path) -> None:
    whole, none = read_out(live(stream))
    assert none == 0
    chance = random.Random(1)
    source = live(stream)
    some, left_out = read_out(source, lambda: source.skip_until(time.monotonic() + chance.choice([0, 0, 0.001, 0.005])))
    assert left_out > 0
    assert source.decoded_total == len(some)
    assert {pts: whole[pts] for pts in some} == some
    assert len(some) + left_out == len(whole)


def test_a_camera_that_is_joined_in_the_middle_shows_nothing_before_its_first_key_frame(stream: Path, tmp_path: Path) -> None:
    whole, _ = read_out(live(stream))
    with av.open(str(stream)) as container:
        starts = [packet.pos for packet in container.demux(video=0) if packet.size and packet.pos]
    data = stream.read_bytes()
    cut = tmp_path / "joined.ts"
    cut.write_bytes(data[: 3 * 188] + data[starts[GOP // 3] :])  # the stream's tables, and then from within the first group on
    joined, _ = read_out(live(cut))
    assert len(whole) - GOP - 3 <= len(joined) < len(whole)
    assert set(joined.values()) <= set(whole.values())
