"""From a camera's settings to its source, in our process or in one of its own. Nothing is opened here."""

from __future__ import annotations

import stat
from collections.abc import Callable
from functools import partial

from edge_agent import plugins
from edge_agent.config import AgentConfig, CameraConfig
from edge_agent.credentials import read_secret
from edge_agent.errors import ConfigError
from edge_agent.redaction import redact
from edge_agent.sources._absent import AbsentSource
from edge_agent.sources._process import ProcessSource, ProcessTarget
from edge_agent.sources.base import Source, SourceContext


def check_source(config: AgentConfig, camera: CameraConfig) -> None:
    """Raises ConfigError if the source could not be made, or its file is not there."""
    build_source(config, camera)
    check_source_file(config, camera)


def check_source_file(config: AgentConfig, camera: CameraConfig) -> None:
    """Raises ConfigError for a file or folder that is not there. Opens no device."""
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
