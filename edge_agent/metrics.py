"""The heartbeat as Prometheus metrics, on loopback: names, base units and types by Prometheus' conventions.

What is told is made from a :class:`~edge_agent.health_event.HealthEvent` at the moment of a scrape, so that the metrics, the
heartbeat and the cameras' states never say different things. Needs the extra ``edge-agent[metrics]``.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from edge_agent.errors import ConfigError
from edge_agent.events import CameraStatusEvent
from edge_agent.health_event import CameraHealth, CommandsHealth, DeliveryHealth, GovernorHealth, HealthEvent, SpoolHealth

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

PREFIX = "edge_agent_"
RETRY_S = 10.0
"""How soon a port that was taken is tried again."""
POLL_S = 0.25
"""How often the server looks whether it is to end."""
PATIENCE_S = 10.0
"""With a client that says nothing."""
STATES: Sequence[str] = get_args(get_type_hints(CameraStatusEvent)["state"])
VERDICTS: Sequence[str] = get_args(get_type_hints(HealthEvent, include_extras=False)["verdict"])
MODES: Sequence[str] = get_args(get_type_hints(SpoolHealth, include_extras=False)["mode"])
CAUSES: Sequence[str] = get_args(get_type_hints(GovernorHealth, include_extras=False)["cause"])
QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99"}

Labels = Mapping[str, str]


class Families:
    """Samples gathered by metric, in the order in which they were first named."""

    def __init__(self) -> None:
        self._found: dict[str, Metric] = {}

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._found.values())

    def add(self, kind: str, name: str, text: str, value: float | None, **labels: str) -> None:
        """One sample; None is nothing known, and so nothing told. A counter's name is without ``_total``."""
        if value is None:
            return
        from prometheus_client.metrics_core import Metric

        metric = self._found.setdefault(name, Metric(PREFIX + name, text, kind))
        metric.add_sample(PREFIX + name + ("_total" if kind == "counter" else ""), labels, float(value))

    def gauge(self, name: str, text: str, value: float | None, **labels: str) -> None:
        """Something that goes up and down."""
        self.add("gauge", name, text, value, **labels)

    def counter(self, name: str, text: str, value: float, **labels: str) -> None:
        """Something that only grows until the agent starts again."""
        self.add("counter", name, text, value, **labels)

    def reasons(self, name: str, text: str, counts: Mapping[str, int], **labels: str) -> None:
        """A counter for each reason."""
        for reason, count in sorted(counts.items()):
            self.counter(name, text, count, **labels, reason=reason)

    def one_of(self, name: str, text: str, key: str, value: str, choices: Sequence[str], **labels: str) -> None:
        """A gauge for each choice: 1 for the one that holds, 0 for the others, so that a sum over devices counts them."""
        for choice in choices:
            self.gauge(name, text, choice == value, **labels, **{key: choice})

    def quantiles(self, name: str, text: str, milliseconds: Mapping[str, float] | None, **labels: str) -> None:
        """Seconds by quantile, of the last 30 to 60 seconds: a summary without sum and count, which would be of another span."""
        for key, quantile in QUANTILES.items():
            if milliseconds is not None and key in milliseconds:
                self.add("summary", name, text, milliseconds[key] / 1e3, **labels, quantile=quantile)


def families(health: HealthEvent, main: str) -> Iterator[Metric]:
    """Everything of a heartbeat but the process' own readings, which ``prometheus_client`` has under their usual names.

    ``main``: the sink that its ``delivery`` is of.
    """
    found = Families()
    _add_agent(found, health)
    for camera, its in health.cameras.items():
        _add_frames(found, camera, its)
        _add_camera(found, camera, its)
    _add_delivery(found, main, health.delivery)
    for sink, delivery in health.sinks.items():
        _add_delivery(found, sink, delivery)
    if health.commands is not None:
        _add_commands(found, health.commands)
    _add_host(found, health)
    if health.governor is not None:
        _add_governor(found, health.governor)
    return iter(found)


def _add_agent(found: Families, health: HealthEvent) -> None:
    about = {"device": health.device, "version": health.agent_version, "stream": health.stream, "accelerator": health.accelerator}
    found.gauge("info", "Which agent this is; the value is always 1.", 1, **about)
    found.gauge("uptime_seconds", "Since the agent started.", health.uptime_s)
    found.gauge("clock_synced", "Whether the device's clock is set by NTP.", health.clock_synced)
    found.one_of("verdict", "What the agent thinks of itself.", "verdict", health.verdict, VERDICTS)
    for model in health.models or [health.model]:
        labels = {"model": model.name, "hash": model.hash, "precision": model.precision, "runtime": model.runtime}
        found.gauge("model_info", "A model that is at work; the value is always 1.", 1, **labels)
    for stage, milliseconds in health.stages_ms.items():
        found.quantiles("stage_duration_seconds", "Where the time of a served frame went.", milliseconds, stage=stage)


