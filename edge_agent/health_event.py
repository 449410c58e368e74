"""The heartbeat's payload (contract: docs/mqtt.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from edge_agent.events import LOST_UPSTREAM, ErrorInfo, Fraction, ModelInfo, Timestamp
from edge_agent.host_event import (
    ClockHealth,
    CpuHealth,
    DiskHealth,
    GpuHealth,
    MemoryHealth,
    NetworkHealth,
    SystemHealth,
)

Percentiles = Annotated[dict[str, float], Field(description="p50, p95, p99 of the last 30 to 60 seconds")]


@dataclass(frozen=True, slots=True)
class MotionHealth:
    """A camera's motion gate."""

    state: Literal["moving", "still"]
    since: Timestamp
    gate_ms: Annotated[dict[str, float] | None, Field(description="CPU of one look, with making the small picture: p50, p95")]


@dataclass(frozen=True, slots=True)
class CameraHealth:
    """One camera in the heartbeat. captured = served + skipped + dropped + in_flight."""

    state: str
    frames_captured_total: int
    frames_served_total: int
    frames_skipped_total: Annotated[
        dict[str, int], Field(description="by policy: model_busy, max_fps, interval, stale, no_motion, not_decoded, muted, paused")
    ]
    frames_dropped_total: Annotated[dict[str, int], Field(description="lost: model_error, unreadable, shutdown")]
    frames_in_flight: int
    captured_fps: float
    served_fps: float
    latency_ms: Percentiles | None
    last_frame_age_s: float | None
    reconnects_total: int
    error: ErrorInfo | None
    decoder: str | None
    isolation: Annotated[Literal["thread", "process"], Field(description="where its driver and decoder run")] = "thread"
    wedged_total: Annotated[int, Field(description="calls into its driver or decoder that never came back, and were given up")] = 0
    threads_hanging: Annotated[int, Field(description="threads that still hang in such calls")] = 0
    frames_lost_upstream_total: Annotated[int, Field(description=LOST_UPSTREAM)] = 0
    stages_ms: Annotated[
        dict[str, Percentiles | None] | None,
        Field(description="wait, decode, preprocess, infer, postprocess, publish (from hand-over to the broker's acknowledgement)"),
    ] = None
    motion: Annotated[MotionHealth | None, Field(description="null where the camera has no motion gate")] = None
    events_published_total: Annotated[
        int, Field(description="handed over for delivery; where each served frame is published: all of them")
    ] = 0
    events_withheld_total: Annotated[
        dict[str, int],
        Field(description="served frames without a message of their own: unchanged, too_soon, summed (in one of an interval)"),
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpoolHealth:
    """Where events wait (docs/delivery.md)."""

    mode: Annotated[
        Literal["memory", "interval", "always"], Field(description="what is promised now; memory also where the disk cannot be used")
    ]
    events_queued: Annotated[int, Field(description="in memory, on disk, and being sent")]
    events_queued_bytes: int
    events_on_disk: Annotated[int, Field(description="of them, those that a power cut would leave")]
    oldest_age_s: Annotated[float | None, Field(description="since the oldest of them came; null: none waits")]
    events_recovered_total: Annotated[int, Field(description="found on disk at the start, from earlier runs")]
    files_quarantined_total: Annotated[int, Field(description="damaged files, set aside; what could be read of them goes on")]
    error: Annotated[str | None, Field(description="why the disk is not used now")]


@dataclass(frozen=True, slots=True)
class DeliveryHealth:
    """The way to the broker."""

    connected: bool
    reconnects_total: int
    events_queued: int
    events_queued_bytes: int
    events_delivered_total: int
    events_dropped_total: Annotated[
        dict[str, int],
        Field(
            description="buffer_full, spool_full: no room in memory, on disk, the oldest went; too_old; damaged: could not be read "
            "from disk again; rejected: the broker refused"
        ),
    ]
    error: str | None
    spool: SpoolHealth | None = None
    passing_delivered_total: Annotated[int, Field(description="answers to commands, snapshots")] = 0
    passing_dropped_total: Annotated[
        dict[str, int], Field(description="not_connected: worth nothing later; buffer_full; rejected: the broker refused")
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessHealth:
    """This process."""

    cpu_percent: Annotated[float, Field(description="of one core, since the last heartbeat")]
    rss_bytes: int
    threads: int
    descriptors: int
    rss_slope_bytes_per_hour: Annotated[
        int | None, Field(description="over the last hour at most; null before there are ten minutes of it, and in the first minute")
    ] = None
    descriptors_limit: int | None = None
    children: Annotated[int, Field(description="processes that cameras run in")] = 0
    children_rss_bytes: Annotated[int, Field(description="theirs, without what they share with others")] = 0
    memory_used_bytes: Annotated[int | None, Field(description="what is held against memory_limit_bytes; null: not measured yet")] = None
    memory_limit_bytes: Annotated[int | None, Field(description="where the agent leaves by itself, before the kernel ends it")] = None
    memory_limit_origin: Annotated[str | None, Field(description="what says so: a key of agent.toml, a cgroup's limit, the memory")] = None


@dataclass(frozen=True, slots=True)
class HostHealth:
    """The machine. Parts are null where it does not tell."""

    load1: float
    memory_available_bytes: int | None
    temperature_c: Annotated[dict[str, float], Field(description="by thermal zone")]
    system: SystemHealth | None = None
    cpu: CpuHealth | None = None
    memory: MemoryHealth | None = None
    disk: DiskHealth | None = None
    clock: ClockHealth | None = None
    network: NetworkHealth | None = None
    gpu: GpuHealth | None = None
    power_mw: Annotated[dict[str, int] | None, Field(description="by rail, where the board measures it (INA3221 on Jetsons)")] = None
    readers_failed_total: Annotated[int, Field(description="readings that failed by a defect of the agent's; the journal has them")] = 0


@dataclass(frozen=True, slots=True)
class ThrottledBits:
    """A Raspberry Pi's get_throttled: under_voltage, frequency_capped, throttled, soft_temperature_limit."""

    now: list[str]
    seen: Annotated[list[str], Field(description="at any time since the agent started, or latched by the firmware before")]


@dataclass(frozen=True, slots=True)
class GovernorHealth:
    """Heat and power, and what is done about them. null: the machine does not tell."""

    enabled: bool
    share: Annotated[Fraction, Field(description="of the time, that may be spent on inference now; 1: no limit")]
    cause: Annotated[
        Literal["none", "temperature", "throttled", "frequency_cap", "under_voltage", "over_current"],
        Field(description="why it is below 1"),
    ]
    since: Annotated[Timestamp, Field(description="when the share changed last")]
    changes_total: int
    temperature_c: Annotated[float | None, Field(description="of the zone that is nearest to its trip point")]
    zone: str | None
    trip_c: Annotated[float | None, Field(description="where the chip is slowed down: told by it, or learnt")]
    target_c: Annotated[float | None, Field(description="what the governor holds")]
    throttled_by: Annotated[list[str], Field(description="what lowers clocks for heat now")]
    frequency_cap: Annotated[float | None, Field(description="of a processor's highest frequency, now allowed; power modes lower it too")]
    gpu_frequency_cap: float | None
    throttled: Annotated[ThrottledBits | None, Field(description="Raspberry Pi only")]
    under_voltage: Annotated[bool | None, Field(description="the power supply is too weak now")]
    under_voltage_seen: Annotated[bool | None, Field(description="or was, since boot as far as can be known")]
    over_current_seen: Annotated[bool | None, Field(description="Jetson only: limited by its supply since boot")]
    power_mode: Annotated[str | None, Field(description="Jetson only: as nvpmodel names it")]
    readings_refused_total: Annotated[int, Field(description="sensor values that could not be read or made no sense")]


@dataclass(frozen=True, slots=True)
class CommandedHealth:
    """What a camera goes by since a command. null: by agent.toml."""

    confidence: float | None
    max_fps: float | None


@dataclass(frozen=True, slots=True)
class CommandsHealth:
    """Commands since the start. received = executed + replayed + refused + ignored + those that wait."""

    received_total: int
    executed_total: int
    replayed_total: Annotated[int, Field(description="answered from memory, as their ids were known")]
    refused_total: Annotated[dict[str, int], Field(description="by the code of the answer; rate_limited: only the first in a row has one")]
    ignored_total: Annotated[dict[str, int], Field(description="without an answer: retained, queue_full, stopping")]
    in_force: Annotated[dict[str, CommandedHealth], Field(description="cameras of which settings were set")]


@dataclass(frozen=True, slots=True)
class HealthEvent:
    """The heartbeat, retained. Topic: <base>/<device>/health."""

    device: str
    stream: str
    at: Timestamp
    clock_synced: bool
    agent_version: str
    uptime_s: float
    verdict: Annotated[
        Literal["ok", "degraded", "failing", "stopped"],
        Field(description="ok; some of it does not work; none of it does; the agent has ended"),
    ]
    reasons: list[str]
    model: ModelInfo
    accelerator: str
    stages_ms: Annotated[
        dict[str, Percentiles | None], Field(description="wait, decode, preprocess, infer, postprocess, publish, over all cameras")
    ]
    cameras: dict[str, CameraHealth]
    delivery: DeliveryHealth
    process: ProcessHealth
    host: HostHealth
    models: Annotated[list[ModelInfo], Field(description="all of them, where cameras have models of their own")] = field(
        default_factory=list
    )
    governor: GovernorHealth | None = None
    sinks: Annotated[dict[str, DeliveryHealth], Field(description="the ways beside that of delivery, by the names of [sinks]")] = field(
        default_factory=dict
    )
    commands: Annotated[CommandsHealth | None, Field(description="null: none are obeyed")] = None
    schema: Literal["edge_agent.health/1"] = "edge_agent.health/1"
