"""A system without the parts that OpenCV and PyAV need: one line that mends it, and no traceback."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from edge_agent.errors import ExitCode
from edge_agent.libraries import gi_folders
from tests.conftest import CLIP, CommandLine
from tests.sources.gst import needs_gstreamer

LIBGL = "libGL.so.1: cannot open shared object file: No such file or directory"
SYSTEM = "apt install libgl1 libglib2.0-0 (or pip install opencv-python-headless)"


def without(folder: Path, name: str, text: str, kind: str = "ImportError") -> dict[str, str]:
    """An environment whose library ``name`` cannot be imported, and as OpenCV says something else at the second try."""
    stubs = folder / "stubs"
    stubs.mkdir()
    lines = f"import sys\nagain, sys.tried_before = hasattr(sys, 'tried_before'), True\nraise {kind}('recursion' if again else {text!r})\n"
    (stubs / f"{name}.py").write_text(lines)
    return {"PYTHONPATH": str(stubs)}


@pytest.mark.parametrize("source", ["synthetic", "images", "file"])
def test_a_probe_without_libgl_names_the_packages(edge_agent: CommandLine, tmp_path: Path, source: str) -> None:
    given = {"synthetic": "synthetic", "images": str(tmp_path / "pictures") + "/", "file": str(CLIP)}[source]
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"x")
    (tmp_path / "agent.toml").write_text(f'[mqtt]\nport = 1\n[[cameras]]\nid = "front"\nsource = "{given}"\n')
    done = edge_agent.run("check", "--probe", "--config", "agent.toml", env=without(tmp_path, "cv2", LIBGL))
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert LIBGL in said
    assert SYSTEM in said
    assert done.returncode == ExitCode.CONFIG


LIBRARY_USER = """
from edge_agent.errors import ConfigError
from edge_agent.sources._ffmpeg import FfmpegSource, FfmpegTarget
source = FfmpegSource(FfmpegTarget("file:x.mp4", "x.mp4", live=False, open_timeout_s=1, read_timeout_s=1))
source.close()
for _ in range(2):
    try:
        source.open()
    except ConfigError as error:
        print(error)
    source.close()
"""


@pytest.mark.parametrize(
    ("name", "text", "kind", "mend"),
    [
        ("av", "No module named 'av'", "ModuleNotFoundError", "pip install av"),
        ("av", "undefined symbol: x", "ImportError", "pip install --force-reinstall av"),
        ("cv2", "libgthread-2.0.so.0: cannot open shared object file", "ImportError", SYSTEM),
        ("cv2", "No module named 'cv2'", "ModuleNotFoundError", "pip install opencv-python-headless"),
    ],
)
def test_a_video_without_its_libraries_is_the_same_line_at_every_try_and_closing_is_no_trouble(
    edge_agent: CommandLine, tmp_path: Path, name: str, text: str, kind: str, mend: str
) -> None:
    environment = edge_agent.environment(without(tmp_path, name, text, kind))
    done = subprocess.run([sys.executable, "-c", LIBRARY_USER], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"the library {name} cannot be loaded: {text}; {mend}"] * 2


GI_USER = """
import sys
from pathlib import Path
from edge_agent import libraries
from edge_agent.errors import ConfigError
libraries.gi_folders = lambda: [Path(folder) for folder in sys.argv[1:]]
before = list(sys.path)
try:
    print(libraries.gstreamer().version_string())
except ConfigError as error:
    print(error)
assert sys.path == before
"""


def bindings(folder: Path, *libraries: str, text: str = "") -> Path:
    """A folder of a distribution, with a package gi that was built for some Python."""
    (folder / "gi").mkdir(parents=True)
    (folder / "gi" / "__init__.py").write_text(text)
    for name in libraries:
        (folder / "gi" / name).write_bytes(b"")
    return folder


def said_about_gi(edge_agent: CommandLine, *folders: Path) -> str:
    environment = edge_agent.environment()
    done = subprocess.run(
        [sys.executable, "-c", GI_USER, *map(str, folders)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip()


not_with_gi = pytest.mark.skipif(
    importlib.machinery.PathFinder.find_spec("gi") is not None, reason="this environment has GStreamer's bindings itself"
)


@not_with_gi
def test_missing_bindings_name_their_packages(edge_agent: CommandLine, tmp_path: Path) -> None:
    said = said_about_gi(edge_agent, tmp_path, tmp_path / "absent")
    assert said == "GStreamer's Python bindings are missing: apt install python3-gi gir1.2-gst-plugins-base-1.0"


@not_with_gi
def test_bindings_for_another_python_name_that_python(edge_agent: CommandLine, tmp_path: Path) -> None:
    folder = bindings(tmp_path, "_gi.cpython-37-aarch64-linux-gnu.so")
    said = said_about_gi(edge_agent, folder)
    assert "are for Python 3.7, and this is Python 3." in said
    assert "python3.7 -m venv" in said
    assert "python3-gi" in said


@not_with_gi
def test_bindings_that_do_not_load_say_so(edge_agent: CommandLine, tmp_path: Path) -> None:
    own = f"_gi{sysconfig.get_config_var('EXT_SUFFIX')}"
    folder = bindings(tmp_path, own, text="raise ImportError('libgirepository-1.0.so.1: cannot open shared object file')")
    said = said_about_gi(edge_agent, folder)
    assert "libgirepository-1.0.so.1: cannot open shared object file" in said
    assert "apt install --reinstall python3-gi" in said


@needs_gstreamer
def test_the_distributions_bindings_serve_without_the_rest_of_its_packages(edge_agent: CommandLine) -> None:
    assert said_about_gi(edge_agent, *gi_folders()).startswith("GStreamer 1.")


UNDISTURBED = """
import cv2, av
from edge_agent.libraries import gstreamer
gstreamer()
import onnxruntime
try:
    onnxruntime.InferenceSession(b"no model")
except Exception as error:
    print(type(error).__name__)
"""


@needs_gstreamer
def test_gstreamer_does_not_break_the_exceptions_of_what_is_loaded_after_it() -> None:
    done = subprocess.run([sys.executable, "-c", UNDISTURBED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, "its libunwind took the place of the compiler's own"
    assert done.stdout
