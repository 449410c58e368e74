"""The libraries that need more than pip: OpenCV and PyAV, which miss parts of a small system, and GStreamer's bindings.

Everybody else imports OpenCV and PyAV plainly, after a source's ``open`` or the agent's start went through here. The
bindings (``gi``) come with the distribution and for its own Python only: they are looked for outside the virtual
environment too, and nothing else is taken from there.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import re
import sys
import sysconfig
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from edge_agent.errors import ConfigError

_PACKAGES = {"cv2": "opencv-python-headless", "av": "av"}
_SYSTEM = "apt install libgl1 libglib2.0-0 (or pip install opencv-python-headless)"
_failures: dict[str, str] = {}
_GI_PACKAGES = "python3-gi gir1.2-gst-plugins-base-1.0"
_TYPELIBS = {"Gst": "gir1.2-gstreamer-1.0", "GstVideo": "gir1.2-gst-plugins-base-1.0"}
_CLASSES = {
    "Gst": "Bin Buffer BufferFlags Bus Caps CapsFeatures ChildProxy Clock Element ElementFactory FlowReturn Format Fraction"
    " GhostPad Iterator IteratorResult MapFlags MapInfo Memory Message MessageType MiniObject Object Pad PadDirection PadLinkReturn"
    " PadTemplate ParseContext ParseFlags Pipeline Plugin PluginFeature Query Registry Sample Segment SegmentFlags State StateChangeReturn"
    " Structure SystemClock URIHandler URIType",
    "GstVideo": "VideoColorMatrix VideoColorPrimaries VideoColorRange VideoColorimetry VideoFormat VideoFormatInfo VideoInfo"
    " VideoInterlaceMode VideoMeta VideoTransferFunction",
}
"""What sources meet. PyGObject makes a class when it first meets it, and leaves it without its methods, for as long as the
process lives, where two cameras' threads meet it at the same time."""
_start = threading.Lock()


def ensure(*names: str) -> None:
    """Import ``cv2`` or ``av``, or say in one line what mends it. Raises ConfigError."""
    for name in names:
        # A second try would fail too, and for a worse reason: OpenCV remembers that it was half imported.
        if name not in _failures:
            try:
                importlib.import_module(name)
                continue
            except ImportError as error:
                _failures[name] = _mend(name, error)
        raise ConfigError(_failures[name])


def ensure_libraries() -> None:
    """All that pictures need. Raises ConfigError."""
    ensure("cv2", "av")


def _mend(name: str, error: ImportError) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    lost = "cannot open shared object file" in reason
    mend = _SYSTEM if lost and name == "cv2" else f"pip install {_PACKAGES[name]}"
    if not lost and not isinstance(error, ModuleNotFoundError):  # it is there, and broken
        mend = f"pip install --force-reinstall {_PACKAGES[name]}"
    return f"the library {name} cannot be loaded: {reason}; {mend}"


def gi_folders() -> list[Path]:
    """Where distributions keep ``gi``: Debian's dist-packages, and what others use."""
    versioned = f"python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    return [Path("/usr/lib/python3/dist-packages"), Path("/usr/lib") / versioned, Path("/usr/lib64") / versioned]


def gstreamer() -> ModuleType:
    """``gi.repository.Gst``, started; with ``GstVideo`` beside it. Raises ConfigError naming what to install.

    May look through every plugin of the system the first time: seconds on a small board. Any thread.
    """
    with _start, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyGObject's ways of importing are older than the Pythons that it is used with
        return _gstreamer()


def _gstreamer() -> ModuleType:
    _keep_exceptions_working()
    gi = _gi(gi_folders())
    for name, package in _TYPELIBS.items():
        try:
            gi.require_version(name, "1.0")
        except ValueError:
            raise ConfigError(f"GStreamer's description {name}-1.0 is missing: apt install {package}") from None
    modules = {name: importlib.import_module(f"gi.repository.{name}") for name in _TYPELIBS}
    gst = modules["Gst"]
    started = gst.init_check(None)  # Debian's python3-gst-1.0, where it is installed, changes what that gives
    if not (started[0] if isinstance(started, tuple) else started):
        raise ConfigError("GStreamer does not start; see what gst-inspect-1.0 says")
    for name, classes in _CLASSES.items():
        for each in classes.split():
            getattr(modules[name], each, None)  # makes it, here and now
    gst.ElementFactory.make("appsink", None)
    return gst


def _keep_exceptions_working() -> None:
    """Put the compiler's own unwinder before that of GStreamer's libunwind, for all that is loaded later.

    PyGObject loads libraries into the global scope, and GStreamer's brings libunwind with it, which defines the same
    names. A C++ library that is loaded after that, such as ONNX Runtime, would take them, and crash at its first exception.
    """
    with contextlib.suppress(OSError):  # no such library: then nothing here throws by it either
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)


def _gi(folders: Sequence[Path]) -> ModuleType:
    """The package ``gi``, of this environment or of the distribution. Raises ConfigError."""
    with contextlib.suppress(ImportError):
        gi = importlib.import_module("gi")
        if hasattr(gi, "require_version"):  # else a folder that happens to be called so
            return gi
        del sys.modules["gi"]
    extension = f"_gi{sysconfig.get_config_var('EXT_SUFFIX')}"
    found = [folder / "gi" for folder in folders if (folder / "gi" / "__init__.py").is_file()]
    for folder in found:
        if (folder / extension).is_file():
            return _load_package("gi", folder)
    if found:
        raise ConfigError(_other_python(found[0]))
    raise ConfigError(f"GStreamer's Python bindings are missing: apt install {_GI_PACKAGES}")


def _other_python(folder: Path) -> str:
    """What to do about bindings that were built for another Python than this."""
    built_for = sorted({found[1] for path in folder.glob("_gi.*.so") if (found := re.match(r"_gi\.cpython-3(\d+)-", path.name))}, key=int)
    here = f"this is Python {sys.version_info[0]}.{sys.version_info[1]}"
    if not built_for:
        return f"{folder} holds no bindings for {here.removeprefix('this is ')}: apt install --reinstall {_GI_PACKAGES}"
    minor = built_for[-1]
    return (
        f"GStreamer's Python bindings of this system are for Python 3.{minor}, and {here}: make the environment with "
        f"python3.{minor} -m venv (apt install python3.{minor}-venv {_GI_PACKAGES}), or pip install PyGObject into this one"
    )


def _load_package(name: str, folder: Path) -> ModuleType:
    """Import one package from a folder that is not on ``sys.path``. Raises ConfigError."""
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a half-installed package raises
        for loaded in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
            del sys.modules[loaded]
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{folder} cannot be loaded: {reason}; apt install --reinstall {_GI_PACKAGES}") from None
    return module
