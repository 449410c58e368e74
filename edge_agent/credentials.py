"""Secrets: from files, the environment, or systemd's credentials. Their content goes nowhere but to who needs it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from edge_agent.config_delivery import MqttSettings
from edge_agent.errors import ConfigError

MAX_BYTES = 64 * 1024
MQTT_CREDENTIAL = "mqtt_password"


def read_secret(path: Path, key: str) -> str:
    """The first line of a secret file. Raises ConfigError, which names the file and never its content."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path} is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror}") from None
    secret = text.partition("\n")[0].removesuffix("\r")
    if not secret:
        raise ConfigError(f"{key}: {path} holds nothing on its first line")
    return secret


def mqtt_password(settings: MqttSettings, resolved: Path | None, environ: Mapping[str, str] | None = None) -> str | None:
    """From password_file or password (of which a configuration has one), else the credential ``mqtt_password`` of systemd."""
    environ = os.environ if environ is None else environ
    if resolved is not None:
        return read_secret(resolved, "mqtt.password_file")
    if settings.password is not None:
        return settings.password.get_secret_value()
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder and (Path(folder) / MQTT_CREDENTIAL).exists():
        return read_secret(Path(folder) / MQTT_CREDENTIAL, f"credential {MQTT_CREDENTIAL}")
    return None


def with_credentials(url: str, username: str, password: str) -> str:
    """``url`` with a user and password, quoted as RFC 3986 asks, in place of any that it has."""
    scheme, _, rest = url.partition("://")
    authority = re.match(r"[^/?#]*", rest)
    assert authority is not None
    host = authority[0].rpartition("@")[2]
    return f"{scheme}://{quote(username, safe='')}:{quote(password, safe='')}@{host}{rest[authority.end() :]}"
