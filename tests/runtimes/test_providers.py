"""Execution providers and delegates: order, options, what engines are kept under, and what happens where one is missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.errors import ConfigError
from edge_agent.models import _threads
from edge_agent.runtimes import _onnx_sessions, _providers, onnx, tflite
from edge_agent.runtimes._providers import ACL, CPU, CUDA, OPENVINO, TENSORRT, XNNPACK, EngineCache, Machine
from edge_agent.runtimes.base import RuntimeContext
from tests.conftest import MODEL, needs
from tests.models.files import write

JETSON = (TENSORRT, CUDA, CPU)


@pytest.mark.parametrize(
    ("wanted", "available", "expected"),
    [
        ("auto", (CPU,), (CPU,)),
        ("auto", ("AzureExecutionProvider", CPU), (CPU,)),
        ("auto", (CPU, CUDA, TENSORRT), JETSON),
        ("auto", (OPENVINO, XNNPACK, CPU), (OPENVINO, XNNPACK, CPU)),
        ("auto", (XNNPACK, ACL, CPU), (ACL, XNNPACK, CPU)),
        ((CUDA,), JETSON, (CUDA, CPU)),
        ((TENSORRT,), JETSON, JETSON),
        ((TENSORRT, CPU, CPU), JETSON, JETSON),
        ((CPU,), JETSON, (CPU,)),
        ((), JETSON, (CPU,)),
    ],
)
def test_the_order_ends_with_the_cpu(wanted: Any, available: Sequence[str], expected: Sequence[str]) -> None:
    assert _providers.chosen(wanted, available) == tuple(expected)


def test_what_the_library_lacks_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=f"no {CUDA}; it has {CPU}"):
        _providers.chosen([CUDA], [CPU])


def test_options_of_each_provider(tmp_path: Path) -> None:
    tensorrt = _providers.options_for(TENSORRT, 2, "int8", tmp_path)
    assert (tensorrt["trt_int8_enable"], tensorrt["trt_fp16_enable"]) == ("1", "1")
    assert tensorrt["trt_engine_cache_path"] == tensorrt["trt_timing_cache_path"] == str(tmp_path)
    assert _providers.options_for(TENSORRT, 2, "float32", None) == {"trt_fp16_enable": "1", "trt_int8_enable": "0"}
    assert _providers.options_for(CUDA, 2, "int8", None)["arena_extend_strategy"] == "kSameAsRequested"
    assert _providers.options_for(OPENVINO, 3, "int8", tmp_path)["cache_dir"] == str(tmp_path)
    assert _providers.options_for(OPENVINO, 3, "int8", None) == {"device_type": "CPU", "num_of_threads": "3"}
    assert _providers.options_for(XNNPACK, 3, "int8", None) == {"intra_op_num_threads": "3"}
    assert _providers.options_for(CPU, 3, "int8", None) == {}
    assert (_providers.session_threads(XNNPACK, 3), _providers.session_threads(CPU, 3)) == (1, 3)


def test_openvino_is_tried_on_a_gpu_only_where_there_is_one(tmp_path: Path) -> None:
    def tried() -> list[tuple[str, str | None]]:
        entries = _providers.attempts((OPENVINO, XNNPACK, CPU), 2, "float32", None, tmp_path)
        return [(name, options.get("device_type")) for name, options in entries]

    assert tried() == [(OPENVINO, "CPU"), (XNNPACK, None), (CPU, None)]
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/renderD128").touch()
    assert tried() == [(OPENVINO, "GPU"), (OPENVINO, "CPU"), (XNNPACK, None), (CPU, None)]
    entries = _providers.attempts((OPENVINO, XNNPACK, CPU), 2, "float32", None, tmp_path)
    assert [name for name, _ in _providers.following(entries, 0)] == [OPENVINO, XNNPACK, CPU]  # each once


def test_a_machine_is_read_from_its_files(tmp_path: Path) -> None:
    for path, text in {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA RTX A2000\nIRQ: 1\n",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\nmore\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    found = _providers.read_machine(tmp_path, ("libc.so.6", "no_such_library.so"))
    assert found == Machine("NVIDIA Jetson Orin Nano Developer Kit NVIDIA RTX A2000", "# R36 (release), REVISION: 4.3", "")
    assert _providers.read_machine(tmp_path / "nowhere", ()) == Machine("", "", "")


def test_anything_that_makes_an_engine_useless_is_in_its_key() -> None:
    machine, options = Machine("Orin", "R36.4", "100300"), {"trt_fp16_enable": "1"}
    key = _providers.cache_key("abc", "1.22", machine, options)
    others = [
        _providers.cache_key("abd", "1.22", machine, options),
        _providers.cache_key("abc", "1.23", machine, options),
        _providers.cache_key("abc", "1.22", Machine("Xavier", "R36.4", "100300"), options),
        _providers.cache_key("abc", "1.22", Machine("Orin", "R35.1", "100300"), options),
        _providers.cache_key("abc", "1.22", Machine("Orin", "R36.4", "80600"), options),
        _providers.cache_key("abc", "1.22", machine, {"trt_fp16_enable": "0"}),
    ]
    assert len({key, *others}) == 7
    assert key == _providers.cache_key("abc", "1.22", machine, options | {"trt_engine_cache_path": "/elsewhere"})


def test_an_engine_is_kept_once_it_is_complete_and_thrown_away_before(tmp_path: Path) -> None:
    cut = EngineCache(tmp_path, "a")
    cut.__enter__()
    (cut.folder / "half.engine").touch()
    cut.__exit__(KeyError, KeyError(), None)
    with EngineCache(tmp_path, "a") as cache:
        assert cache.fresh
        assert not list(cache.folder.iterdir())
        (cache.folder / "whole.engine").touch()
        cache.used = True
    with EngineCache(tmp_path, "a") as cache:
        assert not cache.fresh
        assert (cache.folder / "whole.engine").exists()


def test_only_the_latest_engines_are_kept(tmp_path: Path) -> None:
    for index, key in enumerate("abcde"):
        with EngineCache(tmp_path, key) as cache:
            cache.used = True
        os.utime(tmp_path / key, (index, index))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["c", "d", "e"]


class Session:
    """Stands for ONNX Runtime's, with providers that cannot be used."""

    broken: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __init__(self, model: Any, options: Any, *, providers: list[tuple[str, dict[str, str]]], enable_fallback: int) -> None:
        names = [name for name, _ in providers]
        if names[0] in self.broken:
            raise RuntimeError(f"{names[0]} has no device")
        self.names = [name for name in names if name not in self.left_out]

    def get_providers(self) -> list[str]:
        return self.names


