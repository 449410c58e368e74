"""The thermal loop closed: a machine's tree at one end, the real scheduler and the heartbeat at the other."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from pathlib import Path

import jsonschema
import pytest
from pydantic import TypeAdapter

from edge_agent.config import GovernorSettings
from edge_agent.cooling import Cooling
from edge_agent.crews import cooling_of
from edge_agent.encoding import schemas
from edge_agent.events import ModelInfo
from edge_agent.governor import Policy
from edge_agent.health_event import GovernorHealth
from edge_agent.machine import MachineWatch
from edge_agent.pipeline import Crew, Pipeline, PipelineContext
from edge_agent.scheduler import Scheduler

MACHINES = Path(__file__).parent / "data" / "machines"
TEMP = "sys/class/thermal/thermal_zone0/temp"
THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    return shutil.copytree(MACHINES / "pi4", tmp_path / "root")


def _cooling(root: Path, scheduler: Scheduler | None = None, policy: Policy | None = Policy()) -> Cooling:  # noqa: B008 - immutable
    scheduler = scheduler or Scheduler([], threading.Condition())
    return Cooling(policy, scheduler.slow_down, watch=MachineWatch(root), utc=lambda: 1_700_000_000.0)


def _run(cooling: Cooling, begin: int, end: int) -> int:
    """Tick as the health thread does; returns how often the share changed."""
    return sum(cooling.tick(begin + half / 2) for half in range((end - begin) * 2))


def test_a_hot_pi_is_slowed_told_and_let_go_again(pi: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scheduler = Scheduler([], threading.Condition())
    cooling = _cooling(pi, scheduler)
    assert _run(cooling, 0, 60) == 0
    assert cooling.reasons(60) == []
    (pi / TEMP).write_text("78876\n")
    assert _run(cooling, 60, 120) > 0
    share = cooling.decision.share
    assert scheduler.share == share < 1
    health = cooling.health()
    assert (health.share, health.cause, health.zone, health.trip_c, health.target_c) == (share, "temperature", "cpu-thermal", 80.0, 77.0)
    assert cooling.reasons(120) == [f"governor: inference takes {share:.0%} of the time because of its temperature at 79 C"]
    assert "cause=temperature temperature=78.9C trip=80.0C zone='cpu-thermal'" in caplog.text
    (pi / TEMP).write_text("50000\n")
    _run(cooling, 120, 2400)
    assert scheduler.share == 1.0
    assert cooling.reasons(2400) == []
    assert cooling.health().cause == "none"
    assert "inference takes share=1.00" in caplog.text


def test_changes_within_seconds_are_one_line(pi: Path, caplog: pytest.LogCaptureFixture) -> None:
    cooling = _cooling(pi)
    (pi / TEMP).write_text("83000\n")
    (pi / THROTTLED).write_text("6\n")
    changes = _run(cooling, 0, 60)
    lines = [record for record in caplog.records if "inference takes" in record.message]
    assert changes >= 5
    assert 1 <= len(lines) <= 6
    assert len(lines) < changes


def test_a_weak_supply_is_told_and_stays_in_the_heartbeat(pi: Path, caplog: pytest.LogCaptureFixture) -> None:
    cooling = _cooling(pi)
    _run(cooling, 0, 10)
    (pi / THROTTLED).write_text("50005\n")
    _run(cooling, 10, 14)
    (pi / THROTTLED).write_text("0\n")
    _run(cooling, 14, 30)
    health = cooling.health()
    assert (health.cause, health.under_voltage, health.under_voltage_seen) == ("under_voltage", False, True)
    assert health.throttled is not None
    assert health.throttled.now == []
    assert health.throttled.seen == ["under_voltage", "throttled"]
    assert [record.message for record in caplog.records if "power supply" in record.message] == [
        "the power supply is too weak: under-voltage; use a stronger one, or a shorter and thicker cable"
    ]


def test_where_it_is_switched_off_it_only_tells(pi: Path) -> None:
    scheduler = Scheduler([], threading.Condition())
    cooling = _cooling(pi, scheduler, policy=None)
    (pi / TEMP).write_text("85000\n")
    (pi / THROTTLED).write_text("4\n")
    assert _run(cooling, 0, 120) == 0
    assert scheduler.share == 1.0
    assert cooling.reasons(120) == ["governor: the machine is throttled for heat (firmware)"]
    assert not cooling.health().enabled


@pytest.mark.parametrize("machine", sorted(path.name for path in MACHINES.iterdir()))
def test_every_machine_as_it_is_is_left_alone_and_told_by_the_schema(machine: str) -> None:
    cooling = _cooling(MACHINES / machine)
    assert _run(cooling, 0, 600) == 0
    assert cooling.reasons(600) == []
    health = json.loads(TypeAdapter(GovernorHealth).dump_json(cooling.health()))
    whole = schemas()["health"]
    jsonschema.validate(health, {"$ref": "#/$defs/GovernorHealth", "$defs": whole["$defs"]})
    assert (health["temperature_c"] is None) == (machine == "container")


def test_a_machine_that_goes_dark_harms_nothing(pi: Path) -> None:
    cooling = _cooling(pi)
    (pi / TEMP).write_text("78000\n")
    _run(cooling, 0, 60)
    assert cooling.decision.share < 1
    for content in ("", "-273000", "200000", "0"):
        (pi / TEMP).write_text(content)
        _run(cooling, 60, 62)
    shutil.rmtree(pi)
    _run(cooling, 62, 3600)
    assert cooling.decision.share == 1.0
    assert cooling.health().temperature_c is None


def test_the_agent_slows_every_model_and_can_be_told_to_let_them_be() -> None:
    wake = threading.Condition()
    info = ModelInfo("m", "0" * 64, "int8", "LiteRT")
    crews = [Crew(Scheduler([], wake), [], {}, info) for _ in range(2)]
    context = PipelineContext("device", "stream", lambda _: None, lambda _: range(1), lambda: True)
    cooling = cooling_of(GovernorSettings(), crews, Pipeline(context, crews))
    cooling._slow_down(0.5)
    assert [crew.scheduler.share for crew in crews] == [0.5, 0.5]
    assert cooling.health().enabled
    assert not cooling_of(GovernorSettings(enabled=False), crews, Pipeline(context, crews)).health().enabled
