"""agent.toml: its settings model. Validation here does no I/O; :mod:`edge_agent.config_file` reads the file.

A camera's table holds the keys below plus those of its source's kind (the ``Config`` of that file in ``sources/``);
``[model]`` holds the keys below plus those of its runtime's kind. This module knows no plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from edge_agent import credential_paths
from edge_agent.config_camera import CameraSettings
from edge_agent.config_delivery import MqttSettings, PublishSettings, SinksSettings, SpoolSettings
from edge_agent.config_values import (
    ClassFilter,
    CommandName,
    Cores,
    Count,
    Deviation,
    Loopback,
    ModelName,
    Name,
    Seconds,
    Share,
    Table,
    not_bool,
)
from edge_agent.errors import ConfigError

ENV_PREFIX = "EDGE_AGENT_"
ENV_DELIMITER = "__"


class DeviceSettings(Table):
    """Who this agent is."""

    id: Name = "auto"
    """Name of this device in topics and payloads; "auto" derives a stable one from this machine's id."""
    state_dir: Annotated[str | None, Field(examples=["/var/lib/edge-agent"])] = None
    """Folder for what must survive a restart. Default: $STATE_DIRECTORY (set by systemd), else ~/.local/state/edge-agent."""


class ModelSettings(Table):
    """The detector. Family, input shape, quantization and labels are read from the file; set a key only to override."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    path: str = "builtin"
    """A .onnx or .tflite file, or "builtin" for the small INT8 detector that comes with edge_agent (23 classes)."""
    runtime: Annotated[str | None, Field(examples=["tflite"])] = None
    """"onnx" or "tflite"; default: by the file's suffix."""
    family: Annotated[str | None, Field(examples=["yolox"])] = None
    """Needed only when the file is ambiguous: the error then names the candidates."""
    labels: Annotated[str | tuple[str, ...] | None, Field(examples=["labels.txt"])] = None
    """Class names: a text file with one name a line, or a list. Default: from the model file or a .txt beside it."""
    confidence: Annotated[Share | None, Field(examples=[0.4])] = None
    """Detections below this are not reported. Default 0.4 (the built-in model: 0.3)."""
    iou: Share = 0.45
    """Of two boxes of one class that overlap more than this, the weaker is suppressed (NMS)."""
    max_detections: Count = 100
    """The most detections reported for one frame."""
    classes: Annotated[ClassFilter | None, Field(examples=[["person", "car"]])] = None
    """Report only these classes (names or numbers). Default: all."""
    threads: Count | Literal["auto"] = "auto"
    """Threads of one inference; "auto" measures it once per machine, leaves one core to the decoders and takes at most 4."""
    lanes: Annotated[int, BeforeValidator(not_bool), Field(ge=1, le=16)] | Literal["auto"] = "auto"
    """Inferences side by side; "auto": one for a single live camera, else as many as do most here, which is measured (4 at most)."""
    batch: Annotated[int, BeforeValidator(not_bool), Field(ge=1, le=64)] | Literal["auto"] = 1
    """Frames that are ready are inferred together, so many at most; "auto" measures whether that serves more (docs/models.md)."""
    cpu_budget: Annotated[Cores | None, Field(examples=[1.5])] = None
    """Cores that this model's inferences may use on the average: they pause where it would be more. Default: no limit."""
    input_size: Annotated[Count | tuple[Count, Count] | None, Field(examples=[640])] = None
    """640, or [width, height], where the file leaves it open, or is to be used for another size than its own."""
    colour: Annotated[Literal["RGB", "BGR"] | None, Field(examples=["RGB"])] = None
    """Order of the input's channels. Default: what the family was trained with; so the next three."""
    letterbox: Annotated[Literal["none", "top_left", "centre"] | None, Field(examples=["centre"])] = None
    """"none" fills the input whatever the aspect, the others keep it and pad."""
    mean: Annotated[tuple[float, float, float] | None, Field(examples=[[123.675, 116.28, 103.53]])] = None
    """The input is (pixel - mean) / std, pixels from 0 to 255, in the order of the channels. Needs std."""
    std: Annotated[tuple[Deviation, Deviation, Deviation] | None, Field(examples=[[58.395, 57.12, 57.375]])] = None
    """As mean."""
    masks: Literal["polygon", "rle", "none"] = "polygon"
    """How masks are published; "rle" also sends the maps of semantic segmentation."""
    text_embeddings: Annotated[str | None, Field(examples=["texts.npz"])] = None
    """For image encoders such as CLIP's: what to look for, as .npz with "names" and "embeddings" (docs/models.md)."""


class HealthSettings(Table):
    """The heartbeat."""

    interval_s: Seconds = 10
    """Seconds between heartbeats on <base>/<device>/health."""
    max_rss_mb: Annotated[float | None, BeforeValidator(not_bool), Field(ge=64, le=1e6, examples=[600])] = None
    """Leave cleanly, to be restarted, when more memory is used (MB). Default: just below the cgroup's limit (MemoryMax=, MemoryHigh=
    of the systemd unit), else 80 % of the machine's memory."""


