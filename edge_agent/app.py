"""The composition root: a configuration becomes objects, threads, and an exit code. Signals are `running.py`."""

from __future__ import annotations

import contextlib
import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from edge_agent import __version__
from edge_agent.broker_sink import build_sink
from edge_agent.camera_sources import patient_source
from edge_agent.capture import Capture
from edge_agent.commanding import Parts, commands_for
from edge_agent.commands import Commands
from edge_agent.config import AgentConfig, CameraConfig
from edge_agent.config_values import listening
from edge_agent.crews import LoadedCrew, cooling_of, only_files
from edge_agent.delivery import BROKER, Delivery
from edge_agent.errors import EdgeAgentError, ExitCode, MemoryExceeded, SourceBroken
from edge_agent.events import STATUS_ONLINE
from edge_agent.hangup import Hangup
from edge_agent.health import Health, HealthContext, summary
from edge_agent.health_event import HealthEvent
from edge_agent.last_good import LastGood
from edge_agent.libraries import ensure_libraries
from edge_agent.memory_ceiling import MemoryCeiling
from edge_agent.metrics import Exporter
from edge_agent.models import _thresholds
from edge_agent.models._guard import load_guarded
from edge_agent.notify import Notifier
from edge_agent.outlets import Outlet, outlets
from edge_agent.patience import Patience
from edge_agent.pipeline import Pipeline, PipelineContext
from edge_agent.preflight import check_files
from edge_agent.problem_places import of_its_table, placed
from edge_agent.publisher import SINK_BACKOFF, Publisher
from edge_agent.readers.base import ReaderContext
from edge_agent.requests import Request
from edge_agent.state import State
from edge_agent.state_folder import build_spool, device_id, state_for
from edge_agent.status_report import answer
from edge_agent.status_socket import StatusSocket, socket_path
from edge_agent.vitals import Vitals

log = logging.getLogger(__name__)

DRAIN_AT_STOP_S = 1.5
DRAIN_AT_END_S = 10.0
FILES_LINGER_S = 0.05
"""Where only files are read, as fast as they can be: nobody waits for the single event."""
GIL_S = 0.0005
"""Threads here work in bursts of some 100 us between calls that let the GIL go; Python's 5 ms would keep the others waiting."""
LANES_S = 1.0
CAPTURES_S = 0.5
COMMANDS_S = 0.3
EXPORTER_S = 0.7
"""Its server looks twice a second whether it is to end."""


def _exporter(config: AgentConfig, read: Callable[[], HealthEvent]) -> Exporter | None:
    settings = config.settings
    if settings.metrics.listen is None:
        return None
    main = BROKER if settings.mqtt.enabled else "jsonl" if settings.sinks.jsonl is not None else "webhook"
    return Exporter(*listening(settings.metrics.listen), read, main)


