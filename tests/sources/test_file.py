"""Video files: every frame, in order, once, and an end; and what is said of files that are none."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from edge_agent.errors import ConfigError, EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.image import BgrImage
from edge_agent.plugins import PluginKinds
from edge_agent.sources import file, http, rtsp
from edge_agent.sources._ffmpeg import FfmpegTarget
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo
from tests.conftest import CLIP, REPOSITORY
from tests.sources.media import FRAMES, RECIPES, SIZE, SOUND_FIRST, Media, context, frame_count, read_to_end, self_signed, shown_by_ffmpeg


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory, ffmpeg: Callable[..., None]) -> Media:
    return Media(tmp_path_factory.mktemp("media"), ffmpeg)


def source_of(path: Path | str, *, loop: bool = False, realtime: bool = False) -> Source:
    return file.build(context(path), file.Config(loop=loop, realtime=realtime))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())


# -- every frame --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RECIPES, SOUND_FIRST])
def test_every_frame_in_order_and_an_end(media: Media, name: str) -> None:
    path = media.clip(name)
    source = source_of(path)
    info = source.open()
    assert (info.width, info.height) == SIZE
    assert info.fps == pytest.approx(15, abs=0.1)
    readings, unreadable = read_to_end(source)
    source.close()
    assert len(readings) == frame_count(path) == FRAMES
    assert unreadable == 0
    stamps = [reading.pts_s for reading in readings if reading.pts_s is not None]
    assert len(stamps) == FRAMES
    assert stamps == sorted(set(stamps)), "timestamps grow"
    assert stamps[-1] - stamps[0] == pytest.approx((FRAMES - 1) / 15, abs=0.2)
    for reading, expected in zip(readings, shown_by_ffmpeg(path, *SIZE), strict=True):
        assert difference(reading.image.bgr(), expected) < 6
        assert reading.not_before is None


def test_frames_stay_valid_after_later_reads_and_after_close(media: Media) -> None:
    source = source_of(media.clip("plain.mp4"), loop=True)
    source.open()

    def fingerprint(reading: Reading) -> str:
        return hashlib.sha256(reading.image.resized(64, 36, "RGB").tobytes()).hexdigest()

    held = [(reading, fingerprint(reading)) for reading in (source.read() for _ in range(50))]
    source.close()
    del source
    assert [fingerprint(reading) for reading, _ in held] == [before for _, before in held]
    assert len({before for _, before in held}) >= FRAMES // 3


def test_looped_files_begin_again_without_losing_a_frame(media: Media) -> None:
    source = source_of(media.clip("screen.mkv"), loop=True)
    source.open()
    stamps = [source.read().pts_s for _ in range(FRAMES * 2 + 10)]
    source.close()
    assert stamps[FRAMES : 2 * FRAMES] == stamps[:FRAMES]
    assert stamps[2 * FRAMES :] == stamps[:10]


def test_a_looped_file_that_was_removed_is_unavailable_and_then_begins_again(media: Media, tmp_path: Path) -> None:
    path = tmp_path / "copy.mkv"
    path.write_bytes(media.clip("screen.mkv").read_bytes())
    source = source_of(path, loop=True)
    source.open()
    for _ in range(FRAMES):
        source.read()
    path.rename(tmp_path / "away.mkv")
    with pytest.raises(SourceUnavailable, match=r"copy\.mkv"):
        source.read()
    (tmp_path / "away.mkv").rename(path)
    source.open()
    assert source.read().pts_s == 0
    source.close()


def test_a_looped_file_that_was_emptied_is_broken(media: Media, tmp_path: Path) -> None:
    path = tmp_path / "copy.ts"
    path.write_bytes(media.clip("recorder.ts").read_bytes())
    source = source_of(path, loop=True)
    source.open()
    for _ in range(FRAMES):
        source.read()
    path.write_bytes(b"")
    with pytest.raises(SourceBroken):
        source.read()


def test_realtime_gives_each_frame_the_time_of_its_timestamp(media: Media) -> None:
    source = source_of(media.clip("plain.mp4"), realtime=True)
    source.open()
    readings, _ = read_to_end(source)
    source.close()
    first = readings[0]
    assert first.not_before == first.captured_at
    assert first.pts_s is not None
    for reading in readings:
        assert reading.not_before is not None
        assert reading.pts_s is not None
        assert reading.not_before - first.captured_at == pytest.approx(reading.pts_s - first.pts_s, abs=1e-6)


def test_realtime_begins_anew_after_a_jump_and_after_a_pause() -> None:
    source = file.FileSource(FfmpegTarget("x", "x", live=False, open_timeout_s=1, read_timeout_s=1), file.Config(realtime=True))

    def due(read_at: float, pts_s: float) -> float:
        return source._due(Reading(BgrImage(np.zeros((1, 1, 3), np.uint8)), read_at, pts_s))

    assert due(100.0, 0.0) == 100.0
    assert due(100.1, 1.0) == 101.0
    assert due(101.1, 6.0) == 106.0, "a file of one frame in five seconds is played as slowly"
    assert due(106.9, 6.5) == 106.5, "a little late is caught up with"
    assert due(109.0, 7.0) == 109.0, "a slow model is not"
    assert due(109.1, 8.0) == 110.0
    assert due(110.1, 99_999.0) == 110.1, "nobody waits for a jump"
    assert due(110.2, 99_999.5) == pytest.approx(110.6)
    assert due(110.7, 2.0) == 110.7, "nor for one backwards"


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_a_phones_video_is_turned_as_ffmpeg_turns_it(media: Media, tmp_path: Path, turned: int) -> None:
    path = tmp_path / f"turned{turned}.mov"
    media.ffmpeg("-i", media.clip("plain.mp4"), "-c", "copy", path)
    _write_rotation(path, turned)
    size = SIZE if turned == 180 else (SIZE[1], SIZE[0])
    expected = shown_by_ffmpeg(path, *size)
    source = source_of(path)
    source.open()
    readings, _ = read_to_end(source)
    source.close()
    assert len(readings) == len(expected) == FRAMES
    for reading, shown in zip(readings, expected, strict=True):
        assert (reading.image.width, reading.image.height) == size
        assert difference(reading.image.bgr(), shown) < 6
    assert difference(readings[0].image.resized(*size, "BGR"), expected[0]) < 6


def _write_rotation(path: Path, degrees: int) -> None:
    """Into the matrix of the track header (ISO/IEC 14496-12, 8.3.2), as a phone does; how ffmpeg is told depends on its version."""
    data = bytearray(path.read_bytes())
    found = data.find(b"tkhd")
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    begin = found + 4 + 40
    assert data[begin : begin + 4] == struct.pack(">i", one), "an unturned track header, version 0"
    data[begin : begin + 36] = matrix
    path.write_bytes(data)


def test_a_changing_frame_size_is_followed(media: Media, tmp_path: Path) -> None:
    large = tmp_path / "large.ts"
    media.ffmpeg("-i", media.clip("recorder.ts"), "-vf", "scale=320:180", "-c:v", "libx264", "-preset", "veryfast", large)
    both = tmp_path / "both.ts"
    both.write_bytes(media.clip("recorder.ts").read_bytes() + large.read_bytes())
    source = source_of(both)
    source.open()
    readings, _ = read_to_end(source)
    source.close()
    sizes = [(reading.image.width, reading.image.height) for reading in readings]
    assert sizes == [SIZE] * FRAMES + [(320, 180)] * FRAMES
    assert readings[-1].image.bgr().shape == (180, 320, 3)
    stamps = [reading.pts_s or 0.0 for reading in readings]
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mkv"])
def test_a_changing_frame_size_is_followed_in_other_containers(media: Media, tmp_path: Path, suffix: str) -> None:
    """Written by a muxer that does not look: each JPEG says its own size, and H.264 says it before each key frame."""
    sizes = [SIZE, (320, 180), (96, 64)]
    path = tmp_path / f"sizes.{suffix}"
    codec = "mjpeg" if suffix == "avi" else "h264"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg" if suffix == "avi" else "libx264", rate=15)
        stream.width, stream.height = sizes[0]
        stream.pix_fmt = "yuvj420p" if suffix == "avi" else "yuv420p"
        stamp = 0
        for size in sizes:
            for packet in packets_of(media, tmp_path, codec, size):
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, stamp, stamp, Fraction(1, 15)
                stamp += 1
                output.mux(packet)
    source = source_of(path)
    source.open()
    readings, unreadable = read_to_end(source)
    source.close()
    assert unreadable == 0
    assert [(reading.image.width, reading.image.height) for reading in readings] == [size for size in sizes for _ in range(10)]
    for reading in readings:
        assert reading.image.bgr().shape[1::-1] == (reading.image.width, reading.image.height)


def packets_of(media: Media, folder: Path, codec: str, size: tuple[int, int]) -> list[Any]:
    """Ten pictures of that size, coded."""
    path = folder / f"{size[0]}.{'avi' if codec == 'mjpeg' else 'h264'}"
    coder = ("-c:v", "mjpeg") if codec == "mjpeg" else ("-c:v", "libx264", "-bf", "0", "-g", "5")
    media.ffmpeg("-i", CLIP, "-vf", f"scale={size[0]}:{size[1]}", "-frames:v", "10", *coder, path)
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(
    "name", ["with space.mp4", "10:30:00.mp4", "Übersicht 監視.mp4", "100%.mp4", "%03d.mp4", "a?b#c.mp4", "-i.mp4", "rtsp:x.mp4"]
)
def test_names_are_taken_as_they_are(media: Media, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(media.clip("plain.mp4").read_bytes())
    source = source_of(path)
    source.open()
    readings, _ = read_to_end(source)
    source.close()
    assert len(readings) == FRAMES


def test_file_addresses(media: Media, tmp_path: Path) -> None:
    path = tmp_path / "a b.mp4"
    path.write_bytes(media.clip("plain.mp4").read_bytes())
    for address in (path.as_uri(), f"FILE://localhost{path.as_uri()[7:]}"):
        source = source_of(address)
        source.open()
        assert source.read().image.width == SIZE[0]
        source.close()


# -- bad files ----------------------------------------------------------------------------------------------------------


def broken(path: Path) -> SourceBroken:
    source = source_of(path)

    def play() -> None:
        source.open()
        read_to_end(source)

    with pytest.raises(SourceBroken) as caught:
        play()
    source.close()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_zero_byte_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    error = broken(path)
    assert error.code is SourceErrorCode.INVALID_DATA
    assert str(error) == f"{path} is empty"


def test_a_text_file_named_mp4(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a video\n" * 1000)
    assert broken(path).code is SourceErrorCode.INVALID_DATA


def test_a_file_with_sound_only(tmp_path: Path, media: Media) -> None:
    path = tmp_path / "song.mp4"
    media.ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", path)
    assert "no video" in str(broken(path))


def test_a_song_with_a_cover_is_no_video(tmp_path: Path, media: Media) -> None:
    cover, path = tmp_path / "cover.png", tmp_path / "song.mp4"
    media.ffmpeg("-i", media.clip("plain.mp4"), "-frames:v", "1", cover)
    inputs = ("-f", "lavfi", "-i", "sine=duration=1", "-i", cover)
    media.ffmpeg(*inputs, "-map", "0", "-map", "1", "-c:a", "aac", "-c:v", "png", "-disposition:v:0", "attached_pic", path)
    assert "no video" in str(broken(path))


def test_a_file_without_its_index(tmp_path: Path, media: Media) -> None:
    path = tmp_path / "cut.mp4"
    data = media.clip("plain.mp4").read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert broken(path).code is SourceErrorCode.INVALID_DATA


@pytest.mark.parametrize("name", ["index_first.mp4", "screen.mkv", "recorder.ts", "old.avi", "fragmented.mp4"])
def test_a_truncated_file_is_played_as_far_as_it_goes(tmp_path: Path, media: Media, name: str) -> None:
    path = tmp_path / name
    data = media.clip(name).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    source = source_of(path)
    source.open()
    readings: list[Reading] = []
    with pytest.raises(EndOfStream) as ended:
        play(source, readings)
    source.close()
    assert FRAMES // 3 <= len(readings) < FRAMES
    if name in {"index_first.mp4", "screen.mkv", "old.avi"}:  # the others do not say how much they hold
        assert ended.value.code is SourceErrorCode.INVALID_DATA
        assert "ends early" in str(ended.value)
        assert str(path) in str(ended.value)


@pytest.mark.parametrize("name", [*RECIPES, SOUND_FIRST])
def test_a_whole_file_does_not_end_early(media: Media, name: str) -> None:
    source = source_of(media.clip(name))
    source.open()
    with pytest.raises(EndOfStream) as ended:
        play(source, [])
    source.close()
    assert ended.value.code is SourceErrorCode.ENDED


def play(source: Source, readings: list[Reading]) -> None:
    while True:
        with contextlib.suppress(FrameUnreadable):
            readings.append(source.read())


def test_damage_in_the_middle_costs_the_damaged_frames_only(tmp_path: Path, media: Media) -> None:
    path = tmp_path / "jpegs.avi"
    data = bytearray(media.clip("jpegs.avi").read_bytes())
    picture = data.find(b"\xff\xd8\xff", len(data) // 2)
    data[picture : picture + 400] = bytes(400)
    path.write_bytes(data)
    source = source_of(path)
    source.open()
    readings, unreadable = read_to_end(source)
    source.close()
    assert len(readings) + unreadable == FRAMES
    assert unreadable <= 1


DAMAGE = """
import random, sys
from pathlib import Path
from edge_agent.errors import SourceError
from edge_agent.sources import file, http, rtsp
from tests.sources.media import context, read_to_end