def _add_frames(found: Families, camera: str, its: CameraHealth) -> None:
    found.counter(
        "frames_captured", "Frames that arrived: served + skipped + dropped + in flight.", its.frames_captured_total, camera=camera
    )
    found.counter("frames_served", "Frames that the model looked at, and that were told of.", its.frames_served_total, camera=camera)
    found.reasons("frames_skipped", "Frames left out by policy.", its.frames_skipped_total, camera=camera)
    found.reasons("frames_dropped", "Frames lost.", its.frames_dropped_total, camera=camera)
    found.gauge("frames_in_flight", "Frames that wait or are being inferred.", its.frames_in_flight, camera=camera)
    found.counter("events_published", "Events handed over for delivery.", its.events_published_total, camera=camera)
    found.reasons("events_withheld", "Served frames without an event of their own.", its.events_withheld_total, camera=camera)
    lost = "Frames of the camera that never arrived; not among those captured."
    found.counter("frames_lost_upstream", lost, its.frames_lost_upstream_total, camera=camera)


def _add_camera(found: Families, camera: str, its: CameraHealth) -> None:
    found.one_of("camera_state", "The state of a camera.", "state", its.state, STATES, camera=camera)
    found.gauge("camera_last_frame_age_seconds", "Since the camera's last frame arrived.", its.last_frame_age_s, camera=camera)
    found.counter("camera_reconnects", "How often the camera had to be opened again.", its.reconnects_total, camera=camera)
    found.counter("camera_wedged_calls", "Calls into driver or decoder that were given up.", its.wedged_total, camera=camera)
    found.gauge("camera_threads_hanging", "Threads that still hang in such calls.", its.threads_hanging, camera=camera)
    found.quantiles("latency_seconds", "From a frame's arrival to its publishing.", its.latency_ms, camera=camera)
    for stage, milliseconds in (its.stages_ms or {}).items():
        text = "Where the time of a camera's served frame went."
        found.quantiles("camera_stage_duration_seconds", text, milliseconds, camera=camera, stage=stage)
    if its.motion is not None:
        found.gauge("camera_moving", "Whether the motion gate sees something move.", its.motion.state == "moving", camera=camera)
        found.quantiles("motion_look_cpu_seconds", "CPU of one look of the motion gate.", its.motion.gate_ms, camera=camera)


def _add_delivery(found: Families, sink: str, delivery: DeliveryHealth) -> None:
    found.gauge("delivery_connected", "Whether the sink can be reached.", delivery.connected, sink=sink)
    found.counter("delivery_reconnects", "How often the connection had to be made again.", delivery.reconnects_total, sink=sink)
    found.gauge("events_queued", "Events that wait for the sink.", delivery.events_queued, sink=sink)
    found.gauge("events_queued_bytes", "Their payloads.", delivery.events_queued_bytes, sink=sink)
    found.counter("events_delivered", "Events that the sink confirmed.", delivery.events_delivered_total, sink=sink)
    found.reasons("events_dropped", "Events lost.", delivery.events_dropped_total, sink=sink)
    found.counter("passing_delivered", "Answers to commands and snapshots that were sent.", delivery.passing_delivered_total, sink=sink)
    found.reasons("passing_dropped", "Answers to commands and snapshots that were not.", delivery.passing_dropped_total, sink=sink)
    if delivery.spool is not None:
        _add_spool(found, sink, delivery.spool)


def _add_spool(found: Families, sink: str, spool: SpoolHealth) -> None:
    found.one_of("spool_mode", "What the spool promises now.", "mode", spool.mode, MODES, sink=sink)
    found.gauge("spool_events_on_disk", "Of the events that wait, those that a power cut would leave.", spool.events_on_disk, sink=sink)
    found.gauge("spool_oldest_age_seconds", "Since the oldest of them came.", spool.oldest_age_s, sink=sink)
    found.counter("events_recovered", "Events found on disk at the start.", spool.events_recovered_total, sink=sink)
    found.counter("spool_files_quarantined", "Damaged files that were set aside.", spool.files_quarantined_total, sink=sink)


