"""Looks at the configuration, the systemd service, secrets, the disk, the broker, and at what the running agent says of itself."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_agent import broker_sink, config_file, plugins, preflight, state_folder
from edge_agent.config import AgentConfig
from edge_agent.doctor_finding import Finding
from edge_agent.errors import ConfigError, EdgeAgentError
from edge_agent.redaction import redact
from edge_agent.sources._platform import platform
from edge_agent.state import default_directory
from edge_agent.status_socket import NAME, SERVICE_FOLDER, StatusUnavailable, ask

UNIT = "edge-agent.service"
SCARCE_BYTES = 100 << 20
BROKER_WITHIN_S = 3.0
_SERVED_SHARE = 0.5
_IN_ADDRESS = re.compile(r"://[^/@\s\"']+:[^/@\s\"']+@")
"""A password in a camera's address."""


@dataclass(frozen=True)
class Configured:
    """agent.toml, or what is wrong with it."""

    path: Path | None = None
    config: AgentConfig | None = None
    problems: list[str] = field(default_factory=list)

    @staticmethod
    def read(named: Path | None) -> Configured:
        """Never raises."""
        path = None
        try:
            path = config_file.find(named)
            return Configured(path, preflight.accepted(config_file.read_draft(path, plugins.PluginKinds())))
        except ConfigError as error:
            return Configured(path, None, [redact(str(problem)) for problem in error.problems])

    def findings(self) -> Iterator[Finding]:
        """Valid or not."""
        if self.config is not None:
            yield Finding(
                "ok", "configuration", f"{self.path}: valid, {len(self.config.cameras)} camera(s); tried by: edge-agent check --probe"
            )
        for problem in self.problems:
            mend = "edge-agent example --short > agent.toml" if self.path is None else f"edge-agent check -c {self.path}"
            yield Finding("wrong", "configuration", problem, mend)


def unit(root: Path = Path("/")) -> Iterator[Finding]:
    """The systemd service of this machine."""
    if not (root / "run/systemd/system").is_dir():
        yield Finding("note", "systemd", "does not run here: something else must start edge-agent and keep it running")
        return
    shown = _shown("LoadState", "UnitFileState", "ActiveState", "Result", "ExecMainStatus", "NRestarts", "DropInPaths")
    state = shown.get("LoadState", "")
    if state != "loaded":
        masked = state == "masked"
        yield Finding(
            "wrong" if masked else "note", "service", "masked" if masked else "not installed",
            f"sudo systemctl unmask {UNIT}" if masked else "sudo scripts/install",
        )  # fmt: skip
        return
    yield from _state_of(shown)
    wanted = {"jetson": "10-jetson.conf"}.get(platform(root).board) or (
        "10-raspberrypi.conf" if platform(root).board.startswith("pi") else None
    )
    if wanted is not None and wanted not in shown.get("DropInPaths", ""):
        text = f"{wanted} is not installed: the service may not open this board's accelerators and decoders"
        yield Finding("slow", "service", text, "sudo scripts/install")


def _state_of(shown: Mapping[str, str]) -> Iterator[Finding]:
    active, restarts = shown.get("ActiveState", ""), shown.get("NRestarts", "0")
    if shown.get("UnitFileState") not in {"enabled", "enabled-runtime"}:
        yield Finding("note", "service", "does not start at boot", "sudo systemctl enable edge-agent")
    if active == "active":
        yield Finding("ok", "service", f"active, {restarts} restarts since it was started")
    elif shown.get("ExecMainStatus") == "78":
        yield Finding("wrong", "service", "stopped: the configuration is wrong (exit code 78), and is not tried again",
                      "edge-agent logs --errors; then: sudo systemctl restart edge-agent")  # fmt: skip
    else:
        text = f"{active} ({shown.get('Result')}, exit code {shown.get('ExecMainStatus')}), {restarts} restarts"
        yield Finding("note" if active == "inactive" else "wrong", "service", text, "edge-agent logs; sudo systemctl restart edge-agent")


