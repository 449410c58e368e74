"""The heartbeat, the cameras' states, and the watchdog. Reads counters beside the line; never touches a frame."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_agent import __version__, host
from edge_agent.camera_state import CameraState
from edge_agent.capture import Capture
from edge_agent.cooling import Cooling
from edge_agent.delivery import BROKER, Delivery
from edge_agent.encoding import encode
from edge_agent.errors import EdgeAgentError, SourceError
from edge_agent.events import CameraStatusEvent, ErrorInfo, ModelInfo, timestamp
from edge_agent.health_event import CameraHealth, CommandsHealth, DeliveryHealth, HealthEvent, MotionHealth
from edge_agent.notify import Notifier
from edge_agent.pipeline import ENDED, Pipeline
from edge_agent.publisher import Publisher
from edge_agent.readers.base import ReaderContext, Readings
from edge_agent.service_status import ServiceStatus, StatusLine
from edge_agent.stages import Stage, Stages
from edge_agent.stats import merged
from edge_agent.vitals import Vitals

log = logging.getLogger(__name__)

CHECK_S = 0.5
STUCK_AFTER_S = 10.0
"""A lane that shows no progress for so long is stuck: the watchdog is no longer petted."""

STALE_FOR_S = 10.0
"""A camera that gives only frames that are too old, for so long, is told of."""
DELIVERY_STUCK_AFTER_S = 90.0
"""A publisher that is connected, has something to send, and brings nothing through for so long: every wait of its own is shorter."""
READ_EVERY_S = 1.0
GIVE_UP_AFTER_S = 60.0
"""Where no service manager would end the process, it ends itself."""

Verdict = Literal["ok", "degraded", "failing", "stopped"]


@dataclass(frozen=True)
class HealthContext:
    """Who is speaking, and how often."""

    device: str
    stream: str
    models: Sequence[ModelInfo]
    """The first is that of the first camera."""
    accelerator: str
    interval_s: float


class Health:
    """One thread that looks around twice a second and speaks at each interval, and at once when a camera changes."""

    def __init__(
        self,
        context: HealthContext,
        captures: Sequence[Capture],
        pipeline: Pipeline,
        publisher: Publisher | Delivery,
        notifier: Notifier,
        cooling: Cooling | None = None,
        vitals: Vitals | None = None,
    ) -> None:
        self.clock_synced = host.clock_synced()
        self.commands: Callable[[], CommandsHealth] | None = None
        """Tells of them; waits for nobody."""
        self.troubles: Callable[[], Sequence[str]] = tuple
        """What else degrades the agent."""
        self._context, self._all_captures, self._pipeline = context, captures, pipeline
        self._publisher = publisher if isinstance(publisher, Delivery) else Delivery({BROKER: publisher})
        self._notifier = notifier
        self._cooling = cooling or Cooling(None, lambda _: None)
        self._started = time.monotonic()
        self._vitals = vitals or Vitals(ReaderContext())
        self._stages = Stages([_delivery_stage(each) for each in self._publisher.publishers.values()])
        self._read: tuple[float, Readings] | None = None
        self._status_line = StatusLine(notifier)
        self._notes: dict[str, str] = {}
        self._progress: tuple[list[int], float] = ([], self._started)
        self._petted = 0.0
        self._wake = threading.Event()
        self._stopping = self._beat_now = False
        self._served: dict[str, tuple[float, int, int]] = {}
        """When a camera was last served, or nothing of it was stale; with what was served and stale then."""
        self._speaking = threading.Lock()  # so that of two readings of one state, the later is published last
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    @property
    def _captures(self) -> Sequence[Capture]:
        """Those of now: a reload may add and remove some."""
        return tuple(self._all_captures)

    def start(self) -> None:
        """Send the first heartbeat soon, and go on."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Fall silent: what is said after that is the last word."""
        with self._speaking:
            self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def say_stopped(self) -> None:
        """The last word: each camera's state and the heartbeat as they stay at the broker."""
        now = time.monotonic()
        for capture in self._captures:
            self._publisher.publish(encode(camera_status(self._context.device, capture, now, stopped=not capture.ended)))
        self._publisher.publish(encode(self.heartbeat(now, stopped=True)))

    def note(self, about: str, text: str | None) -> None:
        """Something that degrades the agent and is none of its parts, such as a configuration that was refused; None: no more."""
        notes = {**self._notes, about: text or ""}
        self._notes = {key: value for key, value in notes.items() if value}
        self.beat_soon()

    def beat_soon(self) -> None:
        """Something changed that the next heartbeat should not keep waiting for, such as the way to the broker."""
        self._beat_now = True
        self._wake.set()

    def _run(self) -> None:
        next_beat = self._started
        while not self._stopping:
            try:
                now = time.monotonic()
                for capture in self._captures:
                    capture.check(now)
                self._watch(now)
                if self._cooling.tick(now):
                    self._beat_now = True
                if (end := self._vitals.check(now)) is not None and self._pipeline.failure is None:
                    self._pipeline.failure = end
                    self._pipeline.finished.set()
                if now >= next_beat or self._beat_now:
                    self._beat_now = False
                    self.beat(now)
                    next_beat = max(next_beat + self._context.interval_s, now)
            except Exception:
                log.exception("heartbeat failed")
            self._wake.wait(CHECK_S)
            self._wake.clear()

    def _watch(self, now: float) -> None:
        """Pet the watchdog while every lane makes progress or knowingly waits."""
        ticks = list(self._pipeline.ticks)
        seen, since = self._progress
        moved = len(seen) == len(ticks) and all(new != old or new == ENDED for new, old in zip(ticks, seen, strict=True))
        if moved or not seen:
            self._progress = (ticks, now)
        stuck = not moved and now - since > STUCK_AFTER_S and not self._pipeline.finished.is_set()
        if stuck:
            log.error("pipeline makes no progress for=%.0fs", now - since)
            if self._notifier.watchdog_s is None and now - since > GIVE_UP_AFTER_S:
                self._pipeline.give_up(f"an inference has not ended for {now - since:.0f} s")
        elif not self._publisher.is_alive or self._delivery_stuck(now):
            log.error("publisher %s", "makes no progress" if self._publisher.is_alive else "has ended")
        elif self._notifier.watchdog_s is not None and now - self._petted >= self._notifier.watchdog_s / 4:
            self._notifier.watchdog()
            self._petted = now
        self._status_line.tell(self._service_status(now), now)

    def _delivery_stuck(self, now: float) -> bool:
        """Where no service manager would end the process for it, it ends itself."""
        stuck = self._stages.stuck(now)
        if stuck and self._notifier.watchdog_s is None and max(stuck.values()) > DELIVERY_STUCK_AFTER_S + GIVE_UP_AFTER_S:
            self._pipeline.give_up("the publisher makes no progress")
        return bool(stuck)

    def _service_status(self, now: float) -> ServiceStatus:
        online = sum(capture.status.state in {CameraState.ONLINE, CameraState.MUTED} for capture in self._captures)
        fps = sum(flow.served_rate.rate(now) for flow in self._pipeline.flows.values())
        kind = "broker" if BROKER in self._publisher.publishers else "sink"
        broker = "connected" if self._publisher.connected else f"away ({self._publisher.error or 'connecting'})"
        errors = [f"{c.camera.id}: {c.status.error}" for c in self._captures if c.status.error]
        problems = (*self._notes.values(), *errors, *self.troubles(), *self._cooling.reasons(now), *self._vitals.reasons())
        return ServiceStatus(online, len(self._captures), fps, broker, problems, kind)

    def beat(self, now: float) -> None:
        """One heartbeat, and each camera's state as of now."""
        with self._speaking:
            if self._stopping:
                return
            for capture in self._captures:
                self._publisher.publish(encode(camera_status(self._context.device, capture, now)))
            self._publisher.publish(encode(self.heartbeat(now)))

    def camera_changed(self, capture: Capture) -> None:
        """A camera's state is another: tell at once. Called from the capture's thread."""
        with self._speaking:
            if not self._stopping:
                self._publisher.publish(encode(camera_status(self._context.device, capture, time.monotonic(), stopped=capture.retired)))
        self._wake.set()  # for ``systemctl status``

    def report(self) -> HealthEvent:
        """The heartbeat as of now, for who asks. From any thread."""
        with self._speaking:
            return self.heartbeat(time.monotonic())

    def heartbeat(self, now: float, *, stopped: bool = False) -> HealthEvent:
        """All that is known, as the contract writes it. In one thread at a time: see :meth:`report`."""
        readings = self._readings_at(now)
        self.clock_synced = bool(readings.host.clock and readings.host.clock.synced)
        verdict, reasons = self._verdict(now)
        failure = self._pipeline.failure
        if stopped:
            verdict, reasons = "stopped", [str(failure)] if isinstance(failure, EdgeAgentError) else []
        context, pipeline = self._context, self._pipeline
        return HealthEvent(
            device=context.device,
            stream=context.stream,
            at=timestamp(time.time()),
            clock_synced=self.clock_synced,
            agent_version=__version__,
            uptime_s=round(now - self._started, 1),
            verdict=verdict,
            reasons=reasons,
            model=context.models[0],
            models=list(context.models),
            accelerator=context.accelerator,
            stages_ms={**pipeline.stages_ms(), "publish": self._publisher.acknowledged_ms()},
            cameras={capture.camera.id: self._camera(capture, now, stopped=stopped) for capture in self._captures},
            delivery=_delivery(self._publisher.main, stopped=stopped),
            process=readings.process,
            host=readings.host,
            governor=self._cooling.health(),
            sinks={
                name: _delivery(publisher, stopped=stopped)
                for name, publisher in self._publisher.publishers.items()
                if publisher is not self._publisher.main
            },
            commands=self.commands() if self.commands else None,
        )

    def _readings_at(self, now: float) -> Readings:
        """Not again within a second: a share of the CPU needs some time to be one, whoever asks."""
        if self._read is None or not 0 <= now - self._read[0] < READ_EVERY_S:
            self._read = (now, self._vitals.read(now))
        return self._read[1]

    def _verdict(self, now: float) -> tuple[Verdict, list[str]]:
        bad = [c for c in self._captures if c.status.state in {CameraState.BACKOFF, CameraState.STALLED} or (c.status.error and c.ended)]
        halted = self._halted(now)
        reasons = halted + [f"camera {c.camera.id}: {c.status.error or c.status.state.value}" for c in bad]
        for name, publisher in self._publisher.publishers.items():
            if not publisher.connected:
                reasons.append(f"{'broker' if name == BROKER else name}: {publisher.error or 'connecting'}")
            if (disk := publisher.spool.disk) is not None and disk.error is not None:
                reasons.append(f"spool of {name}: {disk.error}")
        reasons += [*self._notes.values(), *self.troubles(), *self._cooling.reasons(now), *self._vitals.reasons()]
        reasons += [f"camera {name}: every frame is older than its staleness_ms when the model is free" for name in self._all_stale(now)]
        if halted or (bad and len(bad) == len(self._captures)):
            return "failing", reasons
        return ("degraded" if reasons else "ok"), reasons

    def _halted(self, now: float) -> list[str]:
        """What stands still, so that nothing works, whatever else says that it does."""
        halted = [] if self._publisher.is_alive or not self._thread.is_alive() else ["publisher: has ended"]
        still_s = now - self._progress[1]
        if still_s > STUCK_AFTER_S and self._thread.is_alive() and not self._pipeline.finished.is_set():
            halted.append(f"pipeline: an inference has not ended for {still_s:.0f} s")
        return halted

    def _all_stale(self, now: float) -> list[str]:
        """Cameras of which nothing was served lately, and all that came was too old."""
        found = []
        for capture in self._captures:
            counts = capture.counts
            seen = self._served.setdefault(capture.camera.id, (now, counts.served, counts.skipped["stale"]))
            if counts.served > seen[1] or counts.skipped["stale"] == seen[2]:
                self._served[capture.camera.id] = (now, counts.served, counts.skipped["stale"])
            elif now - seen[0] >= STALE_FOR_S:
                found.append(capture.camera.id)
        return found

    def _camera(self, capture: Capture, now: float, *, stopped: bool) -> CameraHealth:
        counts, status, flow = capture.snapshot(), capture.status, self._pipeline.flows[capture.camera.id]
        return CameraHealth(
            state="stopped" if stopped and not capture.ended else status.state.value,
            frames_captured_total=counts.captured,
            frames_served_total=counts.served,
            frames_skipped_total=merged(counts.skipped),
            frames_dropped_total=merged(counts.dropped),
            frames_in_flight=counts.in_flight,
            captured_fps=capture.captured_rate.rate(now),
            served_fps=flow.served_rate.rate(now),
            latency_ms=flow.latency.percentiles(),
            last_frame_age_s=_age(capture, now),
            reconnects_total=status.reconnects,
            error=_error(capture.status.error),
            decoder=status.info.decoder if status.info else None,
            isolation=status.isolation,
            wedged_total=status.wedged,
            threads_hanging=capture.left_behind,
            frames_lost_upstream_total=status.lost_upstream,
            stages_ms={**self._pipeline.stages_ms(capture.camera.id), "publish": self._publisher.acknowledged_ms(capture.camera.id)},
            motion=_motion(capture),
            events_published_total=flow.published,
            events_withheld_total=merged(flow.withheld),
        )


