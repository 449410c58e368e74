"""What was set by command and is to hold after a restart: a small file in the state directory, written only when it changes."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.config_values import Name, Rate, Share
from edge_agent.errors import StateError
from edge_agent.state import write_whole

log = logging.getLogger(__name__)

FILE = "commands.json"
_LARGEST = 1024 * 1024


class KeptCamera(BaseModel):
    """What holds of one camera instead of what agent.toml says."""

    model_config = ConfigDict(frozen=True, strict=True)

    paused: bool = False
    muted: bool = False
    confidence: Share | None = None
    max_fps: Rate | None = None

    def __str__(self) -> str:
        words = [name for name, holds in (("paused", self.paused), ("muted", self.muted)) if holds]
        words += [f"{key} = {value:g}" for key, value in (("confidence", self.confidence), ("max_fps", self.max_fps)) if value is not None]
        return ", ".join(words)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    version: int = Field(default=1, ge=1, le=1)
    cameras: dict[Name, KeptCamera] = Field(default={}, max_length=1024)


class KeptSettings:
    """The file. For one thread."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE
        self.cameras: dict[str, KeptCamera] = {}

    def read(self) -> KeptSettings:
        """What is kept; nothing where there is no file. Raises StateError for one that cannot be used."""
        try:
            with self.path.open("rb") as file:
                self.cameras = dict(_File.model_validate_json(file.read(_LARGEST)).cameras)
        except (FileNotFoundError, NotADirectoryError):
            self.cameras = {}
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror}") from None
        except ValidationError:
            raise StateError(f"{self.path} is damaged; remove it, and give the commands again that had keep = true") from None
        return self

    def read_or_set_aside(self) -> None:
        """As :meth:`read`; a file that cannot be used is told of and set aside, as agent.toml alone makes a running agent."""
        try:
            self.read()
        except StateError as error:
            log.warning("what was kept of commands is lost, agent.toml holds: %s", error)
            with contextlib.suppress(OSError):
                self.path.replace(self.path.with_suffix(".damaged"))

    def change(self, cameras: list[str], **update: Any) -> None:
        """Keep other values for some cameras; None or False: those of agent.toml. Raises StateError, and then nothing is changed."""
        changed = dict(self.cameras)
        for camera in cameras:
            new = changed.get(camera, KeptCamera()).model_copy(update=update)
            changed[camera] = new
            if new == KeptCamera():
                del changed[camera]
        if changed == self.cameras:
            return
        try:
            write_whole(self.path, _File(cameras=changed).model_dump_json(exclude_defaults=True) + "\n")
        except OSError as error:
            raise StateError(f"{self.path} cannot be written: {error.strerror}") from None
        self.cameras = changed
