"""What the tests share: real servers on free ports, real media, and the command line as a subprocess."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from edge_agent import config_file, plugins
from edge_agent.config import AgentConfig

REPOSITORY = Path(__file__).parent.parent
ASSETS = REPOSITORY.parent / "shared" / "assets"
DATA = Path(str(resources.files("edge_agent") / "data"))
CLIP = DATA / "people_cross.mp4"
TRUTH = DATA / "people_cross.truth.json"
MODEL = DATA / "oid_int8_pp.tflite"

ONE_CAMERA = """
[device]
id = "dev"
state_dir = "state"
[mqtt]
host = "127.0.0.1"
port = {port}
[[cameras]]
id = "front"
source = "synthetic"
"""
"""An agent.toml, but for the broker's port."""


@pytest.fixture
def assets() -> Path:
    """The folder of shared models, clips and labelled images; the test is skipped where there is none."""
    if not ASSETS.is_dir():
        pytest.skip(f"no shared assets at {ASSETS}")
    return ASSETS


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], timeout_s: float = 20.0, what: str = "") -> Any:
    """Poll a real thing until it is as expected; its value. Fails with a reason, so nothing waits longer than it must."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s in vain for {what or condition}")
        time.sleep(0.02)


def make_config(tables: Mapping[str, Any], path: Path | None = None) -> AgentConfig:
    """A configuration from tables, without the test machine's environment."""
    return config_file.build(tables, plugins.PluginKinds(), path=path, environ={})


def needs(program: str, package: str) -> str:
    """The path of a program that the tests need. Where it is missing the test is skipped, naming the package; on CI it fails."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None and os.environ.get("CI"):
        pytest.fail(f"needs {program} (Debian package {package})")
    if found is None:
        pytest.skip(f"needs {program} (Debian package {package})")
    return found


@dataclass
class Mosquitto:
    """A real broker on a free loopback port, with what it was told in ``lines``."""

    folder: Path
    port: int = field(default_factory=free_port)
    lines: tuple[str, ...] = ("allow_anonymous true",)
    listener: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        program = needs("mosquitto", "mosquitto")
        config = self.folder / f"mosquitto-{self.port}.conf"
        listener = self.listener or f"listener {self.port} 127.0.0.1"
        config.write_text("\n".join(["persistence false", "user root", listener, *self.lines]) + "\n")
        log = (self.folder / "mosquitto.log").open("ab")
        self.process = subprocess.Popen([program, "-v", "-c", str(config)], stdout=log, stderr=log)
        log.close()
        wait_until(self._answers, 10, f"mosquitto on {self.port}; its log: {(self.folder / 'mosquitto.log').read_text()[-500:]}")
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
            return True
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path).start()
    yield broker
    broker.stop()


@dataclass
class CommandLine:
    """``edge-agent`` as a user runs it."""

    folder: Path

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_AGENT_", "XDG_", "STATE_", "NOTIFY_"))}
        return {**kept, "HOME": str(self.folder), "PYTHONUNBUFFERED": "1", **(extra or {})}

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_agent", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(env), capture_output=True, text=True, timeout=timeout, check=False
        )

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "edge_agent", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def edge_agent(tmp_path: Path) -> CommandLine:
    """The command line, with a home of its own."""
    return CommandLine(tmp_path)


@contextlib.contextmanager
def terminated(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone when the block ends."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., None]:
    """Runs ffmpeg with the arguments given."""
    program = needs("ffmpeg", "ffmpeg")

    def call(*arguments: str | Path) -> None:
        subprocess.run([program, "-nostdin", "-v", "error", "-y", *map(str, arguments)], check=True, timeout=60)

    return call


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of ``$NOTIFY_SOCKET``, which is set."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver
