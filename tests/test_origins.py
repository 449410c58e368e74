"""Secrets: told where they come from and who else can get at them, never what they are."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent import config_file, plugins
from edge_agent.config import AgentConfig
from edge_agent.credential_paths import expanded
from edge_agent.errors import ConfigError
from edge_agent.origins import loose, origins
from tests.conftest import CommandLine

SECRET = "Sesame-of-" + "nobody"


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody on the machine may enter, as /etc/edge-agent is; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


def configured(folder: Path, text: str, environ: dict[str, str] | None = None) -> AgentConfig:
    path = folder / "agent.toml"
    path.write_text(text + '\n[[cameras]]\nid = "front"\nsource = "synthetic"\n')
    path.chmod(0o644)
    return config_file.load(path, plugins.PluginKinds(), environ or {})


def told(config: AgentConfig, environ: dict[str, str] | None = None) -> list[str]:
    found = origins(config, environ or {})
    assert not [origin for origin in found if SECRET in f"{origin} {origin.warning}"]
    return [str(origin) for origin in found]


def test_the_brokers_password_from_each_of_its_places(folder: Path) -> None:
    assert told(configured(folder, "")) == []
    assert told(configured(folder, '[mqtt]\nusername = "edge"')) == [
        "mqtt.password: from nowhere: there is neither mqtt.password_file nor a credential mqtt_password"
    ]
    given = {"CREDENTIALS_DIRECTORY": str(folder)}
    (folder / "mqtt_password").write_text(SECRET)
    assert told(configured(folder, '[mqtt]\nusername = "edge"'), given) == ["mqtt.password: from systemd's credential mqtt_password"]
    config = configured(folder, '[mqtt]\nusername = "edge"\npassword_file = "mqtt_password"')
    assert told(config, given) == [f"mqtt.password: from the file {folder}/mqtt_password"]
    config = configured(folder, f'[mqtt]\nusername = "edge"\npassword = "{SECRET}"')
    assert told(config) == [f"mqtt.password: from {folder}/agent.toml:3"]
    environ = {"EDGE_AGENT_MQTT__PASSWORD": SECRET, "EDGE_AGENT_MQTT__USERNAME": "edge"}
    assert told(configured(folder, "", environ), environ) == [
        "mqtt.password: from the environment variable EDGE_AGENT_MQTT__PASSWORD",
        "mqtt.username: from the environment variable EDGE_AGENT_MQTT__USERNAME",
    ]


def test_keys_headers_and_cameras_have_secrets_too(folder: Path) -> None:
    text = f"""
[mqtt.websocket]
headers = {{ X-Token = "{SECRET}" }}
[mqtt.tls]
cert_file = "client.pem"
key_file = "client.key"
[[cameras]]
id = "yard"
source = "rtsp://user:{SECRET}@yard.local/"
[[cameras]]
id = "door"
source = "rtsp://door.local/"
username = "user"
password_file = "credential:door_password"
"""
    assert told(configured(folder, text)) == [
        f"mqtt.tls.key_file: from the file {folder}/client.key",
        f"mqtt.websocket.headers.X-Token: from {folder}/agent.toml:3",
        f"cameras[0].source (a secret in its address): from {folder}/agent.toml:9",
        "cameras[1].password: from systemd's credential door_password",
    ]


def test_what_the_environment_sets_is_told_with_its_variable(folder: Path) -> None:
    environ = {"EDGE_AGENT_CAMERAS__0__MAX_FPS": "5", "EDGE_AGENT_MQTT__HOST": "b", "EDGE_AGENT_CONFIG": "x", "HOME": "/"}
    assert told(configured(folder, "", environ), environ) == [
        "cameras[0].max_fps: from the environment variable EDGE_AGENT_CAMERAS__0__MAX_FPS",
        "mqtt.host: from the environment variable EDGE_AGENT_MQTT__HOST",
    ]


@pytest.mark.parametrize(
    ("mode", "parent", "warning"),
    [
        (0o600, 0o755, None), (0o400, 0o755, None), (0o640, 0o755, None), (0o644, 0o750, None),
        (0o644, 0o755, "can be read by everybody"), (0o604, 0o711, "can be read by everybody"),
        (0o660, 0o755, "can be written by others"), (0o602, 0o755, "can be written by others"), (0o602, 0o700, None),
    ],
)  # fmt: skip
def test_who_else_can_get_at_a_file(folder: Path, mode: int, parent: int, warning: str | None) -> None:
    file = folder / "inner" / "secret"
    file.parent.mkdir()
    file.write_text(SECRET)
    file.chmod(mode)
    file.parent.chmod(parent)
    assert (warning or "") in (loose(file) or "")
    assert (loose(file) is None) == (warning is None)
    file.parent.chmod(0o755)


def test_a_file_that_is_not_there_is_somebody_elses_complaint(folder: Path) -> None:
    assert loose(folder / "nothing") is None


def test_a_password_in_a_file_that_all_may_read_is_warned_of(folder: Path) -> None:
    config = configured(folder, f'[mqtt]\nusername = "edge"\npassword = "{SECRET}"')
    (found,) = origins(config, {})
    assert found.warning == f"{folder}/agent.toml can be read by everybody on this machine: chmod o-r {folder}/agent.toml"


def test_a_credential_is_a_file_of_the_service_manager() -> None:
    given = {"CREDENTIALS_DIRECTORY": "/run/credentials/edge-agent.service"}
    assert expanded("credential:door", given) == "/run/credentials/edge-agent.service/door"
    assert expanded("secrets/door", given) == "secrets/door"
    with pytest.raises(ConfigError, match="name door and its file in a LoadCredential= line of the unit"):
        expanded("credential:door", {})


@pytest.mark.parametrize("name", ["", "../door", "a/b", ".hidden", "a b", "x" * 256, "a\0b"])
def test_a_name_that_is_none_never_becomes_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="names no credential"):
        expanded(f"credential:{name}", {"CREDENTIALS_DIRECTORY": "/run"})


def test_check_tells_it_and_uses_it(folder: Path, edge_agent: CommandLine) -> None:
    (folder / "broker").write_text(SECRET)
    (folder / "broker").chmod(0o644)
    config = configured(folder, '[mqtt]\nusername = "edge"\npassword_file = "credential:broker"', {})
    assert config.path is not None
    done = edge_agent.run("check", "-c", str(config.path), env={"CREDENTIALS_DIRECTORY": str(folder)})
    assert done.returncode == 0, done.stderr
    assert "mqtt.password: from systemd's credential broker" in done.stdout
    without = edge_agent.run("check", "-c", str(config.path))
    assert without.returncode == 78
    assert "name broker and its file in a LoadCredential= line of the unit" in without.stderr
    assert SECRET not in done.stdout + done.stderr + without.stdout + without.stderr
    config.path.write_text(config.path.read_text().replace("credential:broker", "broker"))
    loosely = edge_agent.run("check", "-c", str(config.path))
    assert loosely.returncode == 0
    assert f"warning: mqtt.password: {folder}/broker can be read by everybody" in loosely.stderr
