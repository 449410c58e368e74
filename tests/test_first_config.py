"""The agent.toml of an installation: it must be accepted as it is, whatever was plugged in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_agent import config_file, devices, first_config, plugins
from edge_agent.config import AgentConfig
from edge_agent.sources._v4l2_devices import Device
from tests.conftest import CommandLine


def read(text: str, folder: Path) -> AgentConfig:
    path = folder / "agent.toml"
    path.write_text(text, "utf-8")
    return config_file.load(path, plugins.PluginKinds(), environ={})


def listed(name: str, source: str, chosen: str = "YUYV 640x480", problem: str = "", **more: Any) -> devices.Listed:
    return devices.Listed(
        Device("/dev/video0", name, "uvcvideo", "usb", more.get("role", "camera")), source, chosen=chosen, problem=problem
    )


def test_the_cameras_that_are_there_are_in_it(tmp_path: Path) -> None:
    found = [
        listed("Webcam: C920", "/dev/v4l/by-id/a"),
        listed("Webcam: C920", "/dev/v4l/by-id/b"),
        listed("m", "/dev/video9", role="metadata"),
    ]
    config = read(first_config.generate(cameras=found), tmp_path)
    assert [(c.id, c.settings.source) for c in config.cameras] == [("webcam", "/dev/v4l/by-id/a"), ("webcam-2", "/dev/v4l/by-id/b")]


def test_one_that_cannot_be_opened_is_a_comment(tmp_path: Path) -> None:
    found = [listed("A", "/dev/a", chosen="", problem="permission\ndenied"), listed("B", "/dev/b")]
    text = first_config.generate(cameras=found)
    assert [c.id for c in read(text, tmp_path).cameras] == ["b"]
    assert '#source = "/dev/a"' in text


@pytest.mark.parametrize("found", [[], [listed("A", "/dev/a", chosen="", problem="in use")]])
def test_without_a_camera_a_test_pattern_runs(found: list[devices.Listed], tmp_path: Path) -> None:
    assert [c.settings.source for c in read(first_config.generate(cameras=found), tmp_path).cameras] == ["synthetic"]


def test_names_of_others_break_nothing(tmp_path: Path) -> None:
    found = [listed('ü"]\n[[x]]', '/dev/"\\\n')]
    config = read(first_config.generate(username='a"b\\', cameras=found), tmp_path)
    assert config.cameras[0].settings.source == '/dev/"\\\n'
    assert config.settings.mqtt.username == 'a"b\\'


def test_the_command_line_prints_it(edge_agent: CommandLine) -> None:
    done = edge_agent.run("example", "--short", "--username", "edge")
    (edge_agent.folder / "agent.toml").write_text(done.stdout)
    assert 'username = "edge"' in done.stdout
    assert edge_agent.run("check").returncode == 0
