"""The agent as a service manager knows it: what it is told over the notify socket, by a real process, from start to end."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest

from edge_agent.errors import ExitCode
from tests.conftest import CommandLine, Mosquitto, free_port, terminated, wait_until
from tests.integration.test_agent import assert_follows_the_contract, write_config
from tests.subscriber import subscribed

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000
"""waitpid(2): threads too."""
CAMERA = {"source": "synthetic", "fps": 20}


@dataclass
class Manager:
    """The service manager's end of the socket. Reads all the time: whoever does not keeps the agent waiting."""

    path: str
    told: list[tuple[float, dict[str, str]]] = field(default_factory=list)

    def environment(self, watchdog_s: float = 2.0) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}

    def having(self, key: str) -> list[str]:
        return [fields[key] for _, fields in list(self.told) if key in fields]

    def last_pet(self) -> float:
        return max(at for at, fields in list(self.told) if "WATCHDOG" in fields)

    def listen(self, receiver: socket.socket) -> None:
        for datagram in iter(lambda: receiver.recv(8192), b"end"):
            fields = dict(line.partition("=")[::2] for line in datagram.decode().splitlines())
            self.told.append((time.monotonic(), fields))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        found = Manager(path)
        listener = Thread(target=found.listen, args=(receiver,), daemon=True)
        listener.start()
        yield found
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", path)
        listener.join(5)


def order(manager: Manager) -> list[str]:
    """The turning points, without pets and status lines."""
    keys = ("READY", "RELOADING", "STOPPING")
    return [key for _, fields in manager.told for key in keys if key in fields]


def test_ready_comes_without_broker_and_camera_the_watchdog_is_petted_through_both_and_the_end_is_told(
    manager: Manager, edge_agent: CommandLine
) -> None:
    config = write_config(edge_agent.folder, free_port(), {"source": "/dev/video97"}, CAMERA)
    with terminated(edge_agent.start("run", "-c", config, env=manager.environment())) as agent:
        wait_until(lambda: "READY" in order(manager))
        told = r"1 of 2 cameras online, \d+\.\d fps served, broker away \(.*refused.*\); cam0: .*video97"
        wait_until(lambda: [text for text in manager.having("STATUS") if re.match(told, text)])
        pets = len(manager.having("WATCHDOG"))
        wait_until(lambda: len(manager.having("WATCHDOG")) >= pets + 6)
        at = [moment for moment, fields in manager.told if "WATCHDOG" in fields]
        assert max(later - earlier for earlier, later in pairwise(at)) < 1.9, "always within the period"
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(6) == 0
    wait_until(lambda: order(manager) == ["READY", "STOPPING"])
    assert manager.having("STATUS")[-1] == "stopping"


def test_a_reload_is_told_and_a_file_that_is_wrong_is_refused_in_status_journal_and_on_mqtt(
    manager: Manager, mosquitto: Mosquitto, edge_agent: CommandLine
) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, CAMERA)
    good = Path(edge_agent.folder / config).read_text()
    with (
        subscribed(mosquitto.port) as heard,
        terminated(edge_agent.start("run", "-c", config, env=manager.environment())) as agent,
    ):
        wait_until(lambda: "READY" in order(manager))
        (edge_agent.folder / config).write_text(good + "max_fps = 7\n")
        agent.send_signal(signal.SIGHUP)
        wait_until(lambda: order(manager) == ["READY", "RELOADING", "READY"])
        assert "configuration read again: 1 changed" in manager.having("STATUS")
        (edge_agent.folder / config).write_text(good + "max_fps = -7\nnonsense = 1\n")
        agent.send_signal(signal.SIGHUP)
        wait_until(lambda: order(manager) == ["READY", *["RELOADING", "READY"] * 2])
        refused = wait_until(lambda: [text for text in manager.having("STATUS") if "configuration refused" in text])[-1]
        assert "cameras[0].max_fps" in refused
        health = wait_until(lambda: [m.json for m in heard.on("/health") if any("refused" in r for r in m.json["reasons"])])[-1]
        assert health["verdict"] == "degraded"
        served = health["cameras"]["cam0"]["frames_served_total"]
        wait_until(lambda: heard.on("/health")[-1].json["cameras"]["cam0"]["frames_served_total"] > served)
        (edge_agent.folder / config).write_text(good)
        agent.send_signal(signal.SIGHUP)
        wait_until(lambda: heard.on("/health")[-1].json["verdict"] == "ok")
        agent.send_signal(signal.SIGTERM)
        _, log = agent.communicate(timeout=10)
        assert agent.returncode == 0
        assert len(re.findall(r"configuration refused, the one before holds: \S+agent.toml:\d+: cameras\[0\]", log)) == 2, log
        assert_follows_the_contract(heard)


def test_memory_over_the_ceiling_ends_the_agent_by_itself_with_the_reason_on_mqtt(
    manager: Manager, mosquitto: Mosquitto, edge_agent: CommandLine
) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, CAMERA)
    text = (edge_agent.folder / config).read_text()
    (edge_agent.folder / config).write_text(text.replace("interval_s = 0.5", "interval_s = 0.5\nmax_rss_mb = 64"))
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("run", "-c", config, env=manager.environment())
        assert done.returncode == ExitCode.OSERR, done.stderr
        wait_until(lambda: [m.payload for m in heard.on("dev/status")][-1:] == [b"offline"])
    last = heard.on("/health")[-1].json
    assert last["verdict"] == "stopped"
    assert "64 MB is the limit ([health] max_rss_mb)" in last["reasons"][0]
    assert last["process"]["memory_limit_bytes"] == 64_000_000
    assert last["process"]["memory_used_bytes"] > 64_000_000
    assert "stopped by a failure reason=memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert order(manager) == ["READY", "STOPPING"]


def stop_thread(thread: int) -> None:
    """Stops one thread for good, as a driver does that never comes back. It belongs to a child of ours: ptrace(2) allows it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            pytest.skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")
    assert os.WIFSTOPPED(os.waitpid(thread, WALL)[1])


def let_end(thread: int) -> None:
    """A process whose thread is traced ends only when its tracer has heard so."""
    while os.WIFSTOPPED(os.waitpid(thread, WALL)[1]):
        pass


def busiest_thread(pid: int) -> int:
    """The one with the most CPU time but for the main thread."""

    def ticks(task: Path) -> int:
        return sum(int(part) for part in (task / "stat").read_text().rpartition(")")[2].split()[11:13])

    return int(max((task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)), key=ticks).name)


@pytest.mark.slow
def test_a_lane_that_hangs_is_petted_for_no_longer_and_leaves_the_stacks_of_all_threads(
    manager: Manager, mosquitto: Mosquitto, edge_agent: CommandLine
) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, CAMERA)
    hanging = 0
    with terminated(edge_agent.start("run", "-c", config, env=manager.environment(2.0))) as agent:
        wait_until(lambda: "READY" in order(manager))
        wait_until(lambda: any("20.0 fps" in text or "19." in text for text in manager.having("STATUS")), 40)
        stop_thread(hanging := busiest_thread(agent.pid))
        stopped = time.monotonic()
        wait_until(lambda: time.monotonic() - manager.last_pet() > 2.0, 30, "the pets to end")
        assert manager.last_pet() - stopped < 12.0
        agent.send_signal(signal.SIGABRT)  # what the service manager does then
        let_end(hanging)
        _, log = agent.communicate(timeout=10)
        assert agent.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in log
    stacks = log[log.index("Fatal Python error") :]
    assert stacks.count("(most recent call first)") >= 5, "of every thread"
    assert "in _wait_for_end" in stacks
    assert "in _lane" in stacks
