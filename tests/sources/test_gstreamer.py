"""The GStreamer source on real pipelines: formats, files, mistakes, decoders that fail, and a pipeline that hangs."""

from __future__ import annotations

import contextlib
import http.server
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent.errors import ConfigError, EndOfStream, SourceBroken, SourceError, SourceErrorCode, SourceUnavailable
from edge_agent.libraries import gstreamer as gst_library
from edge_agent.plugins import PluginKinds
from edge_agent.sources import _gst_decoders, _gst_pipeline, gstreamer
from edge_agent.sources._gst import GstSource, Launch
from edge_agent.sources._gst_choice import DecoderChoice
from edge_agent.sources._gst_images import FORMATS
from edge_agent.sources._platform import Platform
from edge_agent.sources.base import Reading, Source
from tests.conftest import CLIP, CommandLine, wait_until
from tests.sources.gst import needs_gstreamer
from tests.sources.media import Media, context, frame_count, read_to_end

pytestmark = needs_gstreamer
LIVE = "videotestsrc is-live=true"
RED_BGR, RED_GREY = (0, 0, 255), 81


def source_of(source: str | Path, **keys: Any) -> Source:
    return gstreamer.build(context(source), gstreamer.Config(**keys))


def first(source: Source) -> Reading:
    source.open()
    reading = source.read()
    source.close()
    return reading


def refused(source: Source) -> SourceError:
    with pytest.raises(SourceError) as caught:
        source.open()
    source.close()
    assert "\n" not in str(caught.value)
    return caught.value


def lost(source: Source) -> SourceError:
    while True:
        try:
            source.read()
        except (SourceUnavailable, EndOfStream) as error:
            return error


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, ffmpeg: Callable[..., None]) -> Media:
    return Media(tmp_path_factory.mktemp("gst-media"), ffmpeg)


@pytest.mark.parametrize("size", [(320, 240), (322, 181), (321, 243)])
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_shows_its_colour_in_every_size_and_after_the_source_was_closed(form: str, size: tuple[int, int]) -> None:
    reading = first(source_of(f"{LIVE} pattern=red ! video/x-raw,format={form},width={size[0]},height={size[1]} ! appsink"))
    image = reading.image
    assert (image.width, image.height) == size
    expected = (RED_GREY,) * 3 if form == "GRAY8" else RED_BGR
    for pixels, colour in (
        (image.bgr(), expected),
        (image.resized(100, 60, "BGR"), expected),
        (image.resized(100, 60, "RGB"), expected[::-1]),
        (image.resized(*size, "BGR"), expected),
    ):
        # Of an odd width, videotestsrc leaves the colour of YUY2's last column to chance.
        assert np.abs(pixels[:, : pixels.shape[1] - 4].reshape(-1, 3).astype(int) - colour).max() <= 6
    assert image.bgr().shape == (size[1], size[0], 3)


def test_jpeg_is_left_as_it_came_until_somebody_asks() -> None:
    source = source_of(f"{LIVE} pattern=red ! jpegenc ! appsink")
    info = source.open()
    assert (info.decoder, info.hardware) == ("jpeg (libjpeg-turbo, software)", False)
    image = source.read().image
    source.close()
    assert np.abs(image.resized(40, 30, "BGR").reshape(-1, 3).astype(int) - RED_BGR).max() <= 20


def test_a_picture_goes_to_another_process_in_the_cameras_own_format() -> None:
    image = first(source_of(f"{LIVE} ! video/x-raw,format=NV12 ! appsink")).image
    again = pickle.loads(pickle.dumps(image))
    assert type(again).__name__ == "PlanarImage"
    assert np.array_equal(again.bgr(), image.bgr())


def test_pictures_that_hardware_made_smaller_count_in_the_cameras_pixels() -> None:
    text = f"{LIVE} pattern=red ! video/x-raw,format=BGRx,width=416,height=416 ! appsink"
    launch = Launch(lambda _: text, "csi://0", live=True, open_timeout_s=5, read_timeout_s=5, source_size=(1280, 720))
    source = GstSource(launch, "front")
    info = source.open()
    image = source.read().image
    source.close()
    assert (info.width, info.height, info.mode) == (1280, 720, "BGRx 416x416 at 30/s")
    assert (image.width, image.height) == (1280, 720)
    assert image.resized(416, 234, "RGB").shape == (234, 416, 3)
    assert tuple(image.resized(416, 234, "RGB")[100, 200]) == RED_BGR[::-1]
    assert image.bgr().shape == (720, 1280, 3)


