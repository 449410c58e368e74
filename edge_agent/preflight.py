"""What can be tried before anything is started: the files that the configuration names, and with ``--probe`` the rest.

``run`` and ``check`` both come through here, so what the one accepts the other starts.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_agent import plugins
from edge_agent.config import AgentConfig, CameraConfig
from edge_agent.config_file import placed as with_places
from edge_agent.credentials import mqtt_password, read_secret
from edge_agent.errors import ConfigError, EdgeAgentError, ExitCode, Problem, StateError
from edge_agent.host import machine_device_id
from edge_agent.models import _loading as model_loading
from edge_agent.models import _trial as model_trial
from edge_agent.redaction import redact
from edge_agent.sinks.mqtt import MqttContext, MqttSink, tls_context
from edge_agent.sources._absent import AbsentSource
from edge_agent.sources._process import ProcessSource, ProcessTarget
from edge_agent.sources.base import Source, SourceContext
from edge_agent.state import State, default_directory

log = logging.getLogger(__name__)

_KEY = re.compile(r"((?:device|model|mqtt|cameras\[\d+\])\.[a-z_.]+): ")


def check_files(config: AgentConfig, *, starting: bool = False) -> None:
    """Everything wrong with the files that the configuration names. Raises ConfigError; opens no device or connection.

    ``starting``: what is wrong with a camera is only logged while another one is usable, since what is absent at the start
    (a drive that is mounted later) may come as what is lost later does.
    """
    steps: list[tuple[str, Callable[[], object]]] = [
        ("device.state_dir", lambda: _check_state(state_for(config))),
        ("model.path", lambda: model_loading.check_file(model_loading.model_path(config))),
        ("mqtt.password_file", lambda: _password(config)),
        ("mqtt.tls", lambda: _tls(config)),
    ]
    labels = config.settings.model.labels
    if isinstance(labels, str):
        steps.insert(2, ("model.labels", lambda: model_loading.read_labels(config.resolve(labels))))
    for index, camera in enumerate(config.cameras):
        if camera.settings.enabled:
            steps.append((f"cameras[{index}].source", partial(_check_source, config, camera)))
    problems: dict[str, list[Problem]] = {}
    for key, step in steps:
        try:
            step()
        except ConfigError as error:
            problems[key] = [problem if problem.key else Problem(problem.message, key=key) for problem in map(_keyed, error.problems)]
        except StateError as error:
            problems[key] = [Problem(str(error), key=key)]
    cameras = {key for key, _ in steps if key.startswith("cameras[")}
    if starting and cameras - problems.keys():
        for key in cameras & problems.keys():
            for problem in with_places(config.path, problems.pop(key)):
                log.warning("camera cannot be started yet: %s", problem)
    if problems:
        raise ConfigError(*with_places(config.path, [problem for found in problems.values() for problem in found]))


@contextlib.contextmanager
def placed(config: AgentConfig) -> Iterator[None]:
    """A ConfigError that is raised inside, and begins with a key, gets the file and line, or the variable, that the key stands in."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(*with_places(config.path, [_keyed(problem) for problem in error.problems])) from None


def _check_state(state: State) -> None:
    """Whether the state directory can be made and written, told without making it. Raises StateError."""
    nearest = state.directory
    try:
        while not os.path.lexists(nearest) and nearest != nearest.parent:
            nearest = nearest.parent
        status = nearest.stat()
    except OSError as error:
        raise StateError(_no_state(state, str(error.strerror))) from None
    if not stat.S_ISDIR(status.st_mode):
        raise StateError(_no_state(state, os.strerror(errno.ENOTDIR)))
    if os.access(nearest, os.W_OK | os.X_OK) and not _is_kernels(nearest):
        return
    raise StateError(_no_state(state, os.strerror(errno.EACCES)))


def _is_kernels(folder: Path) -> bool:
    """Whether a folder is one of /proc or /sys, which permissions allow root to write, and which take no files."""
    return folder.resolve().parts[:2] in {("/", "proc"), ("/", "sys")}


def _no_state(state: State, reason: str) -> str:
    return (
        f"the state directory {state.directory} cannot be used: {reason}; "
        "set [device] state_dir (or $STATE_DIRECTORY) to a folder that this user may write"
    )


def _keyed(problem: Problem) -> Problem:
    """A problem whose text begins with its key, as those of the plugins do, with the key apart."""
    found = _KEY.match(problem.message)
    return problem if problem.key or found is None else Problem(problem.message[found.end() :], key=found[1])


def _check_source(config: AgentConfig, camera: CameraConfig) -> None:
    build_source(config, camera)
    if camera.kind in {"file", "images"} and "://" not in str(camera.settings.source):
        path = config.resolve(str(camera.settings.source))
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except FileNotFoundError:
            raise ConfigError(f"{path} does not exist") from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        if camera.kind == "file" and is_folder:
            raise ConfigError(f'{path} is a folder; for a folder of pictures set kind = "images"')


