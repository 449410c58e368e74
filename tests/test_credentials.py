"""Secrets: where they come from, in which order, and that only their file is ever named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from edge_agent.config_delivery import MqttSettings
from edge_agent.credentials import mqtt_password, read_secret
from edge_agent.errors import ConfigError


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"Sesame", "Sesame"),
        (b"Sesame\n", "Sesame"),
        (b"Sesame\r\nsecond line\n", "Sesame"),
        (b" blanks stay ", " blanks stay "),
        ("sésame€".encode(), "sésame€"),
    ],
)
def test_the_secret_is_the_first_line_as_it_is(tmp_path: Path, content: bytes, secret: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    assert read_secret(tmp_path / "secret", "key") == secret


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1))
def test_any_one_line_secret_comes_back(tmp_path_factory: pytest.TempPathFactory, secret: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any-secret"
    file.write_bytes(secret.encode() + b"\n")
    assert read_secret(file, "key") == secret


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"", "holds nothing"), (b"\nSesame", "holds nothing"), (b"Sesame\xff", "not UTF-8")],
)
def test_a_file_without_a_secret_is_named_and_its_content_is_not(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "mqtt_password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_secret(file, "mqtt.password_file")
    assert str(caught.value).startswith(f"mqtt.password_file: {file} ")
    assert "Sesame" not in str(caught.value)


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_secret(tmp_path, "mqtt.password_file")


def test_the_file_beats_the_setting_which_beats_systemds_credential(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from file\n")
    (tmp_path / "mqtt_password").write_text("from systemd\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    with_password = MqttSettings(password=SecretStr("from setting"))
    assert mqtt_password(with_password, tmp_path / "file", environ) == "from file"
    assert mqtt_password(with_password, None, environ) == "from setting"
    assert mqtt_password(MqttSettings(), None, environ) == "from systemd"
    assert mqtt_password(MqttSettings(), None, {}) is None
    assert mqtt_password(MqttSettings(), None, {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) is None


def test_an_empty_credential_is_an_error_and_not_no_password(tmp_path: Path) -> None:
    (tmp_path / "mqtt_password").write_text("")
    with pytest.raises(ConfigError, match="credential mqtt_password"):
        mqtt_password(MqttSettings(), None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
