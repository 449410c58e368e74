"""The TFLite runtime: which library is loaded, and what becomes of the process's stderr meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.errors import ConfigError
from edge_agent.runtimes import tflite
from edge_agent.runtimes.base import RuntimeContext
from tests.conftest import MODEL, make_config


def test_a_library_that_is_none_is_refused_with_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"library.*ai-edge-litert.*tflite-runtime"):
        make_config({"model": {"library": "tensorflow"}, "cameras": [{"id": "x", "source": "synthetic"}]})


@pytest.mark.parametrize("wanted", [None, "ai-edge-litert", "tflite-runtime"])
def test_a_missing_library_names_packages_of_the_index(monkeypatch: pytest.MonkeyPatch, wanted: str | None) -> None:
    monkeypatch.setattr(tflite, "LIBRARIES", [(f"no_such_{name}", name, name) for _, name, _ in tflite.LIBRARIES])
    with pytest.raises(ConfigError, match="pip install") as caught:
        tflite._library(wanted)
    assert "edge-agent" not in str(caught.value)
    assert ("pip install ai-edge-litert" in str(caught.value)) == (wanted != "tflite-runtime")
    assert ("pip install tflite-runtime 'numpy<2'" in str(caught.value)) == (wanted != "ai-edge-litert")


@pytest.mark.tflite
def test_the_library_does_not_greet(capfd: pytest.CaptureFixture[str]) -> None:
    tflite.build(RuntimeContext(MODEL, 1), tflite.Config())
    assert capfd.readouterr().err == ""


def test_lines_of_others_survive_the_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with tflite._quiet_stderr():
        os.write(2, b"level=warning camera lost\nINFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nlast")
    assert capfd.readouterr().err == "level=warning camera lost\nlast"


@pytest.mark.tflite
@pytest.mark.parametrize(("name", "write"), [("metadata.json", json.dumps), ("temp_meta.txt", repr)])
def test_ultralytics_metadata_are_read_in_both_of_their_forms(tmp_path: Path, name: str, write: Callable[[object], str]) -> None:
    shutil.copy(MODEL, tmp_path / "m.tflite")
    said = {"task": "detect", "imgsz": [640, 480], "names": {0: "cat", 1: "dog"}, "args": {"nms": False}}
    with zipfile.ZipFile(tmp_path / "m.tflite", "a") as archive:
        archive.writestr(name, write(said))
    spec = tflite.build(RuntimeContext(tmp_path / "m.tflite", 1), tflite.Config()).spec
    assert spec.labels == ("cat", "dog")
    assert (spec.metadata["task"], spec.metadata["imgsz"]) == ("detect", "[640, 480]")
