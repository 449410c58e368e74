"""ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_agent.config_values import Table
from edge_agent.errors import ConfigError, ModelBroken, ModelError
from edge_agent.runtimes import _onnx_binding, _onnx_file, _onnx_reopen, _providers
from edge_agent.runtimes._onnx_description import class_names, metadata_size, precision_of, tensor_spec
from edge_agent.runtimes._onnx_errors import first_line, refusal_reason
from edge_agent.runtimes._onnx_sessions import Loader, engine_cache
from edge_agent.runtimes.base import (
    FileFacts,
    GraphSpec,
    Runtime,
    RuntimeContext,
    Tensor,
    TensorSpec,
    of_one_picture,
    one_at_a_time,
    refusal,
    with_fixed_size,
)

log = logging.getLogger(__name__)

_PICTURE_RANK = 4


class Config(Table):
    """Keys of [model] that only ONNX files have."""

    providers: tuple[str, ...] | Literal["auto"] = "auto"
    """Execution providers by preference, such as ["CUDAExecutionProvider"]; "auto": the best that the library has."""


class OnnxRuntime(Runtime):
    """An ``InferenceSession`` with the threads asked for, which wait busily between an inference's parts only if that is asked for."""

    can_spin = True

    def __init__(self, context: RuntimeContext, config: Config) -> None:
        ort = _library()
        names = _providers.chosen(config.providers, ort.get_available_providers())
        facts = read_facts(context.path)
        precision = precision_of(context.path, facts)
        self._own_size: tuple[int, int] | None = None
        self._ort, self._fixed = ort, dict[str, Tensor]()
        self._binding: _onnx_binding.Binding | None = None
        self._is_met = False
        self._rows = 0
        """How many pictures each inference is of, where the file takes neither fewer nor more; else 0."""
        with contextlib.ExitStack() as stack:
            cache = engine_cache(stack, context, names, (ort.__version__, precision))
            loader = Loader(ort, context, names, precision, cache)
            try:
                self._session = loader.load(str(context.path))
            except Exception as error:  # the library's exceptions have no useful common base
                raise refusal(
                    f"{context.path} is not a model that ONNX Runtime {ort.__version__} can run: {refusal_reason(error, facts)}"
                ) from None
            self._reopen(context, loader.load)
            self.spec = replace(self._describe(ort, context, facts), accelerator=loader.accelerator)
            self.batch = self._rows or context.batch
            if self._rows:
                self.spec = of_one_picture(self.spec, self._rows)
            self._input = self.spec.inputs[0].name
            self._outputs = [output.name for output in self.spec.outputs]
            if cache is not None and len(self.spec.inputs) == 1:  # whatever is compiled at the first inference only is, too
                self.infer(np.zeros((self.rows_for(1), *self.spec.inputs[0].shape[1:]), self.spec.inputs[0].dtype))

    def _reopen(self, context: RuntimeContext, load: Callable[[str | bytes], Any]) -> None:
        """Load it again with its size left open, where it was exported for another batch, or for another size, than is asked for.

        Where one that was made for a batch of many cannot do otherwise, it stays as it is.
        """
        session = self._session
        picture = next((node for node in session.get_inputs() if len(node.shape) == _PICTURE_RANK), None)
        if picture is None or context.path.suffix.lower() == ".ort":
            self._keep_batch(context, 1 if picture is None else tensor_spec(picture).shape[0])
            return
        sizes = tensor_spec(picture).shape
        width, height = context.input_size or (-1, -1)
        across = (2, 1) if sizes[3] in {1, 3} else (3, 2)
        other = any(size not in {-1, sizes[axis]} and sizes[axis] != -1 for axis, size in zip(across, (width, height), strict=True))
        if sizes[0] in ({1, -1} if context.batch == 1 else {-1}) and not other:
            return
        own = (sizes[across[0]], sizes[across[1]])
        self._own_size = own if min(own) > 0 else None
        try:
            self._session = load(_onnx_reopen.reopened(context.path.read_bytes(), picture.name))
        except Exception as error:
            if not other:
                self._keep_batch(context, sizes[0], first_line(error))
                return
            raise ModelError(
                f"{context.path} is made for pictures {list(sizes)}, and cannot be used for others: {first_line(error)}"
            ) from None
        if sizes[0] > 1 and not other and not self._takes_one(context, tensor_spec(picture), session):
            self._session, self._own_size = session, None
            self._keep_batch(context, sizes[0])

    def _keep_batch(self, context: RuntimeContext, rows: int, reason: str = "its batch is fixed") -> None:
        """Raises ConfigError for a file made for one picture where more are asked for."""
        if rows > 1:
            self._rows = rows
        elif rows == 1 and context.batch > 1:
            raise one_at_a_time(context.path, context.batch, reason)

    def _takes_one(self, context: RuntimeContext, picture: TensorSpec, before: Any) -> bool:
        """Whether the graph, made for many and opened, makes of one picture the row of one in each output that had one for each."""
        alone = with_fixed_size(replace(picture, shape=(1, *picture.shape[1:])), context.input_size or self._own_size, context.path)
        had_rows = [tensor_spec(node).shape[:1] == picture.shape[:1] for node in before.get_outputs()]
        try:
            met = self._session.run(None, {alone.name: np.zeros(alone.shape, alone.dtype)})
        except Exception:  # whatever it is, this is how it is found out
            return False
        return all(output.shape[:1] == (1,) for output, had in zip(met, had_rows, strict=True) if had)

    def rows_for(self, pictures: int) -> int:
        return self._rows or pictures

    def _describe(self, ort: Any, context: RuntimeContext, facts: FileFacts | None) -> GraphSpec:
        session = self._session
        metadata = dict(session.get_modelmeta().custom_metadata_map)
        inputs = sorted(map(tensor_spec, session.get_inputs()), key=lambda spec: len(spec.shape) != 4)  # the picture first
        if not inputs:
            raise ModelBroken(f"{context.path} has no input: it is no model of pictures")
        known = None if -1 not in inputs[0].shape[1:] else self._own_size or metadata_size(metadata)
        size = context.input_size or known
        inputs[0] = with_fixed_size(inputs[0], size, context.path)
        outputs = tuple(map(tensor_spec, session.get_outputs()))
        if len(inputs) == 1 and any(-1 in output.shape for output in outputs):
            outputs = self._shapes_met(inputs[0], outputs)
        return GraphSpec(
            tuple(inputs),
            outputs,
            f"ONNX Runtime {ort.__version__}",
            session.get_providers()[0],
            precision_of(context.path, facts),
            metadata,
            class_names(metadata.get("names", "")),
            facts,
        )

    def _shapes_met(self, picture: TensorSpec, outputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        """Sizes that the graph leaves open, as they are for a blank picture; how many boxes NMS leaves stays open."""
        blank = {picture.name: np.zeros(picture.shape, picture.dtype)}
        try:
            met = self._session.run([output.name for output in outputs], blank)
        except Exception as error:
            raise ModelError(f"the model cannot be run on a picture of {list(picture.shape)}: {first_line(error)}") from None
        return tuple(
            replace(output, shape=tuple(size if size > 0 else -1 for size in tensor.shape))
            for output, tensor in zip(outputs, met, strict=True)
        )

    def fix(self, name: str, value: Tensor) -> None:
        if name not in [spec.name for spec in self.spec.inputs[1:]]:
            super().fix(name, value)
        self._fixed[name], self._binding, self._is_met = value, None, False

    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        if self._binding is not None:
            try:
                return self._binding.run(self._input, tensor)
            except Exception as error:  # sizes that are others than the graph states: then without
                log.debug("not bound any more reason=%r", first_line(error))
                self._binding = None
        try:
            outputs: list[Tensor] = self._session.run(self._outputs, {self._input: tensor, **self._fixed})
        except Exception as error:
            raise ModelError(f"inference failed: {first_line(error)}") from None
        if not self._is_met:
            self._is_met = True
            self._bind(outputs)
        return outputs

    def _bind(self, outputs: Sequence[Tensor]) -> None:
        """The first outputs are the buffers of all that follow, where the graph states their sizes."""
        with contextlib.suppress(Exception):  # a library that cannot is used as before
            if _onnx_binding.fits([node.shape for node in self._session.get_outputs()], outputs):
                self._binding = _onnx_binding.Binding(self._ort, self._session, self._outputs, outputs, self._fixed)


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"running .onnx models needs the package onnxruntime: pip install onnxruntime ({error})") from None
    library: Any = onnxruntime
    with contextlib.suppress(AttributeError):
        library.set_default_logger_severity(4)  # what matters of it comes as an exception too, and is told in our words
    return library


def read_facts(path: Path) -> FileFacts | None:
    """What the file says of itself. Raises ModelBroken for one that no library needs to be tried on, ModelError if it cannot be read."""
    if path.suffix.lower() == ".ort":  # a format of the library's own
        return None
    try:
        facts = _onnx_file.read(path)
    except _onnx_file.Damaged as error:
        raise ModelBroken(f"{path} is not a model that ONNX Runtime can run: {error}") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    if facts.missing_files:
        raise ModelBroken(f"{path} keeps its weights in other files, which must lie beside it: {'; '.join(facts.missing_files)}")
    return facts


def build(context: RuntimeContext, config: Config) -> Runtime:
    """Load a file. Raises ConfigError or ModelError."""
    return OnnxRuntime(context, config)
