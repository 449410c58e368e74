"""Plugins by file name, and what each of them must export."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import edge_agent
from edge_agent import plugins
from edge_agent.config import ModelSettings
from edge_agent.config_camera import CameraSettings
from edge_agent.config_values import Table
from edge_agent.errors import ConfigError

PACKAGE = Path(edge_agent.__file__).parent
AXES = ("sources", "models", "runtimes", "sinks")
EVERY = [(axis, kind) for axis in AXES for kind in plugins.names(axis)]


@pytest.mark.parametrize("axis", AXES)
def test_the_kinds_are_the_files_of_the_folder(axis: str) -> None:
    files = {file.stem for file in (PACKAGE / axis).glob("*.py")}
    assert set(plugins.names(axis)) == {name for name in files if name != "base" and not name.startswith("_")}
    assert list(plugins.names(axis)) == sorted(plugins.names(axis))


@pytest.mark.parametrize(("axis", "kind"), EVERY)
def test_every_plugin_exports_what_its_axis_asks_for(axis: str, kind: str) -> None:
    module = plugins.load(axis, kind)
    assert module.__name__ == f"edge_agent.{axis}.{kind}"
    assert callable(module.build)
    if axis == "models":
        assert callable(module.recognise)
    else:
        assert issubclass(module.Config, Table)
    if axis == "sources":
        assert callable(module.claims)


@pytest.mark.parametrize(("axis", "kind"), [(axis, kind) for axis, kind in EVERY if axis in {"sources", "runtimes"}])
def test_a_plugins_keys_have_defaults_and_words_and_hide_no_common_key(axis: str, kind: str) -> None:
    config = plugins.PluginKinds().options(axis, kind)
    assert config() is not None
    common = CameraSettings if axis == "sources" else ModelSettings
    assert not config.model_fields.keys() & common.model_fields.keys()
    assert all(field.description for field in config.model_fields.values())
    assert inspect.getdoc(config)


@pytest.mark.parametrize("kind", ["base", "_ffmpeg", "os", "..config", "", "V4L2"])
def test_an_unknown_kind_names_those_that_exist(kind: str) -> None:
    with pytest.raises(
        ConfigError, match=r"is not a kind of source; there are: callable, csi, file, gstreamer, http, images, rtsp, synthetic, v4l2"
    ):
        plugins.load("sources", kind)


SOURCES = [
    0, 3, "0", "/dev/video0", "rtsp://a/b", "rtsps://a/b", "clip.mp4", "/a/b.MKV", "file:///a/b.avi", "http://h/x.mp4?a=b", "x.jpg",
    "pictures/", "./pictures", "/a/b", "~", "synthetic", "synthetic.mp4", "", "http://h/", "rtmp://h/x", "http://[::1", "x.txt", "csi://0",
]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_no_two_kinds_claim_one_source(source: str | int) -> None:
    claiming = [kind for kind in plugins.names("sources") if plugins.load("sources", kind).claims(source)]
    assert len(claiming) <= 1
    if claiming:
        assert plugins.PluginKinds().source_kind(source) == claiming[0]
    else:
        with pytest.raises(ConfigError, match="cannot tell what"):
            plugins.PluginKinds().source_kind(source)


@pytest.mark.parametrize(("path", "runtime"), [("builtin", "tflite"), ("a.tflite", "tflite"), ("/x/A.ONNX", "onnx"), ("a.b/c.ort", "onnx")])
def test_the_runtime_is_told_by_the_suffix(path: str, runtime: str) -> None:
    assert plugins.PluginKinds().runtime_kind(path) == runtime


@pytest.mark.parametrize("path", ["a.pt", "", "onnx", "a.onnx/"[:-1] + ".bak", "https://user:Sesame@host/m.pt"])
def test_other_files_are_no_models(path: str) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.onnx, \.ort, \.tflite") as caught:
        plugins.PluginKinds().runtime_kind(path)
    assert "Sesame" not in str(caught.value)
