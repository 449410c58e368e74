"""Sessions of ONNX Runtime: which execution provider a file is opened with, and what is compiled for it and kept."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from edge_agent.errors import ModelError
from edge_agent.runtimes import _providers
from edge_agent.runtimes._onnx_errors import first_line
from edge_agent.runtimes.base import RuntimeContext

log = logging.getLogger("edge_agent.runtimes.onnx")  # the name that whoever filters the log knows


class Loader:
    """Makes sessions with the first provider that can, and says where that is another than was hoped for."""

    def __init__(
        self, ort: Any, context: RuntimeContext, names: Sequence[str], precision: str, cache: _providers.EngineCache | None
    ) -> None:
        self._ort, self._context, self._cache = ort, context, cache
        folder = None if cache is None else cache.folder
        self._entries = _providers.attempts(names, context.threads, precision, folder)
        self.accelerator = ""
        """What runs the last session that was loaded."""

    def load(self, model: str | bytes) -> Any:
        """Raises what the library raises for the last of the providers."""
        if self._cache is not None and self._cache.fresh:
            log.warning("compiling the model for this machine, which takes minutes once model=%s", self._context.path)
            self._context.announce("compiling the model for this machine", _providers.BUILD_S)
        for place, (name, options) in enumerate(self._entries):
            try:
                session = self._attempt(model, place)
            except Exception as error:
                if name == _providers.CPU or place == len(self._entries) - 1:
                    raise
                log.warning("provider cannot be used, going on without it provider=%s reason=%r", name, first_line(error))
                continue
            runs = session.get_providers()
            if self._cache is not None:
                self._cache.used = _providers.TENSORRT in runs
            if name not in runs:  # the library leaves out what cannot load its own libraries, without a word
                if self._entries[place + 1 : place + 2] and self._entries[place + 1][0] == name:
                    continue  # on another device
                log.warning("provider cannot be used: are its libraries installed? provider=%s instead=%s", name, runs[0])
            device = options.get("device_type") if runs[0] == name else None
            self.accelerator = f"{runs[0]} ({device})" if device else runs[0]
            return session
        raise ModelError("no execution provider is left")

    def _attempt(self, model: str | bytes, place: int) -> Any:
        try:
            return self._session(model, place)
        except Exception:
            if self._cache is None or self._cache.fresh or self._entries[place][0] != _providers.TENSORRT:
                raise
        log.warning("the engine that is kept cannot be loaded and is compiled again model=%s", self._context.path)
        self._cache.clear()
        self._context.announce("compiling the model for this machine", _providers.BUILD_S)
        return self._session(model, place)

    def _session(self, model: str | bytes, place: int) -> Any:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = _providers.session_threads(self._entries[place][0], self._context.threads)
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._context.spin else "0")
        # without the library's own fallback, which prints to stdout
        return self._ort.InferenceSession(model, options, providers=_providers.following(self._entries, place), enable_fallback=0)


def engine_cache(
    stack: contextlib.ExitStack, context: RuntimeContext, names: Sequence[str], made_by: tuple[str, str]
) -> _providers.EngineCache | None:
    """Where TensorRT's engine is kept; None where there is none to keep, or no folder for it."""
    if _providers.TENSORRT not in names or context.state is None or not context.sha256:
        return None
    version, precision = made_by
    options = _providers.options_for(_providers.TENSORRT, context.threads, precision, None) | {"size": str(context.input_size)}
    key = _providers.cache_key(context.sha256, version, _providers.read_machine(), options)
    try:
        return stack.enter_context(_providers.EngineCache(context.state / "tensorrt", key))
    except OSError as error:
        log.warning("the engine cannot be kept: it will be compiled at each start folder=%s reason=%s", context.state, error.strerror)
        return None