class Agent:
    """Everything that runs. ``run`` in one thread; ``stop`` from any."""

    def __init__(
        self,
        config: AgentConfig,
        notifier: Notifier | None = None,
        on_started: Callable[[], None] = lambda: None,
        last_good: LastGood | None = None,
    ) -> None:
        self._config = config
        self._notifier = notifier or Notifier({})
        self._on_started, self._last_good = on_started, last_good
        self._stopping = threading.Event()
        self.captures: list[Capture] = []
        self._health: Health | None = None
        self._exporter = _exporter(config, self._heartbeat)
        self._wake = threading.Condition()
        self._model_sizes: dict[str | None, tuple[int, int]] = {}
        """Known once models are loaded, which is after the sources are made and before they are opened."""
        self._commands: Commands | None = None
        self._patience = Patience(self._notifier)
        self._hangup: Hangup | None = None
        self._hung_up = threading.Event()
        """Asked to read the configuration again before there was anything to change."""
        self.device = ""

    def stop(self) -> None:
        """Ask ``run`` to return soon."""
        self._stopping.set()

    def hang_up(self) -> None:
        """Read the configuration again; while still starting, once that is done."""
        self._hung_up.set()
        if self._hangup is not None and not self._stopping.is_set():
            self._hung_up.clear()
            self._hangup.handle()

    def run(self) -> ExitCode:
        """Run until stopped, or until every source has ended. Raises EdgeAgentError for what prevents the start."""
        ensure_libraries()
        check_files(self._config, starting=True, load_model=False)
        with placed(self._config), contextlib.closing(self._patience):
            crews = self._load()
        if self._stopping.is_set():
            return ExitCode.OK
        state = state_for(self._config)
        state.open()
        try:
            return self._run(state, crews)
        finally:
            state.close()

    def _run(self, state: State, crews: Sequence[LoadedCrew]) -> ExitCode:
        pipeline, publisher, health = self._build(state, crews)
        names = ",".join(each.sink.name for each in publisher.publishers.values())
        log.info("starting version=%s device=%s cameras=%d sink=%s", __version__, self.device, len(self.captures), names)
        publisher.publish(STATUS_ONLINE)
        models = {each.view.model_name: each.usual for each in crews}
        parts = Parts(self.device, self.captures, pipeline, health, publisher.publish, models, self._model_sizes, self._last_good)
        self._commands, reload = commands_for(self._config, state.directory, parts)
        self._commands.start()
        if self._last_good is not None and self._last_good.note is not None:
            health.note("configuration", self._last_good.note)
        self._hangup = Hangup(reload, self._notifier, partial(health.note, "configuration"))
        publisher.start()
        pipeline.start()
        for capture in self.captures:
            capture.start()
        self._notifier.ready("started")
        health.start()
        if self._hung_up.is_set():
            self.hang_up()
        if self._exporter is not None:
            self._exporter.start()
        status = StatusSocket(socket_path(state.directory), lambda: answer(health.report(), self._config.path))
        status.start()
        self._on_started()
        if self._last_good is not None:
            self._last_good.keep()
        self._wait(pipeline)
        status.stop()
        return self._shut_down(pipeline, publisher, health)

    def _load(self) -> list[LoadedCrew]:
        """Everything that can be wrong with sources and models, before anything is touched. Makes the captures."""
        import cv2

        sys.setswitchinterval(GIL_S)
        cv2.setNumThreads(1)  # lanes and captures are our threads; OpenCV's own pool burns a core on pictures of this size for nothing
        cameras = [camera for camera in self._config.cameras if camera.settings.enabled]
        self.captures = [self._capture(camera, partial(self._model_sizes.get, camera.settings.model)) for camera in cameras]
        crews = []
        for view in self._config.per_model():
            with of_its_table(view):
                crews.append(self._load_one(view))
            self._model_sizes[view.model_name] = crews[-1].model.lanes[0].input_size
        return crews

    def _load_one(self, view: AgentConfig) -> LoadedCrew:
        captures = [capture for capture in self.captures if capture.camera.settings.model == view.model_name]
        loaded = load_guarded(view, state_for(view).directory, only_files=only_files(captures), announce=self._takes_long)
        model = loaded.lanes[0]
        return LoadedCrew(view, loaded, captures, _thresholds.all_thresholds(view, model.labels, model.family.default_confidence))

    def _takes_long(self, what: str, seconds: float) -> None:
        """Before READY: the service manager is to wait, and whoever asks it is to know for what."""
        self._patience.announce(what, seconds)

    def _capture(self, camera: CameraConfig, model_size: Callable[[], tuple[int, int] | None]) -> Capture:
        source = patient_source(self._config, camera, model_size)
        another = partial(patient_source, self._config, camera, model_size, after_wedge=True)
        return Capture(camera, source, self._wake, self._camera_changed, another=another)

    def _build(self, state: State, loaded: Sequence[LoadedCrew]) -> tuple[Pipeline, Delivery, Health]:
        settings = self._config.settings
        self.device, stream = device_id(self._config, state), secrets.token_hex(8)
        linger_s = FILES_LINGER_S if only_files(self.captures) else 0.0
        publisher = Delivery(
            {
                name: Publisher(
                    outlet.sink,
                    build_spool(self._config, name),
                    replace(SINK_BACKOFF, cap_s=settings.mqtt.reconnect_max_s) if name == BROKER else SINK_BACKOFF,
                    on_change=self._connection_changed,
                    linger_s=max(linger_s, outlet.linger_s),
                )
                for name, outlet in self._outlets().items()
            }
        )
        crews = [each.crew(self._wake) for each in loaded]
        context = PipelineContext(self.device, stream, publisher.publish, state.reserve, self._clock_synced, settings.publish.encoding)
        pipeline = Pipeline(context, crews)
        accelerators = " + ".join(dict.fromkeys(each.model.identity.accelerator for each in loaded))
        health_context = HealthContext(self.device, stream, tuple(crew.model for crew in crews), accelerators, settings.health.interval_s)
        cooling = cooling_of(settings.governor, crews, pipeline)
        vitals = Vitals(ReaderContext(state_dir=state.directory), ceiling=MemoryCeiling(settings.health.max_rss_mb))
        self._health = Health(health_context, self.captures, pipeline, publisher, self._notifier, cooling, vitals)
        self._health.troubles = partial(self._troubles, state)
        return pipeline, publisher, self._health

    def _outlets(self) -> dict[str, Outlet]:
        """All sinks: the broker, if it is wanted, and those beside it."""
        broker = {}
        if self._config.settings.mqtt.enabled:
            on_request = self._request if self._config.settings.commands.allow else None
            broker[BROKER] = Outlet(build_sink(self._config, self.device, on_request=on_request))
        return {**broker, **outlets(self._config, self.device)}

    def _request(self, request: Request) -> None:
        if self._commands is not None:
            self._commands.receive(request)

    def _heartbeat(self) -> HealthEvent:
        assert self._health is not None  # whoever asks was started after it
        return self._health.report()

    def _troubles(self, state: State) -> list[str]:
        """What the heartbeat is to tell of besides cameras and sinks."""
        metrics = None if self._exporter is None else self._exporter.error
        return [f"{what}: {error}" for what, error in (("state", state.error), ("metrics", metrics)) if error is not None]

    def _camera_changed(self, capture: Capture) -> None:
        if self._health is not None:
            self._health.camera_changed(capture)

    def _connection_changed(self) -> None:
        if self._health is not None:
            self._health.beat_soon()

    def _clock_synced(self) -> bool:
        return self._health is not None and self._health.clock_synced

    def _wait(self, pipeline: Pipeline) -> None:
        while not self._stopping.is_set() and not pipeline.finished.is_set():
            self._stopping.wait(0.05)

    def _shut_down(self, pipeline: Pipeline, publisher: Delivery, health: Health) -> ExitCode:
        asked = self._stopping.is_set() or isinstance(pipeline.failure, MemoryExceeded)
        if self._commands is not None:
            self._commands.stop(COMMANDS_S)
        for capture in self.captures:
            capture.stop()
        lanes_ended = pipeline.stop(LANES_S)
        deadline = time.monotonic() + CAPTURES_S
        for capture in self.captures:
            capture.join(max(0.0, deadline - time.monotonic()))
            capture.abandon()
        health.stop(CAPTURES_S)
        if self._exporter is not None:
            self._exporter.stop(EXPORTER_S)
        self._notifier.stopping()
        health.say_stopped()
        if asked:
            publisher.stop(DRAIN_AT_STOP_S)
        else:
            publisher.stop(DRAIN_AT_END_S, keep_trying=True, hurry=self._stopping.is_set)
        for camera, text in summary(self.captures).items():
            log.info("frames camera=%s %s", camera, text)
        for name, each in publisher.publishers.items():
            counts, kept = each.counts, each.spool.counts.kept
            log.info("stopped sink=%s delivered=%d kept=%d dropped=%s", name, counts.delivered, kept, dict(counts.dropped))
        code = self._outcome(pipeline, lanes_ended=lanes_ended)
        undelivered = not asked and publisher.undelivered
        return ExitCode.UNAVAILABLE if code is ExitCode.OK and undelivered else code

    def _outcome(self, pipeline: Pipeline, *, lanes_ended: bool) -> ExitCode:
        if pipeline.failure is not None:
            log.error("stopped by a failure reason=%s", pipeline.failure, exc_info=not isinstance(pipeline.failure, EdgeAgentError))
            return pipeline.failure.exit_code if isinstance(pipeline.failure, MemoryExceeded) else ExitCode.FAILURE
        if not lanes_ended:
            log.warning("an inference was still running and was left behind")
        broken = [c for c in self.captures if isinstance(c.status.error, SourceBroken)]
        return ExitCode.DATAERR if broken and len(broken) == len(self.captures) else ExitCode.OK
