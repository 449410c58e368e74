"""Buffers as pictures: each layout, with lines further apart than they are long, against one made the plain way."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_agent.image import Colours, JpegImage
from edge_agent.sources._v4l2 import PictureFormat
from edge_agent.sources._v4l2_modes import FORMATS
from edge_agent.sources._v4l2_pictures import colours, picture
from edge_agent.sources.base import FrameUnreadable

Bytes = NDArray[np.uint8]
WIDTH, HEIGHT = 64, 48
Y, CB, CR = 120, 90, 200
BGR = cv2.cvtColor(np.array([[[Y, CB], [Y, CR]]], np.uint8), cv2.COLOR_YUV2BGR_YUYV)[0, 0]


def lines(row: list[int], times: int, stride: int, height: int) -> Bytes:
    """A plane whose lines repeat ``row``; what lies between the lines is 255."""
    line = np.full(stride, 255, np.uint8)
    line[: len(row) * times] = row * times
    return np.tile(line, height)


def buffer(fourcc: str, padding: int = 0) -> tuple[PictureFormat, tuple[Bytes, ...]]:
    stride = WIDTH * {"YUYV": 2, "UYVY": 2, "BGR3": 3}.get(fourcc, 1) + padding
    half = WIDTH // 2
    match fourcc:
        case "YUYV":
            planes: tuple[Bytes, ...] = (lines([Y, CB, Y, CR], half, stride, HEIGHT),)
        case "UYVY":
            planes = (lines([CB, Y, CR, Y], half, stride, HEIGHT),)
        case "BGR3":
            planes = (lines([int(c) for c in BGR], WIDTH, stride, HEIGHT),)
        case "GREY":
            planes = (lines([Y], WIDTH, stride, HEIGHT),)
        case "NV12":
            planes = (np.concatenate([lines([Y], WIDTH, stride, HEIGHT), lines([CB, CR], half, stride, HEIGHT // 2)]),)
        case "NM12":
            planes = (lines([Y], WIDTH, stride, HEIGHT), lines([CB, CR], half, stride, HEIGHT // 2))
        case _:
            chroma = [lines([c], half, stride // 2, HEIGHT // 2) for c in (CB, CR)]
            planes = (np.concatenate([lines([Y], WIDTH, stride, HEIGHT), *chroma]),)
    return PictureFormat(fourcc, WIDTH, HEIGHT, tuple((stride, plane.size) for plane in planes)), planes


RAW = [fourcc for fourcc in FORMATS if fourcc not in {"MJPG", "JPEG", "H264"}]


@pytest.mark.parametrize("padding", [0, 64])
@pytest.mark.parametrize("fourcc", RAW)
def test_each_layout_gives_the_colour_that_went_in(fourcc: str, padding: int) -> None:
    image = picture(*buffer(fourcc, padding))
    assert (image.width, image.height) == (WIDTH, HEIGHT)
    expected = (Y, Y, Y) if fourcc == "GREY" else BGR
    for pixels in (image.resized(32, 24, "BGR"), image.resized(WIDTH, HEIGHT, "BGR"), image.bgr()):
        assert np.abs(pixels.astype(int) - np.array(expected, int)).max() <= 2


@pytest.mark.parametrize("fourcc", RAW)
def test_a_short_buffer_is_one_lost_frame(fourcc: str) -> None:
    form, planes = buffer(fourcc)
    with pytest.raises(FrameUnreadable, match="bytes where"):
        picture(form, (*planes[:-1], planes[-1][:-2]))
    with pytest.raises(FrameUnreadable):
        picture(form, tuple(plane[:0] for plane in planes))


@pytest.mark.parametrize("fourcc", RAW)
def test_the_last_line_need_not_be_padded(fourcc: str) -> None:
    form, planes = buffer(fourcc, 64)
    trimmed = planes[-1][: -(32 if fourcc == "YU12" else 64)]
    assert np.array_equal(picture(form, (*planes[:-1], trimmed)).bgr(), picture(form, planes).bgr())


def test_a_driver_that_does_not_tell_the_length_of_a_line() -> None:
    _, planes = buffer("YUYV")
    assert picture(PictureFormat("YUYV", WIDTH, HEIGHT, ((0, 0),)), planes).width == WIDTH


def test_jpeg_is_not_decoded_and_what_is_none_is_refused() -> None:
    encoded = cv2.imencode(".jpg", np.zeros((HEIGHT, WIDTH, 3), np.uint8))[1]
    form = PictureFormat("MJPG", WIDTH, HEIGHT)
    assert isinstance(picture(form, (encoded.reshape(-1),)), JpegImage)
    for data in (b"", b"\xff", b"\0" * 5000):
        with pytest.raises(FrameUnreadable, match=f"{len(data)} bytes that are no JPEG"):
            picture(form, (np.frombuffer(data, np.uint8),))


def test_a_jpeg_has_the_size_that_it_says_and_not_the_one_negotiated() -> None:
    encoded = cv2.imencode(".jpg", np.zeros((HEIGHT + 8, WIDTH, 3), np.uint8))[1]
    found = picture(PictureFormat("MJPG", WIDTH, HEIGHT), (encoded.reshape(-1),))
    assert (found.width, found.height) == (WIDTH, HEIGHT + 8)
    assert found.bgr().shape == (HEIGHT + 8, WIDTH, 3)


@pytest.mark.parametrize(
    ("colorspace", "encoding", "quantization", "expected"),
    [
        (8, 0, 0, Colours()),  # sRGB: what webcams say
        (1, 0, 0, Colours()),
        (3, 0, 0, Colours(hd=True)),
        (3, 1, 0, Colours()),
        (7, 0, 0, Colours(full_range=True)),
        (8, 2, 1, Colours(full_range=True, hd=True)),
        (7, 0, 2, Colours()),
    ],
)
def test_colours_are_what_the_driver_says(colorspace: int, encoding: int, quantization: int, expected: Colours) -> None:
    assert colours(PictureFormat("YUYV", 2, 2, colorspace=colorspace, encoding=encoding, quantization=quantization)) == expected
