"""Folders of pictures and single stills."""

from __future__ import annotations

import struct
import threading
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.capture import Capture
from edge_agent.errors import EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.image import Pixels
from edge_agent.sources import images
from edge_agent.sources.base import FrameUnreadable, Source
from tests.conftest import make_config, wait_until
from tests.sources.media import context, read_to_end


def source_of(path: Path, *, loop: bool = False, period_s: float | None = None) -> Source:
    return images.build(context(path), images.Config(loop=loop, period_s=period_s))


def picture(value: int, width: int = 8, height: int = 6) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


def write(path: Path, pixels: Pixels) -> Path:
    done, data = cv2.imencode(path.suffix.lower(), pixels)
    assert done
    path.write_bytes(data.tobytes())
    return path


def shades(source: Source, count: int) -> list[int]:
    return [int(source.read().image.bgr().mean().round()) for _ in range(count)]


def test_a_folder_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name, value in [("b.png", 20), ("a.jpg", 10), ("c.bmp", 30), ("D.PNG", 5), ("ü mit leer.webp", 40), ("e%d.tiff", 35)]:
        write(tmp_path / name, picture(value))
    source = source_of(tmp_path)
    source.open()
    assert shades(source, 6) == [5, 10, 20, 30, 35, 40]
    with pytest.raises(EndOfStream):
        source.read()
    assert not source.live


def test_pictures_keep_their_own_sizes(tmp_path: Path) -> None:
    write(tmp_path / "1.png", picture(1, 10, 20))
    write(tmp_path / "2.png", picture(2, 33, 7))
    source = source_of(tmp_path)
    source.open()
    assert [(r.image.width, r.image.height) for r in read_to_end(source)[0]] == [(10, 20), (33, 7)]


def test_other_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("not a picture")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / ".hidden").write_bytes(b"")
    write(tmp_path / "only.png", picture(7))
    source = source_of(tmp_path)
    source.open()
    readings, unreadable = read_to_end(source)
    assert (len(readings), unreadable) == (1, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text named png",
        b"\xff\xd8\xff\xe0",
        struct.pack(">8sI4sIIBBBBB", b"\x89PNG\r\n\x1a\n", 13, b"IHDR", 10**6, 10**6, 8, 2, 0, 0, 0),
    ],
)
def test_an_unreadable_picture_is_named_and_the_others_are_read(tmp_path: Path, data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "1.png", picture(10))
    (tmp_path / "2.png").write_bytes(data)
    write(tmp_path / "3.png", picture(30))
    source = source_of(tmp_path)
    source.open()
    assert shades(source, 1) == [10]
    with pytest.raises(FrameUnreadable, match=r"2\.png"):
        source.read()
    assert shades(source, 1) == [30]
    capfd.readouterr()


def test_a_picture_that_vanishes_meanwhile_is_a_lost_frame(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.png", picture(number * 10))
    source = source_of(tmp_path)
    source.open()
    (tmp_path / "1.png").unlink()
    readings, unreadable = read_to_end(source)
    assert (len(readings), unreadable) == (2, 1)


def test_unreadable_pictures_are_counted_where_the_user_looks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "1.png", picture(10))
    (tmp_path / "2.png").write_text("damaged")
    write(tmp_path / "3.png", picture(30))
    config = make_config({"cameras": [{"id": "folder", "source": f"{tmp_path}/"}]})
    wake = threading.Condition()
    capture = Capture(config.cameras[0], source_of(tmp_path), wake)
    capture.start()

    def drained() -> bool:
        with wake:
            if capture.take(time.monotonic()) is not None:
                capture.counts.served += 1
        return capture.ended

    wait_until(drained)
    assert capture.join(5)
    counts = capture.snapshot()
    assert (counts.captured, counts.served, dict(counts.dropped)) == (3, 2, {"unreadable": 1})
    assert capture.status.error is None
    assert "2.png" in caplog.text


def test_a_folder_of_which_nothing_can_be_read_is_broken(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_text("damaged")
    source = source_of(tmp_path)
    source.open()
    with pytest.raises(FrameUnreadable):
        source.read()
    with pytest.raises(SourceBroken, match="nothing in"):
        source.read()


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceBroken, match="holds no picture") as caught:
        source_of(tmp_path).open()
    assert caught.value.code is SourceErrorCode.INVALID_DATA


def test_an_empty_folder_that_is_looped_may_be_filled_later(tmp_path: Path) -> None:
    source = source_of(tmp_path, loop=True)
    with pytest.raises(SourceUnavailable, match="holds no picture"):
        source.open()
    write(tmp_path / "1.png", picture(10))
    source.open()
    assert shades(source, 2) == [10, 10]
    (tmp_path / "1.png").unlink()
    with pytest.raises(SourceUnavailable):
        source.read()


def test_a_loop_finds_new_pictures_and_forgets_removed_ones(tmp_path: Path) -> None:
    write(tmp_path / "1.png", picture(10))
    write(tmp_path / "2.png", picture(20))
    source = source_of(tmp_path, loop=True)
    source.open()
    assert shades(source, 2) == [10, 20]
    write(tmp_path / "3.png", picture(30))
    (tmp_path / "1.png").unlink()
    assert shades(source, 3) == [20, 30, 20]


@pytest.mark.parametrize("loop", [True, False])
def test_a_single_still(tmp_path: Path, loop: bool) -> None:
    source = source_of(write(tmp_path / "still.png", picture(50)), loop=loop)
    source.open()
    assert shades(source, 1) == [50]
    if loop:
        assert shades(source, 3) == [50] * 3
    else:
        with pytest.raises(EndOfStream):
            source.read()


@pytest.mark.parametrize("name", ["none", "none.png"])
def test_what_does_not_exist_may_come_yet(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceUnavailable, match="does not exist") as caught:
        source_of(tmp_path / name).open()
    assert caught.value.code is SourceErrorCode.NOT_FOUND


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_photos_of_phones_stand_upright(tmp_path: Path, orientation: int, turns: int) -> None:
    pixels = picture(20, 64, 32)
    pixels[:16, :16] = 250
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    # Exif 2.3, 4.6: one entry in big-endian TIFF, tag 0x0112, type SHORT.
    tiff = b"MM\0\x2a" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    source = source_of(path)
    source.open()
    found = source.read().image
    expected = np.rot90(pixels, -turns)
    assert (found.height, found.width) == expected.shape[:2]
    assert np.abs(found.bgr().astype(np.int16) - expected).mean() < 3


def test_an_interval_is_kept_between_pictures(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.png", picture(number))
    source = source_of(tmp_path, period_s=60)
    source.open()
    dues = [reading.not_before or 0.0 for reading in read_to_end(source)[0]]
    assert [round(later - earlier, 3) for earlier, later in pairwise(dues)] == [60, 60, 60]
    assert dues[0] <= time.monotonic()
