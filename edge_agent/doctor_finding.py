"""What ``edge-agent doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "slow", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing: how it is, and the line that mends it."""

    level: Level
    """"note": fine, but worth knowing; "slow": works, and could work better; "wrong": does not work, or will not for long."""
    what: str
    text: str
    mend: str = ""
    """A command, or a line for agent.toml; empty where nothing need be done."""