class Library:
    """ONNX Runtime with the sessions above."""

    def __init__(self, broken: tuple[str, ...] = (), left_out: tuple[str, ...] = ()) -> None:
        import onnxruntime

        self.SessionOptions = onnxruntime.SessionOptions
        self.InferenceSession = type("Made", (Session,), {"broken": broken, "left_out": left_out})


def loaded(library: Library, caplog: pytest.LogCaptureFixture, cache: EngineCache | None = None, said: list[str] | None = None) -> str:
    announce = lambda what, _seconds: said.append(what) if said is not None else None  # noqa: E731
    context = RuntimeContext(Path("m.onnx"), 1, announce=announce)
    with caplog.at_level("WARNING"):
        return str(_onnx_sessions.Loader(library, context, JETSON, "int8", cache).load("m.onnx").get_providers()[0])


def test_a_provider_that_fails_is_passed_over_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    assert loaded(Library(broken=(TENSORRT,)), caplog) == CUDA
    assert f"provider={TENSORRT} reason='{TENSORRT} has no device'" in caplog.text


def test_a_provider_that_is_left_out_silently_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert loaded(Library(left_out=(TENSORRT, CUDA)), caplog) == CPU
    assert f"provider={TENSORRT} instead={CPU}" in caplog.text


def test_a_model_that_no_provider_takes_raises_the_last_reason(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError, match=f"{CPU} has no device"):
        loaded(Library(broken=JETSON), caplog)


def test_a_build_is_announced_and_a_kept_engine_that_fails_is_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    with EngineCache(tmp_path, "a") as cache:
        loaded(Library(), caplog, cache, said)
        (cache.folder / "an.engine").touch()
    assert len(said) == 1
    with EngineCache(tmp_path, "a") as cache:
        loaded(Library(), caplog, cache, said)
        assert len(said) == 1
        loaded(Library(broken=(TENSORRT,)), caplog, cache, said)
        assert len(said) == 2
        assert not (cache.folder / "an.engine").exists()


def test_where_tensorrt_does_not_run_nothing_counts_as_compiled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for library in (Library(broken=(TENSORRT,)), Library(left_out=(TENSORRT,))):
        with EngineCache(tmp_path, "a") as cache:
            assert loaded(library, caplog, cache) == CUDA
        with EngineCache(tmp_path, "a") as cache:
            assert cache.fresh


def test_the_provider_that_runs_is_the_one_that_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    for config in (onnx.Config(), onnx.Config(providers=(CPU,))):
        runtime = onnx.build(RuntimeContext(path, 1), config)
        assert runtime.spec.accelerator == CPU


@pytest.mark.parametrize("spin", [False, True])
def test_spinning_changes_no_result(tmp_path: Path, spin: bool) -> None:
    path = write(tmp_path / "m.onnx")
    runtime, plain = (onnx.build(RuntimeContext(path, 2, spin=each), onnx.Config()) for each in (spin, False))
    picture = _threads.blank(runtime)
    assert np.array_equal(runtime.infer(picture)[0], plain.infer(picture)[0])


@pytest.fixture
def without_a_device(tmp_path: Path) -> Path:
    """A real library of a delegate that never finds its device."""
    source, library = tmp_path / "delegate.c", tmp_path / "libdelegate.so"
    source.write_text(
        "#include <stddef.h>\n"
        'void *tflite_plugin_create_delegate(char **k, char **v, size_t n, void (*say)(const char *)) { say("no device"); return NULL; }\n'
        "void tflite_plugin_destroy_delegate(void *d) {}\n"
    )
    subprocess.run([needs("cc", "gcc"), "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    return library


@pytest.mark.tflite
def test_a_delegate_without_its_device_says_so(without_a_device: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.delegate: .*libdelegate.so cannot be loaded: .*no device"):
        tflite.build(RuntimeContext(MODEL, 1), tflite.Config(delegate=str(without_a_device)))


@pytest.mark.tflite
@pytest.mark.parametrize("library", ["libno_such_delegate.so.1", "libc.so.6"])
def test_a_delegate_that_is_none_is_one_clear_line(library: str) -> None:
    with pytest.raises(ConfigError, match=rf"model.delegate: {library} cannot be loaded: .*is the library installed"):
        tflite.build(RuntimeContext(MODEL, 1), tflite.Config(delegate=library))
