"""QuantizeLinear and DequantizeLinear around chosen nodes, by onnxruntime.quantization with ranges of our own."""

from __future__ import annotations

import copy
import logging
import platform
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from edge_agent.errors import ModelError
from edge_agent.quantize.graph import QUANTIZABLE, Graph
from edge_agent.quantize.ranges import Range

if TYPE_CHECKING:
    from onnx import ModelProto

Cpu = Literal["arm64", "x86-vnni", "x86"]


@dataclass(frozen=True)
class Types:
    """How numbers are stored; weights are always signed, with a scale for each channel."""

    signed: bool
    """Activations are S8, else U8."""
    reduced: bool
    """Weights take 7 bits only: without VNNI, x86 adds products of U8 and S8 in pairs into 16 bits, which overflow."""


TYPES: dict[Cpu, Types] = {
    "arm64": Types(signed=True, reduced=False),
    "x86-vnni": Types(signed=False, reduced=False),
    "x86": Types(signed=False, reduced=True),
}
"""After onnxruntime.ai's "Quantize ONNX models": S8S8 first on ARM, U8S8 on x86, reduced where it saturates."""


def this_cpu(machine: str | None = None, cpuinfo: str | None = None) -> Cpu:
    """Which of them this machine has, by its name and /proc/cpuinfo."""
    machine = machine or platform.machine()
    if machine in {"aarch64", "arm64", "armv7l", "armv8l"}:
        return "arm64"
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        except OSError:
            cpuinfo = ""
    return "x86-vnni" if {"avx512_vnni", "avx_vnni"}.intersection(cpuinfo.split()) else "x86"


def insert(model: ModelProto, nodes: Collection[str], ranges: Mapping[str, Range], types: Types) -> ModelProto:
    """``model`` with the named nodes in INT8. ``ranges`` holds at least the tensors around them. Raises ModelError."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    operators = sorted({node.op_type for node in model.graph.node}.intersection(QUANTIZABLE))
    excluded = [node.name for node in model.graph.node if node.name not in nodes]
    activations = QuantType.QInt8 if types.signed else QuantType.QUInt8
    quiet = logging.getLogger().level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger().setLevel(logging.ERROR)  # the library writes to the root logger
            quantizer = QDQQuantizer(
                copy.deepcopy(model), True, types.reduced, QuantType.QInt8, activations,
                TensorsData(CalibrationMethod.MinMax, limits), sorted(nodes), excluded, operators,
                {"ActivationSymmetric": False, "WeightSymmetric": True},
            )  # fmt: skip
            quantizer.quantize_model()
    except Exception as error:  # the library raises whatever it met
        what = str(error).strip().splitlines()
        raise ModelError(f"onnxruntime.quantization failed: {what[0][:300] if what else type(error).__name__}") from None
    finally:
        logging.getLogger().setLevel(quiet)
    done: ModelProto = quantizer.model.model
    return done


def tensors(graph: Graph, nodes: Collection[str]) -> list[str]:
    """The float tensors that have a scale when these nodes are quantized, in the graph's order."""
    found = {}
    for node in graph.model.graph.node:
        if node.name in nodes:
            for name in (*node.input, *node.output):
                if name in graph.floats and not _absorbed(graph, name, nodes):
                    found[name] = True
    return list(found)


def _absorbed(graph: Graph, name: str, nodes: Collection[str]) -> bool:
    """Whether a clipping that follows is done by the scale, so that the tensor before it has none."""
    after = graph.consumers.get(name, [])
    return len(after) == 1 and after[0].op_type in {"Clip", "Relu"} and after[0].name in nodes and name in graph.producer
