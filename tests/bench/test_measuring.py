"""The agent that is measured, in this process, where something can be done to it meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

from edge_agent.bench import measuring
from edge_agent.bench.judging import judged
from tests.conftest import free_port, make_config, wait_until


def test_a_governor_that_slows_down_meanwhile_is_told_as_the_limit_by_what_it_left_on_the_average(tmp_path: Path) -> None:
    tables = {
        "device": {"id": "dev", "state_dir": str(tmp_path / "state")},
        "mqtt": {"host": "127.0.0.1", "port": free_port()},
        "model": {"lanes": 1, "threads": 1},
        "cameras": [{"id": "test", "source": "synthetic"}],
    }
    started = threading.Event()
    agent = measuring.MeasuredAgent(make_config(tables), started, publish=False)
    with measuring._running(agent) as worker:
        measuring._wait_started(started, worker)
        measuring._warm(agent, worker)
        assert agent.line is not None
        crew = agent.line.pipeline.crews[0]
        crew.scheduler.slow_down(0.05)  # as the governor does when the chip is hot
        wait_until(lambda: agent.captures[0].snapshot().skipped["model_busy"] > 5, 20, "frames for which the model has no time")
        agent.begin_anew()
        early = measuring._watch(agent, worker, 3.0, lambda *_: None)
        found = judged(measuring._told(agent, measuring.Request(3.0, publish=False), early))
    assert found.models[0].shares == {"governor": 0.05}
    assert (found.models[0].held_by, found.cameras[0].limit) == ("governor", "governor")
    assert found.cameras[0].served_fps < 0.5 * found.cameras[0].real_fps
    assert any("the governor lets oid_int8_pp work 5 % of the time" in line for line in found.advice)
