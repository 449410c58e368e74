"""What can be told before anything is started: what is wrong with the settings, the files that they name, and the model.

``run`` and ``check`` both come through here, so what the one accepts the other starts.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import ssl
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from edge_agent import metrics, outlets, plugins
from edge_agent._spool_disk import Disk
from edge_agent._spool_store import Store
from edge_agent.config import AgentConfig, CameraConfig
from edge_agent.config_file import Draft, in_order
from edge_agent.config_file import placed as with_places
from edge_agent.credentials import mqtt_password, read_secret
from edge_agent.errors import ConfigError, ModelError, Problem, StateError
from edge_agent.host import clock_synced, machine_device_id
from edge_agent.models import _labels, _model_file
from edge_agent.models import _trial as model_trial
from edge_agent.redaction import redact
from edge_agent.requests import Request
from edge_agent.sinks.mqtt import MqttContext, MqttSink, TlsFiles, tls_context
from edge_agent.sources._absent import AbsentSource
from edge_agent.sources._process import ProcessSource, ProcessTarget
from edge_agent.sources.base import Source, SourceContext
from edge_agent.spool import Spool, SpoolLimits
from edge_agent.state import State, default_directory

log = logging.getLogger(__name__)

MODEL_WITHIN_S = 20.0
"""Longest that a plain check waits for the model; the built-in one takes less than half a second."""
_LONGEST_SOCKET = 107
_PASSWORD_KEYS = ("username", "password", "password_file")
_KEY = re.compile(r"((?:device|model|models\.[\w-]+|mqtt|sinks|cameras\[\d+\])\.[a-z_.]+): ")


def accepted(draft: Draft) -> AgentConfig:
    """The configuration, if nothing is wrong with its settings.

    Else raises ConfigError with that and with all that is wrong with the files and the model that the right settings name.
    """
    if not draft.problems and draft.config is not None:
        return draft.config
    found = list(draft.problems)
    if draft.config is not None:
        in_files = _file_problems(draft.config, draft)
        found += _placed(draft.config, in_files)
        found += with_places(draft.config.path, _model_problems(draft.config, draft, in_files))
    raise ConfigError(*in_order(found))


def check_files(config: AgentConfig, *, starting: bool = False, load_model: bool = True) -> None:
    """Everything wrong with the files that the configuration names. Raises ConfigError; opens no device or connection.

    ``starting``: what is wrong with a camera is only logged while another one is usable, since what is absent at the start
    (a drive that is mounted later) may come as what is lost later does. Without ``load_model``, the model is loaded only
    where something else is wrong: the caller loads it else.
    """
    found = _file_problems(config, Draft(config))
    cameras = {f"cameras[{index}].source" for index, camera in enumerate(config.cameras) if camera.settings.enabled}
    if starting and cameras - found.keys():
        for problem in _placed(config, {key: found.pop(key) for key in cameras & found.keys()}):
            log.warning("camera cannot be started yet: %s", problem)
    problems = _placed(config, found)
    if problems or load_model:
        problems += with_places(config.path, _model_problems(config, Draft(config), found))
    if problems:
        raise ConfigError(*in_order(problems))


def _placed(config: AgentConfig, found: Mapping[str, list[Problem]]) -> list[Problem]:
    return with_places(config.path, [problem for problems in found.values() for problem in problems])


def _file_problems(config: AgentConfig, draft: Draft) -> dict[str, list[Problem]]:
    """By the key that names the file; what depends on a setting that is wrong, or is not used, is not looked at."""
    unused = not config.settings.mqtt.enabled
    steps: list[tuple[str, bool, Callable[[], object]]] = [
        ("device.state_dir", draft.is_wrong("device", "state_dir"), lambda: _check_state(state_for(config))),
        *((key, draft.is_wrong(*key.split(".")), step) for key, step in outlets.checks(config)),
        ("mqtt.password_file", unused or any(draft.is_wrong("mqtt", key) for key in _PASSWORD_KEYS), lambda: _password(config)),
        ("metrics.listen", draft.is_wrong("metrics", "listen"), lambda: _check_metrics(config)),
        ("mqtt.tls", unused or draft.is_wrong("mqtt", "tls"), lambda: _tls(config)),
        ("mqtt.unix_socket", unused or draft.is_wrong("mqtt", "unix_socket"), lambda: _check_broker_address(config)),
    ]
    for view in _models_of(config):
        at = tuple(view.model_key.split("."))
        steps.append((f"{view.model_key}.path", draft.is_wrong(*at, "path"), partial(_check_model_file, view)))
        if isinstance(labels := view.settings.model.labels, str):
            steps.append((f"{view.model_key}.labels", False, partial(_check_labels, view, labels)))
    for index, camera in enumerate(config.cameras):
        check = _check_source_file if draft.is_wrong("cameras", index) else _check_source
        steps.append((f"cameras[{index}].source", not camera.settings.enabled, partial(check, config, camera)))
    problems: dict[str, list[Problem]] = {}
    for key, unknown, step in steps:
        try:
            if not unknown:
                step()
        except ConfigError as error:
            problems[key] = [problem if problem.key else Problem(problem.message, key=key) for problem in map(_keyed, error.problems)]
        except StateError as error:
            problems[key] = [Problem(str(error), key=key)]
    return problems


def _check_metrics(config: AgentConfig) -> None:
    if config.settings.metrics.listen is not None:
        metrics.ensure_installed()


def _models_of(config: AgentConfig) -> list[AgentConfig]:
    """One for each model that a camera in use names; [model] where nothing is in use, which is wrong and not asked here."""
    return config.per_model() or [config.of_model(None)]


def _check_model_file(view: AgentConfig) -> None:
    with of_its_table(view):
        _model_file.check_file(_model_file.model_path(view))


def _check_labels(view: AgentConfig, labels: str) -> None:
    with of_its_table(view):
        _labels.read_labels(view.resolve(labels))


def _model_problems(config: AgentConfig, draft: Draft, in_files: Mapping[str, list[Problem]]) -> list[Problem]:
    """What loading the models would say, each in a process of its own; nothing where only its accelerator could tell.

    Those whose settings or files are wrong are not loaded.
    """
    problems: list[Problem] = []
    for view in _models_of(config):
        if draft.is_wrong(*view.model_key.split(".")) or any(key.startswith(f"{view.model_key}.") for key in in_files):
            continue
        try:
            with of_its_table(view):
                model_trial.attempt(view, infer=False, only_file=True, timeout_s=MODEL_WITHIN_S)
        except model_trial.NotInTime:
            log.warning(
                "the model was not loaded within %.0f s, and so was not checked; edge-agent check --probe waits for it", MODEL_WITHIN_S
            )
        except ConfigError as error:
            problems += (problem for problem in error.problems if problem not in problems)
        except ModelError as error:
            problems.append(Problem(str(error), key=f"{view.model_key}.path"))
    return problems


@contextlib.contextmanager
def of_its_table(view: AgentConfig) -> Iterator[None]:
    """A ConfigError that is raised inside, and speaks of [model], speaks of the table that the model comes from."""
    try:
        yield
    except model_trial.NotInTime:
        raise
    except ConfigError as error:
        keyed = [_keyed(problem) for problem in error.problems]
        raise ConfigError(*(_renamed(problem, view.model_key) for problem in keyed)) from None


def _renamed(problem: Problem, table: str) -> Problem:
    first, dot, rest = problem.key.partition(".")
    return replace(problem, key=f"{table}.{rest}") if first == "model" and dot else problem


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
    if os.statvfs(nearest).f_flag & os.ST_RDONLY and nearest == state.directory:  # it was writable once: a disk that has failed since
        log.warning("the state directory is on a disk that is read-only now directory=%s", state.directory)
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
    _check_source_file(config, camera)


def _check_source_file(config: AgentConfig, camera: CameraConfig) -> None:
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
    if getattr(camera.options, "password_file", None) and not getattr(camera.options, "username", None):
        raise ConfigError(f"{key}.username: is required where there is a password_file")
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
        _password(config),
        _tls(config),
        on_request,
        cameras=None if trying else frozenset(camera.id for camera in config.cameras if camera.settings.enabled),
        unix_socket=None if mqtt.unix_socket is None else str(config.resolve(mqtt.unix_socket)),
        with_will=not trying,
        renew=lambda: (_password(config), _tls(config)),
    )
    return MqttSink(context, mqtt)


def _check_broker_address(config: AgentConfig) -> None:
    mqtt = config.settings.mqtt
    if mqtt.unix_socket is None:
        return
    path = str(config.resolve(mqtt.unix_socket))
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise ConfigError(f"mqtt.unix_socket: {path} is longer than {_LONGEST_SOCKET} bytes, the most that a Unix socket's path can have")
    for key, value in (("port", mqtt.port), ("tls", mqtt.tls), ("websocket", mqtt.websocket)):
        if value is not None:
            raise ConfigError(f"mqtt.unix_socket: goes to a broker on this machine, for which there is no {key}: keep one of them")


def _password(config: AgentConfig) -> str | None:
    mqtt = config.settings.mqtt
    if mqtt.password is not None and mqtt.password_file is not None:
        raise ConfigError("mqtt.password_file: is one place for the password, and password is another: keep one of them")
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


def state_for(config: AgentConfig) -> State:
    """The state directory, not yet opened."""
    given = config.settings.device.state_dir
    return State(config.resolve(given) if given else default_directory())


def build_spool(config: AgentConfig, name: str) -> Spool:
    """Where a sink's events wait, not yet opened. ``name``: of the sink, which each has its own file for."""
    settings = config.settings.spool
    limits = SpoolLimits(settings.max_events, settings.max_memory_bytes, settings.max_bytes, settings.max_age_s, settings.drain_per_s)
    disk = None
    if settings.durability != "memory":
        store = Store(spool_folder(config) / f"{name}.db")
        disk = Disk(store, always=settings.durability == "always", interval_s=settings.interval_s)
    return Spool(limits, disk, clock_synced=clock_synced)


def spool_folder(config: AgentConfig) -> Path:
    """Of the spools' files."""
    return state_for(config).directory / "spool"


def device_id(config: AgentConfig, state: State) -> str:
    """The configured name, else one from the machine, else one that is made once and kept."""
    configured = config.settings.device.id
    return configured if configured != "auto" else machine_device_id() or state.device_id()
