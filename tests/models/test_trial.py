"""Models that take down the process that loads them: they take down only a process of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.config import AgentConfig
from edge_agent.errors import ConfigError, ModelError
from edge_agent.models import _guard, _trial
from tests.conftest import CommandLine, make_config
from tests.models.files import one_object, write

CRASHES = """
import os
__version__ = "0"
def get_available_providers(): return ["CPUExecutionProvider"]
class SessionOptions:
    def add_session_config_entry(self, *_): pass
class InferenceSession:
    def __init__(self, *_, **__): {how}
"""


def config(path: Path, **camera: object) -> AgentConfig:
    return make_config({"model": {"path": str(path)}, "cameras": [{"id": "x", "source": "synthetic", **camera}]})


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find an ONNX Runtime that aborts when it loads a model; this process has the real one."""
    library(tmp_path, monkeypatch, "os.abort()")


def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "onnxruntime.py").write_text(CRASHES.format(how=how))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))


def test_a_good_model_is_described(tmp_path: Path) -> None:
    found = _trial.attempt(config(write(tmp_path / "m.onnx")), infer=True)
    assert (found["family"], found["task"], found["class_count"]) == ("yolov8", "detection", 7)
    assert found["input"]["layout"] == "NCHW"


@pytest.mark.usefixtures("crashing")
def test_a_crash_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"m.onnx crashes the library that runs it \(SIGABRT\)"):
        _trial.attempt(config(write(tmp_path / "m.onnx")), infer=False)


def test_what_is_killed_for_memory_and_what_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.onnx")
    library(tmp_path, monkeypatch, "os.kill(os.getpid(), 9)")
    with pytest.raises(ConfigError, match="needs more memory than there is"):
        _trial.attempt(config(path), infer=False)
    (tmp_path / "lib" / "onnxruntime.py").write_text(CRASHES.format(how="__import__('time').sleep(60)"))
    with pytest.raises(ConfigError, match="was not loaded within 2 s"):
        _trial.attempt(config(path), infer=False, timeout_s=2)


def test_what_the_loader_refuses_is_refused_here(tmp_path: Path) -> None:
    head = one_object()
    head[:] = float("nan")
    with pytest.raises(ModelError, match="not numbers"):
        _trial.attempt(config(write(tmp_path / "nan.onnx", head)), infer=True)
    with pytest.raises(ConfigError, match=r"cameras\[0\].classes: 'cat' is no class of this model"):
        _trial.attempt(config(write(tmp_path / "m.onnx"), classes=["cat"]), infer=True)


def test_a_look_at_the_file_takes_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the accelerator that "auto" would take, nor that of a delegate."""
    library(tmp_path, monkeypatch, "os._exit(3 if 'CUDA' in str(__['providers']) else 4)")
    fake = tmp_path / "lib" / "onnxruntime.py"
    fake.write_text(fake.read_text().replace('["CPU', '["CUDAExecutionProvider", "CPU'))
    for only_file, code in ((False, 3), (True, 4)):
        with pytest.raises(ConfigError, match=f"exit code {code}"):
            _trial.attempt(config(write(tmp_path / "m.onnx")), infer=False, only_file=only_file)
    tables = {"model": {"delegate": "libnone.so"}, "cameras": [{"id": "x", "source": "synthetic"}]}
    assert _trial.attempt(make_config(tables), infer=False, only_file=True) == {}
    assert "needs its delegate" in caplog.text


AGENT = """
[device]
state_dir = "state"
[model]
path = "m.onnx"
[mqtt]
port = 1
[[cameras]]
id = "x"
source = "synthetic"
"""


@pytest.mark.usefixtures("crashing")
def test_check_survives_a_model_that_crashes(tmp_path: Path, edge_agent: CommandLine) -> None:
    write(tmp_path / "m.onnx")
    (tmp_path / "agent.toml").write_text(AGENT)
    done = edge_agent.run("check", "--probe", "-c", str(tmp_path / "agent.toml"))
    assert done.returncode == 78, done.stderr
    assert "crashes the library that runs it (SIGABRT)" in done.stdout
    assert "camera x: " in done.stdout


def test_a_start_after_a_crash_tries_the_model_elsewhere_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, state = write(tmp_path / "m.onnx"), tmp_path / "state"
    assert _guard.load_guarded(config(path), state).identity.family == "yolov8"
    assert not state.exists()  # it was not there before
    state.mkdir()
    (state / _guard.MARKER).write_text(_guard._name_of(path))  # as a start leaves it that never came back
    library(tmp_path, monkeypatch, "os.abort()")
    with pytest.raises(ConfigError, match="crashes the library"):
        _guard.load_guarded(config(path), state)
    assert (state / _guard.MARKER).exists()
    write(tmp_path / "m.onnx", opset=14)  # another file by the same name is given its chance
    assert _guard.load_guarded(config(path), state).identity.family == "yolov8"
    assert not (state / _guard.MARKER).exists()


@pytest.mark.usefixtures("crashing")
def test_the_daemon_crashes_once_and_then_says_why(tmp_path: Path, edge_agent: CommandLine) -> None:
    write(tmp_path / "m.onnx")
    (tmp_path / "agent.toml").write_text(AGENT)
    first = edge_agent.run("run", "-c", str(tmp_path / "agent.toml"))
    assert first.returncode == -6
    again = edge_agent.run("run", "-c", str(tmp_path / "agent.toml"))
    assert again.returncode == 78, again.stderr  # systemd does not restart it
    assert "m.onnx crashes the library that runs it (SIGABRT)" in again.stderr
