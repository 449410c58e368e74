"""``edge-agent model inspect``: what a model file is, told without running it.

The file's own bytes are read here; the model is loaded in a process of its own, which it may crash.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_agent import config_file, plugins
from edge_agent.config import AgentConfig
from edge_agent.errors import ConfigError, EdgeAgentError, ExitCode, ModelError
from edge_agent.models import _describe, _model_file, _trial
from edge_agent.redaction import redact

_SHOWN_CLASSES = 12


@dataclass
class Inspection:
    """What was found. What could not be found out is None or empty, and ``problem`` says why."""

    file: str
    bytes: int
    format: str
    opset: str = ""
    producer: str = ""
    parameters: int | None = None
    operators: dict[str, int] = field(default_factory=dict)
    custom_operators: list[str] = field(default_factory=list)
    runtime: str | None = None
    providers: list[str] = field(default_factory=list)
    """Execution providers or delegates that will run it here, by preference."""
    precision: str | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    family: str | None = None
    because: str | None = None
    task: str | None = None
    input: dict[str, Any] | None = None
    class_count: int | None = None
    classes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problem: str | None = None
    exit_code: ExitCode = ExitCode.OK

    @property
    def verdict(self) -> str:
        """One line."""
        if self.problem is not None:
            return f"cannot be used: {self.problem}"
        if self.warnings:
            return f"runs, but {self.warnings[0]}"
        assert self.input is not None
        size = f"{self.input['width']}x{self.input['height']}"
        named = "" if self.classes else ", which have no names: give labels"
        count = len(self.classes) or self.class_count
        classes = f" of {count} {'class' if count == 1 else 'classes'}{named}" if count else ""
        return f"ready: {self.task}{classes} at {size}, {self.precision} by {', '.join(self.providers)}"

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        found = asdict(self) | {"verdict": self.verdict}
        del found["exit_code"]
        return found

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield f"file        {self.file} ({self.bytes / 1e6:.2f} MB)"
        more = ", ".join(part for part in (self.opset, self.producer) if part)
        yield f"format      {self.format}{f' ({more})' if more else ''}"
        if self.parameters is not None:
            yield f"parameters  {self.parameters / 1e6:.2f} million, in {sum(self.operators.values())} operators"
        if self.family is not None:
            yield f"family      {self.family} ({self.because})"
            yield f"task        {self.task}"
        yield from (f"input       {_shown(tensor)}" for tensor in self.inputs)
        if self.input is not None:
            form = self.input
            yield f"picture     {form['layout']}, {form['colour']}, {form['normalisation']}, letterbox {form['letterbox']}"
        yield from (f"output      {_shown(tensor)}" for tensor in self.outputs)
        if self.class_count or self.classes:
            yield f"classes     {self.class_count or len(self.classes)}{_named(self.classes)}"
        if self.runtime is not None:
            yield f"runs on     {self.runtime}, {', '.join(self.providers)}; {self.precision}"
        yield from (f"warning     {warning}" for warning in self.warnings)
        yield f"verdict     {self.verdict}"


def _shown(tensor: dict[str, Any]) -> str:
    quantized = "" if tensor["scale"] is None else f", scale {tensor['scale']:.6g}, zero point {tensor['zero_point']}"
    return f"{tensor['name']} {tensor['shape']} {tensor['dtype']}{quantized}"


def _named(classes: list[str]) -> str:
    if not classes:
        return ", without names"
    rest = len(classes) - _SHOWN_CLASSES
    return f": {', '.join(classes[:_SHOWN_CLASSES])}{f' and {rest} more' if rest > 0 else ''}"


def inspect(file: Path, settings: dict[str, Any]) -> Inspection:
    """Look at a file; ``settings`` are keys of [model]. Raises ConfigError for one that is no model file at all.

    A model that cannot be used is no error here: ``problem`` says why, and ``exit_code`` what the agent would end with.
    """
    path = file.expanduser().absolute()
    tables = {"model": {"path": str(path), **settings}, "cameras": [{"id": "x", "source": "synthetic"}]}
    config = config_file.build(tables, plugins.PluginKinds(), environ={})
    _model_file.check_file(path)
    found = Inspection(redact(str(file)), path.stat().st_size, {"onnx": "ONNX", "tflite": "TFLite"}.get(config.runtime, config.runtime))
    if path.suffix.lower() == ".ort":
        found.format = "ONNX Runtime's own (.ort)"
    try:
        _read(found, path)
        _load(found, config)
    except EdgeAgentError as error:
        found.problem = " ".join(str(error).splitlines())
        found.exit_code = error.exit_code
    return found


def _read(found: Inspection, path: Path) -> None:
    facts = _describe.facts(path)
    if facts is None:
        return
    found.opset, found.producer, found.parameters = facts.opset, facts.producer, facts.parameters
    found.operators = dict(sorted(facts.operators.items(), key=lambda item: -item[1]))
    found.custom_operators = list(facts.custom_operators)


def _load(found: Inspection, config: AgentConfig) -> None:
    answer = _trial.attempt(config, infer=False)
    problem, lasting = answer.pop("problem", None), answer.pop("lasting", True)
    found.providers = [answer.pop("accelerator")]
    for key, value in answer.items():
        setattr(found, key, value)
    if problem is not None:
        raise ConfigError(problem) if lasting else ModelError(problem)
