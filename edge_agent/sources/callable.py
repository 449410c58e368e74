"""Pictures from Python: a function that returns one at each call, or a generator or other iterable of them.

From agent.toml it is named as ``"package.module:function"`` and is imported when the camera is opened, not by
``edge-agent check``: the file's owner decides what code runs, with the rights of the service. Only installed modules are
found, and those in ``folder``.

A picture is uint8 [height, width, 3], BGR; or a pair of that and the monotonic time (``time.monotonic()``) when it was taken.
It must not be written to afterwards. None, and the end of the iterable, is the end.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import numpy as np
from pydantic import Field

from edge_agent.config_values import Seconds, Table
from edge_agent.errors import ConfigError, EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.image import BgrImage, Pixels
from edge_agent.sources.base import PATIENCE_S, FrameUnreadable, Reading, Source, SourceContext, StreamInfo

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_OLDEST_S = 3600.0
_SHAPE = "uint8 [height, width, 3], BGR"

Maker = Callable[[], object] | Iterable[object]


class Config(Table):
    """Keys of a Python function."""

    live: bool = True
    """true: a camera, of which the newest picture counts; false: like a file, every picture is served, and the end is the end."""
    folder: Annotated[str | None, Field(examples=["/opt/cameras"])] = None
    """Where the module is, if it is not installed."""
    timeout_s: Seconds = PATIENCE_S
    """Longest time that one call may take; then it is left behind, or its process is ended (see isolation)."""


def claims(source: str | int) -> bool:
    """Names like "package.module:function"."""
    return isinstance(source, str) and _NAME.fullmatch(source) is not None


class CallableSource(Source):
    """Asks a function, or an iterable, for pictures. ``find`` gives it, at each opening."""

    def __init__(self, name: str, find: Callable[[], Maker], config: Config | None = None) -> None:
        config = config or Config()
        self.live, self.patience_s = config.live, config.timeout_s
        self._name, self._find = name, find
        self._call: Callable[[], object] | None = None
        self._pictures: Iterator[object] | None = None
        self._first: Reading | None = None
        self._is_first = True

    def open(self) -> StreamInfo:
        self.close()
        maker = self._find()
        if isinstance(maker, Iterable):
            pictures = self._of_user(lambda: iter(maker))
            self._pictures = pictures if isinstance(pictures, Iterator) else None
        elif callable(maker):
            self._call = maker
        else:
            raise SourceBroken(f"{self._name} is no function and no iterable, but {type(maker).__name__}", SourceErrorCode.INVALID_DATA)
        self._first = self._next()
        self._is_first = False
        return StreamInfo(self._first.image.width, self._first.image.height, None, "none (Python)")

    def read(self) -> Reading:
        reading, self._first = self._first, None
        return reading or self._next()

    def _next(self) -> Reading:
        item = self._of_user(self._ask)
        if item is None:
            raise EndOfStream(f"{self._name} has ended")
        pixels, captured_at = self._checked(item)
        return Reading(BgrImage(pixels), captured_at)

    def _ask(self) -> object:
        if self._pictures is None:
            assert self._call is not None, "read() before open()"
            item = self._call()
            if not isinstance(item, Iterator):
                return item
            self._pictures = item  # a generator function
        return next(self._pictures, None)

    def _of_user(self, function: Callable[[], object]) -> object:
        try:
            return function()
        except (Exception, SystemExit) as error:  # whatever the user's code raises, with the place, as its traceback is theirs to want
            *_, place = traceback.extract_tb(error.__traceback__)
            text = f"{self._name} raised {type(error).__name__}: {error} ({place.filename}:{place.lineno})"
            raise SourceUnavailable(text) from None

    def _checked(self, item: object) -> tuple[Pixels, float]:
        now = time.monotonic()
        captured_at: object = now
        if isinstance(item, tuple) and len(item) == 2:
            item, captured_at = item
        if not isinstance(item, np.ndarray) or item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or not item.size:
            raise self._no_picture(f"gave {_shown(item)} and not a picture ({_SHAPE})")
        if isinstance(captured_at, bool) or not isinstance(captured_at, (int, float)) or not 0 <= now - captured_at + 0.001 < _OLDEST_S:
            raise self._no_picture(f"gave {captured_at!r} as the time of a picture and not seconds of time.monotonic(), of the last hour")
        return np.ascontiguousarray(item), float(captured_at)

    def _no_picture(self, what: str) -> FrameUnreadable | SourceBroken:
        if self._is_first:
            return SourceBroken(f"{self._name} {what}", SourceErrorCode.INVALID_DATA)
        return FrameUnreadable(f"{self._name} {what}")

    def close(self) -> None:
        pictures, self._pictures, self._call, self._first = self._pictures, None, None, None
        self._is_first = True
        finish = getattr(pictures, "close", None)
        if finish is not None:
            with contextlib.suppress(Exception):  # nobody is left to tell
                finish()  # a generator's own clean-up


def _shown(item: object) -> str:
    if isinstance(item, np.ndarray):
        return f"{item.dtype} {list(item.shape)}"
    return f"something of type {type(item).__name__}"


def imported(name: str, folder: str | None) -> Maker:
    """The function that "package.module:function" names. Raises SourceBroken."""
    module_name, _, function_name = name.partition(":")
    if folder is not None and folder not in sys.path:
        sys.path.append(folder)  # behind what is installed, which it so cannot replace
    try:
        importlib.invalidate_caches()
        maker: Maker = getattr(importlib.import_module(module_name), function_name)
    except ModuleNotFoundError as error:
        hint = "" if folder else "; install it, or name its folder with the key folder"
        raise SourceBroken(f"{name}: there is no module {error.name!r}{hint}", SourceErrorCode.NOT_FOUND) from None
    except AttributeError:
        raise SourceBroken(f"{name}: the module {module_name} has no {function_name!r}", SourceErrorCode.NOT_FOUND) from None
    except (Exception, SystemExit) as error:  # the user's module does as it likes: a script may read a command line that is ours
        raise SourceBroken(f"{name}: the module cannot be imported: {type(error).__name__}: {error}") from None
    return maker


def build(context: SourceContext, config: Config) -> Source:
    """A source for one function. Imports nothing yet."""
    name = str(context.source)
    if not claims(name):
        raise ConfigError(f'camera {context.camera}: {name!r} names no function; write it as "package.module:function"')
    folder = str(context.resolve(config.folder)) if config.folder else None
    return CallableSource(name, lambda: imported(name, folder), config)
