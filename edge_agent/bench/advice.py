"""What to do about what was measured, in plain words, the most important first."""

from __future__ import annotations

from edge_agent.bench import cpu
from edge_agent.bench.report import CameraReport, ModelReport, Report

_FALSE_RATE = 0.85
"""Of the declared rate: a camera that delivers less declares what it does not do."""
_DECODES_MUCH = 0.4
_SLOW_BROKER_MS = 1000.0
_IDLE_CORES = 0.8
_OTHERS_MUCH = 0.2
_GOVERNED = {
    "temperature": "the chip is near the point where it slows itself down: cool it better",
    "throttled": "the chip was slowing itself down: cool it better",
    "frequency_cap": "the chip's clock was capped while hot: cool it better",
    "under_voltage": "the power supply is too weak: take a stronger one, or a shorter and thicker cable",
    "over_current": "the power supply is at its limit: take a stronger one, or another power mode",
    "": "it has recovered since: the heartbeat and the log say why",
}


def advice(report: Report) -> list[str]:
    """Needs the limits."""
    lines = [_not_reached(camera) for camera in report.cameras if not camera.captured]
    lines += _of_broker(report)
    for model in report.models:
        lines += _of_model(model, report)
    if report.others_share >= _OTHERS_MUCH:
        lines.append(
            f"other programs used {100 * report.others_share:.0f} % of all cores meanwhile: without them there is more for this one"
        )
    used = sum(report.cpu_s.values())
    decoding = report.cpu_s.get(cpu.CAPTURE, 0.0) / used if used else 0.0
    if decoding >= _DECODES_MUCH and report.served and report.cpu_share >= 0.5:
        lines.append(
            f"capture and decode take {100 * decoding:.0f} % of the CPU: take the camera's substream, a lower rate, or hardware (decode)"
        )
    for camera in report.cameras:
        lines += _of_camera(camera)
    return lines


def _not_reached(camera: CameraReport) -> str:
    if camera.state == "ended":
        return f"{camera.camera} had ended before measuring began: a longer file, or loop = true"
    return f"{camera.camera}: not reached ({camera.error or camera.state}); edge-agent check --probe tells more"


def _of_model(model: ModelReport, report: Report) -> list[str]:
    limits = {camera.camera: camera.limit for camera in report.cameras if camera.camera in model.cameras}
    used = [camera for camera in report.cameras if camera.camera in limits and camera.served]
    idle = report.idle_cores
    lines = []
    if "governor" in limits.values():
        lines.append(
            f"the governor lets {model.name} work {100 * model.shares['governor']:.0f} % of the time: {_GOVERNED[report.governor_cause]};"
            " a cheaper model helps too"
        )
    if "cpu_budget" in limits.values():
        spare = f"; {idle:.1f} cores were idle" if idle >= _IDLE_CORES else ""
        lines.append(f"{model.name} keeps to cpu_budget = {model.cpu_budget:g} in [{model.table}]: raise it for more frames{spare}")
    if "model" in limits.values():
        took = next((f" ({camera.service_ms:.1f} ms a frame)" for camera in used if limits[camera.camera] == "model"), "")
        lines.append(f"the model {model.name} is the limit{took}: {'; or '.join(_ways(model, idle))}")
    if len(used) > 1 and {"model", "cpu_budget", "governor"} & set(limits.values()):
        lines.append(f"{len(used)} cameras share {model.name}: max_fps or weight says which of them matter")
    return lines


def _ways(model: ModelReport, idle: float) -> list[str]:
    ways = []
    if model.precision.startswith("float"):
        ways.append("make it INT8 (edge-agent model quantize)")
    if idle >= _IDLE_CORES:
        ways.append(
            f"use the idle {idle:.1f} cores: lanes = {model.lanes + 1} in [{model.table}], or more threads (edge-agent model bench)"
        )
    return [*ways, "take a smaller input_size or a smaller model"]


def _of_camera(camera: CameraReport) -> list[str]:
    lines = []
    waits = camera.every and camera.limit != "camera"  # for the model: what it delivers is what it was asked for
    if camera.live and not waits and camera.declared_fps and camera.captured and camera.real_fps < _FALSE_RATE * camera.declared_fps:
        lines.append(
            f"{camera.camera} declares {camera.declared_fps:g} fps and delivers {camera.real_fps:.1f}: a long exposure in the dark, "
            "a limit of USB or network, or a setting of the camera"
        )
    if camera.gate is False:
        lines.append(f"{camera.camera}: its motion gate is off, as each of its frames is served: set enabled = true in [cameras.motion]")
    if camera.lost_upstream:
        lines.append(f"{camera.camera}: {camera.lost_upstream} frames never arrived: look at the network (RTSP over TCP) or the USB bus")
    if camera.dropped.get("unreadable"):
        where = "the file is damaged" if camera.kind == "file" else "look at cable and network"
        lines.append(f"{camera.camera}: {camera.dropped['unreadable']} pictures came damaged: {where}")
    if camera.dropped.get("model_error"):
        lines.append(f"{camera.camera}: {camera.dropped['model_error']} frames failed in the model: edge-agent run says why in its log")
    return [*lines, *_of_limit(camera)]


def _of_limit(camera: CameraReport) -> list[str]:
    name, skipped = camera.camera, camera.skipped
    if camera.limit == "max_fps":
        return [f"{name} is held at {camera.asked_fps:.3g} fps by max_fps, and delivers {_delivers(camera)}: that is what was asked for"]
    if camera.limit == "interval_s" and camera.asked_fps:
        return [f"{name} is served one frame in {1 / camera.asked_fps:.3g} s by interval_s: that is what was asked for"]
    if camera.limit == "motion":
        share = 100 * skipped.get("no_motion", 0) / camera.captured
        return [f"{name}: nothing moved in {share:.0f} % of its frames, which [cameras.motion] left out: that is what it is for"]
    if camera.limit == "staleness_ms":
        stale = skipped.get("stale", 0)
        return [f"{name}: {stale} of {camera.captured} frames were older than staleness_ms when the model was free: raise it"]
    if camera.limit == "decode":
        return [f"{name}: decoding is the limit ({camera.decode_mean_ms:.1f} ms a frame): a smaller size, or hardware (decode)"]
    return []


def _delivers(camera: CameraReport) -> str:
    return f"{camera.real_fps:.1f}" if camera.live else "as fast as it can be read"


def _of_broker(report: Report) -> list[str]:
    broker = report.broker
    if not broker.publishing:
        return []
    if not broker.connected:
        return [f"the broker was not reached ({broker.error or 'no answer'}): all else was measured without it"]
    if any(camera.limit == "broker" for camera in report.cameras):
        lost = (
            f"{broker.dropped['buffer_full']} were dropped" if broker.dropped.get("buffer_full") else f"{broker.queued} wait, and more will"
        )
        fps = broker.delivered / report.seconds
        much = f"{fps:.1f} events a second of {broker.accepted / report.seconds:.1f}"
        return [f"the broker takes {much}: {lost}; max_fps, or a nearer broker, or a better way to it"]
    slow = [c for c in report.cameras if (c.parts_ms.get("publish") or {"p95": 0.0})["p95"] > _SLOW_BROKER_MS]
    if slow:
        return [f"the broker takes over a second to acknowledge ({', '.join(c.camera for c in slow)}): look at the way to it"]
    return []
