"""Lazy pictures against the plain way: convert in full, then resize."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction

import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.image import BgrImage, Colours, JpegImage, Order, Pixels, PlanarImage, YuyvImage
from edge_agent.sources._ffmpeg_images import DecodedImage, RotatedImage, image_of

SIZES = st.integers(1, 400)
ORDERS: st.SearchStrategy[Order] = st.sampled_from(("BGR", "RGB"))
TARGETS = [(300, 300), (416, 416), (300, 169), (301, 170), (33, 17), (1, 1), (640, 360), (639, 359), (1000, 700)]


def scene(width: int, height: int) -> Pixels:
    """Smooth colours with edges: what subsampled chroma can carry, and what a wrong half of a pixel would show."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    b = 128 + 90 * np.sin(x / 37 + y / 91)
    g = 128 + 90 * np.cos(y / 29)
    r = 128 + 90 * np.sin((x + y) / 53)
    pixels = np.stack([b, g, r], axis=2)
    pixels[height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] *= 0.6
    return pixels.clip(0, 255).astype(np.uint8)


def reference(bgr: Pixels, width: int, height: int, order: Order) -> Pixels:
    """Halved by averaging while it is twice too large, then bilinear: of the picture converted in full."""
    small = bgr
    while small.shape[1] >= 2 * width or small.shape[0] >= 2 * height:
        across, down = 1 + (small.shape[1] >= 2 * width), 1 + (small.shape[0] >= 2 * height)
        small = np.asarray(cv2.resize(small, (small.shape[1] // across, small.shape[0] // down), interpolation=cv2.INTER_LINEAR), np.uint8)
    small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return small if order == "BGR" else np.ascontiguousarray(small[:, :, ::-1])


def mean_error(found: Pixels, expected: Pixels) -> float:
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert found.flags.c_contiguous
    return float(np.abs(found.astype(np.int16) - expected.astype(np.int16)).mean())


def assert_alike(found: Pixels, expected: Pixels) -> None:
    """In brightness whatever the size; in colour where it is of a model's size, for chroma is sampled and not averaged."""
    grey, expected_grey = (np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), np.uint8) for pixels in (found, expected))
    # What leaves the range of a colour for want of averaged chroma is cut off, and changes the brightness a little.
    assert found.shape == expected.shape
    if min(found.shape[:2]) < 8:
        return
    large = min(found.shape[:2]) >= 100
    assert mean_error(grey, expected_grey) < (1.5 if large else 6)
    assert mean_error(found, expected) < (1.5 if large else 40)


def i420(bgr: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), np.uint8)


def planar(bgr: Pixels, *, interleaved: bool) -> PlanarImage:
    height, width = bgr.shape[:2]
    planes = i420(bgr)
    u, v = np.split(planes[height:].reshape(-1), 2)
    half = (height // 2, width // 2)
    chroma = (u.reshape(half), v.reshape(half))
    return PlanarImage(planes[:height], (np.ascontiguousarray(np.dstack(chroma)),) if interleaved else chroma)


def yuyv(bgr: Pixels) -> YuyvImage:
    return YuyvImage(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_YUY2), np.uint8))


def jpeg(bgr: Pixels) -> bytes:
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


@given(SIZES, SIZES, ORDERS)
@settings(max_examples=40, deadline=None)
def test_bgr_pixels_are_resized_as_opencv_does(width: int, height: int, order: Order) -> None:
    picture = scene(97, 61)
    image = BgrImage(picture)
    assert (image.width, image.height) == (97, 61)
    assert mean_error(image.resized(width, height, order), reference(picture, width, height, order)) == 0
    assert image.bgr() is picture


@pytest.mark.parametrize("kind", ["bgr", "planar", "yuyv"])
def test_detail_too_fine_for_the_size_is_averaged_and_not_sampled(kind: str) -> None:
    board = (np.indices((480, 640)).sum(axis=0) % 2 * 255).astype(np.uint8)
    picture = np.dstack([board] * 3)
    image = {"bgr": BgrImage, "planar": lambda p: planar(p, interleaved=False), "yuyv": yuyv}[kind](picture)
    found = image.resized(200, 150, "BGR")
    assert np.abs(found.astype(np.int16) - 128).max() <= 4


@pytest.mark.parametrize("interleaved", [False, True], ids=["I420", "NV12"])
@given(SIZES, SIZES, ORDERS)
@settings(max_examples=40, deadline=None)
def test_planes_resized_before_conversion_look_like_converted_and_resized(interleaved: bool, width: int, height: int, order: Order) -> None:
    image = planar(scene(320, 180), interleaved=interleaved)
    assert_alike(image.resized(width, height, order), reference(image.bgr(), width, height, order))


@pytest.mark.parametrize("interleaved", [False, True], ids=["I420", "NV12"])
@pytest.mark.parametrize("size", TARGETS)
def test_planes_of_a_camera_at_the_sizes_of_models(interleaved: bool, size: tuple[int, int]) -> None:
    image = planar(scene(1280, 720), interleaved=interleaved)
    assert_alike(image.resized(*size, "RGB"), reference(image.bgr(), *size, "RGB"))


