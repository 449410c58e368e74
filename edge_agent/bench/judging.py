"""What was possible, and what kept each camera from more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edge_agent.bench import cpu
from edge_agent.bench.advice import advice
from edge_agent.bench.report import LIMITS, BrokerReport, CameraReport, ModelReport, Report

_FULLY, _AT_LIMIT = 0.97, 0.9
_BUSY = 0.85
_STALE = 0.1
"""Of the captured frames."""
_FEW_EVENTS, _GROWS = 10, 0.1
"""Of the events that were handed over: more waiting than before is a broker that does not keep up."""


def judged(report: Report) -> Report:
    """With what was possible, the limits, how busy the models were, and advice."""
    models = tuple(replace(model, busy=_busy(model, report)) for model in report.models)
    of_camera = {camera: model for model in models for camera in model.cameras}
    possible = {camera: fps for model in models for camera, fps in _possible(model, report.cameras).items()}
    cameras = []
    for camera in report.cameras:
        fps = possible.get(camera.camera)
        known = replace(camera, possible_fps=None if fps is None else round(fps, 3))
        cameras.append(replace(known, limit=limit(known, of_camera[camera.camera], report)))
    whole = replace(report, cameras=tuple(cameras), models=models)
    return replace(whole, advice=tuple(dict.fromkeys(advice(whole))))


def ceilings(camera: CameraReport, busy: float) -> dict[str, float]:
    """Frames per second that each of source, motion gate and settings would have let through, the source first.

    ``busy``: of the camera's model. A source that waits for a model shows no rate of its own, so what it declares is taken.
    """
    if not camera.live:
        source = 1e3 / camera.decode_mean_ms if camera.decode_mean_ms else float("inf")
        found = {"decode": source}
    else:
        waits = camera.every and busy >= _BUSY
        source = max(camera.real_fps, camera.declared_fps or 0.0) if waits else camera.real_fps
        found = {"camera": source}
    if (still := camera.skipped.get("no_motion", 0)) and camera.captured:
        found["motion"] = source * (1 - still / camera.captured)
    if camera.asked_by and camera.asked_fps:
        found[camera.asked_by] = camera.asked_fps
    return found


def fair_shares(capacity: float, demands: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """``capacity`` by weight, where nobody gets more than it asks for and what it leaves goes to the others (max-min fairness)."""
    shares: dict[str, float] = {}
    left = dict(demands)
    while left:
        unit = max(0.0, capacity) / sum(weights[name] for name in left)
        content = [name for name, asked in left.items() if asked <= unit * weights[name]]
        if not content:
            return shares | {name: unit * weights[name] for name in left}
        for name in content:
            shares[name] = left.pop(name)
            capacity -= shares[name]
    return shares


def _of(model: ModelReport, cameras: Sequence[CameraReport]) -> list[CameraReport]:
    return [camera for camera in cameras if camera.camera in model.cameras and camera.served and camera.service_ms]


def _taken_s(model: ModelReport, report: Report) -> float:
    """For how long its lanes had a frame, all together."""
    return sum(camera.served * (camera.service_ms or 0.0) / 1e3 for camera in _of(model, report.cameras))


def _busy(model: ModelReport, report: Report) -> float:
    """Of the time that it might use."""
    return round(min(1.0, _taken_s(model, report) / (model.lanes * model.share * report.seconds)), 3)


def _possible(model: ModelReport, cameras: Sequence[CameraReport]) -> dict[str, float]:
    """In seconds of the lanes: frames of one camera may take longer than those of another. What was served was possible."""
    used = _of(model, cameras)
    service_s = {camera.camera: (camera.service_ms or 0.0) / 1e3 for camera in used}
    shares = fair_shares(
        model.lanes * model.share,
        {camera.camera: min(ceilings(camera, model.busy).values()) * service_s[camera.camera] for camera in used},
        {camera.camera: camera.weight * service_s[camera.camera] for camera in used},
    )
    return {camera.camera: max(camera.served_fps, shares[camera.camera] / service_s[camera.camera]) for camera in used}


def keeps_up(broker: BrokerReport) -> bool:
    """Whether a broker that is connected takes the events as they come."""
    grown = broker.queued - broker.queued_before
    return not broker.dropped.get("buffer_full") and grown <= max(_FEW_EVENTS, _GROWS * broker.accepted)


def limit(camera: CameraReport, model: ModelReport, report: Report) -> str:
    """The stage that kept this camera from more, one of ``LIMITS``; empty where the camera was not reached."""
    if not camera.captured:
        return ""
    if not camera.served:
        return _hidden(camera)
    if report.broker.publishing and report.broker.connected and not keeps_up(report.broker):
        return "broker"
    return _stage(camera, model, report)


def _stage(camera: CameraReport, model: ModelReport, report: Report) -> str:
    found = ceilings(camera, model.busy)
    own = min(found, key=found.__getitem__)
    reached = camera.served_fps / found[own] if found[own] else 1.0
    is_busy = model.busy >= _BUSY
    if reached >= _FULLY or (not is_busy and reached >= (_BUSY if own == "decode" else _AT_LIMIT)):
        return own
    if is_busy:
        return model.held_by or _model_or_cpu(report)
    if camera.skipped.get("stale", 0) >= _STALE * camera.captured:
        return "staleness_ms"
    return "CPU" if report.cpu_share + report.others_share >= _AT_LIMIT else "unclear"


def _hidden(camera: CameraReport) -> str:
    """Of one that was served nothing: what took most of its frames."""
    words = {"no_motion": "motion", "stale": "staleness_ms", "max_fps": "max_fps", "interval": "interval_s", "model_busy": "model"}
    gone = {**camera.skipped, **camera.dropped}
    most = max(gone, key=gone.__getitem__, default="")
    # While one fails, those that come are skipped for a model that is busy: it is not what keeps them.
    lost = max(camera.dropped, key=camera.dropped.__getitem__, default="")
    return lost if lost in LIMITS else words.get(most, "unclear")


def _model_or_cpu(report: Report) -> str:
    """Where the CPU is used up, mostly by others, inference that got less of it than its threads could use waited for the rest."""
    models, used = sum(report.cpu_s.get(name, 0.0) for name in cpu.MODEL), sum(report.cpu_s.values()) + report.others_s
    wanted = sum(model.threads * _taken_s(model, report) for model in report.models)
    is_full = report.cpu_share + report.others_share >= _AT_LIMIT
    return "CPU" if is_full and models < used / 2 and models < _BUSY * wanted else "model"