def _add_commands(found: Families, commands: CommandsHealth) -> None:
    found.counter("commands_received", "Commands that came in.", commands.received_total)
    found.counter("commands_executed", "Commands that were obeyed.", commands.executed_total)
    found.reasons("commands_refused", "Commands that were refused.", commands.refused_total)
    found.reasons("commands_ignored", "Commands that got no answer.", commands.ignored_total)


def _add_host(found: Families, health: HealthEvent) -> None:
    found.gauge("host_load1", "Processes that run or want to, averaged over a minute.", health.host.load1)
    found.gauge("host_memory_available_bytes", "Memory that can be had without swapping.", health.host.memory_available_bytes)
    for zone, celsius in health.host.temperature_c.items():
        found.gauge("host_temperature_celsius", "By thermal zone.", celsius, zone=zone)


def _add_governor(found: Families, governor: GovernorHealth) -> None:
    found.gauge("governor_share_ratio", "Of the time, that may be spent on inference now.", governor.share)
    found.one_of("governor_cause", "Why it is below 1.", "cause", governor.cause, CAUSES)
    found.counter("governor_changes", "How often the share changed.", governor.changes_total)
    found.gauge("governor_target_celsius", "The temperature that the governor holds.", governor.target_c)
    found.gauge("frequency_cap_ratio", "Of a processor's highest frequency, now allowed.", governor.frequency_cap)
    found.gauge("gpu_frequency_cap_ratio", "Of the GPU's highest frequency, now allowed.", governor.gpu_frequency_cap)
    found.gauge("under_voltage", "The power supply is too weak now.", governor.under_voltage)
    found.gauge("under_voltage_seen", "Or was, since boot as far as can be known.", governor.under_voltage_seen)
    found.gauge("over_current_seen", "Limited by its supply since boot (Jetson).", governor.over_current_seen)
    found.counter("sensor_readings_refused", "Sensor values that could not be read or made no sense.", governor.readings_refused_total)


def ensure_installed() -> None:
    """Raises ConfigError where the package that ``[metrics]`` needs is missing."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise ConfigError('needs the package prometheus-client: pip install "edge-agent[metrics]"') from None


class Exporter:
    """Serves the metrics of one agent at http://<address>/metrics. ``start`` and ``stop`` from one thread."""

    def __init__(self, host: str, port: int, read: Callable[[], HealthEvent], main: str = "mqtt") -> None:
        """``read`` is called from a thread for each scrape; ``main``: the sink that its ``delivery`` is of."""
        self.host, self.port = host, port
        self.error: str | None = None
        """Why nothing is served now."""
        self.url: str | None = None
        """Where it is served, while it is."""
        self._read, self._main = read, main
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to serve, soon; a port that is taken is tried again until it is free."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop serving."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def collect(self) -> Iterator[Metric]:
        """What a scrape finds: prometheus_client's protocol of a collector."""
        return families(self._read(), self._main)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                server = _Server(self.host, self.port, self)
            except OSError as error:
                self._unavailable(f"{self.host}:{self.port} cannot be listened on: {error.strerror or error}")
                self._stopping.wait(RETRY_S)
                continue
            self.error, self.port = None, server.server_port
            self.url = f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/metrics"
            log.info("metrics are served url=%s", self.url)
            serving = threading.Thread(target=server.serve_forever, args=(POLL_S,), name="metrics-server", daemon=True)
            serving.start()
            self._stopping.wait()
            self.url = None
            server.shutdown()
            server.server_close()

    def _unavailable(self, why: str) -> None:
        if self.error != why:
            log.error("no metrics reason=%s", why)
        self.error = why


class _Server(ThreadingHTTPServer):
    """A thread for each request; on loopback, so whoever asks is a program of this machine. Raises OSError."""

    daemon_threads = True

    def __init__(self, host: str, port: int, collector: Exporter) -> None:
        from prometheus_client import CollectorRegistry, MetricsHandler, PlatformCollector, ProcessCollector

        registry = CollectorRegistry()
        registry.register(collector)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        handler = MetricsHandler.factory(registry)
        super().__init__((host, port), type("Handler", (handler,), {"timeout": PATIENCE_S}))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One that hung up, or a defect of ours: not the way of socketserver, which prints a traceback for both."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            log.debug("a client of the metrics went away reason=%s", error)
        else:
            log.error("metrics could not be told", exc_info=error)
