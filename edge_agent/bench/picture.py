"""The stages as a picture: one HTML file with SVG in it and nothing from elsewhere, or a PNG drawn by OpenCV.

Both are drawn from one list of shapes, so that they show the same.
"""

from __future__ import annotations

import contextlib
import html
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_agent.bench import cpu
from edge_agent.bench.report import LIMITS, PARTS, STATES, CameraReport, Report, rate
from edge_agent.errors import StateError

SUFFIXES = (".png", ".html", ".htm")
WIDTH, NARROW = 1000, 400
"""On a desk, and on a phone."""
_HEIGHT = 26
_INK, _FAINT, _PAPER, _CARD, _EMPTY = "#1f2933", "#616e7c", "#f5f7fa", "#ffffff", "#e4e7eb"
_PART_COLOURS = dict(zip(PARTS, ("#cbd2d9", "#2bb0ed", "#8eedc7", "#f0b429", "#9446ed", "#ef8e58"), strict=True))
_SERVED, _FLIGHT = "#27ab83", "#9fb3c8"
_SKIPS = ("#bcccdc", "#d9e2ec", "#829ab1", "#627d98")
_DROPS = ("#e12d39", "#ba2525", "#ef4e4e")
_CPU_COLOURS = {
    cpu.CAPTURE: "#2bb0ed", cpu.PREPROCESS: "#8eedc7", cpu.INFER: "#f0b429", cpu.POSTPROCESS: "#9446ed", cpu.EVENTS: "#486581",
    cpu.PUBLISH: "#ef8e58", cpu.HEALTH: "#fadb5f", cpu.OTHER: "#cbd2d9",
}  # fmt: skip
_SCALE = 2
"""Pixels of the PNG for each of the drawing's."""


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    hint: str = ""


@dataclass(frozen=True)
class Text:
    """A line of text; ``y`` is its base line."""

    x: float
    y: float
    text: str
    size: int = 13
    colour: str = _INK
    anchor: Literal["start", "middle", "end"] = "start"


Shape = Box | Text


def save(report: Report, file: Path) -> None:
    """Write the picture. Raises StateError."""
    try:
        if file.suffix.lower() == ".png":
            file.write_bytes(as_png(*drawing(report)))
        else:
            file.write_text(as_html(report), encoding="utf-8")
    except OSError as error:
        raise StateError(f"the picture {file} cannot be written: {error.strerror}") from None


def drawing(report: Report, width: int = WIDTH) -> tuple[list[Shape], int]:
    """The shapes, and the height of the whole."""
    page = _Page(width)
    page.y = 18.0
    page.say("Where each millisecond and each frame went", 22 if width >= WIDTH else 17)
    page.say(f"{report.seconds:.0f} s, {report.cores} cores, {report.used()}", 13, _FAINT)
    page.y += 14
    longest = max((_sum(camera) for camera in report.cameras), default=0.0)
    for camera in report.cameras:
        with page.card():
            _camera(page, camera, longest)
    parts = sorted(report.cpu_ms_per_frame().items(), key=lambda item: -item[1])
    if parts:
        whole = sum(value for _, value in parts)
        with page.card():
            page.bar(parts, _CPU_COLOURS, whole, f"CPU for each served frame, {whole:.1f} ms", " ms")
    return page.shapes, int(page.y + 8)


class _Page:
    """Filled from top to bottom. ``y``: how far it has come."""

    def __init__(self, width: int) -> None:
        self.shapes: list[Shape] = []
        self.y = 0.0
        self._width, self._margin = width, 24 if width >= WIDTH else 8
        self._left = self._margin + 16
        self._within = width - 2 * self._left

    @contextlib.contextmanager
    def card(self) -> Iterator[None]:
        """What is drawn within lies on it."""
        first, top = len(self.shapes), self.y
        self.y += 6
        yield
        self.y += 14
        self.shapes.insert(first, Box(self._margin, top, self._width - 2 * self._margin, self.y - top, _CARD))
        self.y += 12

    def say(self, text: str, size: int = 13, colour: str = _INK) -> None:
        """In as many lines as it takes."""
        for line in textwrap.wrap(text, max(1, int(self._within / (0.58 * size)))):
            self.y += 1.5 * size
            self.shapes.append(Text(self._left, self.y, line, size, colour))

    def head(self, name: str, told: str) -> None:
        """A name, and what is told at its right, or below where there is no room."""
        self.say(name, 16)
        if 9.6 * len(name) + 7.5 * len(told) < self._within:
            self.shapes.append(Text(self._width - self._left, self.y, told, 13, _FAINT, "end"))
        else:
            self.say(told, 13, _FAINT)

    def bar(self, parts: list[tuple[str, float]], colours: Mapping[str, str], full: float, title: str, unit: str) -> None:
        """A bar of parts and below it what they are. ``full``: the value that is as long as the picture is wide."""
        self.y += 6
        self.say(title, 12, _FAINT)
        self.y += 7
        top, x = self.y, float(self._left)
        self.shapes.append(Box(x, top, self._within, _HEIGHT, _EMPTY))
        self.y += _HEIGHT + 16
        legend = x
        for name, value in parts:
            if value <= 0 or full <= 0:
                continue
            label, colour = f"{name} {value:.1f}{unit}" if unit else f"{name} {value:g}", colours[name]
            width = min(self._within * value / full, self._left + self._within - x)
            self.shapes.append(Box(x, top, width, _HEIGHT, colour, label))
            x += width
            taken = 14 + 7.2 * len(label)
            if legend > self._left and legend + taken > self._left + self._within:
                legend = float(self._left)
                self.y += 19
            self.shapes += [Box(legend, self.y - 9, 9, 9, colour), Text(legend + 14, self.y, label, 12, _FAINT)]
            legend += taken + 14