original, copy = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
chance = random.Random(1)
for _ in range(100):
    data = bytearray(original)
    for _ in range(60):
        data[chance.randrange(2000, len(data))] = chance.randrange(256)
    copy.write_bytes(data)
    source = file.build(context(copy), file.Config())
    try:
        source.open()
        read_to_end(source, at_most=chance.randrange(40))
    except SourceError:
        pass
    source.close()
print("done")
"""


def test_damaged_data_never_hangs_the_decoder(tmp_path: Path, media: Media) -> None:
    """FFmpeg complains from threads of its own, which must not have to wait for the interpreter."""
    command = [sys.executable, "-c", DAMAGE, str(media.clip("screen.mkv")), str(tmp_path / "damaged.mkv")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_missing_file_may_come_yet(tmp_path: Path) -> None:
    source = source_of(tmp_path / "usb" / "clip.mp4")
    with pytest.raises(SourceUnavailable) as caught:
        source.open()
    assert caught.value.code is SourceErrorCode.NOT_FOUND


class Scripted(Source):
    """In the place of the file: frames by number, and failures."""

    live = False

    def __init__(self, script: list[list[int | Exception]]) -> None:
        self._script = script
        self._steps: list[int | Exception] = []

    def open(self) -> StreamInfo:
        self._steps = self._script.pop(0)
        return StreamInfo(1, 1, None, "")

    def read(self) -> Reading:
        step = self._steps.pop(0) if self._steps else EndOfStream()
        if isinstance(step, Exception):
            raise step
        return Reading(BgrImage(np.zeros((1, 1, 3), np.uint8)), 0.0, float(step))

    def missing(self, _last_pts_s: float) -> str:
        return ""

    def close(self) -> None:
        """Nothing to close."""


def played(*sessions: list[int | Exception]) -> tuple[list[float], Exception]:
    """What comes out of a file that fails, each time opened again, and how it ends."""
    source = file.FileSource(FfmpegTarget("x", "x", live=False, open_timeout_s=1, read_timeout_s=1), file.Config())
    source._file = Scripted(list(sessions))  # type: ignore[assignment]
    found: list[float] = []
    for _ in sessions:
        try:
            source.open()
            while True:
                try:
                    found.append(source.read().pts_s or 0.0)
                except FrameUnreadable:
                    found.append(-1)
        except SourceUnavailable:
            continue
        except (SourceBroken, EndOfStream) as error:
            return found, error
    return found, RuntimeError("not over")


def test_a_file_that_failed_goes_on_where_it_was() -> None:
    damaged = FrameUnreadable("damaged")
    found, end = played(
        [0, 1, damaged, 2, SourceUnavailable("server gone")], [0, 1, damaged, 2, 3, SourceUnavailable("again")], [0, 1, 2, 3, 4]
    )
    assert found == [0, 1, -1, 2, 3, 4]
    assert isinstance(end, EndOfStream)


def test_only_to_open_a_file_in_its_middle_may_take_long() -> None:
    source = file.FileSource(FfmpegTarget("x", "x", live=False, open_timeout_s=1, read_timeout_s=1), file.Config())
    source._file = Scripted([list(range(1000)), list(range(1000))])  # type: ignore[assignment]
    source.open()
    for _ in range(900):
        source.read()
    assert source.patience_s < 10, "a read that hangs is told within ten seconds, however far it has come"
    source.close()
    assert source.patience_s > 20, "what it has to go over again"
    source.open()
    assert source.patience_s < 10
    assert source.read().pts_s == 900


def test_a_file_that_fails_twice_at_one_place_is_broken() -> None:
    lost = SourceUnavailable("Input/output error")
    found, end = played([0, 1, lost], [0, 1, lost], [0, 1, 2])
    assert found == [0, 1]
    assert isinstance(end, SourceBroken)
    assert "after 2 frames" in str(end)


# -- over http ----------------------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    """A server without ranges, as Python's is."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Not to stderr."""