def _shown(*properties: str) -> dict[str, str]:
    """Of the unit, by ``systemctl show``."""
    command = ["systemctl", "show", UNIT, "-p", ",".join(properties)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603 - words of our own
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def secrets(configured: Configured) -> Iterator[Finding]:
    """Files with passwords that others can read."""
    path, config = configured.path, configured.config
    if path is None or config is None:
        return
    files = [config.settings.mqtt.password_file, *(getattr(camera.options, "password_file", None) for camera in config.cameras)]
    named = [config.resolve(str(name)) for name in files if name]
    if config.settings.mqtt.password is not None or _IN_ADDRESS.search(path.read_text("utf-8", "replace")):
        named.append(path)
    for each in named:
        try:
            mode = stat.S_IMODE(each.stat().st_mode)
        except OSError:
            continue  # check says so
        if mode & 0o007:
            yield Finding("wrong", "secrets", f"{each} may be read by everybody (mode {mode:04o})", f"sudo chmod o= {each}")


def disk(configured: Configured) -> Iterator[Finding]:
    """Room for state."""
    try:
        folder = default_directory() if configured.config is None else state_folder.state_for(configured.config).directory
    except EdgeAgentError as error:
        yield Finding("wrong", "state", str(error))
        return
    service = Path("/var/lib/edge-agent")
    folder = service if configured.path == Path("/etc/edge-agent/agent.toml") and service.is_dir() else folder
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        yield Finding(
            "wrong", "state", f"{there} is read-only: the agent cannot start", "look at the disk: dmesg, fsck; or [device] state_dir"
        )
    elif free < SCARCE_BYTES:
        yield Finding("wrong", "disk", f"{free >> 20} MB free at {there}", "make room, or [device] state_dir on another disk")
    else:
        yield Finding("ok", "disk", f"{free >> 20} MB free at {there}, for {folder}")


def broker(configured: Configured) -> Iterator[Finding]:
    """Whether anything listens there; ``check --probe`` also logs in."""
    if configured.config is None:
        return
    mqtt = configured.config.settings.mqtt
    if mqtt.unix_socket:
        return
    port = broker_sink.build_sink(configured.config, "edge-agent-doctor").port
    try:
        socket.create_connection((mqtt.host, port), BROKER_WITHIN_S).close()
        yield Finding("ok", "broker", f"something listens at {mqtt.host}:{port}")
    except OSError as error:
        mend = "sudo scripts/install --with-broker" if mqtt.host in {"localhost", "127.0.0.1"} else "[mqtt] host and port in agent.toml"
        yield Finding("wrong", "broker", f"{mqtt.host}:{port} does not answer: {error.strerror or error}; detections wait", mend)


def agent(configured: Configured) -> Iterator[Finding]:
    """What the running agent says, and where it loses time."""
    try:
        beat = _beat(configured)
    except StatusUnavailable as error:
        yield Finding("note", "agent", str(error), "sudo systemctl start edge-agent")
        return
    yield Finding("ok" if beat["verdict"] == "ok" else "wrong", "agent", f"{beat['verdict']}, version {beat['agent_version']}")
    yield from (Finding("wrong", "agent", reason) for reason in beat["reasons"])
    for name, camera in beat["cameras"].items():
        captured, served = camera["captured_fps"], camera["served_fps"]
        if camera["state"] == "online" and served < _SERVED_SHARE * captured and camera["frames_skipped_total"].get("model_busy"):
            text = f"{served:.1f} of {captured:.1f} frames per second are served: the model is busy with others"
            yield Finding("slow", f"camera {name}", text, "edge-agent bench -c FILE says what the limit is (stop the service first)")
    governor = beat.get("governor")
    if governor and governor["share"] < 1:
        text = f"inference is held at {100 * governor['share']:.0f} % of the time because of {governor['cause']}"
        yield Finding("slow", "governor", text, "docs/scheduling.md: a heat sink, a fan, a better supply")


def _beat(configured: Configured) -> dict[str, Any]:
    places = [SERVICE_FOLDER / NAME]
    if configured.config is not None:
        places.append(state_folder.state_for(configured.config).directory / NAME)
    for place in places[:-1]:
        try:
            beat: dict[str, Any] = ask(place)["heartbeat"]
        except StatusUnavailable:
            if os.path.lexists(place):
                raise
        else:
            return beat
    last: dict[str, Any] = ask(places[-1])["heartbeat"]
    return last
