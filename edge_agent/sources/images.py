"""Still pictures: one file, or a folder of them in the order of their names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated

import numpy as np
from pydantic import Field

from edge_agent.config_values import Seconds, Table
from edge_agent.errors import EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.image import BgrImage, Pixels
from edge_agent.libraries import ensure
from edge_agent.sources.base import FrameUnreadable, Reading, Source, SourceContext, StreamInfo

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})


class Config(Table):
    """Keys of a folder of images."""

    loop: bool = False
    """Begin again after the last one; new files are found then."""
    period_s: Annotated[Seconds | None, Field(examples=[1])] = None
    """Pause between pictures. Default: as fast as the model goes."""


def claims(source: str | int) -> bool:
    """Paths that end like a picture, or have no suffix at all (a folder), but no device and no address."""
    if not isinstance(source, str) or "://" in source or source.startswith("/dev/") or source.isdigit():
        return False
    suffix = PurePath(source).suffix.lower()
    looks_like_folder = source.endswith("/") or (not suffix and ("/" in source or source.startswith((".", "~"))))
    return suffix in SUFFIXES or looks_like_folder


class ImagesSource(Source):
    """Pictures from a path. One that cannot be read is a lost frame with its name in the log; all of them are an error."""

    live = False

    def __init__(self, path: Path, config: Config) -> None:
        self._path, self._config = path, config
        self.unpaced = config.period_s is None
        self._files: Iterator[Path] = iter(())
        self._read_any = False
        self._next_at = 0.0

    def _listing(self) -> list[Path]:
        try:
            if self._path.is_file():
                return [self._path]
            files = sorted(p for p in self._path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        except FileNotFoundError:
            raise SourceUnavailable(f"{self._path} does not exist", SourceErrorCode.NOT_FOUND) from None
        except PermissionError:
            raise SourceUnavailable(f"{self._path} may not be read by this user", SourceErrorCode.PERMISSION) from None
        except OSError as error:
            raise SourceUnavailable(f"{self._path}: {error.strerror}") from None
        if not files:
            # A folder that is read again and again may be filled later.
            kind = SourceUnavailable if self._config.loop else SourceBroken
            raise kind(f"{self._path} holds no picture ({', '.join(sorted(SUFFIXES))})", SourceErrorCode.INVALID_DATA)
        return files

    def open(self) -> StreamInfo:
        ensure("cv2")
        files = self._listing()
        self._files, self._read_any = iter(files), False
        return StreamInfo(0, 0, None, "still pictures (OpenCV)", mode=f"{len(files)} files")

    def read(self) -> Reading:
        path = next(self._files, None)
        if path is None:
            self._finish()
            return self.read()
        pixels = _pixels(path)
        self._read_any = True
        now = time.monotonic()
        if self._config.period_s is None:
            return Reading(BgrImage(pixels), now)
        due = max(now, self._next_at)
        self._next_at = due + self._config.period_s
        return Reading(BgrImage(pixels), now, not_before=due)

    def _finish(self) -> None:
        if not self._read_any:
            kind = SourceUnavailable if self._config.loop else SourceBroken
            raise kind(f"nothing in {self._path} can be read as a picture", SourceErrorCode.INVALID_DATA)
        if not self._config.loop:
            raise EndOfStream(f"{self._path}: all pictures read")
        self.open()

    def close(self) -> None:
        self._files = iter(())


def _pixels(path: Path) -> Pixels:
    import cv2

    try:
        # Read by Python: its errors have a reason, and OpenCV would write its own lines to stderr.
        data = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except OSError as error:
        raise FrameUnreadable(f"{path}: {error.strerror}") from None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise FrameUnreadable(f"{path} is no picture that can be read")
    return pixels  # type: ignore[return-value]


def build(context: SourceContext, config: Config) -> Source:
    """A source for a picture or a folder."""
    return ImagesSource(context.resolve(str(context.source)), config)