@pytest.mark.parametrize("interleaved", [False, True], ids=["I420", "NV12"])
def test_planes_in_full_size_are_what_opencv_converts(interleaved: bool) -> None:
    picture = scene(320, 180)
    image = planar(picture, interleaved=interleaved)
    assert mean_error(image.bgr(), np.asarray(cv2.cvtColor(i420(picture), cv2.COLOR_YUV2BGR_I420), np.uint8)) < 1.5
    assert image.bgr() is image.bgr(), "the full-size picture is made once"


@given(st.integers(40, 400), st.integers(40, 400), ORDERS)
@settings(max_examples=40, deadline=None)
def test_packed_pictures_at_any_size(width: int, height: int, order: Order) -> None:
    image = yuyv(scene(320, 180))
    # Chroma is not averaged, so small pictures may be a little off in colour.
    assert_alike(image.resized(width, height, order), reference(image.bgr(), width, height, order))


@pytest.mark.parametrize("size", TARGETS)
def test_packed_pictures_stay_as_sharp_as_converted_ones(size: tuple[int, int]) -> None:
    # Stripes that survive the size asked for only if luma is sampled where it lies.
    picture = scene(1280, 720)
    picture[:, ::16] = picture[:, 1::16] = picture[:, 2::16] = 255
    image = yuyv(picture)
    found, expected = (
        np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), np.uint8)
        for pixels in (image.resized(*size, "BGR"), reference(image.bgr(), *size, "BGR"))
    )
    assert mean_error(found, expected) < 3


def test_packed_picture_in_full_size_is_made_once() -> None:
    image = yuyv(scene(64, 48))
    assert image.bgr() is image.bgr()
    assert image.bgr().shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("size", "reduced_by"),
    [((640, 360), 2), ((641, 360), 1), ((640, 361), 1), ((320, 180), 4), ((416, 234), 2), ((300, 169), 4), ((160, 90), 8), ((10, 10), 8)],
)
def test_a_jpeg_is_decoded_at_the_least_scale_that_covers_the_size(size: tuple[int, int], reduced_by: int) -> None:
    data = jpeg(scene(1280, 720))
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    decoded = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags[reduced_by]), np.uint8)
    assert decoded.shape[1] == 1280 // reduced_by
    found = JpegImage(data, 1280, 720).resized(*size, "RGB")
    assert np.array_equal(found, reference(decoded, *size, "RGB"))


@given(st.integers(30, 400), st.integers(30, 400), ORDERS)
@settings(max_examples=40, deadline=None)
def test_a_reduced_jpeg_looks_like_the_whole_one(width: int, height: int, order: Order) -> None:
    picture = scene(330, 190)
    image = JpegImage(jpeg(picture), 330, 190)
    assert mean_error(image.resized(width, height, order), reference(picture, width, height, order)) < 6


def without_huffman_tables(data: bytes) -> bytes:
    """As most webcams send it: the tables of ITU-T T.81, annex K, are meant (and those are what OpenCV writes)."""
    kept, position = data[:2], 2
    while data[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        kept += b"" if data[position + 1] == 0xC4 else data[position:end]
        position = end
    return kept + data[position:]


FLAVOURS = {
    "4:2:0": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420],
    "4:2:2": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422],
    "4:4:0": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440],
    "4:4:4": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    "4:1:1": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "restart markers": [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
    "no Huffman tables": [],
    "grey": [],
}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("target", [(320, 180), (416, 234), (640, 360), (160, 90)])
def test_every_flavour_of_jpeg_at_reduced_scale_is_what_a_whole_decode_gives(flavour: str, target: tuple[int, int]) -> None:
    picture = scene(1280, 720)
    source = np.ascontiguousarray(picture[:, :, 1]) if flavour == "grey" else picture
    data = cv2.imencode(".jpg", source, [cv2.IMWRITE_JPEG_QUALITY, 95, *FLAVOURS[flavour]])[1].tobytes()
    if flavour == "no Huffman tables":
        data = without_huffman_tables(data)
        assert b"\xff\xc4" not in data[: data.index(b"\xff\xda")]
    whole = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    found = JpegImage(data, 1280, 720).resized(*target, "RGB")
    expected = reference(whole, *target, "RGB")
    grey, expected_grey = (np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8) for pixels in (found, expected))
    assert mean_error(grey, expected_grey) < 1.6
    # libjpeg repeats chroma instead of averaging it where a pixel of it is wider than high: at 1/8 for 4:2:2, at 1/4 for 4:1:1.
    coarse = target == (160, 90) or flavour == "4:1:1"
    assert mean_error(found, expected) < (8 if coarse else 1.6)


def test_a_marked_object_stays_where_it_was_at_every_scale() -> None:
    """A scaled decode must not shift the picture: detections are told in pixels of the source."""
    picture = np.zeros((1080, 1920, 3), np.uint8)
    picture[400:600, 1000:1400] = 255
    for width, height in ((1920, 1080), (640, 360), (416, 234), (320, 180), (200, 112)):
        found = JpegImage(jpeg(picture), 1920, 1080).resized(width, height, "RGB")[:, :, 0].astype(np.float64)
        ys, xs = np.mgrid[0:height, 0:width]
        centre = ((xs + 0.5) * found).sum() / found.sum() * 1920 / width, ((ys + 0.5) * found).sum() / found.sum() * 1080 / height
        assert np.abs(np.subtract(centre, (1200, 500))).max() < 2