class Ranges(Quiet):
    """A server with ranges. The first ``cuts`` answers break off in the middle."""

    cuts = 0
    served = 0

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        asked = self.headers.get("Range")
        begin = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        kind = type(self)
        kind.served += 1
        self.wfile.write(data[begin : len(data) // 2] if kind.served <= kind.cuts else data[begin:])


@contextmanager
def http_server(folder: Path, handler: type[SimpleHTTPRequestHandler], certificate: Path | None = None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that seeks breaks connections off
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("handler", [Quiet, Ranges])
@pytest.mark.parametrize("name", ["plain.mp4", "index_first.mp4", "screen.mkv", "recorder.ts"])
def test_files_of_a_web_server(media: Media, handler: type[SimpleHTTPRequestHandler], name: str) -> None:
    media.clip(name)
    with http_server(media.folder, handler) as address:
        source = source_of(f"{address}/{name}")
        assert not source.live
        source.open()
        assert len(read_to_end(source)[0]) == FRAMES
        source.close()


def test_an_index_that_the_web_server_cannot_jump_back_from(media: Media, tmp_path: Path) -> None:
    media.ffmpeg("-i", CLIP, "-c", "copy", tmp_path / "large.mp4")
    with http_server(tmp_path, Quiet) as address:
        source = source_of(f"{address}/large.mp4")
        source.open()
        with pytest.raises(SourceBroken, match="faststart"):
            read_to_end(source)
        source.close()
    with http_server(tmp_path, Ranges) as address:
        source = source_of(f"{address}/large.mp4")
        source.open()
        assert len(read_to_end(source)[0]) == 150
        source.close()


def test_a_web_server_that_breaks_off_costs_no_frame(media: Media) -> None:
    media.clip("screen.mkv")
    handler = type("Cut", (Ranges,), {"cuts": 1})
    with http_server(media.folder, handler) as address:
        source = source_of(f"{address}/screen.mkv")
        source.open()
        readings, _ = read_to_end(source)
        source.close()
    assert len(readings) == FRAMES


class Stalling(Ranges):
    """Sends half of what is asked for, and then nothing, without closing."""

    over = threading.Event()

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.over.wait(30)


def test_a_web_server_that_stops_in_the_middle_is_lost_in_time_and_then_broken(media: Media) -> None:
    media.clip("screen.mkv")
    over = threading.Event()
    with http_server(media.folder, type("Stall", (Stalling,), {"over": over})) as address:
        source = file.build(context(f"{address}/screen.mkv"), file.Config(read_timeout_s=0.5))
        readings: list[Reading] = []
        codes = []
        began = time.monotonic()
        for _ in range(2):
            source.open()
            with pytest.raises((SourceUnavailable, SourceBroken)) as caught:
                play(source, readings)
            codes.append((type(caught.value), caught.value.code))
            source.close()
        took = time.monotonic() - began
        over.set()
    assert took < 5
    assert codes == [(SourceUnavailable, SourceErrorCode.TIMEOUT), (SourceBroken, SourceErrorCode.TIMEOUT)]
    assert 5 < len(readings) < FRAMES, "what came is played, once"
    stamps = [reading.pts_s or 0.0 for reading in readings]
    assert stamps == sorted(set(stamps))


def test_https_and_certificates(media: Media, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path / "server.pem")
    media.clip("screen.mkv")
    with http_server(media.folder, Ranges, certificate) as address:
        with pytest.raises(SourceUnavailable, match="not trusted") as caught:
            source_of(f"{address}/screen.mkv").open()
        assert caught.value.code is SourceErrorCode.TLS
        source = file.build(context(f"{address}/screen.mkv"), file.Config(ca_file=str(certificate)))
        source.open()
        assert len(read_to_end(source)[0]) == FRAMES
        source.close()


def test_a_file_that_the_web_server_does_not_have(media: Media) -> None:
    with http_server(media.folder, Quiet) as address:
        source = source_of(f"{address}/none.mp4")
        with pytest.raises(SourceUnavailable) as caught:
            source.open()
    assert caught.value.code is SourceErrorCode.NOT_FOUND


def test_a_web_server_that_is_not_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        source = source_of(f"http://user:secret@127.0.0.1:{probe.getsockname()[1]}/clip.mp4")
        with pytest.raises(SourceUnavailable) as caught:
            source.open()
    assert caught.value.code is SourceErrorCode.REFUSED
    assert "secret" not in str(caught.value)


# -- claims -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("clip.mp4", "file"),
        ("/videos/Clip.MOV", "file"),
        ("http://host/a/clip.mp4?token=1", "file"),
        ("HTTPS://host/clip.webm", "file"),
        ("file:///videos/clip.mkv", "file"),
        ("10:30.avi", "file"),
        ("pictures/", "images"),
        ("picture.JPG", "images"),
        ("~/pictures", "images"),
        ("rtsp://host/clip.mp4", "rtsp"),
        ("RTSP://host/", "rtsp"),
        ("/dev/video0", "v4l2"),
        ("2", "v4l2"),
        (0, "v4l2"),
        ("synthetic", "synthetic"),
    ],
)
def test_whose_source_it_is(source: str | int, kind: str) -> None:
    assert PluginKinds().source_kind(source) == kind


@pytest.mark.parametrize(
    ("kind", "source", "text"),
    [
        ("file", "ftp://joe:s3cret@host/clip.mp4", "begins with ftp://; this kind reads http:// and https://"),
        ("rtsp", "gopher://host/x", "begins with gopher://; this kind reads rtsp:// and rtsps://"),
        ("http", "rtsp://host/x", "begins with rtsp://; this kind reads http:// and https://"),
        ("rtsp", "/dev/video0", "'/dev/video0' is no address; it should look like rtsp://"),
        ("http", "10.0.0.1", "'10.0.0.1' is no address; it should look like http://"),
    ],
)
def test_an_address_that_a_kind_does_not_read_is_told_before_anything_is_opened(kind: str, source: str, text: str) -> None:
    module = {"file": file, "rtsp": rtsp, "http": http}[kind]
    with pytest.raises(ConfigError) as caught:
        module.build(context(source), module.Config())
    assert text in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_spaces_in_an_address_are_written_as_servers_want_them(media: Media, tmp_path: Path) -> None:
    shutil.copy(media.clip("plain.mp4"), tmp_path / "my clip.mp4")
    with http_server(tmp_path, Ranges) as address:
        source = source_of(f"{address}/my clip.mp4")
        source.open()
        assert len(read_to_end(source)[0]) == FRAMES
        source.close()


@pytest.mark.parametrize("source", ["http://[::1/clip.mp4", "http://", "://", "", "ftp://host/clip.mp4", "http://host/page"])
def test_addresses_that_make_no_sense_are_nobodys_or_claimed_but_never_a_crash(source: str) -> None:
    assert file.claims(source) in {True, False}
