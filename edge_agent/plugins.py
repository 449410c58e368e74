"""Plugins by file name: ``kind = "rtsp"`` of a camera is ``edge_agent/sources/rtsp.py``.

Every plugin module exports ``Config`` (a :class:`~edge_agent.config_values.Table` with the keys that only this kind has) and
``build``. Modules are imported only when asked for, and import heavy libraries only when they open something.
``base`` and names that start with ``_`` are not kinds.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import PurePath
from types import ModuleType

from edge_agent.config_values import Table
from edge_agent.errors import ConfigError
from edge_agent.redaction import redact

RUNTIME_BY_SUFFIX = {".onnx": "onnx", ".ort": "onnx", ".tflite": "tflite"}
BUILTIN_MODEL = "builtin"


@cache
def names(axis: str) -> tuple[str, ...]:
    """The kinds on an axis (``sources``, ``models``, ``runtimes``, ``sinks``), by a look at its folder."""
    package = importlib.import_module(f"edge_agent.{axis}")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(name for name in found if name != "base" and not name.startswith("_")))


def load(axis: str, kind: str) -> ModuleType:
    """The module of a kind. Raises ConfigError naming the kinds that exist."""
    if kind not in names(axis):
        raise ConfigError(f"{kind!r} is not a kind of {axis[:-1]}; there are: {', '.join(names(axis))}")
    return importlib.import_module(f"edge_agent.{axis}.{kind}")


class PluginKinds:
    """What the configuration loader asks of the plugins (:class:`edge_agent.config_file.Kinds`)."""

    def source_kind(self, source: str | int) -> str:
        """The one kind whose ``claims`` says yes to the source."""
        for kind in names("sources"):
            if load("sources", kind).claims(source):
                return kind
        shown = redact(source) if isinstance(source, str) else source
        raise ConfigError(
            f"cannot tell what {shown!r} is; say so with kind = one of {', '.join(names('sources'))}, "
            'or give a device ("/dev/video0", 0), "rtsp://...", "http://...", a video file, a folder of images, or "synthetic"'
        )

    def runtime_kind(self, path: str) -> str:
        """By the file's suffix."""
        if path == BUILTIN_MODEL:
            return "tflite"
        suffix = PurePath(path).suffix.lower()
        if suffix not in RUNTIME_BY_SUFFIX:
            raise ConfigError(f"{redact(path)!r} is no model file that can be run: it must end in {', '.join(RUNTIME_BY_SUFFIX)}")
        return RUNTIME_BY_SUFFIX[suffix]

    def check_family(self, name: str) -> None:
        """One of the files in ``models/``."""
        if name not in names("models"):
            raise ConfigError(f"{name!r} is no family of models; there are: {', '.join(names('models'))}")

    def options(self, axis: str, kind: str) -> type[Table]:
        """The plugin's ``Config``."""
        config: type[Table] = load(axis, kind).Config
        return config