def test_a_jpeg_already_decoded_in_full_is_not_decoded_again() -> None:
    image = JpegImage(jpeg(scene(320, 180)), 320, 180)
    whole = image.bgr()
    assert image.bgr() is whole
    assert np.array_equal(image.resized(100, 50, "BGR"), reference(whole, 100, 50, "BGR"))


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"no picture at all", bytes(1000)], ids=["nothing", "start", "text", "zeros"])
def test_an_undecodable_jpeg_is_a_value_error(data: bytes) -> None:
    image = JpegImage(data, 640, 480)
    with pytest.raises(ValueError, match="cannot be decoded"):
        image.resized(300, 300, "RGB")
    with pytest.raises(ValueError, match="cannot be decoded"):
        image.bgr()


def test_a_jpeg_cut_short_by_the_bus_is_shown_as_far_as_it_came_or_refused() -> None:
    data = jpeg(scene(640, 480))
    with suppress(ValueError):
        assert JpegImage(data[: len(data) // 2], 640, 480).bgr().shape == (480, 640, 3)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("size", [(90, 160), (90, 161), (33, 17)])
def test_turned_pictures_are_turned_clockwise_and_then_resized(turns: int, size: tuple[int, int]) -> None:
    picture = scene(320, 180)
    image = RotatedImage(BgrImage(picture), turns)
    turned = np.ascontiguousarray(np.rot90(picture, -turns))
    assert (image.height, image.width) == turned.shape[:2]
    assert np.array_equal(image.bgr(), turned)
    assert image.bgr() is image.bgr(), "the full-size picture is made once"
    assert mean_error(image.resized(*size, "RGB"), reference(turned, *size, "RGB")) < 1


def decoded(bgr: Pixels, pixel_format: str) -> VideoFrame:
    """A frame as a decoder of that format would hand it out."""
    frame = VideoFrame.from_ndarray(bgr, format="bgr24").reformat(format=pixel_format)
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    return frame


PLANAR = ["yuv420p", "nv12", "yuvj420p", "yuvj422p", "yuvj444p", "yuv422p", "yuv444p"]


@pytest.mark.parametrize("pixel_format", [*PLANAR, "yuv420p10le", "gray", "rgb24"])
@pytest.mark.parametrize("size", [(320, 180), (322, 182), (321, 181), (66, 50)])
def test_frames_of_every_usual_format(pixel_format: str, size: tuple[int, int]) -> None:
    """Also where a row of the decoder's memory is longer than the picture is wide, and where chroma rounds up."""
    picture = scene(*size)
    image = image_of(decoded(picture, pixel_format))
    assert isinstance(image, PlanarImage if pixel_format in PLANAR else DecodedImage)
    assert (image.width, image.height) == size
    expected = picture
    if pixel_format == "gray":
        expected = np.asarray(cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), np.uint8)
    assert mean_error(image.bgr(), expected) < 3
    assert image.bgr() is image.bgr(), "the full-size picture is made once"
    for target in TARGETS:
        assert_alike(image.resized(*target, "RGB"), reference(image.bgr(), *target, "RGB"))


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("hd", [False, True])
def test_colours_mean_what_the_video_says(full_range: bool, hd: bool) -> None:
    """Grey stays grey between the black and the white of the range; primaries by the coefficients of the standard."""
    red, blue = (0.2126, 0.0722) if hd else (0.299, 0.114)
    low, luma, chroma = (0, 255, 255) if full_range else (16, 219, 224)
    wanted = np.array([[0, 0, 0], [255, 255, 255], [128, 128, 128], [255, 0, 0], [0, 255, 0], [0, 0, 255], [40, 90, 200]], np.float64)
    r, g, b = wanted.T / 255
    y = red * r + (1 - red - blue) * g + blue * b
    planes = [low + luma * y, 128 + chroma * (b - y) / (2 - 2 * blue), 128 + chroma * (r - y) / (2 - 2 * red)]
    image = PlanarImage(*_split([np.rint(plane.clip(0, 255)).astype(np.uint8)[None] for plane in planes]), Colours(full_range, hd))
    found = image.resized(len(wanted), 1, "RGB")[0]
    assert np.abs(found.astype(np.int16) - wanted).max() <= 3
    assert np.array_equal(image.bgr()[0], found[:, ::-1])


def _split(planes: list[Pixels]) -> tuple[Pixels, tuple[Pixels, ...]]:
    return planes[0], tuple(planes[1:])


@pytest.mark.parametrize("full_range", [False, True])
def test_the_range_is_told_by_the_frame(full_range: bool) -> None:
    """And not by the name of its format alone, as newer decoders do."""
    frame = decoded(np.full((64, 64, 3), 255, np.uint8), "yuv420p")
    frame.color_range = 2 if full_range else 1
    brightest = int(image_of(frame).bgr().max())
    assert brightest < 240 if full_range else brightest > 250
