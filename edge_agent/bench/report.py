"""What ``edge-agent bench`` tells, as data, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

LIMITS = {
    "camera": "the camera", "decode": "decoding", "model": "the model", "CPU": "the CPU", "max_fps": "max_fps",
    "interval_s": "interval_s", "motion": "the motion gate", "staleness_ms": "staleness_ms", "cpu_budget": "the model's cpu_budget",
    "governor": "the governor", "broker": "the broker", "model_error": "errors in the model", "unreadable": "damaged pictures",
    "unclear": "not clear",
}  # fmt: skip
"""What may keep a camera from more, as it is said."""
NEARLY_ALL, NOTABLE = 0.99, 0.05
PARTS = ("wait", "decode", "preprocess", "infer", "postprocess", "publish")
Milliseconds = Mapping[str, float] | None
"""p50 and p95; None where nothing was measured."""


@dataclass(frozen=True)
class CameraReport:
    """One camera over the time that was measured. captured = served + skipped + dropped + in_flight."""

    camera: str
    kind: str
    state: str
    error: str | None
    live: bool
    """False: read as fast as its frames are served."""
    gate: bool | None
    """Whether its motion gate is at work; None: it has none."""
    every: bool
    """Each frame is served, and the source waits for the model."""
    model: str
    decoder: str | None
    declared_fps: float | None
    real_fps: float
    served_fps: float
    captured: int
    served: int
    skipped: Mapping[str, int]
    dropped: Mapping[str, int]
    in_flight: int
    lost_upstream: int
    total_ms: Milliseconds
    parts_ms: Mapping[str, Milliseconds]
    service_ms: float | None
    """Mean time that the model was taken by one of its frames."""
    decode_mean_ms: float | None
    asked_fps: float | None
    asked_by: str | None
    """``max_fps`` or ``interval_s``."""
    weight: float
    possible_fps: float | None = None
    """Its share of what camera, settings and model allow; None where nothing was served."""
    limit: str = ""
    """One of ``LIMITS``; empty where the camera was not reached."""

    @property
    def ratio(self) -> float | None:
        """Served of what was possible."""
        return round(self.served_fps / self.possible_fps, 3) if self.possible_fps else None


@dataclass(frozen=True)
class ModelReport:
    """One model, and how busy it was."""

    name: str
    lanes: int
    threads: int
    precision: str
    runtime: str
    cameras: tuple[str, ...]
    table: str = "model"
    """Of agent.toml."""
    share: float = 1.0
    """Of the time, in which its lanes might infer, on the average."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """What each cause left of it: ``governor``, ``cpu_budget``."""
    cpu_budget: float | None = None
    """Cores."""
    busy: float = 0.0
    """Of the time that its lanes might use, the share in which they had a frame."""

    @property
    def held_by(self) -> str | None:
        """What leaves it the least of the time; None where it may use all of it."""
        cause = min(self.shares, key=self.shares.__getitem__, default=None)
        return cause if cause is not None and self.shares[cause] < NEARLY_ALL else None


@dataclass(frozen=True)
class BrokerReport:
    """The way to the broker, over the time that was measured."""

    name: str
    publishing: bool
    connected: bool
    error: str | None
    accepted: int
    """Events that were handed over."""
    delivered: int
    dropped: Mapping[str, int]
    queued: int
    """At the end."""
    queued_before: int


@dataclass(frozen=True)
class Report:
    """All of it."""

    seconds: float
    """That were measured, without the start."""
    asked_s: float
    stopped_early: str | None
    """Why it was not as long as asked."""
    cores: int
    cpu_s: Mapping[str, float]
    """By purpose."""
    others_s: float
    """CPU seconds that everything else on these cores used; 0 where the machine does not tell."""
    rss_mb: float
    cameras: tuple[CameraReport, ...]
    models: tuple[ModelReport, ...]
    broker: BrokerReport
    governor_cause: str = ""
    """Why it held inference back at the end; empty where it did not."""
    advice: tuple[str, ...] = field(default=())

    @property
    def served(self) -> int:
        """Of all cameras."""
        return sum(camera.served for camera in self.cameras)

    @property
    def cpu_share(self) -> float:
        """Of all cores."""
        return sum(self.cpu_s.values()) / max(self.seconds * self.cores, 1e-9)

    @property
    def others_share(self) -> float:
        """Of all cores, what everything else used."""
        return self.others_s / max(self.seconds * self.cores, 1e-9)

    @property
    def idle_cores(self) -> float:
        """What nobody used."""
        return max(0.0, self.cores * (1 - self.cpu_share - self.others_share))

    def used(self) -> str:
        """Of the CPU, in words."""
        others = f", and other programs {100 * self.others_share:.0f} %" if self.others_share >= NOTABLE else ""
        return f"{100 * self.cpu_share:.0f} % of all cores{others}"

    def cpu_ms_per_frame(self) -> dict[str, float]:
        """Milliseconds of the CPU for each served frame, by purpose."""
        return {name: round(1e3 * used / self.served, 3) for name, used in self.cpu_s.items()} if self.served else {}

    def as_json(self) -> dict[str, Any]:
        """For --json; the shape is in docs/scheduling.md."""
        found = asdict(self)
        for shown, camera in zip(found["cameras"], self.cameras, strict=True):
            shown["ratio"] = camera.ratio
        return {
            "schema": "edge_agent.bench/1",
            **found,
            "served_total": self.served,
            "cpu_share": round(self.cpu_share, 3),
            "others_share": round(self.others_share, 3),
            "cpu_ms_per_served_frame": self.cpu_ms_per_frame(),
        }

    def text(self) -> str:
        """For a person."""
        early = f" ({self.stopped_early}; {self.asked_s:g} s were asked for)" if self.stopped_early else ""
        lines = [f"{self.seconds:.1f} s measured{early}, {self.cores} cores, {self.rss_mb:.0f} MB"]
        for camera in self.cameras:
            lines += ["", *_camera_lines(camera)]
        lines += ["", *(_model_line(model) for model in self.models), _broker_line(self.broker), *self._cpu_lines()]
        if self.advice:
            lines += ["", "What to do"] + [f"  - {line}" for line in self.advice]
        return "\n".join(lines)

    def _cpu_lines(self) -> list[str]:
        if not self.served:
            return []
        parts = sorted(self.cpu_ms_per_frame().items(), key=lambda item: -item[1])
        whole = sum(value for _, value in parts)
        shown = ", ".join(f"{name} {value:.2f}" for name, value in parts if value >= 0.005)
        return [f"CPU      {self.used()}; {whole:.2f} ms for each served frame: {shown}", _ESTIMATE]


_ESTIMATE = "         infer is measured; preprocess, postprocess and events are an estimate, by the time that they took"
STATES = {"backoff": "not reached, tried again and again", "connecting": "not reached yet", "ended": "ended before measuring began"}


def _camera_lines(camera: CameraReport) -> list[str]:
    if not camera.captured:
        lines = [f"{camera.camera}  {camera.kind}, model {camera.model}; {STATES.get(camera.state, camera.state)}"]
        return [*lines, f"  error    {camera.error}"] if camera.error else lines
    declared = f"declares {camera.declared_fps:g} fps" if camera.declared_fps else "declares no rate"
    real = f"delivers {camera.real_fps:.1f}" if camera.live else "read as fast as it is served"
    decoder = "" if not camera.decoder or camera.decoder.startswith("none") else f", {camera.decoder}"
    lines = [f"{camera.camera}  {camera.kind}{decoder}, model {camera.model}; {declared}, {real}; {camera.state}"]
    if camera.error:
        lines.append(f"  error    {camera.error}")
    skipped, dropped = _reasons("skipped", camera.skipped), _reasons("dropped", camera.dropped)
    flight = f" + {camera.in_flight} in flight"
    lines.append(f"  frames   {camera.captured} captured = {camera.served} served + {skipped} + {dropped}{flight}; {_lost(camera)}")
    possible = "" if camera.ratio is None else f" of {rate(camera.possible_fps or 0)} that were possible: {100 * camera.ratio:.0f} %"
    lines.append(f"  rate     {rate(camera.served_fps)} fps served{possible}; the limit is {LIMITS[camera.limit]}")
    if camera.served:
        parts = " | ".join(f"{name} {_pair(camera.parts_ms.get(name))}" for name in PARTS)
        lines.append(f"  ms       {parts} (p50/p95); capture to hand-over {_pair(camera.total_ms)}")
    return lines


def rate(fps: float) -> str:
    """Frames per second, also of one in a minute."""
    return f"{fps:.1f}" if fps >= 1 or fps == 0 else f"{fps:.2g}"


def _reasons(word: str, counts: Mapping[str, int]) -> str:
    named = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count)
    return f"{sum(counts.values())} {word}" + (f" ({named})" if named else "")


def _lost(camera: CameraReport) -> str:
    return f"{camera.lost_upstream} more never arrived" if camera.lost_upstream else "none is known to be lost on the way here"


def _pair(found: Milliseconds) -> str:
    return "-" if found is None else f"{found['p50']:.1f}/{found['p95']:.1f}"


def _model_line(model: ModelReport) -> str:
    lanes = f"{model.lanes} lane{'' if model.lanes == 1 else 's'} of {model.threads} thread{'' if model.threads == 1 else 's'}"
    held = f" within the {100 * model.share:.0f} % of the time that {model.held_by} leaves it" if model.held_by else ""
    what = f"{model.name} ({model.precision}, {model.runtime}), {lanes}"
    return f"model    {what}, {100 * model.busy:.0f} % busy{held}; {', '.join(model.cameras)}"


def _broker_line(broker: BrokerReport) -> str:
    if not broker.publishing:
        return f"broker   nothing was published, as asked; {broker.delivered} events counted and thrown away"
    if not broker.connected:
        return f"broker   {broker.name} was not reached: {broker.error or 'no answer yet'}; {broker.queued} events waited at the end"
    lost = f", {_reasons('dropped', broker.dropped)}" if any(broker.dropped.values()) else ""
    return f"broker   {broker.name}: {broker.delivered} events acknowledged, {broker.queued} waited at the end{lost}"
