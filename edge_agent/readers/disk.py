"""Room where the state directory is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from edge_agent.host_event import DiskHealth
from edge_agent.readers.base import ReaderContext, Readings

LEAST_FREE_BYTES = 64 * 1024 * 1024
LEAST_FREE_SHARE = 0.02
"""Below the lesser of both it is told of: small cards are not full at 64 MB."""
LEAST_FILES = 64


class Disk:
    """The state directory's file system, or that of the nearest folder above it that exists."""

    def __init__(self, context: ReaderContext) -> None:
        self._context = context
        self._last: DiskHealth | None = None

    def read(self, now: float, readings: Readings) -> Readings:
        self._last = self._look()
        return replace(readings, host=replace(readings.host, disk=self._last))

    def _look(self) -> DiskHealth | None:
        directory = self._context.state_dir
        for folder in (directory, *directory.parents):
            try:
                found = self._context.statvfs(folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                return None
            return DiskHealth(
                total_bytes=found.f_blocks * found.f_frsize,
                free_bytes=found.f_bavail * found.f_frsize,
                files_free=found.f_favail if found.f_files else None,
                read_only=bool(found.f_flag & os.ST_RDONLY),
            )
        return None

    def reasons(self) -> Sequence[str]:
        disk, where = self._last, self._context.state_dir
        if disk is None:
            return ()
        if disk.read_only:
            return (f"disk: the file system of {where} is read-only",)
        if disk.free_bytes < min(LEAST_FREE_BYTES, LEAST_FREE_SHARE * disk.total_bytes):
            return (f"disk: only {disk.free_bytes / 1e6:.0f} MB are free at {where}",)
        if disk.files_free is not None and disk.files_free < LEAST_FILES:
            return (f"disk: no more than {disk.files_free} files can be made at {where}",)
        return ()


def build(context: ReaderContext) -> Disk:
    """For edge_agent/vitals.py."""
    return Disk(context)
