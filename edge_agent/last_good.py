"""The configuration that an agent last ran with, kept where the owner asked for it, for a boot at which agent.toml is wrong.

It may hold passwords, as agent.toml may: it is written for this user alone, and only on request.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from edge_agent import config_file
from edge_agent.config import AgentConfig
from edge_agent.config_file import Kinds
from edge_agent.durable import make_folder, write_whole
from edge_agent.errors import ConfigError
from edge_agent.redaction import redact
from edge_agent.state import default_directory

log = logging.getLogger(__name__)

FILE = "last_good.toml"


class LastGood:
    """For agent.toml at ``path``. In $STATE_DIRECTORY, not in [device] state_dir: which that is stands in the file that is wrong."""

    def __init__(self, path: Path, environ: Mapping[str, str] | None = None) -> None:
        """Raises StateError for a user without a home."""
        self._path, self._environ = path, os.environ if environ is None else environ
        self.file = default_directory(self._environ) / FILE
        self._seen: str | None = None
        self.note: str | None = None
        """For the heartbeat and ``systemctl status``, where it is not agent.toml that runs."""
        self.problems: tuple[str, ...] = ()
        """All that is wrong with agent.toml then."""

    def look(self) -> None:
        """Remember the file as it is now, before it is read: ``keep`` keeps it only if it is still the same."""
        self._seen = _text(self._path)

    def keep(self) -> None:
        """It runs: keep it. Nothing is written where it is what was kept already; a disk that is full costs the copy and no more."""
        text = _text(self._path)
        if text is None or text != self._seen or text == _text(self.file):
            return
        try:
            make_folder(self.file.parent)
            write_whole(self.file, text)
        except OSError as error:
            log.warning("the configuration that runs cannot be kept file=%s reason=%s", self.file, error.strerror)

    def instead(self, error: ConfigError, kinds: Kinds) -> AgentConfig:
        """What was kept, where that is right still; ``note`` says so. Raises ``error`` where nothing was, or is as wrong."""
        text = _text(self.file)
        if text is None:
            raise error
        try:
            config = config_file.build(config_file.parse(text, str(self.file)), kinds, path=self._path, text=text, environ=self._environ)
        except ConfigError as also:
            raise ConfigError(*error.problems, *also.problems) from None
        self._seen = None
        self.problems = tuple(redact(str(problem)) for problem in error.problems)
        kept_at = time.strftime("%Y-%m-%d", time.localtime(self.file.stat().st_mtime))
        more = f" (and {len(error.problems) - 1} more errors)" if len(error.problems) > 1 else ""
        self.note = f"configuration refused, that of {kept_at} runs: {self.problems[0]}{more}"
        return config


def _text(path: Path) -> str | None:
    try:
        return config_file.read(path)
    except ConfigError:
        return None
