"""A system without the parts that OpenCV and PyAV need: one line that mends it, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.errors import ExitCode
from tests.conftest import CLIP, CommandLine

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
