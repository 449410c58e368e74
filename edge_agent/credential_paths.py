"""``credential:NAME`` as the path of a secret: a file that the service manager hands over (``LoadCredential=``)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from edge_agent.errors import ConfigError

PREFIX = "credential:"
DIRECTORY = "CREDENTIALS_DIRECTORY"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")


def expanded(path: str, environ: Mapping[str, str] | None = None) -> str:
    """``path``, or where a credential is. Raises ConfigError for a name that can be none, and where nobody hands any over."""
    if not path.startswith(PREFIX):
        return path
    name = path.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{path!r} names no credential: letters, digits, '_', '-' and '.' follow the colon")
    folder = (os.environ if environ is None else environ).get(DIRECTORY)
    if not folder:
        raise ConfigError(
            f"{path!r} is handed over by systemd only: name {name} and its file in a LoadCredential= line of the unit "
            f"(to try it by hand, set {DIRECTORY} to a folder that holds {name})"
        )
    return str(Path(folder) / name)
