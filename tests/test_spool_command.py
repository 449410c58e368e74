"""``edge-agent spool`` as a user runs it, with a real file, a real agent and a real broker."""

from __future__ import annotations

import json
from pathlib import Path

from edge_agent.errors import ExitCode
from tests.conftest import CommandLine, Mosquitto, free_port, terminated, wait_until
from tests.integration.test_agent import short_clip, write_config
from tests.subscriber import subscribed
from tests.test_spool import event, opened


def filled(folder: Path, count: int = 20) -> None:
    spool = opened(folder / "state" / "spool")
    for number in range(count):
        spool.put(event(number))
    spool.close()


def test_status_and_export_only_read(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, 1, {"source": "synthetic"})
    assert "nothing is on disk" in edge_agent.run("spool", "status", "-c", config).stdout
    filled(edge_agent.folder)
    [found] = json.loads(edge_agent.run("spool", "status", "--json", "-c", config).stdout)
    assert (found["sink"], found["events"], found["damaged"], found["held_by_an_agent"]) == ("mqtt", 20, 0, False)
    lines = edge_agent.run("spool", "export", "-c", config).stdout.splitlines()
    assert [json.loads(line)["payload"]["n"] for line in lines] == list(range(20))
    [after] = json.loads(edge_agent.run("spool", "status", "--json", "-c", config).stdout)
    assert after["events"] == 20


def test_purge_asks_and_discards(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, 1, {"source": "synthetic"})
    filled(edge_agent.folder)
    assert edge_agent.run("spool", "purge", "-c", config).returncode == 1  # nobody says yes
    assert "20 events discarded" in edge_agent.run("spool", "purge", "--yes", "-c", config).stdout
    assert edge_agent.run("spool", "export", "-c", config).stdout == ""
    missing = edge_agent.run("spool", "purge", "--yes", "--sink", "../mqtt", "-c", config)
    assert missing.returncode == ExitCode.CONFIG
    assert "there are: mqtt" in missing.stderr


def test_a_file_read_to_its_end_with_the_broker_away_is_kept_and_no_failure(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """A service manager must not begin it again (Restart=on-failure): its events are on disk. In memory only they are lost: 69."""
    clip, begun, configs = str(short_clip(tmp_path, 20)), {}, {}
    for durability in ("interval", "memory"):
        command = CommandLine(tmp_path / durability)
        command.folder.mkdir()
        extra = f'[spool]\ndurability = "{durability}"'
        configs[durability] = command, write_config(command.folder, free_port(), {"source": clip}, extra=extra)
        begun[durability] = command.start("run", "-c", configs[durability][1])
    said = {durability: agent.communicate(timeout=60)[1] for durability, agent in begun.items()}
    assert begun["memory"].returncode == ExitCode.UNAVAILABLE
    assert "events lost at shutdown sink=mqtt" in said["memory"]
    assert begun["interval"].returncode == 0, said["interval"]
    assert "events=20" in said["interval"]
    command, _ = configs["interval"]
    config = write_config(command.folder, mosquitto.port, {"source": clip})
    with subscribed(mosquitto.port) as heard:
        assert "20 events delivered" in command.run("spool", "drain", "-c", config).stdout
        wait_until(lambda: len(heard.on("/detections")) == 20)
    assert [message.json["frame_id"] for message in heard.on("/detections")] == list(range(20))


def test_drain_delivers_in_order_and_says_what_is_left(edge_agent: CommandLine, mosquitto: Mosquitto) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": "synthetic"})
    filled(edge_agent.folder)
    with subscribed(mosquitto.port) as heard:
        result = edge_agent.run("spool", "drain", "-c", config)
        assert result.returncode == 0, result.stderr
        assert "20 events delivered" in result.stdout
        wait_until(lambda: len(heard.on("/detections")) == 20)
    assert [message.json["n"] for message in heard.on("/detections")] == list(range(20))
    filled(edge_agent.folder, 3)
    config = write_config(edge_agent.folder, free_port(), {"source": "synthetic"})
    result = edge_agent.run("spool", "drain", "--seconds", "1", "-c", config)
    assert result.returncode == ExitCode.UNAVAILABLE
    assert "3 left" in result.stdout


def test_beside_a_running_agent_what_writes_refuses(edge_agent: CommandLine, mosquitto: Mosquitto) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": "synthetic"})
    with subscribed(mosquitto.port) as heard, terminated(edge_agent.start("run", "-c", config)):
        wait_until(lambda: heard.on("/detections"))
        for command in (("drain",), ("purge", "--yes")):
            refused = edge_agent.run("spool", *command, "-c", config)
            assert refused.returncode == ExitCode.TEMPFAIL
            assert "another edge-agent" in refused.stderr
        [found] = json.loads(edge_agent.run("spool", "status", "--json", "-c", config).stdout)
        assert found["held_by_an_agent"] is True
        health = wait_until(lambda: heard.on("/health"))[-1].json["delivery"]["spool"]
        assert (health["mode"], health["events_on_disk"], health["error"]) == ("interval", 0, None)
