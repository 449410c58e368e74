"""What the agent keeps from one start to the next: the folder, what is in it, and whether it can be written."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

from edge_agent._spool_disk import Disk
from edge_agent._spool_store import Store
from edge_agent.config import AgentConfig
from edge_agent.errors import StateError
from edge_agent.host import clock_synced, machine_device_id
from edge_agent.spool import Spool, SpoolLimits
from edge_agent.state import State, default_directory

log = logging.getLogger("edge_agent.preflight")  # the name that whoever filters the log knows


def state_for(config: AgentConfig) -> State:
    """The state directory, not yet opened."""
    given = config.settings.device.state_dir
    return State(config.resolve(given) if given else default_directory())


def spool_folder(config: AgentConfig) -> Path:
    """Of the spools' files."""
    return state_for(config).directory / "spool"


def build_spool(config: AgentConfig, name: str) -> Spool:
    """Where a sink's events wait, not yet opened. ``name``: of the sink, which each has its own file for."""
    settings = config.settings.spool
    limits = SpoolLimits(settings.max_events, settings.max_memory_bytes, settings.max_bytes, settings.max_age_s, settings.drain_per_s)
    disk = None
    if settings.durability != "memory":
        store = Store(spool_folder(config) / f"{name}.db")
        disk = Disk(store, always=settings.durability == "always", interval_s=settings.interval_s)
    return Spool(limits, disk, clock_synced=clock_synced)


def device_id(config: AgentConfig, state: State) -> str:
    """The configured name, else one from the machine, else one that is made once and kept."""
    configured = config.settings.device.id
    return configured if configured != "auto" else machine_device_id() or state.device_id()


def check_state(state: State) -> None:
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
