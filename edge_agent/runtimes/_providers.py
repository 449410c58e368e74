"""ONNX Runtime's execution providers: which are tried, with which options, and where what they compile is kept.

Source: onnxruntime.ai, the pages of each provider. The CPU's and OpenVINO's on a CPU have been run here; the others are written from
those pages.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, final

from edge_agent.errors import ConfigError

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
OPENVINO, ACL, XNNPACK = "OpenVINOExecutionProvider", "ACLExecutionProvider", "XnnpackExecutionProvider"
PREFERENCE = (TENSORRT, CUDA, OPENVINO, ACL, XNNPACK, CPU)
Entry = tuple[str, dict[str, str]]
"""A provider and its options."""
BUILD_S = 1800.0
"""TensorRT takes minutes for a detector on a small Jetson; half an hour is beyond all that was reported."""
_COMPLETE = "complete"
_KEPT = 3
_TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer.so.8", "libnvinfer.so")


def chosen(wanted: Sequence[str] | Literal["auto"], available: Sequence[str]) -> tuple[str, ...]:
    """Names in the order in which they are tried; the CPU's is the last. Raises ConfigError for what the library lacks."""
    if wanted == "auto":
        names = [name for name in PREFERENCE if name in available]
    else:
        missing = [name for name in wanted if name not in available]
        if missing:
            raise ConfigError(f"model.providers: this onnxruntime has no {', '.join(missing)}; it has {', '.join(available)}")
        names = list(dict.fromkeys(wanted))
    if TENSORRT in names and CUDA in available and CUDA not in names:  # for the parts that TensorRT cannot do
        names.insert(names.index(TENSORRT) + 1, CUDA)
    return tuple(name for name in names if name != CPU) + ((CPU,) if CPU in available else ())


def options_for(name: str, threads: int, precision: str, cache: Path | None) -> dict[str, str]:
    """What a provider is told. ``cache``: the folder for what it compiles; None keeps nothing."""
    if name == TENSORRT:
        options = {"trt_fp16_enable": "1", "trt_int8_enable": "1" if precision == "int8" else "0"}
        if cache is not None:
            kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
            options |= kept | {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(cache)}
        return options
    if name == CUDA:  # memory is shared with the CPU on a Jetson: take what is needed, and search no algorithm that needs more
        return {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    if name == OPENVINO:
        kept = {} if cache is None else {"cache_dir": str(cache)}
        return {"device_type": "CPU", "num_of_threads": str(threads)} | kept
    return {"intra_op_num_threads": str(threads)} if name == XNNPACK else {}


def attempts(names: Sequence[str], threads: int, precision: str, cache: Path | None, root: Path = Path("/")) -> list[Entry]:
    """What is tried, in order: each provider with its options; OpenVINO on a GPU first, where the machine has a node for one.

    OpenVINO's own choice of a device (``AUTO``) is no help: without a GPU, "AUTO:GPU,CPU" does not start, and "AUTO" does nothing.
    """
    found: list[Entry] = []
    for name in names:
        options = options_for(name, threads, precision, cache)
        if name == OPENVINO and any((root / "dev/dri").glob("renderD*")):
            found.append((name, options | {"device_type": "GPU"}))
        found.append((name, options))
    return found


def following(entries: Sequence[Entry], place: int) -> list[Entry]:
    """The attempt at ``place``, and what runs those parts of a graph that it cannot: the other providers that come after it."""
    return [entries[place], *(entry for entry in entries[place + 1 :] if entry[0] != entries[place][0])]


def session_threads(first: str, threads: int) -> int:
    """Threads of the session itself: XNNPACK has a pool of its own, and two would fight for the cores."""
    return 1 if first == XNNPACK else threads


@dataclass(frozen=True)
class Machine:
    """What an engine is compiled for. Empty where it cannot be told."""

    gpu: str
    l4t: str
    tensorrt: str


def read_machine(root: Path = Path("/"), libraries: Sequence[str] = _TENSORRT_LIBRARIES) -> Machine:
    """The GPU, NVIDIA's release on a Jetson, and TensorRT's version."""
    gpu = _text(root / "proc/device-tree/model").strip("\0\n ")
    for information in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        models = [line.partition(":")[2].strip() for line in _text(information).splitlines() if line.startswith("Model:")]
        gpu = f"{gpu} {' '.join(models)}".strip()
    l4t = next(iter(_text(root / "etc/nv_tegra_release").splitlines()), "")
    return Machine(gpu, l4t, _tensorrt_version(libraries))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _tensorrt_version(libraries: Sequence[str]) -> str:
    for library in libraries:
        with contextlib.suppress(OSError, AttributeError):
            return str(ctypes.CDLL(library).getInferLibVersion())
    return ""


def cache_key(sha256: str, library: str, machine: Machine, options: Mapping[str, str]) -> str:
    """Names an engine by all that makes it useless: model, ONNX Runtime, TensorRT, GPU, L4T, options (paths aside)."""
    kept = {key: value for key, value in options.items() if not key.endswith(("_path", "_dir"))}
    what = json.dumps([sha256, library, machine.gpu, machine.l4t, machine.tensorrt, sorted(kept.items())])
    return hashlib.sha256(what.encode()).hexdigest()[:32]


@final
class EngineCache:
    """A folder for one engine, locked while it is used. What was not finished is thrown away; a few of the latest are kept.

    Raises OSError on entering where it cannot be made.
    """

    def __init__(self, parent: Path, key: str) -> None:
        self.folder = parent / key
        self.fresh = True
        """Nothing is compiled yet."""
        self.used = False
        """TensorRT runs the model: what lies in the folder is worth keeping. Whoever makes the session sets it."""
        self._lock = -1

    def __enter__(self) -> EngineCache:
        parent = self.folder.parent
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self.fresh = not (self.folder / _COMPLETE).exists()
            if self.fresh:
                self.clear()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def clear(self) -> None:
        """Throw away what is there: it was cut short, or cannot be loaded. Raises OSError."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
        self.fresh = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self.used:
                with contextlib.suppress(OSError):
                    (self.folder / _COMPLETE).touch()
                    self._forget_old()
        finally:
            os.close(self._lock)

    def _forget_old(self) -> None:
        others = [folder for folder in self.folder.parent.iterdir() if folder.is_dir() and folder != self.folder]
        others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in others[_KEPT - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)
