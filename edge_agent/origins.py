"""Where each secret comes from, who else can read it, and what the environment overrides. Never a secret's content."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config import ENV_DELIMITER, ENV_PREFIX, AgentConfig
from edge_agent.config_environment import RESERVED_VARIABLES
from edge_agent.credential_paths import DIRECTORY, PREFIX
from edge_agent.credentials import MQTT_CREDENTIAL
from edge_agent.errors import ConfigError, Problem
from edge_agent.redaction import redact
from edge_agent.toml_lines import key_name, line_of

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """One value: its key, where it stands, and what is wrong with that."""

    key: str
    where: str
    warning: str | None = None

    def __str__(self) -> str:
        return f"{self.key}: from {self.where}"


def origins(config: AgentConfig, environ: Mapping[str, str] | None = None) -> list[Origin]:
    """Of all secrets that the configuration has, then of all that the environment sets. Reads no secret."""
    environ = os.environ if environ is None else environ
    look = _Look(config, environ)
    secrets = [*look.of_broker(), *look.of_cameras()]
    told = {origin.key for origin in secrets}
    return secrets + [origin for origin in _overrides(config, environ) if origin.key not in told]


def loose(path: Path) -> str | None:
    """Why others on this machine could read or replace a secret file; None where they cannot, or it is not there."""
    try:
        mode = path.stat().st_mode
        reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in path.resolve().parents)
    except OSError:
        return None
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and (reachable or mode & stat.S_IWGRP):
        return f"{path} can be written by others: chmod go-w {path}"
    if mode & stat.S_IROTH and reachable:
        return f"{path} can be read by everybody on this machine: chmod o-r {path}"
    return None


class _Look:
    def __init__(self, config: AgentConfig, environ: Mapping[str, str]) -> None:
        self._config, self._environ = config, environ
        self._text: str | None = None

    def of_broker(self) -> Iterator[Origin]:
        mqtt = self._config.settings.mqtt
        if mqtt.password_file is not None:
            yield self._file(("mqtt", "password_file"), mqtt.password_file, "mqtt.password")
        elif mqtt.password is not None:
            yield self._inline(("mqtt", "password"))
        elif (folder := self._environ.get(DIRECTORY)) and (Path(folder) / MQTT_CREDENTIAL).exists():
            yield Origin("mqtt.password", f"systemd's credential {MQTT_CREDENTIAL}")
        elif mqtt.username is not None:
            yield Origin("mqtt.password", f"nowhere: there is neither mqtt.password_file nor a credential {MQTT_CREDENTIAL}")
        if mqtt.tls is not None and mqtt.tls.key_file is not None:
            yield self._file(("mqtt", "tls", "key_file"), mqtt.tls.key_file)
        if mqtt.websocket is not None:
            for name in mqtt.websocket.headers:
                yield self._inline(("mqtt", "websocket", "headers", name))

    def of_cameras(self) -> Iterator[Origin]:
        for index, camera in enumerate(self._config.cameras):
            given = getattr(camera.options, "password_file", None)
            if given is not None:
                yield self._file(("cameras", index, "password_file"), given, f"cameras[{index}].password")
            source = str(camera.settings.source)
            if redact(source) != source:
                inline = self._inline(("cameras", index, "source"))
                yield Origin(f"cameras[{index}].source (a secret in its address)", inline.where, inline.warning)

    def _file(self, location: Location, given: str, key: str = "") -> Origin:
        key = key or key_name(location)
        if given.startswith(PREFIX):
            return Origin(key, f"systemd's credential {given.removeprefix(PREFIX)}")
        try:
            path = self._config.resolve(given)
        except ConfigError as error:
            return Origin(key, redact(given), str(error))
        set_by = self._variable(location)
        return Origin(key, f"the file {path}{f' (environment variable {set_by})' if set_by else ''}", loose(path))

    def _inline(self, location: Location) -> Origin:
        key = key_name(location)
        if set_by := self._variable(location):
            return Origin(key, f"the environment variable {set_by}")
        path = self._config.path
        if path is None:
            return Origin(key, "a program")
        line = self._line(location)
        return Origin(key, str(Problem("", str(path), line)), loose(path))

    def _line(self, location: Location) -> int | None:
        if self._text is None:
            try:
                self._text = self._config.path.read_text("utf-8-sig") if self._config.path is not None else ""
            except (OSError, UnicodeDecodeError):
                self._text = ""
        return line_of(self._text, location)

    def _variable(self, location: Location) -> str | None:
        """The variable that sets a key, or a table or list that it stands in."""
        names = {name.upper(): name for name in self._environ}
        wanted = (ENV_PREFIX + ENV_DELIMITER.join(str(part) for part in location[:length]) for length in range(len(location), 0, -1))
        return next((names[name.upper()] for name in wanted if name.upper() in names), None)


def _overrides(config: AgentConfig, environ: Mapping[str, str]) -> Iterator[Origin]:
    for name in sorted(environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in RESERVED_VARIABLES:
            parts = [part.lower() for part in name[len(ENV_PREFIX) :].split(ENV_DELIMITER)]
            location: Location = tuple(int(part) if part.isdecimal() else part for part in parts)
            yield Origin(key_name(location), f"the environment variable {name}")
