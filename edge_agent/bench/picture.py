"""The stages as a picture: one HTML file with SVG in it and nothing from elsewhere, or a PNG drawn by OpenCV.

Both are drawn from one list of shapes, so that they show the same.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_agent.bench import cpu
from edge_agent.bench.report import LIMITS, PARTS, CameraReport, Report
from edge_agent.errors import StateError

SUFFIXES = (".png", ".html", ".htm")
WIDTH = 1000
_LEFT, _BAR, _HEIGHT, _GAP = 40, 920, 26, 4
_INK, _FAINT, _PAPER, _CARD, _EMPTY = "#1f2933", "#616e7c", "#f5f7fa", "#ffffff", "#e4e7eb"
_PART_COLOURS = dict(zip(PARTS, ("#cbd2d9", "#2bb0ed", "#8eedc7", "#f0b429", "#9446ed", "#ef8e58"), strict=True))
_SERVED, _FLIGHT = "#27ab83", "#9fb3c8"
_SKIPS = ("#bcccdc", "#d9e2ec", "#829ab1", "#627d98")
_DROPS = ("#e12d39", "#ba2525", "#ef4e4e")
_CPU_COLOURS = {
    cpu.CAPTURE: "#2bb0ed", cpu.PREPROCESS: "#8eedc7", cpu.INFER: "#f0b429", cpu.POSTPROCESS: "#9446ed", cpu.EVENTS: "#65d6ad",
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
    shapes, height = drawing(report)
    try:
        if file.suffix.lower() == ".png":
            file.write_bytes(as_png(shapes, height))
        else:
            file.write_text(as_html(shapes, height, report), encoding="utf-8")
    except OSError as error:
        raise StateError(f"the picture {file} cannot be written: {error.strerror}") from None


def drawing(report: Report) -> tuple[list[Shape], int]:
    """The shapes, and the height of the whole."""
    shapes: list[Shape] = [
        Text(_LEFT, 44, "Where each millisecond and each frame went", 22),
        Text(_LEFT, 66, f"{report.seconds:.0f} s, {report.cores} cores, {100 * report.cpu_share:.0f} % of the CPU", 13, _FAINT),
    ]
    y = 84.0
    longest = max((_sum(camera) for camera in report.cameras), default=0.0)
    for camera in report.cameras:
        shapes += _camera(camera, y, longest)
        y += _height(camera) + 12
    shapes += _cpu(report, y)
    return shapes, int(y + 104)


def _height(camera: CameraReport) -> int:
    return 180 if camera.served else 84


def _sum(camera: CameraReport) -> float:
    return sum(value for _, value in _typical(camera))


def _typical(camera: CameraReport) -> list[tuple[str, float]]:
    return [(name, found["p50"]) for name in PARTS if (found := camera.parts_ms.get(name))]


def _camera(camera: CameraReport, y: float, longest: float) -> Iterator[Shape]:
    yield Box(_LEFT - 16, y, WIDTH - 2 * _LEFT + 32, _height(camera), _CARD)
    yield Text(_LEFT, y + 24, _short(camera.camera, 40), 16)
    ratio = f", {100 * camera.ratio:.0f} % of what is possible" if camera.ratio is not None else ""
    told = (
        f"{camera.served_fps:.1f} fps served{ratio}; limit: {LIMITS[camera.limit]}" if camera.captured else f"{camera.state}: nothing came"
    )
    yield Text(WIDTH - _LEFT, y + 24, told, 13, _FAINT, "end")
    if not camera.served:
        yield Text(_LEFT, y + 60, _short(camera.error or "", 120), 13, _DROPS[0])
        return
    parts = _typical(camera)
    yield from _bar(parts, _PART_COLOURS, (y + 56, longest), f"a frame, {_sum(camera):.1f} ms (p50 of each part)", " ms")
    frames = _frames(camera)
    shown = f"{camera.captured} frames captured" + (f", {camera.lost_upstream} more never arrived" if camera.lost_upstream else "")
    yield from _bar([(name, count) for name, count, _ in frames], {n: c for n, _, c in frames}, (y + 128, camera.captured), shown, "")


def _frames(camera: CameraReport) -> list[tuple[str, float, str]]:
    found: list[tuple[str, float, str]] = [("served", camera.served, _SERVED)]
    found += [(name, count, _SKIPS[index % len(_SKIPS)]) for index, (name, count) in enumerate(camera.skipped.items())]
    found += [(name, count, _DROPS[index % len(_DROPS)]) for index, (name, count) in enumerate(camera.dropped.items())]
    return [*found, ("in flight", camera.in_flight, _FLIGHT)]


def _cpu(report: Report, y: float) -> Iterator[Shape]:
    parts = sorted(report.cpu_ms_per_frame().items(), key=lambda item: -item[1])
    if parts:
        yield Box(_LEFT - 16, y, WIDTH - 2 * _LEFT + 32, 90, _CARD)
        whole = sum(value for _, value in parts)
        yield from _bar(parts, _CPU_COLOURS, (y + 32, whole), f"CPU for each served frame, {whole:.1f} ms", " ms")


def _bar(parts: list[tuple[str, float]], colours: Mapping[str, str], place: tuple[float, float], title: str, unit: str) -> Iterator[Shape]:
    """A bar of parts and below it what they are. ``place``: its top, and the value that is as long as the picture is wide."""
    top, full = place
    yield Text(_LEFT, top - 7, title, 12, _FAINT)
    yield Box(_LEFT, top, _BAR, _HEIGHT, _EMPTY)
    x, legend = float(_LEFT), float(_LEFT)
    for name, value in parts:
        if value <= 0 or full <= 0:
            continue
        width = min(_BAR * value / full, _LEFT + _BAR - x)
        label = f"{name} {value:.1f}{unit}" if unit else f"{name} {value:g}"
        yield Box(x, top, width, _HEIGHT, colours.get(name, _EMPTY), label)
        x += width
        if legend + 8 * len(label) < _LEFT + _BAR:
            yield Box(legend, top + _HEIGHT + _GAP + 3, 9, 9, colours.get(name, _EMPTY))
            yield Text(legend + 14, top + _HEIGHT + _GAP + 12, label, 12, _FAINT)
            legend += 14 + 7.2 * len(label) + 14


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def as_html(shapes: list[Shape], height: int, report: Report) -> str:
    """One page, with the report as text below the picture. What comes from outside is escaped."""
    drawn = "\n".join(_svg(shape) for shape in shapes)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>edge-agent bench</title>
<style>body{{background:{_PAPER};color:{_INK};font-family:system-ui,sans-serif;margin:0 auto;max-width:{WIDTH}px}}
svg{{width:100%;height:auto}}
pre{{background:{_CARD};padding:16px 40px;margin:0 24px 40px;white-space:pre-wrap;font-size:13px}}</style></head>
<body><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="system-ui, sans-serif">
{drawn}
</svg><pre>{html.escape(report.text())}</pre></body></html>
"""


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
