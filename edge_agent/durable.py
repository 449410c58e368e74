"""Files and folders that are there after a power cut, whole or as they were before. What is written to the state directory comes here."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

_PART = ".part"
"""What a cut leaves behind of a file that was being written."""


def make_folder(folder: Path) -> None:
    """As ``mkdir -p``, for this user alone, and on the disk when it returns. What an earlier cut left in it is removed. Raises OSError."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for each in missing:
        _sync_folder(each.parent)
    for left in folder.glob(f".*{_PART}"):
        with contextlib.suppress(OSError):
            left.unlink()


def write_whole(path: Path, text: str) -> None:
    """A file whole or not at all, also across a power cut; only this user may read it. Raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Without this a new name in it, or a rename, may be forgotten."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
