"""H.264 from a webcam's own encoder: a real stream in the buffers of a driver of a few lines. Not yet run on hardware."""

from __future__ import annotations

import errno
import hashlib
import io
import struct
import time
from collections.abc import Iterator

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from edge_agent.errors import SourceErrorCode, SourceUnavailable
from edge_agent.sources import v4l2
from edge_agent.sources._ffmpeg_images import image_of
from edge_agent.sources._v4l2 import Capability, PictureFormat, fourcc_code
from edge_agent.sources._v4l2_h264 import CodedPictures
from edge_agent.sources._v4l2_stream import Buffer
from edge_agent.sources.base import FrameUnreadable, StreamInfo
from tests.sources.test_v4l2_stream import MONOTONIC, Driver

WIDTH, HEIGHT = 160, 96
GIVEN = PictureFormat("H264", WIDTH, HEIGHT)
WEBCAM = Capability("uvcvideo", "HD Webcam", "usb-0000:01:00.0-1.2", 0x04200001)


def coded(count: int, gop: int = 10, disposable: bool = False) -> list[bytes]:
    """The packets of a moving square, each a whole picture in Annex B, headers before each key frame."""
    with av.open(io.BytesIO(), "w", format="h264") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        references = "ref=1:bframes=1:b-adapt=0:b-pyramid=none" if disposable else "bframes=0"
        stream.options = {"x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:repeat-headers=1:{references}", "crf": "35"}
        packets = []
        for index in range(count):
            pixels = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
            pixels[20:60, 2 * index : 2 * index + 40] = 220
            packets += [bytes(packet) for packet in stream.encode(VideoFrame.from_ndarray(pixels, format="bgr24"))]
        return packets + [bytes(packet) for packet in stream.encode()]


def decoded_whole(packets: list[bytes]) -> list[str]:
    """Hashes of all pictures, in the order of showing."""
    context = av.CodecContext.create("h264", "r")
    frames = [frame for data in packets for frame in context.decode(av.Packet(data))] + list(context.decode(None))
    return [fingerprint(image_of(frame).bgr()) for frame in frames]


def fingerprint(pixels: object) -> str:
    return hashlib.sha256(np.asarray(pixels).tobytes()).hexdigest()


def pictures_of(packets: list[bytes], damaged: frozenset[int] = frozenset()) -> CodedPictures:
    """From a camera that is unplugged after these."""
    left = iter(enumerate(packets))

    def take() -> Buffer | None:
        index, data = next(left, (-1, b""))
        if index < 0:
            raise SourceUnavailable("/dev/video0 was unplugged", SourceErrorCode.UNPLUGGED)
        return Buffer((np.frombuffer(data, np.uint8),), time.monotonic(), index in damaged, index)

    return CodedPictures("/dev/video0", GIVEN, "software", take, 5.0)


def read_all(pictures: CodedPictures) -> tuple[list[str], list[str]]:
    """Hashes of the pictures until the camera is unplugged, and what was said of those that were lost."""
    found: list[str] = []
    lost: list[str] = []
    while True:
        try:
            found.append(fingerprint(pictures.read().image.bgr()))
        except FrameUnreadable as error:
            lost.append(str(error))
        except SourceUnavailable:
            return found, lost


def test_every_picture_comes_with_its_own_buffer_and_is_what_a_decoder_gives() -> None:
    packets = coded(25)
    taken: list[int] = []

    def take() -> Buffer | None:
        taken.append(1)
        return Buffer((np.frombuffer(packets[len(taken) - 1], np.uint8),), 100.0 + len(taken), False, len(taken))

    pictures = CodedPictures("/dev/video0", GIVEN, "software", take, 5.0)
    assert pictures.decoder.shown == "h264 (FFmpeg, software)"
    for index in range(25):
        reading = pictures.read()
        assert len(taken) == index + 1, "no picture waits for the next one to begin"
        assert reading.captured_at == 101.0 + index
        assert (reading.image.width, reading.image.height) == (WIDTH, HEIGHT)


def test_parameter_sets_in_a_buffer_of_their_own_are_no_picture() -> None:
    packets = coded(12)
    cut = next(i for i in range(len(packets[0])) if packets[0][i : i + 3] == b"\0\0\1" and packets[0][i + 3] & 0x1F == 5)
    separate = [packets[0][:cut], packets[0][cut:], *packets[1:]]
    assert read_all(pictures_of(separate)) == (decoded_whole(packets), [])


def test_joined_in_the_middle_of_a_group_shows_what_can_be_decoded() -> None:
    packets = coded(30)
    found, _ = read_all(pictures_of(packets[3:]))
    assert found[-20:] == decoded_whole(packets)[-20:], "whole from the next key frame on"


