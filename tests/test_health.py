"""What the heartbeat says of cameras that are online and of no use."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from jsonschema import Draft202012Validator

from edge_agent.capture import Capture
from edge_agent.encoding import encode, schemas
from edge_agent.errors import MemoryExceeded
from edge_agent.events import ModelInfo
from edge_agent.health import STALE_FOR_S, Health, HealthContext
from edge_agent.memory_ceiling import MemoryCeiling
from edge_agent.models.base import Thresholds
from edge_agent.notify import Notifier
from edge_agent.pipeline import Crew, Pipeline, PipelineContext
from edge_agent.publisher import Publisher
from edge_agent.readers.base import ReaderContext
from edge_agent.scheduler import Scheduler
from edge_agent.spool import Spool, SpoolLimits
from edge_agent.sysfs import Tree
from edge_agent.vitals import Vitals
from tests.conftest import make_config, wait_until
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


def a_line(sink: ScriptedSink | None = None, vitals: Vitals | None = None) -> tuple[Health, Pipeline, Publisher]:
    """Without cameras at work: one that waits."""
    wake = threading.Condition()
    (camera,) = make_config({"cameras": [{"id": "c", "source": "synthetic"}]}).cameras
    capture = Capture(camera, NoSource(), wake)
    info = ModelInfo("m", "h", "int8", "r")
    context = PipelineContext("dev", "s", lambda _: None, lambda _: range(10), lambda: True)
    pipeline = Pipeline(context, [Crew(Scheduler([capture], wake), [], {"c": Thresholds(0.4, 0.5, 10)}, info)])
    publisher = Publisher(sink or ScriptedSink(), Spool(SpoolLimits(10, 1 << 20)))
    context_of_health = HealthContext("dev", "s", (info,), "CPU", 10.0)
    return Health(context_of_health, [capture], pipeline, publisher, Notifier({}), vitals=vitals), pipeline, publisher


def test_a_note_degrades_until_it_is_taken_back() -> None:
    health, _, publisher = a_line()
    publisher.connected = True
    assert health.heartbeat(0.0).verdict == "ok"
    health.note("configuration", "configuration refused")
    found = health.heartbeat(1.0)
    assert (found.verdict, found.reasons) == ("degraded", ["configuration refused"])
    health.note("configuration", None)
    assert health.heartbeat(2.0).verdict == "ok"


def test_memory_over_its_limit_ends_the_line_with_the_reason() -> None:
    ceiling = MemoryCeiling(64.0)
    health, pipeline, publisher = a_line(vitals=Vitals(ReaderContext(), [], ceiling=ceiling))
    publisher.start()
    health.start()
    assert pipeline.finished.wait(10)
    assert isinstance(pipeline.failure, MemoryExceeded)
    assert health.heartbeat(0.0, stopped=True).reasons == [str(pipeline.failure)]
    health.stop(5)
    publisher.stop(1)


def test_a_publisher_that_has_ended_is_the_end_of_everything() -> None:
    health, _, publisher = a_line()
    publisher.start()
    publisher.stop(5)
    health.start()
    try:
        wait_until(lambda: health.report().reasons[:1] == ["publisher: has ended"])
        assert health.report().verdict == "failing"
    finally:
        health.stop(5)


def test_the_heartbeat_tells_the_machine_by_its_readers() -> None:
    root = Path(__file__).parent / "data" / "machines" / "pi5"
    health, _, publisher = a_line(vitals=Vitals(ReaderContext(Tree(root), state_dir=Path.cwd())))
    publisher.connected = True
    assert health.heartbeat(0.0).host.system is not None
    found = json.loads(encode(health.report()).payload)
    assert found["host"]["system"]["boot_id"] == "9b0e6d3a-55f2-4f0e-8d2b-0a8f6f7f1c02"
    assert found["host"]["network"]["default_route"] == "eth0"
    assert found["process"]["children"] == 2
    Draft202012Validator(schemas()["health"]).validate(found)
