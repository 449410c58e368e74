"""What the heartbeat tells of the machine. Each part comes from a reader (edge_agent/readers/) and is null where that has nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, slots=True)
class SystemHealth:
    """What runs here, and since when."""

    board: Annotated[str | None, Field(description="by its device tree or its firmware, such as Raspberry Pi 5 Model B Rev 1.0")]
    os: Annotated[str | None, Field(description="such as Debian GNU/Linux 12 (bookworm)")]
    kernel: str | None
    boot_id: Annotated[str | None, Field(description="another one after each boot")]
    uptime_s: Annotated[float | None, Field(description="of the machine")]


@dataclass(frozen=True, slots=True)
class CpuHealth:
    """All processors together."""

    cores: int
    percent: Annotated[float | None, Field(description="busy since the last heartbeat, 100: all cores")]
    frequency_mhz: Annotated[int | None, Field(description="of the fastest core now")]
    most_frequency_mhz: Annotated[int | None, Field(description="that it can do; how much of it is allowed now: governor.frequency_cap")]


@dataclass(frozen=True, slots=True)
class MemoryHealth:
    """The machine's memory."""

    total_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int


@dataclass(frozen=True, slots=True)
class DiskHealth:
    """The file system that the state directory is on."""

    total_bytes: int
    free_bytes: Annotated[int, Field(description="for this user")]
    files_free: Annotated[int | None, Field(description="inodes; null where the file system does not count them")]
    read_only: bool


@dataclass(frozen=True, slots=True)
class ClockHealth:
    """Whether timestamps can be believed."""

    synced: Annotated[bool | None, Field(description="kept by NTP or the like; null: cannot be told")]
    told_by: Annotated[str | None, Field(description="adjtimex (the kernel), timesyncd; null: nobody")]
    max_error_s: Annotated[float | None, Field(description="the kernel's own bound")]
    steps_total: Annotated[int, Field(description="times that the clock jumped by more than half a second since the agent started")]
    last_step_s: Annotated[float | None, Field(description="by how much it jumped last; above 0: forward")]


@dataclass(frozen=True, slots=True)
class InterfaceHealth:
    """One network interface."""

    state: Annotated[str, Field(description="the kernel's operstate: up, down, dormant, unknown")]
    wireless: bool
    speed_mbps: int | None
    signal_dbm: float | None
    received_bytes_total: int
    sent_bytes_total: int
    errors_total: Annotated[int, Field(description="received and sent")]


@dataclass(frozen=True, slots=True)
class NetworkHealth:
    """Interfaces that are hardware, and the one that leads out."""

    default_route: Annotated[str | None, Field(description="the interface of the default route; null: there is none")]
    interfaces: dict[str, InterfaceHealth]


@dataclass(frozen=True, slots=True)
class GpuHealth:
    """Its load and clock (Jetson and others with devfreq). No other names than the machine's."""

    name: str
    load_percent: float | None
    frequency_mhz: int | None
    most_frequency_mhz: int | None
