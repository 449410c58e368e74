"""``edge-agent check --probe``: tries the model, each camera and the broker, one after the other."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_agent.broker_sink import build_sink
from edge_agent.camera_sources import camera_source
from edge_agent.config import AgentConfig, CameraConfig
from edge_agent.errors import ConfigError, EdgeAgentError, ExitCode
from edge_agent.models import _trial as model_trial
from edge_agent.outlets import outlets
from edge_agent.problem_places import placed
from edge_agent.redaction import redact


@dataclass(frozen=True)
class ProbeResult:
    """What came of trying one thing."""

    what: str
    ok: bool
    text: str
    exit_code: ExitCode = ExitCode.OK


def probe(config: AgentConfig) -> Iterator[ProbeResult]:
    """Try the model, each camera and the broker, one after the other."""
    yield _tried("model", lambda: _probe_model(config))
    for camera in config.cameras:
        if camera.settings.enabled:
            yield _tried(f"camera {camera.id}", lambda camera=camera: _probe_camera(config, camera))  # type: ignore[misc]
    if config.settings.mqtt.enabled:
        yield _tried("broker", lambda: _probe_broker(config))
    if config.settings.sinks.webhook is not None:
        yield _tried("webhook", lambda: _probe_webhook(config))


def _tried(what: str, action: Callable[[], str]) -> ProbeResult:
    try:
        return ProbeResult(what, ok=True, text=action())
    except EdgeAgentError as error:
        code = ExitCode.CONFIG if isinstance(error, ConfigError) else ExitCode.UNAVAILABLE
        return ProbeResult(what, ok=False, text=redact(str(error)), exit_code=code)


def _probe_model(config: AgentConfig) -> str:
    """In a process of its own: a model that crashes its runtime must not take this one with it."""
    with placed(config):
        found = model_trial.attempt(config, infer=True)
    size = f"{found['input']['width']}x{found['input']['height']}"
    doubts = "".join(f"; but {warning}" for warning in found["warnings"])
    return f"{found['family']}, {size}, {len(found['classes'])} classes, {found['precision']}, {found['runtime']}{doubts}"


def _probe_camera(config: AgentConfig, camera: CameraConfig) -> str:
    # As after a wedge: in a process that can be ended, so that a camera that hangs does not keep the check.
    source = camera_source(config, camera, after_wedge=True)
    started = time.monotonic()
    try:
        info = source.open()
        reading = source.read()
    finally:
        source.close()
        source.dispose()
    took = (time.monotonic() - started) * 1e3
    mode = f", {info.mode}" if info.mode else ""
    return f"{reading.image.width}x{reading.image.height}, {info.decoder}{mode}, first frame after {took:.0f} ms"


def _probe_broker(config: AgentConfig) -> str:
    # An id of its own: taking over a running agent's connection would be a strange way to check.
    sink = build_sink(config, "edge-agent-check", client_id=f"edge-agent-check-{secrets.token_hex(4)}", trying=True)
    try:
        sink.connect()
        return f"{sink.name} accepts us"
    finally:
        sink.close()


def _probe_webhook(config: AgentConfig) -> str:
    """Only whether somebody answers at the address: posting something would be no check."""
    with placed(config):
        sink = outlets(config, "edge-agent-check")["webhook"].sink
    try:
        sink.connect()
        return f"{sink.name} can be reached"
    finally:
        sink.close()
