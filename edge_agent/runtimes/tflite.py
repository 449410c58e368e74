"""TensorFlow Lite: ``ai_edge_litert`` (the successor, and many times faster on quantized graphs) or ``tflite_runtime``."""

from __future__ import annotations

import ast
import contextlib
import ctypes
import importlib
import importlib.metadata
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from edge_agent.config import Table
from edge_agent.errors import ConfigError, ModelBroken, ModelError
from edge_agent.runtimes import _tflite_file
from edge_agent.runtimes.base import (
    FileFacts,
    GraphSpec,
    Quantization,
    Runtime,
    RuntimeContext,
    Tensor,
    TensorSpec,
    refusal,
    with_fixed_size,
)

LIBRARIES = (("ai_edge_litert.interpreter", "ai-edge-litert", "LiteRT"), ("tflite_runtime.interpreter", "tflite-runtime", "tflite-runtime"))
_MAX_METADATA = 1024 * 1024
_LIBRARYS_OWN = (b"INFO: ", b"WARNING: ", b"ERROR: ")


class Config(Table):
    """Keys of [model] that only .tflite files have."""

    library: Annotated[Literal["ai-edge-litert", "tflite-runtime"] | None, Field(examples=["tflite-runtime"])] = None
    """"ai-edge-litert" or "tflite-runtime". Default: the first of them that is installed."""
    delegate: Annotated[str | None, Field(min_length=1, examples=["libedgetpu.so.1"])] = None
    """The library of a delegate that is to run the model: a path, or a name that the system's loader finds."""


class TfliteRuntime(Runtime):
    """An ``Interpreter`` with the threads asked for; XNNPACK is on where the library has it."""

    def __init__(self, context: RuntimeContext, config: Config) -> None:
        library, name = _library(config.library)
        facts = read_facts(context.path)
        try:
            with _quiet_stderr():
                delegates = None if config.delegate is None else [_delegate(library, config.delegate)]
                self._interpreter = library.Interpreter(
                    model_path=str(context.path), num_threads=context.threads, experimental_delegates=delegates
                )
                self._fix_size(context)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            text = f"{context.path} is not a model that {name} can run: {_reason(error, facts)}"
            raise refusal(text, elsewhere=config.delegate is not None) from None
        inputs = sorted(self._interpreter.get_input_details(), key=lambda details: len(details["shape"]) != 4)  # the picture first
        if not inputs:
            raise ModelBroken(f"{context.path} has no input: it is no model of pictures")
        outputs = self._interpreter.get_output_details()
        metadata, labels = _associated_files(context.path)
        accelerator = "CPU (XNNPACK)" if config.delegate is None else f"delegate {Path(config.delegate).name}"
        self.spec = GraphSpec(
            tuple(map(_spec, inputs)), tuple(map(_spec, outputs)), name, accelerator, facts.precision, metadata, labels, facts
        )
        self._input = inputs[0]["index"]
        self._outputs = [output["index"] for output in outputs]
        self._buffers = [np.empty(tuple(output["shape"]), output["dtype"]) for output in outputs]

    def _fix_size(self, context: RuntimeContext) -> None:
        """Open sizes, which the interpreter would take for 1. Raises ConfigError where nobody says what they are."""
        for details in self._interpreter.get_input_details():
            signature = tuple(int(size) for size in details.get("shape_signature", ()))
            if len(signature) == 4:
                spec = TensorSpec(str(details["name"]), signature, np.dtype(details["dtype"]))
                fixed = with_fixed_size(spec, context.input_size, context.path).shape
                if fixed != signature:
                    self._interpreter.resize_tensor_input(details["index"], fixed)

    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        try:
            self._interpreter.set_tensor(self._input, tensor)
            self._interpreter.invoke()
            return [self._output(place, index) for place, index in enumerate(self._outputs)]
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"inference failed: {error}") from None

    def _output(self, place: int, index: int) -> Tensor:
        """In a buffer that is allocated once. The library's own memory must not be held while it infers."""
        stored = self._interpreter.tensor(index)()
        if stored.shape != self._buffers[place].shape:  # sizes that depend on what is seen
            self._buffers[place] = np.empty(stored.shape, stored.dtype)
        np.copyto(self._buffers[place], stored)
        return self._buffers[place]


