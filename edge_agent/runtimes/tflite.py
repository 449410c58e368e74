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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from edge_agent.config_values import Table
from edge_agent.errors import ConfigError, ModelBroken, ModelError
from edge_agent.runtimes import _tflite_file
from edge_agent.runtimes._tflite_engine import Engine
from edge_agent.runtimes.base import (
    FileFacts,
    GraphSpec,
    Quantization,
    Runtime,
    RuntimeContext,
    Tensor,
    TensorSpec,
    of_one_picture,
    one_at_a_time,
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
    """An ``Interpreter`` with the threads asked for; XNNPACK is on where the library has it. For a batch there is another beside it."""

    def __init__(self, context: RuntimeContext, config: Config) -> None:
        library, name = _library(config.library)
        facts = read_facts(context.path)

        def interpreter() -> Any:
            delegates = None if config.delegate is None else [_delegate(library, config.delegate)]
            return library.Interpreter(model_path=str(context.path), num_threads=context.threads, experimental_delegates=delegates)

        try:
            with _quiet_stderr():
                alone = interpreter()
                self._fix_size(alone, context)
                alone.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            text = f"{context.path} is not a model that {name} can run: {_reason(error, facts)}"
            raise refusal(text, elsewhere=config.delegate is not None) from None
        inputs = sorted(alone.get_input_details(), key=lambda details: len(details["shape"]) != 4)  # the picture first
        if not inputs:
            raise ModelBroken(f"{context.path} has no input: it is no model of pictures")
        outputs = alone.get_output_details()
        metadata, labels = _associated_files(context.path)
        accelerator = "CPU (XNNPACK)" if config.delegate is None else f"delegate {Path(config.delegate).name}"
        self.spec = GraphSpec(
            tuple(map(_spec, inputs)), tuple(map(_spec, outputs)), name, accelerator, facts.precision, metadata, labels, facts
        )
        own = self.spec.inputs[0].shape[0] if len(self.spec.inputs[0].shape) == 4 else 1
        self._engines = {own: Engine(alone)}
        self.batch = own if own > 1 else context.batch
        if own > 1:
            self.spec = of_one_picture(self.spec, own)
        elif context.batch > 1:
            self._engines[context.batch] = self._wider(interpreter, context, config)

    def _wider(self, interpreter: Callable[[], Any], context: RuntimeContext, config: Config) -> Engine:
        """The same file, resized to a batch, beside the one that takes one picture: to resize that each time would cost more."""
        if config.delegate is not None:
            raise one_at_a_time(context.path, context.batch, "its delegate runs it as it was compiled")
        try:
            with _quiet_stderr():
                wide = interpreter()
                picture = next(details for details in wide.get_input_details() if details["name"] == self.spec.inputs[0].name)
                wide.resize_tensor_input(picture["index"], (context.batch, *self.spec.inputs[0].shape[1:]))
                wide.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise one_at_a_time(context.path, context.batch, str(error).strip().splitlines()[0][:200]) from None
        return Engine(wide)

    def _fix_size(self, interpreter: Any, context: RuntimeContext) -> None:
        """Open sizes, which the interpreter would take for 1. Raises ConfigError where nobody says what they are."""
        for details in interpreter.get_input_details():
            signature = tuple(int(size) for size in details.get("shape_signature", ()))
            if len(signature) == 4:
                spec = TensorSpec(str(details["name"]), signature, np.dtype(details["dtype"]))
                fixed = with_fixed_size(spec, context.input_size, context.path).shape
                if fixed != signature:
                    interpreter.resize_tensor_input(details["index"], fixed)

    def rows_for(self, pictures: int) -> int:
        return min(rows for rows in self._engines if rows >= pictures)

    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        return self._engines[len(tensor)].infer(tensor)


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
