"""What a window has seen, as a report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from edge_agent.bench.report import BrokerReport, CameraReport, ModelReport, Report
from edge_agent.bench.window import Line, Measured
from edge_agent.capture import Capture
from edge_agent.crews import LoadedCrew
from edge_agent.host import read_process

LEAST_S = 0.1
"""As exact as it is known when a camera began and ended."""


def gathered(line: Line, crews: Sequence[LoadedCrew], measured: Measured) -> Report:
    """All but what was asked for, and what is concluded."""
    seconds = max(measured.after.at - measured.before.at, 1e-3)
    return Report(
        seconds=round(seconds, 2),
        asked_s=seconds,
        stopped_early=None,
        cores=len(os.sched_getaffinity(0)),
        cpu_s={name: round(used, 3) for name, used in measured.cpu_s.items()},
        others_s=round(measured.others_s, 3),
        rss_mb=round(read_process().rss_bytes / 1e6, 1),
        cameras=tuple(_camera(line, capture, measured) for capture in line.captures),
        models=tuple(_model(crew, measured, index) for index, crew in enumerate(crews)),
        broker=_broker(line, measured),
    )


def _model(crew: LoadedCrew, measured: Measured, index: int) -> ModelReport:
    identity = crew.model.identity
    return ModelReport(
        name=identity.name,
        lanes=len(crew.model.lanes),
        threads=crew.model.threads,
        precision=identity.precision,
        runtime=identity.runtime,
        cameras=tuple(capture.camera.id for capture in crew.captures),
        table="model" if crew.view.model_name is None else f"models.{crew.view.model_name}",
        share=round(measured.share[index], 3),
        shares={cause: round(share, 3) for cause, share in measured.shares[index].items()},
        cpu_budget=crew.view.settings.model.cpu_budget,
    )


def _camera(line: Line, capture: Capture, measured: Measured) -> CameraReport:
    name, status, settings = capture.camera.id, capture.status, capture.camera.settings
    before, after = measured.before.frames[name], measured.after.frames[name]
    times, seconds = measured.times[name], max(measured.spans_s[name], LEAST_S)
    captured, served = after.captured - before.captured, after.served - before.served
    return CameraReport(
        camera=name,
        kind=capture.camera.kind,
        state=status.state.value,
        error=str(status.error) if status.error else None,
        live=not capture.unpaced,
        gate=None if settings.motion is None else capture.motion is not None,
        every=capture.every,
        model=line.pipeline.flows[name].model.name,
        decoder=status.info.decoder if status.info else None,
        declared_fps=status.info.fps if status.info else None,
        real_fps=round(captured / seconds, 3),
        served_fps=round(served / seconds, 3),
        captured=captured + before.in_flight,
        served=served,
        skipped=_since(before.skipped, after.skipped),
        dropped=_since(before.dropped, after.dropped),
        in_flight=after.in_flight,
        lost_upstream=measured.after.lost_upstream[name] - measured.before.lost_upstream[name],
        total_ms=times.total_ms,
        parts_ms=times.parts_ms,
        service_ms=times.service_ms,
        decode_mean_ms=times.decode_ms,
        asked_fps=settings.max_fps or (1 / settings.interval_s if settings.interval_s else None),
        asked_by="max_fps" if settings.max_fps else "interval_s" if settings.interval_s else None,
        weight=settings.weight,
    )


def _since(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {reason: count - before.get(reason, 0) for reason, count in sorted(after.items()) if count != before.get(reason, 0)}


def _broker(line: Line, measured: Measured) -> BrokerReport:
    publisher, before, after = line.publisher, measured.before.delivery, measured.after.delivery
    return BrokerReport(
        name=publisher.sink.name,
        publishing=True,
        connected=publisher.connected,
        error=publisher.error,
        accepted=after.accepted - before.accepted,
        delivered=after.delivered - before.delivered,
        dropped=_since(before.dropped, after.dropped),
        queued=measured.after.queued,
        queued_before=measured.before.queued,
    )
