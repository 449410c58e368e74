"""What this machine has to see with: cameras, what they offer, and what decodes here. For ``edge-agent devices``."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from edge_agent.sources import _v4l2 as kernel
from edge_agent.sources import _v4l2_controls as v4l2_controls
from edge_agent.sources import _v4l2_devices as v4l2_devices
from edge_agent.sources import _v4l2_modes as modes
from edge_agent.sources._decoders import Surveyed, survey

_NO_DEFAULT = {v4l2_controls.Kind.BUTTON, v4l2_controls.Kind.STRING}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A control and its value, as one writes it in agent.toml."""

    name: str
    kind: str
    value: str | None
    default: str | None
    accepts: str
    inactive: bool
    read_only: bool


@dataclasses.dataclass(frozen=True)
class Listed:
    """A node with all that it offers; ``source`` is what to write into agent.toml."""

    device: v4l2_devices.Device
    source: str
    offers: tuple[modes.Offer, ...] = ()
    settings: tuple[Setting, ...] = ()
    chosen: str = ""
    """The mode that is taken when nothing but the source is written."""
    problem: str = ""
    """Why its offers could not be asked for."""


def cameras() -> list[Listed]:
    """Every video node, by number. Never raises; starts no camera."""
    everything = v4l2_devices.devices()
    return [_listed(device, everything) for device in everything]


def _listed(device: v4l2_devices.Device, everything: list[v4l2_devices.Device]) -> Listed:
    source = v4l2_devices.stable_name(device, everything)
    if not device.captures:
        return Listed(device, source, problem=device.problem)
    try:
        node = kernel.Node(device.path)
    except OSError as error:
        return Listed(device, source, problem=str(v4l2_devices.refusal(device.path, error)))
    try:
        capability = kernel.query(node)
        budget = v4l2_devices.raw_budget(device.path, capability)
        wanted = modes.Wanted(1280, 720, 30, budget=budget)
        offers = tuple(modes.offers(node, capability.buffer_type, wanted))
        settings = tuple(_setting(node, control) for control in v4l2_controls.controls(node))
    except OSError as error:
        return Listed(device, source, problem=str(v4l2_devices.refusal(device.path, error)))
    finally:
        node.close()
    try:
        return Listed(device, source, offers, settings, str(modes.choose(offers, wanted)))
    except modes.NotOffered as refused:
        return Listed(device, source, offers, settings, problem=f"{device.path} {refused}")


def _setting(node: kernel.Node, control: v4l2_controls.Control) -> Setting:
    value = v4l2_controls.read(node, control)
    return Setting(
        control.name,
        control.kind.name.lower(),
        None if value is None else v4l2_controls.shown(control, value),
        None if control.kind in _NO_DEFAULT else v4l2_controls.shown(control, control.default),
        control.accepts(),
        control.is_inactive,
        control.is_read_only,
    )


def decoders() -> list[Surveyed]:
    """What decodes here. Loads PyAV and GStreamer."""
    return survey()


def as_json(found: list[Listed], decoding: list[Surveyed]) -> str:
    """All of it, for programs."""
    nodes = []
    for listed in found:
        node = dataclasses.asdict(listed.device)
        node.update(
            captures=listed.device.captures,
            source=listed.source,
            mode=listed.chosen or None,
            problem=listed.problem or None,
            formats=_by_format(listed.offers),
            controls=[dataclasses.asdict(setting) for setting in listed.settings],
        )
        nodes.append(node)
    surveyed = [dataclasses.asdict(decoder) for decoder in decoding]
    return json.dumps({"cameras": nodes, "decoders": surveyed}, indent=2, ensure_ascii=False)


def _by_format(offers: tuple[modes.Offer, ...]) -> list[dict[str, Any]]:
    return [
        {
            "format": fourcc,
            "read_here": fourcc in modes.FORMATS,
            "sizes": [{"width": o.width, "height": o.height, "rates": list(o.rates)} for o in offers if o.fourcc == fourcc],
        }
        for fourcc in dict.fromkeys(offer.fourcc for offer in offers)
    ]


def as_text(found: list[Listed], decoding: list[Surveyed], *, controls: bool) -> Iterator[str]:
    """The same for people, line by line, with what to paste into agent.toml."""
    able = [listed for listed in found if listed.device.captures]
    if not able:
        yield "no V4L2 camera found" + (f" ({len(found)} other video nodes)" if found else " (there is no /dev/video*)")
    taken: set[str] = set()
    for listed in able:
        yield from _camera(listed, camera_id(listed, taken), controls=controls)
    for listed in found:
        device = listed.device
        if listed.problem and not device.captures:
            yield f"{device.path}: {listed.problem}"
        elif not device.captures:
            yield f"{device.path}: {device.name} ({device.role}: no camera)"
    if decoding:
        yield "decoders:"
        yield from (f"    {decoder}" for decoder in decoding)


def _camera(listed: Listed, camera_id: str, *, controls: bool) -> Iterator[str]:
    device = listed.device
    yield f"{device.path}: {device.name} ({device.driver}, {device.bus})"
    if listed.problem:
        yield f"    {listed.problem}"
    readable = [offer for offer in listed.offers if offer.fourcc in modes.FORMATS]
    for fourcc in dict.fromkeys(offer.fourcc for offer in readable):
        sizes = [f"{o.width}x{o.height}{_rates(o.rates)}" for o in readable if o.fourcc == fourcc]
        yield f"    {fourcc:4} {', '.join(sizes)}"
    others = dict.fromkeys(offer.fourcc for offer in listed.offers if offer.fourcc not in modes.FORMATS)
    if others:
        yield f"    not read here: {', '.join(others)}"
    if controls:
        yield from (f"    {line}" for line in _settings(listed.settings))
    elif listed.settings:
        yield f"    {len(listed.settings)} controls (--controls lists them)"
    if device.links and listed.source not in device.links[:1]:
        yield "    by-path, because there is more than one of this model and their serial numbers do not tell them apart"
    elif not device.links:
        yield "    no stable name: its number may be another camera's after a restart"
    yield f"    # opens as {listed.chosen}" if listed.chosen else "    # cannot be opened as it is"
    yield "    [[cameras]]"
    yield f'    id = "{camera_id}"'
    yield f"    source = {json.dumps(listed.source)}"


def _rates(rates: tuple[float, ...]) -> str:
    return f" ({'/'.join(f'{rate:g}' for rate in rates)})" if rates else ""


def _settings(settings: tuple[Setting, ...]) -> Iterator[str]:
    for setting in settings:
        notes = [setting.accepts] + [f"default {setting.default}"] * (setting.default is not None)
        notes += ["now ruled by another control"] * setting.inactive + ["read only"] * setting.read_only
        value = "" if setting.value is None else f" = {setting.value}"
        yield f"{setting.name}{value}    # {'; '.join(notes)}"


def camera_id(listed: Listed, taken: set[str]) -> str:
    """A name that may be kept: of the camera's own, in letters that topics allow."""
    base = re.sub(r"[^a-z0-9]+", "-", listed.device.name.split(":")[0].lower()).strip("-")[:40] or "camera"
    name = next(n for n in (base, *(f"{base}-{i}" for i in range(2, 1000))) if n not in taken)
    taken.add(name)
    return name