def test_what_the_driver_calls_damaged_and_what_is_empty_is_one_lost_picture() -> None:
    packets = coded(20)
    packets[15] = b""
    found, lost = read_all(pictures_of(packets, frozenset({5})))
    assert len(found) == 18
    assert lost == [f"/dev/video0 sent a picture that {why}" for why in ("its driver calls damaged", "is empty")]


def test_what_nobody_is_going_to_want_and_nothing_depends_on_is_not_decoded() -> None:
    packets = coded(40, gop=40, disposable=True)
    everything = decoded_whole(packets)
    pictures = pictures_of(packets)
    pictures.skipper.until(time.monotonic() + 60)
    found, _ = read_all(pictures)
    left_out = pictures.skipper.left_out()
    assert left_out >= 15
    assert len(found) + left_out <= 40
    assert set(found) < set(everything), "and the others are what they would have been"


def test_hardware_or_nothing() -> None:
    with pytest.raises(SourceUnavailable, match='decode = "hardware"') as caught:
        CodedPictures("/dev/video0", GIVEN, "hardware", lambda: None, 0.1)
    assert caught.value.code is SourceErrorCode.CODEC_UNSUPPORTED


class Camera(Driver):
    """A webcam that offers H.264 at 30/s, and MJPG at 5/s, of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = 0.0
        self.given = ""

    def call(self, request: int, buffer: bytearray) -> None:
        asked = {
            0x02: self._format,
            0x4A: self._size,
            0x4B: self._rates,
            0x05: self._set_format,
            0x16: self._set_rate,
            0x15: self._set_rate,
        }
        answer = asked.get(request & 0xFF)
        if answer is None and request & 0xFF not in {8, 9, 15, 17, 18, 19}:
            raise OSError(errno.EINVAL, "no such control")
        if answer is None:
            super().call(request, buffer)
        else:
            answer(buffer)

    def _format(self, buffer: bytearray) -> None:
        (index,) = struct.unpack_from("I", buffer)
        if index > 1:
            raise OSError(errno.EINVAL, "no more")
        struct.pack_into("I", buffer, 44, fourcc_code(("MJPG", "H264")[index]))

    def _size(self, buffer: bytearray) -> None:
        if struct.unpack_from("I", buffer)[0]:
            raise OSError(errno.EINVAL, "no more")
        struct.pack_into("3I", buffer, 8, 1, WIDTH, HEIGHT)

    def _rates(self, buffer: bytearray) -> None:
        index, code = struct.unpack_from("II", buffer)
        if index:
            raise OSError(errno.EINVAL, "no more")
        struct.pack_into("3I", buffer, 16, 1, 1, 30 if code == fourcc_code("H264") else 5)

    def _set_format(self, buffer: bytearray) -> None:
        self.given = struct.pack("I", struct.unpack_from("I", buffer, 16)[0]).decode()

    def _set_rate(self, buffer: bytearray) -> None:
        _, _, numerator, denominator = struct.unpack_from("IIII", buffer, 4)
        self.rate = denominator / numerator if numerator else self.rate
        struct.pack_into("IIII", buffer, 4, 0x1000, 0, 1000, round(self.rate * 1000))


@pytest.fixture
def camera() -> Iterator[Camera]:
    made = Camera()
    yield made
    made.close()


def started(camera: Camera, **keys: object) -> tuple[v4l2.V4l2Source, StreamInfo]:
    source = v4l2.V4l2Source("/dev/video0", v4l2.Config.model_validate({"width": WIDTH, "height": HEIGHT, **keys}))
    source._node = camera
    info = source._start(camera, WEBCAM)
    return source, info


def test_a_webcam_that_has_the_rate_in_h264_only(camera: Camera) -> None:
    source, info = started(camera, fps=30)
    assert (camera.given, info.mode, info.decoder) == ("H264", "H264 160x96 at 30/s", "h264 (FFmpeg, software)")
    assert info.decoder_reason or info.hardware, "why it is not hardware"
    expected = decoded_whole(coded(6))
    stamp = time.monotonic()
    for index, data in enumerate(coded(6)):
        camera.fill(data, stamp + index * 1e-4, MONOTONIC)
        reading = source.read()
        assert abs(reading.captured_at - stamp - index * 1e-4) < 1e-5, "the kernel's own time"
        assert fingerprint(reading.image.bgr()) == expected[index]
    assert source.left_out() == 0
    source.close()
    assert not camera.streaming


def test_jpeg_is_preferred_where_it_has_the_rate(camera: Camera) -> None:
    assert started(camera, fps=5)[1].mode == "MJPG 160x96 at 5/s"


def test_jpeg_is_not_decoded_in_hardware_here(camera: Camera) -> None:
    with pytest.raises(SourceUnavailable, match='kind = "gstreamer"') as caught:
        started(camera, fps=5, decode="hardware")
    assert caught.value.code is SourceErrorCode.CODEC_UNSUPPORTED
    assert not camera.streaming
