"""What was possible, what kept each camera from more, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edge_agent.bench import cpu
from edge_agent.bench.report import CameraReport, ModelReport, Report

_AT_LIMIT = 0.9
_BUSY = 0.85
_FALSE_RATE = 0.85
"""Of the declared rate: a camera that delivers less declares what it does not do."""
_DECODES_MUCH = 0.4
_SLOW_BROKER_MS = 1000.0


def judged(report: Report) -> Report:
    """With what was possible, the limits, how busy the models were, and advice."""
    models = tuple(replace(model, busy=_busy(model, report.cameras)) for model in report.models)
    possible = {camera: fps for model in models for camera, fps in _possible(model, report.cameras).items()}
    busy = {camera: model.busy for model in models for camera in model.cameras}
    cameras = []
    for camera in report.cameras:
        fps = possible.get(camera.camera)
        known = replace(camera, possible_fps=None if fps is None else round(fps, 3))
        cameras.append(replace(known, limit=limit(known, busy.get(camera.camera, 0.0), report)))
    whole = replace(report, cameras=tuple(cameras), models=models)
    return replace(whole, advice=tuple(dict.fromkeys(advice(whole))))


def demand(camera: CameraReport) -> float:
    """Frames per second that camera and settings would have served by a model that takes no time."""
    decodes = 1e3 / camera.decode_mean_ms if camera.decode_mean_ms else float("inf")
    return min(camera.real_fps if camera.live else decodes, camera.asked_fps or float("inf"))


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


def _busy(model: ModelReport, cameras: Sequence[CameraReport]) -> float:
    taken = sum(camera.served_fps * (camera.service_ms or 0.0) / 1e3 for camera in _of(model, cameras))
    return round(min(1.0, taken / model.lanes), 3)


def _possible(model: ModelReport, cameras: Sequence[CameraReport]) -> dict[str, float]:
    """In seconds of the lanes: frames of one camera may take longer than those of another."""
    used = _of(model, cameras)
    service_s = {camera.camera: (camera.service_ms or 0.0) / 1e3 for camera in used}
    shares = fair_shares(
        float(model.lanes),
        {camera.camera: demand(camera) * service_s[camera.camera] for camera in used},
        {camera.camera: camera.weight * service_s[camera.camera] for camera in used},
    )
    return {name: share / service_s[name] for name, share in shares.items()}


def limit(camera: CameraReport, busy: float, report: Report) -> str:
    """The stage that kept this camera from more; empty where nothing was served."""
    if not camera.served:
        return "camera" if not camera.captured else "unclear"
    source = camera.real_fps if camera.live else float("inf")
    asked = camera.asked_fps
    if asked and asked < source and camera.served_fps >= _AT_LIMIT * asked:
        return "max_fps"
    if camera.live and camera.served_fps >= _AT_LIMIT * source:
        return "camera"
    if busy >= _BUSY:
        used = sum(report.cpu_s.values())
        return "CPU" if report.cpu_share >= _AT_LIMIT and report.cpu_s.get(cpu.MODEL, 0.0) < used / 2 else "model"
    decoding = camera.served_fps * (camera.decode_mean_ms or 0.0) / 1e3
    if not camera.live and decoding >= _BUSY:
        return "decode"
    return "CPU" if report.cpu_share >= _AT_LIMIT else "unclear"


def advice(report: Report) -> list[str]:
    """In plain words, the most important first."""
    lines = [
        f"{c.camera}: not reached ({c.error or c.state}); edge-agent check --probe tells more" for c in report.cameras if not c.captured
    ]
    for model in report.models:
        lines += _of_model(model, report)
    used = sum(report.cpu_s.values())
    decoding = report.cpu_s.get(cpu.CAPTURE, 0.0) / used if used else 0.0
    if decoding >= _DECODES_MUCH and report.cpu_share >= 0.5:
        lines.append(
            f"capture and decode take {100 * decoding:.0f} % of the CPU: take the camera's substream, a lower rate, or hardware (decode)"
        )
    for camera in report.cameras:
        lines += _of_camera(camera)
    return lines + _of_broker(report)


def _of_model(model: ModelReport, report: Report) -> list[str]:
    limited = [camera for camera in report.cameras if camera.camera in model.cameras and camera.limit == "model"]
    if not limited:
        return []
    spare = report.cores * (1 - report.cpu_share)
    ways = []
    if model.precision.startswith("float"):
        ways.append("make it INT8 (edge-agent model quantize)")
    if spare >= 0.8:
        ways.append(f"use the idle {spare:.1f} cores: lanes = {model.lanes + 1}, or more threads (edge-agent model bench)")
    ways.append("take a smaller input_size or a smaller model")
    lines = [f"the model {model.name} is the limit ({limited[0].service_ms:.1f} ms a frame): {'; or '.join(ways)}"]
    if len(model.cameras) > 1:
        lines.append(f"{len(model.cameras)} cameras share {model.name}: max_fps or weight says which of them matter")
    return lines


def _of_camera(camera: CameraReport) -> list[str]:
    lines = []
    if camera.live and camera.declared_fps and camera.captured and camera.real_fps < _FALSE_RATE * camera.declared_fps:
        lines.append(
            f"{camera.camera} declares {camera.declared_fps:g} fps and delivers {camera.real_fps:.1f}: a long exposure in the dark, "
            "a limit of USB or network, or a setting of the camera"
        )
    if camera.lost_upstream:
        lines.append(f"{camera.camera}: {camera.lost_upstream} frames never arrived: look at the network (RTSP over TCP) or the USB bus")
    if camera.dropped.get("unreadable"):
        lines.append(f"{camera.camera}: {camera.dropped['unreadable']} pictures came damaged: look at cable and network")
    if camera.limit == "max_fps":
        lines.append(f"{camera.camera} is held at {camera.asked_fps:.3g} fps by its settings, and could deliver more")
    if camera.limit == "decode":
        lines.append(
            f"{camera.camera}: decoding is the limit ({camera.decode_mean_ms:.1f} ms a frame): a smaller size, or hardware (decode)"
        )
    return lines


def _of_broker(report: Report) -> list[str]:
    broker = report.broker
    if broker.publishing and not broker.connected:
        return [f"the broker was not reached ({broker.error or 'no answer'}): all else was measured without it"]
    lines = []
    if broker.dropped.get("buffer_full"):
        lines.append(f"{broker.dropped['buffer_full']} events were dropped as the broker does not keep up: max_fps, or a nearer broker")
    slow = [c for c in report.cameras if (c.parts_ms.get("publish") or {"p95": 0.0})["p95"] > _SLOW_BROKER_MS]
    if slow:
        lines.append(f"the broker takes over a second to acknowledge ({', '.join(c.camera for c in slow)}): look at the way to it")
    return lines
