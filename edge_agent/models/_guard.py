"""A start that does not end in the same crash for ever: a model that killed the process is tried elsewhere first."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from edge_agent.config import AgentConfig
from edge_agent.models import _loading, _model_file, _trial
from edge_agent.models._loading import LoadedModel
from edge_agent.runtimes.base import silent

log = logging.getLogger(__name__)
MARKER = "model-loading"


def load_guarded(
    config: AgentConfig, state: Path, *, only_files: bool = False, announce: Callable[[str, float], None] = silent
) -> LoadedModel:
    """As :func:`edge_agent.models._loading.load`, with a mark in the state folder while it lasts.

    Where the mark of the same file is found, an earlier start never came back from loading it. Then it is tried in a process
    of its own first. Raises ConfigError (and so nobody restarts the agent) where that process ends too.
    """
    marker, name = state / MARKER, _name_of(_model_file.model_path(config))
    with contextlib.suppress(OSError):
        if marker.read_text("utf-8") == name:
            log.warning("an earlier start did not come back from loading the model; it is tried in a process of its own first")
            _trial.attempt(config, infer=True)
    made = [folder for folder in (state, *state.parents) if not folder.exists()]
    with contextlib.suppress(OSError):  # a state folder that cannot be written is reported by who needs it
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        marker.write_text(name, "utf-8")
    try:
        return _loading.load(config, only_files=only_files, state=state, announce=announce)
    finally:  # as it was: a start that fails leaves nothing behind
        with contextlib.suppress(OSError):
            marker.unlink()
            for folder in made:
                folder.rmdir()


def _name_of(path: Path) -> str:
    """A file as it is now: mended or replaced, it is another."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return hashlib.sha256(f"{path.absolute()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
