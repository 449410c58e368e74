"""IP cameras: rtsp:// and rtsps://, over TCP unless UDP is asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edge_agent.config_file import redact, with_credentials
from edge_agent.sources._ffmpeg import FfmpegSource, FfmpegTarget
from edge_agent.sources.base import NetworkConfig, Source, SourceContext


class Config(NetworkConfig):
    """Keys of an RTSP camera."""

    transport: Literal["tcp", "udp"] = "tcp"
    """How the camera sends: "tcp" loses nothing on a bad network, "udp" is a little fresher on a good one."""
    username: Annotated[str | None, Field(examples=["viewer"])] = None
    """User at the camera; or write it into the address."""
    password_file: Annotated[str | None, Field(examples=["front_password"])] = None
    """File whose first line is the password of username."""


def claims(source: str | int) -> bool:
    """rtsp:// and rtsps:// addresses."""
    return isinstance(source, str) and source.lower().startswith(("rtsp://", "rtsps://"))


def build(context: SourceContext, config: Config) -> Source:
    """A source for one RTSP camera. Reads the password file; raises ConfigError."""
    url = str(context.source)
    shown = redact(url)
    if config.username:
        password = context.secret(config.password_file) if config.password_file else ""
        url = with_credentials(url, config.username, password)
    options = {
        "rtsp_transport": config.transport,
        "timeout": str(int(config.read_timeout_s * 1e6)),  # socket, in microseconds; "stimeout" is dead
        "fflags": "nobuffer",
        "flags": "low_delay",
        "max_delay": "200000",  # UDP reordering: microseconds
    }
    return FfmpegSource(
        FfmpegTarget(url, shown, live=True, open_timeout_s=config.open_timeout_s, read_timeout_s=config.read_timeout_s, options=options)
    )
