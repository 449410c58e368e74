"""The agent with a camera that hangs: told, isolated, recovered, and of no concern to the others or to the watchdog."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.conftest import CommandLine, Mosquitto, terminated, wait_until
from tests.integration.test_agent import write_config
from tests.subscriber import subscribed

MODULE = """
import ctypes, pathlib, time, numpy
MARK = pathlib.Path(__file__).with_name("hung")
def frames():
    while True:
        time.sleep(0.02)
        if not MARK.exists():
            MARK.touch()
            ctypes.CDLL(None).pause()
        yield numpy.zeros((120, 160, 3), "uint8")
"""


def children_of(pid: int) -> list[str]:
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += (task / "children").read_text().split()
    return found


@pytest.mark.parametrize("isolation", ["auto", "process"])
def test_a_camera_that_hangs_is_told_and_comes_back_without_a_restart(
    mosquitto: Mosquitto, edge_agent: CommandLine, isolation: str
) -> None:
    (edge_agent.folder / "hanging_camera.py").write_text(MODULE)
    bad = {"source": "hanging_camera:frames", "folder": str(edge_agent.folder), "timeout_s": 1, "isolation": isolation}
    config = write_config(edge_agent.folder, mosquitto.port, bad, {"source": "synthetic", "fps": 20})
    path = str(edge_agent.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, subscribed(mosquitto.port) as heard:
        manager.bind(path)
        told: list[bytes] = []
        # As the service manager does: whoever does not read keeps the agent waiting.
        threading.Thread(target=lambda: told.extend(iter(lambda: manager.recv(4096), b"end")), daemon=True).start()
        environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000000"}
        with terminated(edge_agent.start("run", "-c", config, env=environment)) as agent:
            wedged = wait_until(lambda: [m.json for m in heard.on("cam0/status") if (m.json["error"] or {}).get("code") == "wedged"])[0]
            assert wedged["state"] == "backoff"
            assert wedged["wedged"] == 1
            back = wait_until(lambda: [m.json for m in heard.on("cam0/status") if m.json["state"] == "online" and m.json["last_error"]])[0]
            assert back["isolation"] == "process"
            assert back["last_error"]["code"] == "wedged"
            assert back["hanging"] == (1 if isolation == "auto" else 0), "the thread that hangs is admitted"
            wait_until(lambda: heard.on("cam0/detections"))
            health = wait_until(lambda: [m.json for m in heard.on("/health") if m.json["cameras"]["cam0"]["state"] == "online"])[-1]
            assert health["cameras"]["cam0"]["wedged_total"] == 1
            assert health["cameras"]["cam1"]["reconnects_total"] == 0
            before = len(told)
            wait_until(lambda: sum(b"WATCHDOG=1" in text for text in told[before:]) >= 2)
            assert sum(b"WATCHDOG=1" in text for text in told[:before]) >= 2, "one camera is no reason to restart the service"
            children = children_of(agent.pid)
            assert len(children) == 1
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(5) == 0
            wait_until(lambda: not Path(f"/proc/{children[0]}").exists())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", path)


def test_a_camera_that_hangs_does_not_keep_a_check(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    (edge_agent.folder / "hanging_camera.py").write_text(MODULE)
    bad = {"source": "hanging_camera:frames", "folder": str(edge_agent.folder), "timeout_s": 0.5}
    config = write_config(edge_agent.folder, mosquitto.port, bad, {"source": "synthetic"})
    result = edge_agent.run("check", "--probe", "-c", config)
    assert result.returncode == 69
    assert "open of the source has not returned" in result.stdout + result.stderr
    assert "first frame after" in result.stdout, "the others are tried all the same"
