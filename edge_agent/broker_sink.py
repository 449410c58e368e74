"""From ``[mqtt]`` to the way to the broker, with its password and certificates read. Nothing is connected here."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import replace

from edge_agent.config import AgentConfig
from edge_agent.credentials import mqtt_password
from edge_agent.errors import ConfigError
from edge_agent.requests import Request
from edge_agent.sinks.mqtt import MqttContext, MqttSink, TlsFiles, tls_context

_LONGEST_SOCKET = 107


def build_sink(
    config: AgentConfig,
    device: str,
    *,
    client_id: str | None = None,
    on_request: Callable[[Request], None] | None = None,
    trying: bool = False,
) -> MqttSink:
    """The way to the broker, not yet connected. Raises ConfigError for secrets and certificates that cannot be read.

    ``on_request`` takes commands. ``trying``: nobody is to see that we were there.
    """
    mqtt = config.settings.mqtt
    context = MqttContext(
        device,
        client_id or mqtt.client_id or device,
        password_of(config),
        tls_of(config),
        on_request,
        cameras=None if trying else frozenset(camera.id for camera in config.cameras if camera.settings.enabled),
        unix_socket=None if mqtt.unix_socket is None else str(config.resolve(mqtt.unix_socket)),
        with_will=not trying,
        renew=lambda: (password_of(config), tls_of(config)),
    )
    return MqttSink(context, mqtt)


def check_address(config: AgentConfig) -> None:
    """Raises ConfigError for a Unix socket that cannot be one, or beside what is of a network only."""
    mqtt = config.settings.mqtt
    if mqtt.unix_socket is None:
        return
    path = str(config.resolve(mqtt.unix_socket))
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise ConfigError(f"mqtt.unix_socket: {path} is longer than {_LONGEST_SOCKET} bytes, the most that a Unix socket's path can have")
    for key, value in (("port", mqtt.port), ("tls", mqtt.tls), ("websocket", mqtt.websocket)):
        if value is not None:
            raise ConfigError(f"mqtt.unix_socket: goes to a broker on this machine, for which there is no {key}: keep one of them")


def password_of(config: AgentConfig) -> str | None:
    """The password, read from where it is kept; None where there is none. Raises ConfigError."""
    mqtt = config.settings.mqtt
    if mqtt.password is not None and mqtt.password_file is not None:
        raise ConfigError("mqtt.password_file: is one place for the password, and password is another: keep one of them")
    password = mqtt_password(mqtt, config.resolve(mqtt.password_file) if mqtt.password_file else None)
    if password is not None and mqtt.username is None:
        raise ConfigError("mqtt.username: is required where there is a password")
    return password


def tls_of(config: AgentConfig) -> ssl.SSLContext | None:
    """What a connection is secured with; None where it is not. Raises ConfigError for files that cannot be used."""
    tls = config.settings.mqtt.tls
    if tls is None:
        return None
    if tls.key_file is not None and tls.cert_file is None:
        raise ConfigError("mqtt.tls.cert_file: is required where there is a key_file")
    ca_file, cert_file, key_file = (None if f is None else str(config.resolve(f)) for f in (tls.ca_file, tls.cert_file, tls.key_file))
    for key, file in (("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)):
        if file is not None and not os.access(file, os.R_OK):
            raise ConfigError(f"mqtt.tls.{key}: {file} is not a file that can be read")
    files = TlsFiles(ca_file, cert_file, key_file, tls.verify, tls.server_name, tls.alpn, tls.min_version)
    key, shown, expected = "ca_file", ca_file, "a PEM file of certificates"
    try:
        tls_context(replace(files, cert_file=None, key_file=None))
        key, shown = "cert_file", f"{cert_file} with {key_file}" if key_file else cert_file
        expected = "a PEM certificate with its own private key, which has no passphrase"
        return tls_context(files)
    except ssl.SSLError:  # its text says less
        raise ConfigError(f"mqtt.tls.{key}: {shown} is not {expected}") from None
    except OSError as error:
        raise ConfigError(f"mqtt.tls.{key}: {shown} cannot be read: {error.strerror}") from None