class GovernorSettings(Table):
    """Heat and power: infer less before the chip slows itself down (docs/scheduling.md). Acts only where the machine tells of it."""

    enabled: bool = True
    """false: only tell of heat and throttling in the heartbeat."""
    margin_c: Annotated[float, BeforeValidator(not_bool), Field(ge=1, le=30)] = 3
    """The chip is held so many degrees (Celsius) below the point where it is slowed down."""
    target_c: Annotated[float | None, BeforeValidator(not_bool), Field(ge=30, le=110, examples=[70])] = None
    """Hold the chip at this temperature instead (Celsius). Default: margin_c below the point that the machine tells."""
    least_share: Annotated[float, BeforeValidator(not_bool), Field(ge=0.01, le=1)] = 0.2
    """Never leave inference less than this share of the time."""


class CommandsSettings(Table):
    """Commands over MQTT (docs/commands.md). Who may write to the command topics may give them: restrict that at the broker."""

    allow: tuple[CommandName, ...] = ("pause", "resume", "mute", "unmute", "snapshot", "set", "reload", "report")
    """Only these are obeyed; none with an empty list. "snapshot" also needs [publish] snapshots = true."""


class MetricsSettings(Table):
    """Prometheus metrics at http://<listen>/metrics (docs/metrics.md). Needs pip install "edge-agent[metrics]"."""

    listen: Annotated[Loopback, Field(examples=["127.0.0.1:9464"])] = None
    """Address of this machine's own and port. Default: no metrics."""


class LogSettings(Table):
    """Logs go to stderr, and so to the journal under systemd."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    format: Literal["auto", "text", "journal", "json"] = "auto"
    """"auto": "journal" under systemd, "text" else."""


class Settings(BaseSettings):
    """The whole of agent.toml. Each key can be overridden by the environment: ``EDGE_AGENT_MQTT__HOST=broker.local``."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    device: DeviceSettings = DeviceSettings()
    model: ModelSettings = ModelSettings()
    models: dict[ModelName, ModelSettings] = {}
    """More detectors, for cameras that name one: [models.<name>] with the keys of [model]. Each has lanes of its own."""
    mqtt: MqttSettings = MqttSettings()
    sinks: SinksSettings = SinksSettings()
    health: HealthSettings = HealthSettings()
    governor: GovernorSettings = GovernorSettings()
    spool: SpoolSettings = SpoolSettings()
    publish: PublishSettings = PublishSettings()
    commands: CommandsSettings = CommandsSettings()
    metrics: MetricsSettings = MetricsSettings()
    log: LogSettings = LogSettings()
    cameras: tuple[CameraSettings, ...]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments: the loader lays the environment over the file's tables, to know where each value came from."""
        return (init_settings,)


@dataclass(frozen=True)
class CameraConfig:
    """A camera's table with its kind resolved and its kind's own keys validated."""

    settings: CameraSettings
    kind: str
    options: Table

    @property
    def id(self) -> str:
        """The camera's name."""
        return self.settings.id


@dataclass(frozen=True)
class AgentConfig:
    """A valid configuration: what :func:`edge_agent.config_file.load` returns."""

    settings: Settings
    cameras: tuple[CameraConfig, ...]
    runtime: str
    runtime_options: Table
    path: Path | None
    """The file it came from; None when it was made in memory."""
    others: Mapping[str, tuple[str, Table]] = field(default_factory=dict)
    """Runtime and its own keys of each of [models]."""
    model_name: str | None = None
    """Which of [models] takes the place of [model] here; None: none."""

    @property
    def model_key(self) -> str:
        """The table that ``settings.model`` comes from."""
        return "model" if self.model_name is None else f"models.{self.model_name}"

    def per_model(self) -> list[AgentConfig]:
        """One for each model that a camera in use names, as if it were the only one: the cameras of the others are disabled."""
        if self.model_name is not None:
            return [self]
        named = dict.fromkeys(camera.settings.model for camera in self.cameras if camera.settings.enabled)
        return [self.of_model(name) for name in named]

    def of_model(self, name: str | None) -> AgentConfig:
        """As :meth:`per_model`, for one of them, whatever cameras it has."""
        settings, runtime, options = self.settings, self.runtime, self.runtime_options
        if name is not None:
            settings = settings.model_copy(update={"model": settings.models[name]})
            runtime, options = self.others[name]
        cameras = tuple(
            camera if camera.settings.model == name else replace(camera, settings=camera.settings.model_copy(update={"enabled": False}))
            for camera in self.cameras
        )
        settings = settings.model_copy(update={"models": {}, "cameras": tuple(camera.settings for camera in cameras)})
        return replace(self, settings=settings, cameras=cameras, runtime=runtime, runtime_options=options, others={}, model_name=name)

    @property
    def base_dir(self) -> Path:
        """Relative paths in the file are relative to the file's own folder."""
        return self.path.parent if self.path else Path.cwd()

    def resolve(self, path: str) -> Path:
        """``path`` of the configuration as an absolute path; ``~`` and ``credential:`` are expanded. Raises ConfigError if it is none."""
        if "\0" in path:
            raise ConfigError(f"{path!r} is no path: it holds a NUL")
        try:
            return (self.base_dir / Path(credential_paths.expanded(path)).expanduser()).absolute()
        except RuntimeError:
            raise ConfigError(f"{path!r}: the home directory that '~' stands for cannot be found; write the path out") from None