def build_source(config: AgentConfig, camera: CameraConfig, model_size: Callable[[], tuple[int, int] | None] = lambda: None) -> Source:
    """A camera's source, not yet opened. Raises ConfigError."""
    key = f"cameras[{config.cameras.index(camera)}]"
    context = SourceContext(
        camera.id,
        camera.settings.source,
        config.resolve,
        lambda path: read_secret(config.resolve(path), f"{key}.password_file"),
        model_size,
    )
    try:
        source: Source = plugins.load("sources", camera.kind).build(context, camera.options)
    except ValueError:  # its text may hold the address, and so a password
        raise ConfigError(f"{key}.source: {redact(str(camera.settings.source))!r} is no address that can be read") from None
    return source


def patient_source(
    config: AgentConfig, camera: CameraConfig, model_size: Callable[[], tuple[int, int] | None] = lambda: None, *, after_wedge: bool = False
) -> Source:
    """As :func:`camera_source`; where that raises ConfigError, a source that tries it again each time that it is opened."""
    make = partial(camera_source, config, camera, model_size, after_wedge=after_wedge)
    try:
        return make()
    except ConfigError:
        return AbsentSource(make, finite=camera.kind in {"file", "images"})


def camera_source(
    config: AgentConfig, camera: CameraConfig, model_size: Callable[[], tuple[int, int] | None] = lambda: None, *, after_wedge: bool = False
) -> Source:
    """A camera's source as it is run: in our process, or in one of its own. Raises ConfigError.

    ``after_wedge``: a call into its predecessor never came back.
    """
    source = build_source(config, camera, model_size)
    settings = camera.settings
    own_process = source.exclusive or after_wedge if settings.isolation == "auto" else settings.isolation == "process"
    if not own_process:
        return source
    options = camera.options.model_dump(mode="json", exclude_unset=True)
    return ProcessSource(ProcessTarget(camera.id, camera.kind, settings.source, options, config.base_dir, model_size), source)


def build_sink(config: AgentConfig, device: str, client_id: str | None = None) -> MqttSink:
    """The way to the broker, not yet connected. Raises ConfigError for secrets and certificates that cannot be read."""
    mqtt = config.settings.mqtt
    return MqttSink(MqttContext(device, client_id or mqtt.client_id or device, _password(config), _tls(config)), mqtt)


def _password(config: AgentConfig) -> str | None:
    mqtt = config.settings.mqtt
    password = mqtt_password(mqtt, config.resolve(mqtt.password_file) if mqtt.password_file else None)
    if password is not None and mqtt.username is None:
        raise ConfigError("mqtt.username: is required where there is a password")
    return password


def _tls(config: AgentConfig) -> ssl.SSLContext | None:
    tls = config.settings.mqtt.tls
    if tls is None:
        return None
    if tls.key_file is not None and tls.cert_file is None:
        raise ConfigError("mqtt.tls.cert_file: is required where there is a key_file")
    ca_file, cert_file, key_file = (None if f is None else str(config.resolve(f)) for f in (tls.ca_file, tls.cert_file, tls.key_file))
    for key, file in (("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)):
        if file is not None and not os.access(file, os.R_OK):
            raise ConfigError(f"mqtt.tls.{key}: {file} is not a file that can be read")
    key, shown, expected = "ca_file", ca_file, "a PEM file of certificates"
    try:
        tls_context(ca_file, None, None, verify=tls.verify)
        key, shown = "cert_file", f"{cert_file} with {key_file}" if key_file else cert_file
        expected = "a PEM certificate with its own private key, which has no passphrase"
        return tls_context(ca_file, cert_file, key_file, verify=tls.verify)
    except ssl.SSLError:  # its text says less
        raise ConfigError(f"mqtt.tls.{key}: {shown} is not {expected}") from None
    except OSError as error:
        raise ConfigError(f"mqtt.tls.{key}: {shown} cannot be read: {error.strerror}") from None


def state_for(config: AgentConfig) -> State:
    """The state directory, not yet opened."""
    given = config.settings.device.state_dir
    return State(config.resolve(given) if given else default_directory())


def device_id(config: AgentConfig, state: State) -> str:
    """The configured name, else one from the machine, else one that is made once and kept."""
    configured = config.settings.device.id
    return configured if configured != "auto" else machine_device_id() or state.device_id()


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
    yield _tried("broker", lambda: _probe_broker(config))


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
    sink = build_sink(config, "edge-agent-check", client_id=f"edge-agent-check-{secrets.token_hex(4)}")
    try:
        sink.connect()
        return f"{sink.name} accepts us"
    finally:
        sink.close()