def test_a_size_that_changes_in_mid_stream_is_followed() -> None:
    source = source_of(f"{LIVE} ! capsfilter name=size caps=video/x-raw,format=NV12,width=320,height=240 ! appsink")
    source.open()
    assert isinstance(source, GstSource)
    assert source._pipeline is not None
    source.read()
    wider = gst_library().Caps.from_string("video/x-raw,format=NV12,width=642,height=362")
    source._pipeline.element.get_by_name("size").set_property("caps", wider)
    image = wait_until(lambda: (image := source.read().image).width == 642 and image, 5)
    assert (image.width, image.height, image.bgr().shape) == (642, 362, (362, 642, 3))
    source.close()


def test_arrival_is_told_by_the_pipelines_clock() -> None:
    source = source_of(f"{LIVE} ! video/x-raw,framerate=50/1 ! appsink")
    source.open()
    readings = [source.read() for _ in range(20)]
    source.close()
    gaps = np.diff([reading.captured_at for reading in readings])
    assert np.median(gaps) == pytest.approx(1 / 50, abs=0.002), "the camera's beat, and not ours"
    assert 0 <= time.monotonic() - readings[-1].captured_at < 0.5


def test_a_live_source_gives_the_newest_picture() -> None:
    source = source_of(f"{LIVE} ! video/x-raw,framerate=100/1 ! appsink")
    source.open()
    before = source.read()
    threading.Event().wait(0.5)  # a slow reader
    source.read()  # what was waiting
    after = source.read()
    source.close()
    assert before.pts_s is not None
    assert after.pts_s is not None
    assert after.pts_s - before.pts_s > 0.4


@pytest.mark.parametrize("name", ["plain.mp4", "fragmented.mp4", "phone.mov", "screen.mkv", "recorder.ts", "jpegs.avi", "web.webm"])
def test_a_file_gives_every_picture_in_order(media: Media, name: str) -> None:
    path = media.clip(name)
    source = source_of(path, open_timeout_s=20)
    info = source.open()
    assert (info.width, info.height) == (160, 90)
    assert not source.live
    readings, unreadable = read_to_end(source)
    source.close()
    assert (len(readings), unreadable) == (frame_count(path), 0)
    stamps = [reading.pts_s for reading in readings if reading.pts_s is not None]
    assert stamps == sorted(set(stamps))


def test_a_codec_without_a_decoder_names_the_package(media: Media) -> None:
    if gst_library().ElementFactory.find("avdec_mpeg4") is not None:
        pytest.skip("gstreamer1.0-libav is installed")
    error = refused(source_of(media.clip("old.avi")))
    assert error.code is SourceErrorCode.CODEC_UNSUPPORTED
    assert "MPEG-4" in str(error)
    assert "apt install gstreamer1.0-libav" in str(error)


def test_a_file_that_is_opened_again_goes_on_where_it_was() -> None:
    source = source_of(CLIP)
    source.open()
    seen = [source.read().pts_s for _ in range(20)]
    source.close()
    source.open()
    rest, _ = read_to_end(source)
    source.close()
    assert len(seen) + len(rest) == frame_count(CLIP)
    assert rest[0].pts_s is not None
    assert seen[-1] is not None
    assert rest[0].pts_s > seen[-1]


@pytest.mark.parametrize(
    ("content", "code"), [(b"", SourceErrorCode.INVALID_DATA), (b"no video, but text\n" * 50, SourceErrorCode.INVALID_DATA)]
)
def test_a_file_that_is_no_video_is_broken(tmp_path: Path, content: bytes, code: SourceErrorCode) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    error = refused(source_of(path))
    assert isinstance(error, SourceBroken)
    assert error.code is code


def test_a_truncated_file_ends_or_is_broken_and_does_not_hang(tmp_path: Path, media: Media) -> None:
    path = tmp_path / "cut.mkv"
    whole = media.clip("screen.mkv").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    source = source_of(path)
    source.open()
    readings, _ = read_to_end(source)
    source.close()
    assert 0 < len(readings) < 30


@pytest.mark.parametrize(
    ("source", "keys", "said"),
    [
        ("nosuchsrc ! appsink", {}, "no element 'nosuchsrc'"),
        ("nvarguscamerasrc ! appsink", {}, "apt install nvidia-l4t-gstreamer"),
        ("videotestsrc ! ! appsink", {}, "cannot read the pipeline: syntax error"),
        ("videotestsrc colour=red ! appsink", {}, 'no property "colour"'),
        ("videotestsrc ! fakesink", {}, "has no appsink"),
        ("videotestsrc ! appsink videotestsrc ! appsink", {}, "2 appsinks"),
        ("gstreamer", {}, "needs the key pipeline"),
        ("gstreamer", {"pipeline": "appsink"}, "single element"),
        ("nosuch://10.0.0.1/x", {}, "reads no nosuch://"),
        ("rtsp://", {}, "no address"),
        ("csi://0", {}, 'kind = "csi"'),
        ("/tmp", {}, "is a folder"),
    ],
)
def test_mistakes_are_found_before_anything_is_opened(source: str, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=None) as caught:
        source_of(source, **keys)
    assert said in str(caught.value)