def _delivery_stage(publisher: Publisher) -> Stage:
    """A broker that is away is waited for."""

    def mark() -> tuple[int, int, int]:
        counts = publisher.counts
        return counts.delivered, sum(counts.dropped.values()), counts.connections

    return Stage("publisher", mark, lambda: not publisher.connected or publisher.queued[0] == 0, DELIVERY_STUCK_AFTER_S)


def _delivery(publisher: Publisher, *, stopped: bool) -> DeliveryHealth:
    counts, spool = publisher.counts, publisher.spool.health()
    return DeliveryHealth(
        connected=publisher.connected and not stopped,
        reconnects_total=max(0, counts.connections - 1),
        events_queued=spool.events_queued,
        events_queued_bytes=spool.events_queued_bytes,
        events_delivered_total=counts.delivered,
        events_dropped_total=merged(counts.dropped),
        error=publisher.error,
        spool=spool,
        passing_delivered_total=counts.passing_delivered,
        passing_dropped_total=merged(counts.passing_dropped),
    )


def _age(capture: Capture, now: float) -> float | None:
    last = capture.status.last_frame_at
    return None if last is None else round(now - last, 2)


def _motion(capture: Capture) -> MotionHealth | None:
    if capture.motion is None:
        return None
    status = capture.motion.status()
    return MotionHealth(status.state, timestamp(status.since_utc), status.gate_ms)


