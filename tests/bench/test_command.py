"""``edge-agent bench`` as a user runs it: real cameras, the real model, a real broker."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from edge_agent.bench.report import PARTS
from tests.conftest import CLIP, CommandLine, Mosquitto, free_port, terminated
from tests.integration.test_agent import write_config
from tests.subscriber import subscribed

LIVE = {"source": str(CLIP), "realtime": True, "loop": True}


def assert_adds_up(camera: dict[str, Any]) -> None:
    lost = sum(camera["skipped"].values()) + sum(camera["dropped"].values())
    assert camera["captured"] == camera["served"] + lost + camera["in_flight"]


def test_the_users_own_configuration_is_measured_and_published(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    dead = {"source": f"rtsp://127.0.0.1:{free_port()}/none", "id": "dead"}
    config = write_config(edge_agent.folder, mosquitto.port, LIVE, {"source": "synthetic", "max_fps": 5}, dead)
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("bench", "-c", config, "--seconds", "3", "--json", "--picture", "stages.html")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    cameras = {camera["camera"]: camera for camera in found["cameras"]}
    for camera in cameras.values():
        assert_adds_up(camera)
    assert cameras["cam0"]["decoder"].startswith("h264")
    assert all(cameras["cam0"]["parts_ms"][part] for part in PARTS)
    assert cameras["cam0"]["parts_ms"]["decode"]["p50"] > 0
    assert cameras["cam1"]["limit"] == "max_fps"
    assert cameras["cam1"]["skipped"]["max_fps"] > 10
    assert cameras["dead"]["captured"] == 0
    assert any("dead: not reached" in line for line in found["advice"])
    assert found["broker"]["connected"]
    assert 0 < found["broker"]["delivered"] <= len(heard.on("/detections"))
    assert found["cpu_s"]["model"] > 0
    assert found["cpu_s"]["capture and decode"] > 0
    assert 2.9 <= found["seconds"] < 6
    assert "<svg" in (edge_agent.folder / "stages.html").read_text()


def test_without_a_broker_it_goes_on_and_says_so(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, free_port(), LIVE)
    done = edge_agent.run("bench", "-c", config, "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "was not reached" in done.stdout
    assert "captured =" in done.stdout


def test_published_nowhere_events_are_counted(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, LIVE)
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("bench", "-c", config, "--seconds", "2", "--no-publish", "--json")
    found = json.loads(done.stdout)
    assert found["broker"]["delivered"] > 5
    assert not found["broker"]["publishing"]
    assert heard.heard == []


def test_a_file_that_ends_is_measured_to_its_end(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, free_port(), {"source": str(CLIP)})
    done = edge_agent.run("bench", "-c", config, "--seconds", "50", "--no-publish", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["stopped_early"] == "every source has ended"
    assert found["cameras"][0]["served"] > 100
    assert found["cameras"][0]["limit"] in {"model", "decode", "CPU"}


def test_no_camera_at_all_is_told_with_69(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, free_port(), {"source": f"rtsp://127.0.0.1:{free_port()}/none"})
    done = edge_agent.run("bench", "-c", config, "--seconds", "5", "--no-publish")
    assert done.returncode == 69
    assert "no camera was reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_between_it_tells_what_it_has(edge_agent: CommandLine, number: signal.Signals) -> None:
    # What it is told to publish to this broker shows that frames are served, and so that measuring has begun or is about to.
    config = write_config(edge_agent.folder, free_port(), LIVE)
    with terminated(edge_agent.start("bench", "-c", config, "--seconds", "500", "--no-publish", "--picture", "a.png")) as process:
        state = edge_agent.folder / "state"
        _wait_for_frames(state)
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    if process.returncode == 0:
        assert "stopped; 500 s were asked for" in output
        assert (edge_agent.folder / "a.png").stat().st_size > 1000
    else:
        assert "stopped before anything was measured" in errors


def _wait_for_frames(state: Path) -> None:
    from tests.conftest import wait_until

    wait_until(lambda: state.exists() and any(state.iterdir()), 20, "the agent's state")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--seconds", "0"), "--seconds"), (("--seconds", "-3"), "--seconds"), (("--seconds", "nan"), "--seconds"),
        (("--picture", "a.gif"), ".png or .html"), (("--picture", "none/a.png"), "cannot be written"),
        (("--picture", "/proc/a.png"), "cannot be written"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_starts(edge_agent: CommandLine, arguments: tuple[str, ...], word: str) -> None:
    config = write_config(edge_agent.folder, free_port(), LIVE)
    done = edge_agent.run("bench", "-c", config, *arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert not (edge_agent.folder / "state").exists()