def test_the_pipeline_may_stand_in_a_key_of_its_own() -> None:
    assert first(source_of("gstreamer", pipeline=f"{LIVE} ! appsink name=mine")).image.width == 320


def test_of_several_appsinks_the_named_one_is_read() -> None:
    text = f"{LIVE} ! video/x-raw,width=64 ! appsink {LIVE} ! video/x-raw,width=96 ! appsink name=edge_agent"
    assert first(source_of(text)).image.width == 96


def test_pictures_in_no_format_of_ours_say_what_to_put_in() -> None:
    error = refused(source_of(f"{LIVE} ! video/x-raw,format=P010_10LE ! appsink"))
    assert error.code is SourceErrorCode.CODEC_UNSUPPORTED
    assert "videoconvert" in str(error)


@pytest.mark.parametrize(
    ("path", "said"), [("/dev/video63", "does not exist"), ("/dev/null", "no V4L2 device"), ("/dev/shm", "a directory")]
)
def test_what_is_no_camera_is_not_found(path: str, said: str) -> None:
    error = refused(source_of(path))
    assert error.code is SourceErrorCode.NOT_FOUND
    assert said in str(error)


def test_hardware_that_is_not_there_is_a_reason_and_a_refusal() -> None:
    allowed, demanded = source_of(CLIP), source_of(CLIP, decode="hardware")
    info = allowed.open()
    allowed.close()
    assert not info.hardware
    assert "no GStreamer element for H.264 in hardware" in info.decoder_reason
    error = refused(demanded)
    assert error.code is SourceErrorCode.CODEC_UNSUPPORTED
    assert 'decode = "hardware"' in str(error)


def test_what_plugged_itself_in_is_found_and_refused() -> None:
    text = f"filesrc location={CLIP} ! decodebin ! appsink"
    allowed = source_of(text)
    info = allowed.open()
    allowed.close()
    assert info.decoder.endswith("(GStreamer, software)")
    assert "decodebin" not in info.decoder
    assert "software" in str(refused(source_of(text, decode="hardware")))


