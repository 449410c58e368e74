"""What can be told before anything is started: what is wrong with the settings, the files that they name, and the model.

``run`` and ``check`` both come through here, so what the one accepts the other starts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

from edge_agent import metrics, outlets
from edge_agent.broker_sink import check_address, password_of, tls_of
from edge_agent.camera_sources import check_source, check_source_file
from edge_agent.config import AgentConfig
from edge_agent.config_file import Draft, in_order
from edge_agent.config_file import placed as with_places
from edge_agent.errors import ConfigError, ModelError, Problem, StateError
from edge_agent.models import _labels, _model_file
from edge_agent.models import _trial as model_trial
from edge_agent.problem_places import keyed, of_its_table
from edge_agent.state_folder import check_state, state_for

log = logging.getLogger(__name__)

MODEL_WITHIN_S = 20.0
"""Longest that a plain check waits for the model; the built-in one takes less than half a second."""
_PASSWORD_KEYS = ("username", "password", "password_file")


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
        ("device.state_dir", draft.is_wrong("device", "state_dir"), lambda: check_state(state_for(config))),
        *((key, draft.is_wrong(*key.split(".")), step) for key, step in outlets.checks(config)),
        ("mqtt.password_file", unused or any(draft.is_wrong("mqtt", key) for key in _PASSWORD_KEYS), lambda: password_of(config)),
        ("metrics.listen", draft.is_wrong("metrics", "listen"), lambda: _check_metrics(config)),
        ("mqtt.tls", unused or draft.is_wrong("mqtt", "tls"), lambda: tls_of(config)),
        ("mqtt.unix_socket", unused or draft.is_wrong("mqtt", "unix_socket"), lambda: check_address(config)),
    ]
    for view in _models_of(config):
        at = tuple(view.model_key.split("."))
        steps.append((f"{view.model_key}.path", draft.is_wrong(*at, "path"), partial(_check_model_file, view)))
        if isinstance(labels := view.settings.model.labels, str):
            steps.append((f"{view.model_key}.labels", False, partial(_check_labels, view, labels)))
    for index, camera in enumerate(config.cameras):
        check = check_source_file if draft.is_wrong("cameras", index) else check_source
        steps.append((f"cameras[{index}].source", not camera.settings.enabled, partial(check, config, camera)))
    problems: dict[str, list[Problem]] = {}
    for key, unknown, step in steps:
        try:
            if not unknown:
                step()
        except ConfigError as error:
            problems[key] = [problem if problem.key else Problem(problem.message, key=key) for problem in map(keyed, error.problems)]
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
