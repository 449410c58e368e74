"""What the heartbeat says of cameras that are online and of no use."""

from __future__ import annotations

import threading

from edge_agent.capture import Capture
from edge_agent.events import ModelInfo
from edge_agent.health import STALE_FOR_S, Health, HealthContext
from edge_agent.models.base import Thresholds
from edge_agent.notify import Notifier
from edge_agent.pipeline import Crew, Pipeline, PipelineContext
from edge_agent.publisher import Publisher
from edge_agent.scheduler import Scheduler
from edge_agent.spool import Spool, SpoolLimits
from tests.conftest import make_config
from tests.test_publisher import ScriptedSink
from tests.test_scheduler_simulated import NoSource


def test_a_camera_whose_frames_are_all_too_old_is_told_of_once_it_lasts() -> None:
    wake = threading.Condition()
    (camera,) = make_config({"cameras": [{"id": "slow", "source": "synthetic", "staleness_ms": 100}]}).cameras
    capture = Capture(camera, NoSource(), wake)
    info = ModelInfo("m", "h", "int8", "r")
    context = PipelineContext("dev", "s", lambda _: None, lambda _: range(10), lambda: True)
    pipeline = Pipeline(context, [Crew(Scheduler([capture], wake), [], {"slow": Thresholds(0.4, 0.5, 10)}, info)])
    publisher = Publisher(ScriptedSink(), Spool(SpoolLimits(10, 1 << 20)))
    health = Health(HealthContext("dev", "s", (info,), "CPU", 10.0), [capture], pipeline, publisher, Notifier({}))

    def reasons(now: float) -> list[str]:
        return [reason for reason in health.heartbeat(now).reasons if "staleness_ms" in reason]

    assert not reasons(1000.0)
    capture.counts.skipped["stale"] += 3
    assert not reasons(1001.0), "it may pass"
    capture.counts.skipped["stale"] += 30
    assert reasons(1000.0 + STALE_FOR_S) == ["camera slow: every frame is older than its staleness_ms when the model is free"]
    capture.counts.served += 1
    assert not reasons(1020.0)
