"""ONNX Runtime on models in memory: the one file here that opens sessions."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_agent.errors import ModelError
from edge_agent.runtimes.base import GraphSpec, Runtime, Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

QUIET = 0.2
"""Share of the runs, the fastest, that tell what a model takes: the others were held up by what else the machine does."""


def _options(threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class Session:
    """A model in memory on the CPU. Not thread-safe."""

    def __init__(self, model: ModelProto, threads: int = 1) -> None:
        import onnxruntime as ort

        library: Any = ort
        try:
            self._session = library.InferenceSession(model.SerializeToString(), _options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's exceptions have no useful common base
            raise ModelError(f"ONNX Runtime refuses the graph: {_first_line(error)}") from None
        self.outputs = [output.name for output in model.graph.output]

    def run(self, feed: Mapping[str, Tensor], outputs: Sequence[str] | None = None) -> list[Tensor]:
        """Values of all outputs, or of those named. Raises ModelError."""
        try:
            values: list[Tensor] = self._session.run(list(outputs or self.outputs), dict(feed))
        except Exception as error:
            raise ModelError(f"inference failed: {_first_line(error)}") from None
        return values


class MemoryRuntime(Runtime):
    """A trial model behind the daemon's own preprocess and postprocess."""

    def __init__(self, session: Session, spec: GraphSpec, feed: Mapping[str, Tensor]) -> None:
        """``feed``: inputs besides the picture, which is the first of ``spec``."""
        self.spec = spec
        self._session, self._feed = session, dict(feed)
        self._outputs = [output.name for output in spec.outputs]

    def infer(self, tensor: Tensor) -> Sequence[Tensor]:
        return self._session.run({**self._feed, self.spec.inputs[0].name: tensor}, self._outputs)

    def fix(self, name: str, value: Tensor) -> None:
        self._feed[name] = value


def node_times(model: ModelProto, picture: Tensor, runs: int, threads: int = 1) -> dict[tuple[str, str], float]:
    """Milliseconds of each node of the graph as it really runs, by its name there and its operator: least disturbed fifth of the runs."""
    import onnxruntime as ort

    library: Any = ort
    options = _options(threads)
    options.enable_profiling = True
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="edge-agent-quantize-") as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = library.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            for _ in range(runs):
                session.run(None, {model.graph.input[0].name: picture})
            events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot time the graph: {_first_line(error)}") from None
    for event in events:
        name, mark, rest = str(event.get("name", "")).rpartition("_kernel_time")
        if mark and not rest and event.get("cat") == "Node":
            times.setdefault((name, event["args"]["op_name"]), []).append(event["dur"] / 1e3)
    return {key: float(np.quantile(values, QUIET)) for key, values in times.items()}


def optimised(model: ModelProto) -> ModelProto:
    """The graph after ONNX Runtime's basic optimisations: constants folded, batch norms in the convolutions. Raises ModelError."""
    import onnx
    import onnxruntime as ort

    library: Any = ort
    options = _options(1)
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="edge-agent-quantize-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        try:
            library.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            done = onnx.load(options.optimized_model_filepath)
        except Exception as error:
            raise ModelError(f"ONNX Runtime cannot prepare the graph: {_first_line(error)}") from None
    return done


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