def _library(wanted: str | None) -> tuple[Any, str]:
    reasons = []
    for module, distribution, shown in LIBRARIES:
        if wanted is not None and wanted != distribution:
            continue
        try:
            return importlib.import_module(module), f"{shown} {importlib.metadata.version(distribution)}"
        except ImportError as error:
            reasons.append(f"{distribution}: {error}")
    hints = {
        "ai-edge-litert": "pip install ai-edge-litert",
        "tflite-runtime": "pip install tflite-runtime 'numpy<2' on Python 3.10 and 3.11",
    }
    hint = hints[wanted] if wanted is not None else ", or ".join(hints.values())
    raise ConfigError(f"running .tflite models needs a TFLite runtime: {hint} ({'; '.join(reasons)})")


def _delegate(library: Any, path: str) -> Any:
    """Raises ConfigError for a library that is not there, is no delegate, or finds no device."""
    try:
        if not hasattr(ctypes.CDLL(path), "tflite_plugin_create_delegate"):
            raise ValueError("it is no delegate of TFLite")
        return library.load_delegate(path)  # which, of what cannot be loaded, leaves half an object that fails again when it goes
    except (OSError, ValueError, AttributeError, RuntimeError) as error:
        what = (str(error).strip().splitlines() or ["it is refused"])[-1]  # the first only repeats the path
        hint = "is the library installed for this machine, and its device there?"
        raise ConfigError(f"model.delegate: {path} cannot be loaded: {what[:200]}; {hint}") from None


def read_facts(path: Path) -> FileFacts:
    """What the file says of itself. Raises ModelBroken for one that would crash a library, ModelError if it cannot be read."""
    try:
        return _tflite_file.read(path)
    except _tflite_file.Damaged as error:
        raise ModelBroken(f"{path} is not a model that TFLite can run: {error}") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None


def _reason(error: Exception, facts: FileFacts) -> str:
    if "edgetpu-custom-op" in facts.custom_operators:
        return 'it is compiled for an Edge TPU: set delegate = "libedgetpu.so.1", or use the file it was compiled from'
    flex = [name for name in facts.custom_operators if name.startswith("Flex")]
    if flex:
        return f"it has operators of TensorFlow ({', '.join(flex)}); convert it without SELECT_TF_OPS"
    if facts.custom_operators:
        return f"it has operators of its own: {', '.join(facts.custom_operators)}; export it without them"
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else "unknown"


def _spec(details: dict[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in details["shape"])
    scale, zero_point = details["quantization"]
    quantization = Quantization(float(scale), int(zero_point)) if scale else None
    return TensorSpec(str(details["name"]), shape, np.dtype(details["dtype"]), quantization)


def _associated_files(path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """What is zipped onto the end of a .tflite: TFLite's associated label files, and Ultralytics' metadata."""
    try:
        with zipfile.ZipFile(path) as archive:
            texts = {
                info.filename: archive.read(info).decode("utf-8", "replace")
                for info in archive.infolist()
                if info.file_size <= _MAX_METADATA
            }
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return {}, ()
    for name, text in texts.items():
        if "meta" in name:
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                found = json.loads(text) if name.endswith(".json") else ast.literal_eval(text)
                if isinstance(found, dict) and isinstance(found.get("names"), dict):
                    names = {str(number): str(label) for number, label in found["names"].items()}  # JSON's keys are texts
                    return {str(k): str(v) for k, v in found.items()}, tuple(names.get(str(i), str(i)) for i in range(len(names)))
    labels = next((text for name, text in texts.items() if name.endswith(".txt")), "")
    return {}, tuple(line.strip() for line in labels.splitlines())


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Without the library's own lines on the process's stderr ("INFO: Created ..."), which it has no setting for.

    Everything else that is written there meanwhile, by whichever thread, comes a moment later.
    """
    saved = os.dup(2)
    held = os.memfd_create("stderr", os.MFD_CLOEXEC)
    os.dup2(held, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        with os.fdopen(held, "rb") as written, os.fdopen(saved, "wb", buffering=0) as stderr:
            written.seek(0)
            others = b"".join(line for line in written if not line.startswith(_LIBRARYS_OWN))
            with contextlib.suppress(OSError):  # nobody reads it
                stderr.write(others)


def build(context: RuntimeContext, config: Config) -> Runtime:
    """Load a file. Raises ConfigError or ModelError."""
    return TfliteRuntime(context, config)
