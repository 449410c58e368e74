"""IP cameras: rtsp:// and rtsps://, over TCP unless UDP is asked for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edge_agent.credentials import with_credentials
from edge_agent.redaction import redact
from edge_agent.sources._ffmpeg import FfmpegSource, FfmpegTarget
from edge_agent.sources._network import TlsConfig, check_address, tls_context, tls_options
from edge_agent.sources.base import DecodeConfig, NetworkConfig, Source, SourceContext


class Config(NetworkConfig, DecodeConfig, TlsConfig):
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
    # FFmpeg knows its protocols by their lower-case names only.
    url = check_address(str(context.source), context.camera, ("rtsp", "rtsps"), "rtsp://192.168.1.20:554/stream1")
    shown = redact(url)
    if config.username:
        password = context.secret(config.password_file) if config.password_file else ""
        url = with_credentials(url, config.username, password)
    options = {
        "rtsp_transport": config.transport,
        # A belt to PyAV's own timeouts, per socket operation, in microseconds; "stimeout" is dead.
        "timeout": str(int(max(config.open_timeout_s, config.read_timeout_s) * 1e6)),
        "allowed_media_types": "video",  # sound would keep a camera alive whose picture has stopped
        # One interval between frames tells enough; FFmpeg else looks on for two seconds. With "fflags nobuffer" it would
        # throw away the key frame that it looked at, and the first picture would wait for the next one.
        "fpsprobesize": "1",
        "max_delay": "200000",  # UDP reordering: microseconds
    }
    tls = None
    if url.startswith("rtsps:"):
        tls = tls_context(config, context.resolve)
        options.update(tls_options(config, context.resolve))
    target = FfmpegTarget(
        url,
        shown,
        live=True,
        open_timeout_s=config.open_timeout_s,
        read_timeout_s=config.read_timeout_s,
        options=options,
        decode=config.decode,
        tls=tls,
    )
    source = FfmpegSource(target)
    source.patience_s = config.patience_s
    return source
