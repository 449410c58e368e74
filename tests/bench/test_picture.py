"""The picture, in both forms."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import pytest

from edge_agent.bench import picture
from edge_agent.errors import StateError
from tests.bench.test_judging import camera, report


@pytest.mark.parametrize("width", [picture.WIDTH, picture.NARROW])
def test_bars_are_as_long_as_what_they_show_and_end_within_the_picture(width: int) -> None:
    found = report(camera(served=60, captured=100, skipped={"model_busy": 30}, dropped={"model_error": 10}))
    shapes, height = picture.drawing(found, width)
    boxes = {shape.hint: shape for shape in shapes if isinstance(shape, picture.Box) and shape.hint}
    assert boxes["served 60"].width == pytest.approx(2 * boxes["model_busy 30"].width)
    assert boxes["model_busy 30"].width == pytest.approx(3 * boxes["model_error 10"].width)
    assert all(s.x >= 0 and s.x + s.width <= width and s.y + s.height <= height for s in shapes if isinstance(s, picture.Box))
    assert all(s.y <= height for s in shapes)
    legend = [s.text for s in shapes if isinstance(s, picture.Text)]
    assert all(hint in legend for hint in boxes)


def test_every_part_of_the_cpu_has_a_colour_of_its_own_and_is_named() -> None:
    parts = ("capture and decode", "preprocess", "infer", "postprocess", "events", "publish", "health", "other")
    found = report(camera(), cpu_s=dict.fromkeys(parts, 3.0))
    shapes, _ = picture.drawing(found, picture.NARROW)
    assert len({s.colour for s in shapes if isinstance(s, picture.Box) and s.hint.endswith("10.0 ms")}) == len(parts)
    assert all(any(isinstance(s, picture.Text) and s.text == f"{part} 10.0 ms" for s in shapes) for part in parts)


def test_a_png_shows_the_colours_of_its_parts(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    picture.save(report(camera(), camera("dead", served=0, captured=0, error="no route to host ä")), file)
    pixels = cv2.imread(str(file))
    assert pixels is not None
    assert pixels.shape[1] == 2 * picture.WIDTH
    for colour in ("#f0b429", "#27ab83"):
        wanted = tuple(int(colour[at : at + 2], 16) for at in (5, 3, 1))
        assert (pixels == wanted).all(axis=2).sum() > 1000


def test_a_page_needs_nothing_from_elsewhere_and_escapes_what_comes_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "a.html"
    picture.save(report(camera("<script>alert(1)</script>", error="<b>")), file)
    text = file.read_text()
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)\s*=", text)
    HTMLParser().feed(text)


def test_without_any_frame_there_still_is_a_picture() -> None:
    shapes, height = picture.drawing(report(camera(served=0, captured=0, service_ms=None)))
    assert picture.as_png(shapes, height)


def test_what_cannot_be_written_after_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"cannot be written"):
        picture.save(report(camera()), tmp_path / "gone" / "a.html")
