"""``edge-agent model quantize``, the whole: check, prepare, calibrate, search, judge, write."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent import evaluation, labelled
from edge_agent.errors import ConfigError, EdgeAgentError, ExitCode, ModelError
from edge_agent.evaluation import ModelOptions
from edge_agent.image import Image
from edge_agent.models._preprocess import Preprocessor
from edge_agent.models.base import Model
from edge_agent.quantize import graph as graphs
from edge_agent.quantize import pictures, plans, ranges, result
from edge_agent.quantize.accuracy import Judge, Labels
from edge_agent.quantize.graph import Graph
from edge_agent.quantize.insertion import TYPES, Cpu, this_cpu
from edge_agent.quantize.result import Result, Row
from edge_agent.quantize.search import Candidate, Goal, Search, fastest_float
from edge_agent.runtimes.base import Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

Progress = Callable[[int, int], None]
_CALIBRATED_ON = 100
_WORST_SHOWN = 12


@dataclass(frozen=True)
class Request:
    """What the user asks for."""

    source: Path
    output: Path
    images: str
    """A folder, video or camera."""
    annotations: Path | None = None
    target_drop: float = 0.01
    """Of AP that may be lost; without labels twelve times as much of the agreement."""
    cpu: Cpu | None = None
    """For which kind of machine; None: this one."""
    minutes: float = 10.0
    """After which nothing more is tried; what was begun is finished."""
    options: ModelOptions = field(default_factory=ModelOptions)


class Refused(EdgeAgentError):
    """The best that was found misses the target, or is slower than the float model. Nothing was written."""

    exit_code = ExitCode.DATAERR

    def __init__(self, found: Result) -> None:
        self.result = found
        super().__init__("; ".join(found.refused) + f"; {found.model} was not written")


def quantize(request: Request, bar: Callable[[str], AbstractContextManager[Progress]], say: Callable[[str], None]) -> Result:
    """Quantize and write. ``bar`` shows how far a stage is, ``say`` takes lines.

    Raises ConfigError and ModelError for what it was given, SourceError for a camera, Refused for what came of it.
    """
    started = time.monotonic()
    _require_onnx()
    _check_paths(request)
    loaded, judge, images = _reference(request, say)
    original = _original(request.source, loaded)
    tensors = _tensors(loaded, images)
    base, histograms = _calibrated(request, original, tensors, bar)
    cpu = request.cpu or this_cpu()
    say("timing each convolution")
    possible = plans.make(base, histograms, tensors[0], TYPES[cpu], request.options.threads)
    if not possible:
        raise ConfigError(f"{request.source} has no convolution or matrix product with constant weights: there is nothing to quantize")
    deadline = started + request.minutes * 60
    goal = Goal(request.target_drop, request.options.threads, TYPES[cpu], cpu == this_cpu(), deadline)
    search = Search(original, judge, histograms, tensors, goal, say)
    best = search.best(possible)
    if best is None:
        raise ModelError(f"{request.source}: ONNX Runtime runs no quantized form of it")
    found = _result(request, search, best, cpu, time.monotonic() - started)
    if found.refused:
        raise Refused(found)
    result.write(request.output, best.model, found, dict(loaded.graph.metadata))
    return found


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ConfigError('quantizing needs the package onnx: pip install "edge-agent[quantize]"') from None


def _check_paths(request: Request) -> None:
    if request.source.suffix.lower() != ".onnx":
        raise ConfigError(f"{request.source}: only .onnx files can be quantized; TFLite files are quantized where they are made")
    if request.output.suffix.lower() != ".onnx":
        raise ConfigError(f"-o: {request.output} must end in .onnx")
    if request.output.exists() and request.output.samefile(request.source):
        raise ConfigError(f"-o: {request.output} is the file that is read; name another")
    result.check_writable(request.output)


def _reference(request: Request, say: Callable[[str], None]) -> tuple[Model, Judge, dict[int, Image]]:
    """The float model as the daemon runs it, who judges by it, and the pictures."""
    if request.annotations is not None:
        evaluation.require_pycocotools()
    truth = None if request.annotations is None else labelled.load(request.annotations)
    loaded = evaluation.load_model(request.source, request.options)
    if len(loaded.graph.inputs) != 1:
        raise ConfigError(
            f"{request.source} has {len(loaded.graph.inputs)} inputs; only models whose one input is the picture can be quantized"
        )
    labels: Labels | None = None
    if truth is None:
        images = pictures.from_source(request.images, say)
    else:
        images = pictures.from_labelled_folder(Path(request.images), truth, say)
        labels = pictures.labels_for(truth, loaded.labels, loaded.family.class_count)
        for warning in evaluation.mapping_warnings(labels.classes, truth, len(images)):
            say(f"warning: {warning}")
    judge = Judge(loaded, images, labels)
    if labels is not None and not judge.float_accuracy.ap50:
        raise ConfigError(f"{request.source} finds nothing of what {request.annotations} says is there; see edge-agent model eval")
    if not judge.finds_something:
        raise ConfigError(
            f"{request.source} finds nothing in the {len(images)} pictures of {request.images}: use pictures of what it is made for"
        )
    return loaded, judge, images


def _original(path: Path, loaded: Model) -> ModelProto:
    import onnx

    shape = tuple(1 if axis == 0 else size for axis, size in enumerate(loaded.graph.inputs[0].shape))
    graphs.check(path)
    model = onnx.load(str(path))
    graphs.fix_shape(model, shape)
    return model


def _tensors(loaded: Model, images: dict[int, Image]) -> list[Tensor]:
    """Input tensors of the pictures to calibrate on, evenly spread."""
    prepare = Preprocessor(loaded.graph.inputs[0], loaded.family.input_format)
    chosen = list(images.values())[:: -(-len(images) // _CALIBRATED_ON)]
    return [prepare(image)[0].copy() for image in chosen]


def _calibrated(
    request: Request, original: ModelProto, tensors: list[Tensor], bar: Callable[[str], AbstractContextManager[Progress]]
) -> tuple[ModelProto, dict[str, ranges.Histogram]]:
    """The float graph to start from, the fastest of the equal ones, and what its tensors hold."""
    variants = plans.float_variants(graphs.prepared(request.source, original))
    base = variants[fastest_float(variants, tensors[0], request.options.threads)]
    with bar("calibrating") as progress:
        return base, ranges.collect(base, tensors, progress)


def _result(request: Request, search: Search, best: Candidate, cpu: Cpu, seconds: float) -> Result:
    goal, floats = search.goal, search.judge.float_accuracy
    size = len(best.model.SerializeToString())
    before = Row("float32", floats.ap, floats.ap50, 1.0, round(best.speed.ms * best.speed.ratio, 2), request.source.stat().st_size)
    after = Row("int8", best.accuracy.ap, best.accuracy.ap50, best.accuracy.agreement, round(best.speed.ms, 2), size)
    refused = []
    short = search.judge.shortfall(best.accuracy, goal.target_drop)
    if short > 0:
        refused.append(f"the target is missed by {short:.3f} (allow more with --target-drop, or give more and better pictures)")
    if goal.same_machine and best.speed.ratio <= 1:
        refused.append(f"INT8 is slower than float on this machine ({best.speed.ratio:.2f}x): keep the float model here")
    in_float, names = result.float_nodes(best.plan.model, best.nodes)
    share = round(plans.work_share(Graph(best.plan.model), best.nodes), 3)
    worst = {name: round(damage, 4) for name, damage in list(search.damages.items())[:_WORST_SHOWN]}
    return Result(
        str(request.output), len(search.judge), goal.threads, cpu, before, after, best.speed.ratio, best.plan.name, best.method,
        best.methods, best.bias_corrected, len(best.nodes), in_float, names, share, worst, tuple(refused), round(seconds, 1),
    )  # fmt: skip
