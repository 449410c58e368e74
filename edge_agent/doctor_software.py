"""Looks at Python, the libraries, the runtimes and what decodes."""

from __future__ import annotations

import importlib.metadata
import os
import platform as python_platform
import sys
from collections.abc import Iterator
from pathlib import Path

from edge_agent import __version__, devices
from edge_agent.doctor_finding import Finding
from edge_agent.errors import ConfigError
from edge_agent.libraries import ensure
from edge_agent.sources._platform import platform

NEWEST = (3, 14)
_REQUIRED = ("numpy", "av", "paho-mqtt", "pydantic", "pydantic-settings", "sdnotify", "click")
_TFLITE = ("ai-edge-litert", "tflite-runtime")
_ONNX = ("onnxruntime", "onnxruntime-gpu")


def installed(name: str) -> str | None:
    """A distribution's version."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def python() -> Iterator[Finding]:
    """The interpreter, and the machine under it."""
    libc, number = python_platform.libc_ver()
    system = f"Python {python_platform.python_version()}, {python_platform.machine()}, {libc or 'no glibc'} {number}"
    yield Finding("ok", "edge-agent", f"{__version__} at {sys.prefix}; {system}")
    if sys.version_info[:2] > NEWEST:
        yield Finding("note", "Python", f"newer than what was tried ({NEWEST[0]}.{NEWEST[1]})")
    if libc != "glibc" or sys.maxsize < 2**32:
        yield Finding(
            "wrong", "system", "the libraries exist for 64-bit Linux with glibc only", "install a 64-bit Debian, Ubuntu or Raspberry Pi OS"
        )


def libraries() -> Iterator[Finding]:
    """What is always needed."""
    missing = [name for name in _REQUIRED if installed(name) is None]
    if missing:
        yield Finding("wrong", "packages", f"missing: {', '.join(missing)}", f"{sys.executable} -m pip install {' '.join(missing)}")
    for module, names in (("cv2", ("opencv-python", "opencv-python-headless")), ("av", ("av",))):
        found = [f"{name} {installed(name)}" for name in names if installed(name)]
        try:
            ensure(module)
            yield Finding("ok", names[0], ", ".join(found) or "from the distribution")
        except ConfigError as error:
            yield Finding("wrong", names[0], str(error), "sudo apt-get install libgl1 libglib2.0-0" if module == "cv2" else "")


def runtimes() -> Iterator[Finding]:
    """ONNX Runtime and TFLite, and what they can use."""
    onnx = [name for name in _ONNX if installed(name)]
    pip = f"{sys.executable} -m pip"
    if len(onnx) > 1:
        yield Finding(
            "wrong", "ONNX Runtime", "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other",
            f"{pip} uninstall -y onnxruntime onnxruntime-gpu && {pip} install onnxruntime-gpu",
        )  # fmt: skip
    yield from _onnx()
    found = {name: version for name in _TFLITE if (version := installed(name))}
    if not found:
        yield Finding(
            "note", "TFLite", "no runtime is installed: .tflite models cannot be used", f"{sys.executable} -m pip install ai-edge-litert"
        )
    elif "ai-edge-litert" not in found:
        text = f"tflite-runtime {found['tflite-runtime']} is 6 to 18 times slower on quantized models than ai-edge-litert"
        yield Finding("slow", "TFLite", text, f"{sys.executable} -m pip install ai-edge-litert")
    else:
        yield Finding("ok", "TFLite", ", ".join(f"{name} {version}" for name, version in found.items()))


def _onnx() -> Iterator[Finding]:
    try:
        import onnxruntime
    except ImportError as error:
        mend = f"{sys.executable} -m pip install onnxruntime"
        yield Finding("note", "ONNX Runtime", f"does not load ({error}): .onnx models cannot be used", mend)
        return
    providers = [str(name).removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    yield Finding("ok", "ONNX Runtime", f"{onnxruntime.__version__}, providers {', '.join(providers)}")
    if platform().board == "jetson" and not {"CUDA", "Tensorrt"} & set(providers):
        yield Finding(
            "slow", "ONNX Runtime", "this build cannot use the Jetson's GPU",
            "install NVIDIA's onnxruntime-gpu for this JetPack with the distribution's Python, then run scripts/install again",
        )  # fmt: skip


def decoding(folder: Path = Path("/dev")) -> Iterator[Finding]:
    """What decodes compressed streams."""
    for surveyed in devices.decoders():
        hardware = bool(surveyed.decoders) and surveyed.decoders[0].hardware
        if hardware or surveyed.engine == "gstreamer":
            yield Finding("ok" if hardware else "note", f"{surveyed.codec}, kinds of {surveyed.engine}", str(surveyed).partition(": ")[2])
        else:
            yield Finding("note", f"{surveyed.codec}, kinds of {surveyed.engine}", f"in software: {surveyed.reason}")
    nodes = sorted(folder.glob("video*"))
    if nodes and not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        yield Finding("wrong", "video devices", "this user may open none of them", "sudo usermod -aG video $USER, then log in again")
