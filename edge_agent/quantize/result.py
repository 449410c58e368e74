"""The table at the end, in the terminal, as JSON and in the model's own metadata; and the file, whole or not at all."""

from __future__ import annotations

import collections
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.errors import ConfigError

if TYPE_CHECKING:
    from onnx import ModelProto

METADATA_KEY = "edge_agent.quantize"
_NAMED = 12


@dataclass(frozen=True)
class Row:
    """One model. ``ap`` and ``ap50`` are None without labels; ``ms`` is one inference, the median, both in turn."""

    precision: str
    ap: float | None
    ap50: float | None
    agreement: float
    ms: float
    bytes: int


@dataclass(frozen=True)
class Result:
    """What ``model quantize`` reports."""

    model: str
    pictures: int
    threads: int
    cpu: str
    """Whose number types were taken: "arm64", "x86-vnni" or "x86"."""
    float32: Row
    int8: Row
    speedup: float
    """Median over rounds in which both ran in turn."""
    plan: str
    method: str
    """Of calibration."""
    methods: dict[str, str]
    """Of the tensors that have one of their own."""
    bias_corrected: bool
    int8_nodes: int
    in_float: dict[str, int]
    """Nodes left in float, by operator."""
    float_names: tuple[str, ...]
    """Names of the convolutions among them."""
    work_in_int8: float
    """Share of the multiplications."""
    worst_tensors: dict[str, float]
    """What single tensors cost in agreement, where that had to be measured."""
    refused: tuple[str, ...]
    """Why the result is not good; empty where it is."""
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For --json and for the metadata."""
        return asdict(self)

    def table(self) -> str:
        """For a person."""
        lines = [f"{'':10s} {'AP':>7s} {'AP50':>7s} {'agreement':>10s} {'ms':>8s} {'size':>10s}"]
        for row in (self.float32, self.int8):
            ap, ap50 = ("-" if value is None else f"{value:.3f}" for value in (row.ap, row.ap50))
            lines.append(f"{row.precision:10s} {ap:>7s} {ap50:>7s} {row.agreement:10.3f} {row.ms:8.2f} {row.bytes / 1e6:7.2f} MB")
        left = ", ".join(f"{count} {operator}" for operator, count in self.in_float.items()) or "nothing"
        lines += [
            "",
            f"speed         {self.speedup:.2f}x at {self.threads} thread(s), in turn on this machine",
            f"took          {self.seconds:.0f} s, {self.pictures} pictures",
            f"in INT8       {self.plan}: {self.int8_nodes} nodes, {100 * self.work_in_int8:.0f} % of the multiplications",
            f"types for     {self.cpu}",
            f"calibration   {self.method}" + (f", {len(self.methods)} tensors by another method" if self.methods else ""),
            f"biases        {'corrected' if self.bias_corrected else 'as they were'}",
            f"in float      {left}",
        ]
        if self.float_names:
            shown = ", ".join(self.float_names[:_NAMED])
            lines.append(f"              convolutions: {shown}" + (", ..." if len(self.float_names) > _NAMED else ""))
        return "\n".join(lines)


def float_nodes(model: ModelProto, quantized: frozenset[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Of a float graph, what is not quantized: how many by operator, and the names of convolutions."""
    left = [node for node in model.graph.node if node.name not in quantized]
    counts = collections.Counter(node.op_type for node in left)
    return dict(counts.most_common()), tuple(node.name for node in left if node.op_type == "Conv")


def check_writable(path: Path) -> None:
    """Raises ConfigError, before hours are spent, where the file could not be written."""
    if path.is_dir():
        raise ConfigError(f"-o: {path} is a folder; name the file to write")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise ConfigError(f"-o: {path} cannot be written: {error.strerror}") from None


def write(path: Path, model: ModelProto, result: Result, metadata: dict[str, str]) -> None:
    """The model with its table and the source's ``metadata``, at once or not at all. Raises ConfigError."""
    import onnx

    del model.metadata_props[:]
    table = {**result.as_json(), "model": path.name}  # whose folder is nobody's business where the file goes
    for key, value in {**metadata, METADATA_KEY: json.dumps(table)}.items():
        model.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError(f"-o: {path} cannot be written: {error.strerror}; nothing was left behind") from None
