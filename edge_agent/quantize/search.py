"""The fastest plan that holds the target: plans in the order of their speed, each mended until it holds or gives up its gain."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edge_agent.errors import ModelError
from edge_agent.quantize import correction, timing
from edge_agent.quantize.accuracy import Accuracy, Judge
from edge_agent.quantize.graph import Graph
from edge_agent.quantize.insertion import Types, insert, tensors
from edge_agent.quantize.plans import Plan
from edge_agent.quantize.ranges import Histogram, Range, every_method
from edge_agent.quantize.sessions import Session
from edge_agent.quantize.simulation import Simulation, best_methods
from edge_agent.runtimes.base import Tensor

if TYPE_CHECKING:
    from onnx import ModelProto

REFERENCE = "float"
_PLAN_ROUNDS, _RESULT_ROUNDS = 40, 80
_LOOKED_AT = 8
"""Pictures on which single tensors are judged."""
_CORRECTED_ON = 24
_WORTH = 1.02
"""Times faster than float below which a plan is not looked at."""
_STEPS = (2, 4, 8, 16, 32, 64)
"""So many of the worst tensors go back to float, until the target holds."""


@dataclass
class Candidate:
    """A quantized model, and how it came to be."""

    plan: Plan
    model: ModelProto
    nodes: frozenset[str]
    """In INT8."""
    accuracy: Accuracy
    ranges: Mapping[str, Range]
    method: str
    """Of calibration, for all tensors but those in ``methods``."""
    methods: dict[str, str] = field(default_factory=dict)
    bias_corrected: bool = False
    speed: timing.Speed = field(default_factory=lambda: timing.Speed(0.0, 0.0))


@dataclass(frozen=True)
class Goal:
    """What is asked for, and with what."""

    target_drop: float
    threads: int
    types: Types
    same_machine: bool
    """Whether the result is for this machine, so that its speed here counts."""
    deadline: float
    """Monotonic seconds after which nothing more is tried."""


@dataclass
class Search:
    """State of one search. ``say`` is told in a line what is being done."""

    reference: ModelProto
    """The user's file."""
    judge: Judge
    histograms: dict[str, Histogram]
    pictures: Sequence[Tensor]
    goal: Goal
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    damages: dict[str, float] = field(default_factory=dict)
    """1 - agreement that a tensor costs alone, by tensor: of the last plan that had to be looked into."""
    layers: dict[str, correction.LayerError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_method = every_method(self.histograms)

    def best(self, plans: Sequence[Plan]) -> Candidate | None:
        """The fastest that holds the target; else the one that misses it least; None where no plan is worth a try."""
        found: Candidate | None = None
        missed: Candidate | None = None
        for plan, speed in self._by_speed(plans):
            enough = found is not None and (found.speed.ratio >= speed.ratio or not self.goal.same_machine)
            if enough or (self._is_late() and (found or missed)):
                break
            is_slower = self.goal.same_machine and speed.ratio < _WORTH  # nothing is faster: only to say by how much it fails
            candidate = self._calibrated(plan) if is_slower else self._mended(plan)
            candidate.speed = self._speed(candidate.model, _RESULT_ROUNDS)
            short = self._shortfall(candidate.accuracy)
            self.say(f"{plan.name}: {candidate.speed.ratio:.2f}x, {'holds' if short <= 0 else 'misses'} the target")
            if short > 0:
                missed = candidate if missed is None or short < self._shortfall(missed.accuracy) else missed
            elif found is None or candidate.speed.ratio > found.speed.ratio:
                found = candidate
        return found or missed

    def _by_speed(self, plans: Sequence[Plan]) -> list[tuple[Plan, timing.Speed]]:
        """Plans that are faster than float here, the fastest first; all of them, in their order, for another machine."""
        models: dict[str, ModelProto] = {}
        for plan in plans:
            model = self._insert(plan.model, plan.nodes, self._by_method["min-max"])
            try:
                Session(model).run({model.graph.input[0].name: self.pictures[0]})
            except ModelError as error:
                self.say(f"{plan.name}: left out, {error}")
                continue
            models[plan.name] = model
        if not self.goal.same_machine:
            return [(plan, timing.Speed(0.0, 1.0)) for plan in plans if plan.name in models]
        self.say(f"timing {len(models)} plans")
        speeds = timing.measure(
            {REFERENCE: self.reference, **models}, REFERENCE, self.pictures[0], threads=self.goal.threads, rounds=_PLAN_ROUNDS
        )
        pairs = [(plan, speeds[plan.name]) for plan in plans if plan.name in models]
        for plan, speed in pairs:
            self.say(f"  {plan.name}: {speed.ms:.1f} ms, {speed.ratio:.2f}x")
        worth = [pair for pair in pairs if pair[1].ratio >= _WORTH]
        return sorted(worth, key=lambda pair: -pair[1].ratio) or sorted(pairs, key=lambda pair: -pair[1].ratio)[:1]

    def _mended(self, plan: Plan) -> Candidate:
        """The plan with the calibration that suits it, and with as little left in float as the target needs."""
        candidate = self._calibrated(plan)
        if self._shortfall(candidate.accuracy) <= 0:
            return candidate
        candidate = self._bias_corrected(candidate)
        if self._shortfall(candidate.accuracy) <= 0 or self._is_late():
            return candidate
        self.say(f"{plan.name}: looking for the tensors that cost most")
        worst, candidate = self._tensor_by_tensor(candidate)
        for count in _STEPS:
            if self._shortfall(candidate.accuracy) <= 0 or self._is_late() or count // 2 >= len(worst):
                break
            candidate = self._with_float(candidate, worst[:count])
        return candidate

    def _calibrated(self, plan: Plan) -> Candidate:
        """The one method that suits the plan best."""
        trials = []
        for method, ranges in self._by_method.items():
            model = self._insert(plan.model, plan.nodes, ranges)
            trials.append(Candidate(plan, model, plan.nodes, self.judge.accuracy(model), ranges, method))
            self.say(f"{plan.name}, {method}: {_shown(trials[-1].accuracy)}")
        holding = [trial for trial in trials if self._shortfall(trial.accuracy) <= 0]
        return max(holding or trials, key=lambda trial: trial.accuracy.merit)

    def _bias_corrected(self, candidate: Candidate) -> Candidate:
        """With the layers' mean errors taken off their biases, if that helps."""
        some = self.pictures[:_CORRECTED_ON]
        self.layers = correction.layer_errors(candidate.plan.model, sorted(candidate.nodes), candidate.ranges, some)
        model = correction.corrected(candidate.plan.model, self.layers)
        trial = self._rebuilt(replace(candidate, plan=replace(candidate.plan, model=model), bias_corrected=True))
        self.say(f"{candidate.plan.name}, bias correction: {_shown(trial.accuracy)}")
        return trial if self._is_better(trial, candidate) else candidate

    def _tensor_by_tensor(self, candidate: Candidate) -> tuple[list[str], Candidate]:
        """The tensors, the worst first, and the candidate with a method of its own for those that gain by it."""
        names = tensors(Graph(candidate.plan.model), candidate.nodes)
        simulation = Simulation(candidate.plan.model, names, self.judge, _LOOKED_AT)
        self.damages = simulation.rank(candidate.ranges, lambda _done, _of: None)
        chosen = best_methods(simulation, self.damages, self._by_method, candidate.method)
        if chosen:
            ranges = {**candidate.ranges, **{name: self._by_method[method][name] for name, method in chosen.items()}}
            trial = self._rebuilt(replace(candidate, ranges=ranges, methods=chosen))
            self.say(f"{candidate.plan.name}, {len(chosen)} tensors with a method of their own: {_shown(trial.accuracy)}")
            if self._is_better(trial, candidate):
                candidate = trial
        return list(self.damages), candidate

    def _with_float(self, candidate: Candidate, worst: Sequence[str]) -> Candidate:
        graph = Graph(candidate.plan.model)
        around = {node.name for name in worst for node in (*graph.consumers.get(name, []), graph.producer.get(name)) if node is not None}
        nodes = candidate.nodes - around
        if not nodes or nodes == candidate.nodes:
            return candidate
        trial = self._rebuilt(replace(candidate, nodes=nodes))
        self.say(f"{candidate.plan.name}, {len(worst)} worst tensors in float: {_shown(trial.accuracy)}")
        return trial if self._is_better(trial, candidate) else candidate

    def _rebuilt(self, candidate: Candidate) -> Candidate:
        model = self._insert(candidate.plan.model, candidate.nodes, candidate.ranges)
        return replace(candidate, model=model, accuracy=self.judge.accuracy(model))

    def _insert(self, model: ModelProto, nodes: Collection[str], ranges: Mapping[str, Range]) -> ModelProto:
        return insert(model, nodes, ranges, self.goal.types)

    def _speed(self, model: ModelProto, rounds: int) -> timing.Speed:
        models = {REFERENCE: self.reference, "quantized": model}
        return timing.measure(models, REFERENCE, self.pictures[0], threads=self.goal.threads, rounds=rounds)["quantized"]

    def _shortfall(self, accuracy: Accuracy) -> float:
        return self.judge.shortfall(accuracy, self.goal.target_drop)

    def _is_better(self, trial: Candidate, than: Candidate) -> bool:
        """Holding the target counts first."""
        one, other = self._shortfall(trial.accuracy) <= 0, self._shortfall(than.accuracy) <= 0
        return one > other if one != other else trial.accuracy.merit > than.accuracy.merit

    def _is_late(self) -> bool:
        return self.clock() > self.goal.deadline


def fastest_float(variants: Mapping[str, ModelProto], picture: Tensor, threads: int) -> str:
    """Which of some equal float graphs runs fastest."""
    first = next(iter(variants))
    if len(variants) == 1:
        return first
    speeds = timing.measure(variants, first, picture, threads=threads, rounds=_RESULT_ROUNDS)
    return max(speeds, key=lambda name: speeds[name].ratio)


def _shown(accuracy: Accuracy) -> str:
    labelled = "" if accuracy.ap is None else f"AP {accuracy.ap:.3f}, AP50 {accuracy.ap50:.3f}, "
    return f"{labelled}agreement {accuracy.agreement:.3f}"
