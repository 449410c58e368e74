"""What ``edge-agent status`` shows of an agent, and whether a new version of it does as well as the one before."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent.encoding import encode
from edge_agent.health_event import HealthEvent

SCHEMA = "edge_agent.status/1"
_SERVING = frozenset({"online", "muted", "paused", "ended"})


@dataclass(frozen=True)
class Expected:
    """When an agent that was just started counts as well."""

    release: str | None = None
    """``sys.prefix`` of the one that is to answer: not the one of before."""
    uptime_s: float = 0.0
    """It has run for so long without a restart."""
    before: Mapping[str, Any] | None = None
    """What the one of before said at last: what worked then must work now."""


def answer(beat: HealthEvent, config: Path | None) -> bytes:
    """What the socket tells: this process, where it is installed, and the heartbeat as of now. One JSON object."""
    told = {"schema": SCHEMA, "pid": os.getpid(), "release": sys.prefix, "config": str(config) if config else None}
    return json.dumps(told, ensure_ascii=False).encode()[:-1] + b', "heartbeat": ' + encode(beat).payload + b"}"


def as_text(told: Mapping[str, Any]) -> Iterator[str]:
    """For people, line by line."""
    beat = told["heartbeat"]
    yield f"edge-agent {beat['agent_version']}: {beat['verdict']}, up {_span(beat['uptime_s'])}, process {told['pid']}"
    for reason in beat["reasons"]:
        yield f"  because {reason}"
    yield f"device         {beat['device']}"
    yield f"configuration  {told['config'] or '-'}"
    yield f"release        {told['release']}"
    model = beat["model"]
    yield f"model          {model['name']} ({model['precision']}), {model['runtime']} on {beat['accelerator']}"
    delivery = beat["delivery"]
    broker = "connected" if delivery["connected"] else f"away: {delivery['error'] or 'connecting'}"
    lost = sum(delivery["events_dropped_total"].values())
    yield f"broker         {broker}; {delivery['events_delivered_total']} delivered, {delivery['events_queued']} waiting, {lost} dropped"
    for name, camera in beat["cameras"].items():
        yield _camera(name, camera)
    process, host = beat["process"], beat["host"]
    hottest = max(host["temperature_c"].values(), default=None)
    heat = "" if hottest is None else f", {hottest:.0f} C"
    yield f"uses           CPU {process['cpu_percent']:.0f} %, {process['rss_bytes'] / 1e6:.0f} MB{heat}"


def _camera(name: str, camera: Mapping[str, Any]) -> str:
    lost = sum(camera["frames_dropped_total"].values())
    latency = camera["latency_ms"] or {}
    age = f", p95 {latency['p95']:.0f} ms" if "p95" in latency else ""
    text = f"camera         {name}: {camera['state']}, {camera['served_fps']:.1f} of {camera['captured_fps']:.1f} fps served{age}"
    text += f", {camera['decoder']}" if camera["decoder"] else ""
    text += f", {lost} frames lost" if lost else ""
    return text + (f"; {camera['error']['message']}" if camera["error"] else "")


def _span(seconds: float) -> str:
    return str(dt.timedelta(seconds=int(seconds)))


def shortcomings(told: Mapping[str, Any], expected: Expected) -> list[str]:
    """Why an agent does not count as well yet; nothing if it does."""
    beat = told["heartbeat"]
    found = []
    if expected.release is not None and told["release"] != expected.release:
        found.append(f"the agent that answers is {told['release']}, not {expected.release}")
    if beat["uptime_s"] < expected.uptime_s:
        found.append(f"it has been up for {beat['uptime_s']:.0f} s, of {expected.uptime_s:.0f}")
    if expected.before is not None:
        found += _worse(beat, expected.before["heartbeat"])
    return found


def _worse(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[str]:
    """What worked and no longer does. What did not work before is not this version's fault."""
    if before["delivery"]["connected"] and not now["delivery"]["connected"]:
        yield f"the broker is away, and was not before: {now['delivery']['error'] or 'connecting'}"
    for name, camera in before["cameras"].items():
        here = now["cameras"].get(name)
        if here is None or camera["state"] not in _SERVING:
            continue
        if here["state"] not in _SERVING:
            message = f": {here['error']['message']}" if here["error"] else ""
            yield f"camera {name} is {here['state']}, and was {camera['state']}{message}"
        elif camera["state"] == here["state"] == "online" and camera["served_fps"] > 0 and not here["frames_served_total"]:
            yield f"nothing of camera {name} was served yet, and {camera['served_fps']:.1f} fps were before"
