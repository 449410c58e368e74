"""Which of a camera's formats, sizes and rates to take: by what it costs, for the size and rate asked for. No I/O but enumeration.

In this order: the size, the rate, the cost. Cost is an order of classes and not a sum of guesses:

0. pixels that need no decoding (NV12, then YUYV, ...) while they take at most ``RAW_BUDGET`` of what their bus carries;
1. MJPG: a tenth of the bytes; a frame that is served is decoded, at reduced scale, and one that is not costs nothing;
2. H.264: the fewest bytes, and nearly every picture has to be decoded, also those that nobody is served, as others refer to it;
3. pixels that need no decoding and take more than that.

USB 2 carries 24.576 MB/s for a camera (3 packets of 1024 bytes every 125 us, USB 2.0 specification 5.6.3); half of it, so that
a second camera fits. Elsewhere (USB 3, CSI, PCI, virtual devices) nothing but the processor's copies limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge_agent.sources import _v4l2 as kernel

BYTES_PER_PIXEL = {"NV12": 1.5, "NM12": 1.5, "YU12": 1.5, "GREY": 1.0, "YUYV": 2.0, "UYVY": 2.0, "BGR3": 3.0}
"""What is served without decoding."""
_RAW_ORDER = ("NV12", "NM12", "YU12", "YUYV", "UYVY", "GREY", "BGR3")
COMPRESSED = ("MJPG", "JPEG")
H264 = "H264"
FORMATS = (*COMPRESSED, H264, *_RAW_ORDER)
"""All that we can read."""
SLOW_BUS_BUDGET = 12_288_000.0
"""Bytes a second of undecoded pixels that are welcome on a USB 2 bus."""
FAST_BUS_BUDGET = 100_000_000.0
"""And elsewhere: 1080p NV12 at 30/s is 93 MB."""
RATE_TOLERANCE = 0.02
"""29.97 is 30."""


@dataclass(frozen=True)
class Offer:
    """One size of one format, and its rates in frames per second, falling; no rates: the driver does not tell."""

    fourcc: str
    width: int
    height: int
    rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What the configuration asks for. ``exact`` names what was written there; the rest is a wish."""

    width: int
    height: int
    fps: float
    format: str = "auto"
    exact: frozenset[str] = frozenset()
    budget: float = SLOW_BUS_BUDGET


@dataclass(frozen=True)
class Mode:
    """A format, a size and a rate (None: unknown) to ask the driver for."""

    fourcc: str
    width: int
    height: int
    fps: float | None

    def __str__(self) -> str:
        return f"{self.fourcc} {self.width}x{self.height}" + ("" if self.fps is None else f" at {self.fps:g}/s")


class NotOffered(Exception):
    """What was asked for is not offered; the text names the nearest that is."""


def offers(node: kernel.Ioctl, buffer_type: int, wanted: Wanted | None = None) -> Iterator[Offer]:
    """Everything a node offers, of all formats. A range of sizes is given as its ends and what is ``wanted`` of it.

    Raises OSError.
    """
    for pixel_format in kernel.formats(node, buffer_type):
        if pixel_format.emulated:
            continue
        fourcc = pixel_format.fourcc
        told = False
        for size in kernel.sizes(node, fourcc):
            told = True
            for width, height in dict.fromkeys(_sizes_of(size, wanted)):
                yield Offer(fourcc, width, height, _rates_of(node, fourcc, (width, height), wanted))
        if not told and wanted is not None:  # the driver does not say: try
            tried = kernel.set_format(node, buffer_type, kernel.PictureFormat(fourcc, wanted.width, wanted.height), only_try=True)
            if tried.fourcc == fourcc:
                yield Offer(fourcc, tried.width, tried.height, _rates_of(node, fourcc, (tried.width, tried.height), wanted))


def _sizes_of(size: kernel.SizeRange, wanted: Wanted | None) -> Iterator[tuple[int, int]]:
    if wanted is not None and not size.is_single:
        yield (
            _nearest_step(wanted.width, size.min_width, size.max_width, size.step_width),
            _nearest_step(wanted.height, size.min_height, size.max_height, size.step_height),
        )
    yield size.max_width, size.max_height
    yield size.min_width, size.min_height


def _rates_of(node: kernel.Ioctl, fourcc: str, size: tuple[int, int], wanted: Wanted | None) -> tuple[float, ...]:
    single, ends = kernel.rates(node, fourcc, *size)
    if ends is None:
        return single
    lowest, highest = round(ends[0], 3), round(ends[1], 3)
    inside = [wanted.fps] if wanted is not None and lowest <= wanted.fps <= highest else []
    return tuple(sorted({highest, *inside, lowest} - {0.0}, reverse=True))


