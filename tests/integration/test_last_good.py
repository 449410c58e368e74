"""A boot with an agent.toml that is wrong: 78 with the reason, or, where the owner asked for it, what ran last."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edge_agent.last_good import FILE
from tests.conftest import CommandLine, Mosquitto, free_port, terminated, wait_until
from tests.integration.test_agent import write_config
from tests.subscriber import subscribed

CAMERA = {"source": "synthetic", "fps": 20, "max_fps": 7}
STATE = {"STATE_DIRECTORY": "kept"}


def run_until_kept(edge_agent: CommandLine, config: str, environment: dict[str, str]) -> Path:
    """The file with what ran; however long a start takes here."""
    kept = edge_agent.folder / "kept" / FILE
    with terminated(edge_agent.start("run", "-c", config, env=environment)) as agent:
        wait_until(kept.is_file)
        agent.terminate()
        _, log = agent.communicate(timeout=10)
    assert agent.returncode == 0, log
    return kept


def test_a_file_that_is_wrong_ends_the_start_with_78_unless_the_owner_asked_for_the_last_good_one(
    mosquitto: Mosquitto, edge_agent: CommandLine
) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, CAMERA)
    asked = {**STATE, "EDGE_AGENT_LAST_GOOD": "1"}
    good = (edge_agent.folder / config).read_text()
    (edge_agent.folder / config).write_text(good + "nonsense = 1\n")
    for environment in (STATE, asked):
        assert edge_agent.run("run", "-c", config, "--seconds", "1", env=environment).returncode == 78, "nothing was kept yet"
    (edge_agent.folder / config).write_text(good)
    kept = run_until_kept(edge_agent, config, asked)
    assert kept.read_text() == good
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    written = kept.stat().st_ino
    assert edge_agent.run("run", "-c", config, "--seconds", "1", env=asked).returncode == 0
    assert kept.stat().st_ino == written, "the same is not written again"
    (edge_agent.folder / config).write_text(good.replace("max_fps = 7", "max_fps = -7\nnonsense = 1"))
    with subscribed(mosquitto.port) as heard, terminated(edge_agent.start("run", "-c", config, env=asked)) as agent:
        health = wait_until(lambda: [m.json for m in heard.on("/health") if m.json["reasons"]])[0]
        assert health["verdict"] == "degraded"
        assert health["reasons"][0].startswith("configuration refused, that of 20")
        wait_until(lambda: heard.on("cam0/detections"))
        agent.terminate()
        _, log = agent.communicate(timeout=10)
    assert log.count("configuration refused, the last good one runs") == 2
    assert "agent.toml:" in log
    assert kept.read_text() == good, "what is wrong is not kept"
    refused = edge_agent.run("run", "-c", config, env=STATE)
    assert refused.returncode == 78
    assert "nonsense" in refused.stderr


def test_a_model_that_is_gone_counts_as_wrong(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, free_port(), CAMERA)
    asked = {**STATE, "EDGE_AGENT_LAST_GOOD": "1"}
    run_until_kept(edge_agent, config, asked)
    text = (edge_agent.folder / config).read_text()
    (edge_agent.folder / config).write_text(text + '[model]\npath = "gone.onnx"\n')
    done = edge_agent.run("run", "-c", config, "--seconds", "1", env=asked)
    assert done.returncode == 0, done.stderr
    assert "gone.onnx" in done.stderr


@pytest.mark.parametrize("content", [b"", b"\xff", b"nonsense = 1", b"[[["])
def test_what_was_kept_and_is_damaged_is_no_configuration(edge_agent: CommandLine, content: bytes) -> None:
    config = write_config(edge_agent.folder, free_port(), CAMERA, extra="nonsense = 1")
    Path(edge_agent.folder / "kept").mkdir()
    (edge_agent.folder / "kept" / FILE).write_bytes(content)
    done = edge_agent.run("run", "-c", config, "--last-good", env=STATE)
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
