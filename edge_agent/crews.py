"""From loaded models to what the pipeline runs: each with its cameras and its scheduler, and one governor for all of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge_agent.capture import Capture
from edge_agent.config import AgentConfig, GovernorSettings
from edge_agent.cooling import Cooling
from edge_agent.events import ModelInfo
from edge_agent.governor import Policy
from edge_agent.models._loading import LoadedModel
from edge_agent.models.base import Thresholds
from edge_agent.pipeline import Crew, Pipeline
from edge_agent.publishing import rule_for
from edge_agent.scheduler import Scheduler


@dataclass(frozen=True)
class LoadedCrew:
    """One model, loaded, and the cameras that it looks at."""

    view: AgentConfig
    model: LoadedModel
    captures: Sequence[Capture]
    thresholds: Mapping[str, Thresholds]

    @property
    def usual(self) -> tuple[Sequence[str], float]:
        """The model's labels, and the confidence where nobody gives one."""
        model = self.model.lanes[0]
        return model.labels, model.family.default_confidence

    def crew(self, wake: threading.Condition) -> Crew:
        """With a scheduler that keeps to the model's budget."""
        settings, identity = self.view.settings.model, self.model.identity
        scheduler = Scheduler(self.captures, wake)
        if settings.cpu_budget is not None:
            scheduler.slow_down(min(1.0, settings.cpu_budget / (len(self.model.lanes) * self.model.threads)), "cpu_budget")
        info = ModelInfo(identity.name, identity.sha256, identity.precision, identity.runtime)
        publish = self.view.settings.publish
        rules = {camera.id: rule_for(publish, camera.settings.publish) for camera in self.view.cameras}
        return Crew(scheduler, self.model.lanes, self.thresholds, info, settings.masks, rules)


def only_files(captures: Sequence[Capture]) -> bool:
    """Whether throughput counts and not the age of a frame: all are read as fast as they can be."""
    return all(capture.unpaced for capture in captures)


def cooling_of(settings: GovernorSettings, crews: Sequence[Crew], pipeline: Pipeline) -> Cooling:
    """The governor of all models: they share one chip."""

    def slow_down(share: float) -> None:
        for crew in crews:
            crew.scheduler.slow_down(share)

    def busy(now: float) -> float:
        """Of the model whose lanes are the busiest."""
        used = [0.0] * len(crews)
        for camera, flow in pipeline.flows.items():
            used[flow.crew] += flow.served_rate.rate(now) * crews[flow.crew].scheduler.service_s(camera)
        return max((min(1.0, one / len(crew.lanes)) for one, crew in zip(used, crews, strict=True)), default=0.0)

    policy = Policy(settings.margin_c, settings.target_c, settings.least_share)
    return Cooling(policy if settings.enabled else None, slow_down, busy)