def _sum(camera: CameraReport) -> float:
    return sum(value for _, value in _typical(camera))


def _typical(camera: CameraReport) -> list[tuple[str, float]]:
    return [(name, found["p50"]) for name in PARTS if (found := camera.parts_ms.get(name))]


def _camera(page: _Page, camera: CameraReport, longest: float) -> None:
    ratio = f", {100 * camera.ratio:.0f} % of what is possible" if camera.ratio is not None else ""
    served = f"{rate(camera.served_fps)} fps served{ratio}; limit: {LIMITS.get(camera.limit, '')}"
    page.head(textwrap.shorten(camera.camera, 40, placeholder="..."), served if camera.captured else STATES.get(camera.state, camera.state))
    page.say(f"{camera.kind}, model {camera.model}", 12, _FAINT)
    if camera.error:
        page.say(textwrap.shorten(camera.error, 300, placeholder="..."), 13, _DROPS[0])
    if camera.served:
        page.bar(_typical(camera), _PART_COLOURS, longest, f"a frame, {_sum(camera):.1f} ms (p50 of each part)", " ms")
    if camera.captured:
        frames = _frames(camera)
        shown = f"{camera.captured} frames captured" + (f", {camera.lost_upstream} more never arrived" if camera.lost_upstream else "")
        page.bar([(name, count) for name, count, _ in frames], {n: c for n, _, c in frames}, camera.captured, shown, "")


def _frames(camera: CameraReport) -> list[tuple[str, float, str]]:
    found: list[tuple[str, float, str]] = [("served", camera.served, _SERVED)]
    found += [(name, count, _SKIPS[index % len(_SKIPS)]) for index, (name, count) in enumerate(camera.skipped.items())]
    found += [(name, count, _DROPS[index % len(_DROPS)]) for index, (name, count) in enumerate(camera.dropped.items())]
    return [*found, ("in flight", camera.in_flight, _FLIGHT)]


def as_html(report: Report) -> str:
    """One page, for a desk and for a phone, with the report as text below the picture. What comes from outside is escaped."""
    drawn = "\n".join(_drawn(report, width, name) for width, name in ((WIDTH, "wide"), (NARROW, "narrow")))
    lines = "".join(f"<span>{html.escape(line) or '&nbsp;'}</span>" for line in report.text().splitlines())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>edge-agent bench</title>
<style>
body{{background:{_PAPER};color:{_INK};font-family:system-ui,sans-serif;margin:0 auto;max-width:{WIDTH}px}}
svg{{width:100%;height:auto;display:block}}
pre{{background:{_CARD};padding:12px 16px;margin:0 2.4% 32px;font-size:13px;line-height:1.45}}
pre span{{display:block;white-space:pre-wrap;overflow-wrap:anywhere;padding-left:11ch;text-indent:-11ch}}
.narrow{{display:none}}
@media (max-width:640px){{.wide{{display:none}}.narrow{{display:block}}pre{{font-size:11px}}pre span{{padding-left:4ch;text-indent:-4ch}}}}
</style></head>
<body>
{drawn}
<pre>{lines}</pre></body></html>
"""


def _drawn(report: Report, width: int, name: str) -> str:
    shapes, height = drawing(report, width)
    inside = "\n".join(_svg(shape) for shape in shapes)
    head = f'class="{name}" viewBox="0 0 {width} {height}" role="img" aria-label="the stages; as text below"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {head} font-family="system-ui, sans-serif">\n{inside}\n</svg>'


def _svg(shape: Shape) -> str:
    if isinstance(shape, Box):
        hint = f"<title>{html.escape(shape.hint)}</title>" if shape.hint else ""
        place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" height="{shape.height:.1f}"'
        return f'<rect {place} fill="{shape.colour}">{hint}</rect>'
    place = f'x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size}" fill="{shape.colour}" text-anchor="{shape.anchor}"'
    return f"<text {place}>{html.escape(shape.text)}</text>"


def as_png(shapes: list[Shape], height: int) -> bytes:
    """The same, by OpenCV, whose letters are plain ASCII ones."""
    import cv2
    import numpy as np

    canvas = np.full((height * _SCALE, WIDTH * _SCALE, 3), _bgr(_PAPER), np.uint8)
    for shape in shapes:
        if isinstance(shape, Box):
            begin = (round(shape.x * _SCALE), round(shape.y * _SCALE))
            end = (round((shape.x + shape.width) * _SCALE) - 1, round((shape.y + shape.height) * _SCALE) - 1)
            if end[0] >= begin[0]:
                cv2.rectangle(canvas, begin, end, _bgr(shape.colour), cv2.FILLED)
            continue
        text, font = shape.text.encode("ascii", "replace").decode(), cv2.FONT_HERSHEY_SIMPLEX
        scale, thick = shape.size * _SCALE / 30, 2 if shape.size < 20 else 3
        width = cv2.getTextSize(text, font, scale, thick)[0][0]
        x = round(shape.x * _SCALE) - {"start": 0, "middle": width // 2, "end": width}[shape.anchor]
        cv2.putText(canvas, text, (x, round(shape.y * _SCALE)), font, scale, _bgr(shape.colour), thick, cv2.LINE_AA)
    return bytes(cv2.imencode(".png", canvas)[1].tobytes())


def _bgr(colour: str) -> tuple[int, int, int]:
    return int(colour[5:7], 16), int(colour[3:5], 16), int(colour[1:3], 16)