def _error(error: SourceError | None) -> ErrorInfo | None:
    return None if error is None else ErrorInfo(error.code.value, str(error))


def camera_status(device: str, capture: Capture, now: float, *, stopped: bool = False) -> CameraStatusEvent:
    """A camera's state as the contract writes it; ``stopped`` on the way out, so that nothing stays online for ever."""
    status = capture.status
    info, counts = status.info, capture.snapshot()
    return CameraStatusEvent(
        device=device,
        camera=capture.camera.id,
        state="stopped" if stopped else status.state.value,
        since=timestamp(time.time() if stopped else status.since_utc),
        error=_error(capture.status.error),
        last_error=_error(capture.status.last_error),
        reconnects=status.reconnects,
        last_frame_age_s=_age(capture, now),
        width=info.width if info and info.width else None,
        height=info.height if info and info.height else None,
        decoder=info.decoder if info else None,
        hardware=info.hardware if info else None,
        decoder_reason=info.decoder_reason or None if info else None,
        mode=info.mode or None if info else None,
        isolation=status.isolation,
        wedged=status.wedged,
        hanging=capture.left_behind,
        frames_captured_total=counts.captured,
        frames_served_total=counts.served,
        frames_skipped_total=merged(counts.skipped),
        frames_dropped_total=merged(counts.dropped),
        frames_in_flight=counts.in_flight,
        frames_lost_upstream_total=status.lost_upstream,
    )


def summary(captures: Sequence[Capture]) -> Mapping[str, str]:
    """One line for each camera of what became of its frames, for the log at the end."""
    lines = {}
    for capture in captures:
        counts = capture.snapshot()
        lines[capture.camera.id] = (
            f"captured={counts.captured} served={counts.served} skipped={merged(counts.skipped)} dropped={merged(counts.dropped)}"
        )
    return lines