def _nearest_step(value: int, low: int, high: int, step: int) -> int:
    return max(low, min(low + round((value - low) / step) * step, low + (high - low) // step * step))


def choose(offered: Iterable[Offer], wanted: Wanted) -> Mode:
    """The cheapest mode that is what was asked for. Raises NotOffered, with the nearest, where what was written is not there."""
    everything = list(offered)
    known = [offer for offer in everything if offer.fourcc in FORMATS]
    if not known:
        names = ", ".join(dict.fromkeys(offer.fourcc for offer in everything)) or "nothing"
        raise NotOffered(f"offers only formats that are not read here ({names}); read are {', '.join(FORMATS)}")
    if wanted.format != "auto":
        having = [offer for offer in known if offer.fourcc == wanted.format]
        if not having:
            raise NotOffered(f"does not offer format {wanted.format}; it offers {', '.join(dict.fromkeys(o.fourcc for o in known))}")
        known = having
    sized = [offer for offer in known if _has_size(offer, wanted)]
    if not sized:
        near = min(
            (mode for offer in known for mode in _modes(offer)),
            key=lambda mode: (_written_distance(mode, wanted), _size_distance(mode, wanted)),
        )
        raise NotOffered(f"does not offer {_asked_size(wanted)}{_of_format(wanted)}; the nearest is {near.width}x{near.height}")
    modes = [mode for offer in sized for mode in _modes(offer)]
    timely = [mode for mode in modes if _rate_distance(mode, wanted) == 0] if "fps" in wanted.exact else modes
    if not timely:
        best = min(modes, key=lambda mode: (_rate_distance(mode, wanted), _preference(mode, wanted)))
        slower = wanted.fps < (best.fps or 0)
        hint = f" (max_fps = {wanted.fps:g} serves fewer frames than the camera sends)" if slower else ""
        raise NotOffered(f"does not offer {_asked_rate(wanted)}{_of_format(wanted)}; the nearest is {best}{hint}")
    return min(timely, key=lambda mode: _preference(mode, wanted))


def _preference(mode: Mode, wanted: Wanted) -> tuple[float, ...]:
    return *_size_distance(mode, wanted), _rate_distance(mode, wanted), *cost(mode, wanted.budget), -(mode.fps or 0)


def cost(mode: Mode, budget: float) -> tuple[int, int]:
    """The order in which modes of one size and rate are taken; see the module's text."""
    if mode.fourcc in COMPRESSED:
        return 1, COMPRESSED.index(mode.fourcc)
    if mode.fourcc == H264:
        return 2, 0
    load = BYTES_PER_PIXEL[mode.fourcc] * mode.width * mode.height * (mode.fps or 30)
    return (0 if load <= budget else 3), _RAW_ORDER.index(mode.fourcc)


def _has_size(offer: Offer, wanted: Wanted) -> bool:
    width = "width" not in wanted.exact or offer.width == wanted.width
    return width and ("height" not in wanted.exact or offer.height == wanted.height)


def _size_distance(mode: Mode, wanted: Wanted) -> tuple[float, float]:
    return abs(mode.width / wanted.width - 1) + abs(mode.height / wanted.height - 1), -mode.width * mode.height


def _written_distance(mode: Mode, wanted: Wanted) -> float:
    """As _size_distance, of what was written only."""
    width = abs(mode.width / wanted.width - 1) if "width" in wanted.exact else 0
    return width + (abs(mode.height / wanted.height - 1) if "height" in wanted.exact else 0)


def _modes(offer: Offer) -> Iterator[Mode]:
    for rate in offer.rates or (None,):
        yield Mode(offer.fourcc, offer.width, offer.height, rate)


def _rate_distance(mode: Mode, wanted: Wanted) -> float:
    """0 for the rate asked for, or for one that nobody tells; else how far away."""
    if mode.fps is None:
        return 0.0
    distance = abs(mode.fps / wanted.fps - 1)
    return distance if distance > RATE_TOLERANCE else 0.0


def _asked_size(wanted: Wanted) -> str:
    if {"width", "height"} <= wanted.exact:
        return f"{wanted.width}x{wanted.height}"
    return f"width {wanted.width}" if "width" in wanted.exact else f"height {wanted.height}"


def _asked_rate(wanted: Wanted) -> str:
    size = f"{_asked_size(wanted)} at " if wanted.exact & {"width", "height"} else ""
    return f"{size}{wanted.fps:g}/s"


def _of_format(wanted: Wanted) -> str:
    return "" if wanted.format == "auto" else f" in {wanted.format}"