@pytest.fixture
def broken_hardware(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """An element of GStreamer's plays a hardware decoder: by name, it comes first in the table for a codec."""

    def install(element: str) -> None:
        monkeypatch.setitem(_gst_decoders._GENERIC, "h264", (element,))

    return install


def test_a_decoder_that_fails_gives_way_to_software_and_says_why(broken_hardware: Callable[[str], None]) -> None:
    broken_hardware("jpegdec")  # which does not take H.264
    source = source_of(CLIP)
    for _ in range(2):
        info = source.open()
        assert source.read().image.width == 1280
        source.close()
        assert not info.hardware
        assert info.decoder_reason.startswith("jpegdec: ")
    assert refused(source_of(CLIP, decode="hardware")).code is SourceErrorCode.CODEC_UNSUPPORTED


def test_a_decoder_that_lies_about_being_hardware_is_seen(broken_hardware: Callable[[str], None]) -> None:
    broken_hardware("openh264dec")
    info = source_of(CLIP)
    described = info.open()
    info.close()
    assert described.hardware is False


def test_a_silent_decoder_is_given_up_after_two_opens() -> None:
    choice = DecoderChoice("auto")
    choice._plan = _gst_decoders.plan("h264", "auto", Platform("jetson"), lambda _: True)
    for expected in ("nvv4l2decoder", "nvv4l2decoder", "avdec_h264"):
        choice._wired = choice._choose("video/x-h264")
        assert choice._wired.name == expected
        choice.was_silent()
    assert "nvv4l2decoder: gave no picture" in choice._reasons()


def test_a_call_into_a_driver_that_does_not_come_back_is_wedged_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    unblock, parse = threading.Event(), _gst_pipeline.parse
    source = GstSource(Launch(lambda _: f"{LIVE} ! appsink", "the pipeline", live=True, open_timeout_s=0.3, read_timeout_s=1), "front")

    class Hanging:
        """A pipeline whose changes of state wait for us."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def set_state(self, state: Any) -> None:
            unblock.wait(20)
            self._inner.set_state(state)

    monkeypatch.setattr(_gst_pipeline, "parse", lambda gst, text: Hanging(parse(gst, text)))
    asked = time.monotonic()
    assert refused(source).code is SourceErrorCode.WEDGED
    assert refused(source).code is SourceErrorCode.WEDGED, "no second pipeline beside the one that hangs"
    assert time.monotonic() - asked < 6
    unblock.set()
    monkeypatch.setattr(_gst_pipeline, "parse", parse)
    stuck = source._stuck
    assert stuck is not None
    assert stuck._worker is not None
    stuck._worker.join(10)
    assert first(source).image.width == 320


def test_the_end_of_a_live_pipeline_is_told() -> None:
    source = source_of(f"{LIVE} num-buffers=3 ! appsink")
    source.open()
    assert isinstance(lost(source), EndOfStream)
    source.close()


def test_silence_is_a_timeout() -> None:
    source = source_of(f"{LIVE} num-buffers=-1 ! valve name=v drop-mode=transform-to-gap ! appsink", read_timeout_s=0.3)
    source.open()
    assert isinstance(source, GstSource)
    assert source._pipeline is not None
    source._pipeline.element.get_by_name("v").set_property("drop", True)
    assert lost(source).code is SourceErrorCode.TIMEOUT
    source.close()


class Camera(http.server.BaseHTTPRequestHandler):
    """An HTTP camera that sends JPEG pictures, and one that wants a password."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        if self.path != "/cam":
            self.send_error(401 if self.path == "/auth.mp4" else 404)
            return
        picture = cv2.imencode(".jpg", np.full((120, 160, 3), RED_BGR, np.uint8))[1].tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(30):
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                self.wfile.write(head.encode() + picture + b"\r\n")


@pytest.fixture
def http_camera() -> Iterator[str]:
    if gst_library().ElementFactory.find("souphttpsrc") is None:
        pytest.skip("needs souphttpsrc (Debian packages gstreamer1.0-plugins-good and libsoup-3.0-0)")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(5)


def test_an_http_camera_sends_jpeg_that_is_left_as_it_came(http_camera: str) -> None:
    source = source_of(f"{http_camera}/cam")
    info = source.open()
    image = source.read().image
    assert lost(source).code is SourceErrorCode.ENDED
    source.close()
    assert source.live
    assert (info.width, info.height, info.decoder) == (160, 120, "jpeg (libjpeg-turbo, software)")
    assert np.abs(image.bgr()[60, 80].astype(int) - RED_BGR).max() <= 6


@pytest.mark.parametrize(("path", "code"), [("auth.mp4", SourceErrorCode.AUTH_FAILED), ("none.mp4", SourceErrorCode.NOT_FOUND)])
def test_what_an_http_server_refuses_is_typed(http_camera: str, path: str, code: SourceErrorCode) -> None:
    assert refused(source_of(f"{http_camera}/{path}")).code is code


@pytest.mark.parametrize("source", [f"{LIVE} ! appsink", "gstreamer"])
def test_the_kind_is_inferred(source: str) -> None:
    assert PluginKinds().source_kind(source) == "gstreamer"


def test_closing_twice_or_before_opening_is_no_trouble() -> None:
    source = source_of(f"{LIVE} ! appsink")
    source.close()
    first(source)
    source.close()


def test_check_names_what_is_wrong_with_a_pipeline(edge_agent: CommandLine, tmp_path: Path) -> None:
    text = 'source = "videotestsrc ! fakesink"'
    (tmp_path / "agent.toml").write_text(f'[mqtt]\nport = 1\n[[cameras]]\nid = "front"\n{text}\n')
    done = edge_agent.run("check", "--config", "agent.toml")
    said = done.stdout + done.stderr
    assert done.returncode == 78
    assert "agent.toml:5: cameras[0].source: the pipeline has no appsink" in said
    assert "Traceback" not in said


TOGETHER = """
import sys, threading
from pathlib import Path
from edge_agent.sources import gstreamer
from edge_agent.sources.base import SourceContext
sys.setswitchinterval(1e-6)
def show(form):
    text = f"videotestsrc is-live=true ! video/x-raw,format={form},width=64,height=48,framerate=30/1 ! appsink"
    source = gstreamer.build(SourceContext(form, text, Path, str), gstreamer.Config())
    source.open()
    print(source.read().image.bgr().shape, flush=True)
    source.close()
threads = [threading.Thread(target=show, args=(form,)) for form in ("YUY2", "NV12", "I420", "BGR")]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_cameras_that_start_together_find_the_bindings_whole() -> None:
    """PyGObject makes classes when they are first met, and not well where several threads meet them."""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", TOGETHER], capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.count("(48, 64, 3)") == 4, done.stderr[-2000:]
