"""Pictures to calibrate on: a folder, labelled or not, a video, or a live camera, through the daemon's own sources."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent import camera_sources, config_file, evaluation, labelled, plugins
from edge_agent.errors import ConfigError, EndOfStream
from edge_agent.image import BgrImage, Image
from edge_agent.quantize.accuracy import Labels
from edge_agent.redaction import redact
from edge_agent.sources.base import FrameUnreadable, Source

FEWEST = 4
"""Pictures without which no range means anything."""
MOST = 200
"""Pictures of a folder that are looked at, spread evenly over it."""
MOST_BYTES = 1 << 30
"""Pixels that are kept in memory: of very large pictures, fewer."""
FROM_STREAM = 64
"""Pictures kept of a video or camera."""
_APART_S = 1.0
_LONGEST_VIDEO = 20_000


def from_labelled_folder(folder: Path, truth: labelled.Truth, say: Callable[[str], None]) -> dict[int, Image]:
    """By image id. Raises ConfigError where too few can be read."""
    files = labelled.pictures(folder, truth)
    found: dict[int, Image] = {}
    taken = 0
    for index in _evenly(len(files), MOST):
        number, file = files[index]
        try:
            found[number] = evaluation.read_picture(file)
        except evaluation.UnreadablePicture as error:
            say(f"warning: {error}")
            continue
        taken += 3 * found[number].width * found[number].height
        if taken > MOST_BYTES:
            say(f"warning: the pictures are large: only {len(found)} of {len(files)} are used, to spare memory")
            break
    return _enough(found, str(folder))


def _evenly(length: int, count: int) -> list[int]:
    """At most ``count`` places in a list of this length."""
    return [int(place) for place in np.unique(np.linspace(0, length - 1, min(count, length)).astype(int))]


def from_source(source: str, say: Callable[[str], None]) -> dict[int, Image]:
    """By a number in their order, spread over the whole of a folder or video; of a camera, one a second.

    Raises ConfigError where too few can be read, SourceError where it cannot be opened.
    """
    camera: dict[str, Any] = {"id": "images", "source": source}
    if os.path.isdir(source):  # noqa: PTH112 - says no to what can be no path, where pathlib raises
        camera["kind"] = "images"
    config = config_file.build({"cameras": [camera]}, plugins.PluginKinds(), environ={})
    opened = camera_sources.build_source(config, config.cameras[0])
    is_folder = config.cameras[0].kind == "images"
    try:
        opened.open()
        if opened.live:
            say(f"taking {FROM_STREAM} pictures from {redact(source)}, one a second")
        kept = _spread(opened, MOST if is_folder else FROM_STREAM, say)
    finally:
        opened.close()
    return _enough(dict(enumerate(kept)), redact(source))


def _spread(source: Source, count: int, say: Callable[[str], None]) -> list[Image]:
    """At most ``count`` pictures, evenly spread over what is read: as it grows too long, every second one goes."""
    kept: list[Image] = []
    every, seen, last = 1, 0, -np.inf
    while seen < _LONGEST_VIDEO and not (source.live and len(kept) >= count):
        try:
            reading = source.read()
        except FrameUnreadable as error:
            say(f"warning: {error}")
            continue
        except EndOfStream:
            break
        if source.live and reading.captured_at - last < _APART_S:
            continue
        if seen % every == 0:
            last = reading.captured_at
            kept.append(BgrImage(reading.image.bgr().copy()))  # what a decoder or driver lent must be given back
        seen += 1
        if len(kept) >= 2 * count or 3 * len(kept) * kept[0].width * kept[0].height > MOST_BYTES:
            kept, every = kept[::2], every * 2
    return [kept[i] for i in _evenly(len(kept), count)] if kept else []


def _enough(found: dict[int, Image], where: str) -> dict[int, Image]:
    if len(found) < FEWEST:
        raise ConfigError(f"--images: {len(found)} pictures in {where} can be read; {FEWEST} are the least, some 50 are enough")
    return found


def labels_for(truth: labelled.Truth, names: tuple[str, ...], class_count: int | None) -> Labels:
    """Boxes with the model's classes. Raises ConfigError where nothing matches."""
    return Labels(truth, labelled.mapping(names, class_count, truth))
