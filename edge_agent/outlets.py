"""``[sinks]``: from settings to sinks, with their secrets read and their paths resolved. Nothing is opened here but files of secrets."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edge_agent.config import AgentConfig
from edge_agent.config_delivery import TlsSettings, WebhookSettings
from edge_agent.credentials import read_secret
from edge_agent.errors import ConfigError
from edge_agent.sinks._mqtt_tls import TlsFiles, tls_context
from edge_agent.sinks.base import Sink

WEBHOOK_CREDENTIAL = "webhook_token"


@dataclass(frozen=True)
class Outlet:
    """A sink beside the broker."""

    sink: Sink
    linger_s: float = 0.0
    """How long an event may wait for company."""


def outlets(config: AgentConfig, device: str) -> dict[str, Outlet]:
    """Those that are set, by kind, not yet connected. Raises ConfigError for secrets, files and addresses that cannot be used."""
    return {kind: build(device) for kind, build in _builders(config)}


def checks(config: AgentConfig) -> Iterator[tuple[str, Callable[[], object]]]:
    """The table's key of each that is set, and what raises ConfigError if it could not be made."""
    for kind, build in _builders(config):
        yield f"sinks.{kind}", lambda build=build: build("edge-agent-check")  # type: ignore[misc]
    if not config.settings.mqtt.enabled:
        yield "mqtt.enabled", lambda: _refuse_nowhere(config)


def _builders(config: AgentConfig) -> Iterator[tuple[str, Callable[[str], Outlet]]]:
    sinks = config.settings.sinks
    if sinks.jsonl is not None:
        yield "jsonl", lambda device: _jsonl(config, device)
    if sinks.webhook is not None:
        yield "webhook", lambda device: _webhook(config, device)


def _refuse_nowhere(config: AgentConfig) -> None:
    if not list(_builders(config)):
        raise ConfigError("mqtt.enabled: is false, and there is nowhere else to publish to: set [sinks.jsonl] or [sinks.webhook]")


def _jsonl(config: AgentConfig, device: str) -> Outlet:
    from edge_agent.sinks import jsonl

    settings = config.settings.sinks.jsonl
    assert settings is not None
    path = config.resolve(settings.path)
    if path.is_dir():
        raise ConfigError(f"sinks.jsonl.path: {path} is a folder; name a file in it")
    nearest = path if path.exists() else next(parent for parent in path.parents if parent.exists())
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"sinks.jsonl.path: {path} cannot be written by this user")
    return Outlet(jsonl.build(jsonl.JsonlContext(device, path), settings))


def _webhook(config: AgentConfig, device: str) -> Outlet:
    from edge_agent.sinks import webhook

    settings = config.settings.sinks.webhook
    assert settings is not None
    headers = {name: value.get_secret_value() for name, value in settings.headers.items()}
    token = _token(config, settings, os.environ)
    if token is not None:
        if "authorization" in {name.lower() for name in headers}:
            raise ConfigError("sinks.webhook.headers: Authorization is there, and a token is another: keep one of them")
        headers["Authorization"] = f"Bearer {token}"
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"sinks.webhook: what is sent as {name} must be printable ASCII characters on one line")
    is_tls = settings.url.lower().startswith("https:")
    if settings.tls is not None and not is_tls:
        raise ConfigError("sinks.webhook.tls: is for https://, and url is http://")
    tls = _tls(config, settings.tls or TlsSettings()) if is_tls else None
    return Outlet(webhook.build(webhook.WebhookContext(device, headers, tls), settings), settings.linger_s)


def _token(config: AgentConfig, settings: WebhookSettings, environ: Mapping[str, str]) -> str | None:
    if settings.token is not None and settings.token_file is not None:
        raise ConfigError("sinks.webhook.token_file: is one place for the token, and token is another: keep one of them")
    if settings.token_file is not None:
        return read_secret(config.resolve(settings.token_file), "sinks.webhook.token_file")
    if settings.token is not None:
        return settings.token.get_secret_value()
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder and (Path(folder) / WEBHOOK_CREDENTIAL).exists():
        return read_secret(Path(folder) / WEBHOOK_CREDENTIAL, f"credential {WEBHOOK_CREDENTIAL}")
    return None


def _tls(config: AgentConfig, tls: TlsSettings) -> ssl.SSLContext:
    if tls.key_file is not None and tls.cert_file is None:
        raise ConfigError("sinks.webhook.tls.cert_file: is required where there is a key_file")
    ca_file, cert_file, key_file = (None if f is None else str(config.resolve(f)) for f in (tls.ca_file, tls.cert_file, tls.key_file))
    files = TlsFiles(ca_file, cert_file, key_file, tls.verify, tls.server_name, tls.alpn, tls.min_version)
    key, shown = "ca_file", ca_file
    try:
        tls_context(replace(files, cert_file=None, key_file=None))
        key, shown = "cert_file", f"{cert_file} with {key_file}" if key_file else cert_file
        return tls_context(files)
    except ssl.SSLError:  # its text says less
        raise ConfigError(f"sinks.webhook.tls.{key}: {shown} is not what it should be: PEM, without a passphrase") from None
    except OSError as error:
        raise ConfigError(f"sinks.webhook.tls.{key}: {shown} cannot be read: {error.strerror}") from None
