"""``edge-agent status``: a socket that tells, who may ask it, what is shown, and when a new version does as well as the old one."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.status_report import Expected, as_text, shortcomings
from edge_agent.status_socket import StatusSocket, StatusUnavailable, ask, socket_path
from tests.conftest import ONE_CAMERA, CommandLine, Mosquitto, terminated, wait_until


@pytest.fixture
def telling(tmp_path: Path) -> Iterator[StatusSocket]:
    status = StatusSocket(tmp_path / "status.sock", lambda: b'{"a": 1}')
    status.start()
    yield status
    status.stop()


def test_it_tells_each_who_asks(telling: StatusSocket) -> None:
    assert [ask(telling.path) for _ in range(20)] == [{"a": 1}] * 20


def test_it_is_for_the_user_and_the_group(telling: StatusSocket) -> None:
    assert stat.S_IMODE(telling.path.stat().st_mode) == 0o660


def test_one_who_says_nothing_and_one_who_leaves_keep_nobody(telling: StatusSocket) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.connect(str(telling.path))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(telling.path))
        assert ask(telling.path) == {"a": 1}


def test_a_report_that_fails_is_no_answer_and_the_next_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = iter([b'{"a": 2}'])
    failing = [True]

    def report() -> bytes:
        if failing.pop() if failing else False:
            raise RuntimeError("a defect")
        return next(answers)

    status = StatusSocket(tmp_path / "s", report)
    status.start()
    with pytest.raises(StatusUnavailable, match="no edge-agent"):
        ask(status.path)
    assert ask(status.path) == {"a": 2}
    status.stop()
    assert "a defect" in caplog.text


def test_it_is_taken_away_at_the_end(telling: StatusSocket) -> None:
    telling.stop()
    assert not telling.path.exists()
    with pytest.raises(StatusUnavailable, match="no agent is running there"):
        ask(telling.path)


def test_what_a_killed_agent_left_is_replaced(telling: StatusSocket, tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "left.sock"))
    left.close()
    again = StatusSocket(tmp_path / "left.sock", lambda: b'{"b": 1}')
    again.start()
    assert ask(again.path) == {"b": 1}
    again.stop()


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "status.sock").write_text("mine")
    status = StatusSocket(tmp_path / "status.sock", lambda: b"{}")
    status.start()
    status.stop()
    assert (tmp_path / "status.sock").read_text() == "mine"
    assert "no socket is there" in caplog.text


def test_a_long_path_is_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["a folder with a long name"] * 8)
    folder.mkdir(parents=True)
    status = StatusSocket(folder / "status.sock", lambda: b'{"a": 1}')
    status.start()
    assert ask(status.path) == {"a": 1}
    status.stop()


def test_an_agent_that_hangs_is_said(tmp_path: Path) -> None:
    free = threading.Event()

    def hanging() -> bytes:
        free.wait(30)
        return b"{}"

    status = StatusSocket(tmp_path / "s", hanging)
    status.start()
    with pytest.raises(StatusUnavailable, match=r"does not answer within 0\.1 s"):
        ask(status.path, 0.1)
    free.set()
    status.stop()


def test_the_service_has_it_in_its_runtime_directory() -> None:
    assert socket_path(Path("/state"), {"RUNTIME_DIRECTORY": "/run/edge-agent"}) == Path("/run/edge-agent/status.sock")
    assert socket_path(Path("/state"), {}) == Path("/state/status.sock")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a real agent says."""
    folder = tmp_path_factory.mktemp("agent")
    broker, edge_agent = Mosquitto(folder).start(), CommandLine(folder)
    (folder / "agent.toml").write_text(ONE_CAMERA.format(port=broker.port))
    with terminated(edge_agent.start("run", "-c", "agent.toml")):
        done = edge_agent.run("status", "-c", "agent.toml", "--json", "--wait", "30", "--up", "2", "--release", sys.prefix)
    broker.stop()
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def told(once: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(once)


def test_a_running_agent_shows_what_it_does(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    (edge_agent.folder / "agent.toml").write_text(ONE_CAMERA.format(port=mosquitto.port))
    with terminated(edge_agent.start("run", "-c", "agent.toml")) as running:
        assert edge_agent.run("status", "-c", "agent.toml", "--wait", "30", "--up", "2").returncode == 0
        done = edge_agent.run("status", "-c", "agent.toml")
        assert done.returncode == 0, done.stderr
        assert re.search(rf": ok, up 0:0\d:\d\d, process {running.pid}\n", done.stdout)
        assert "camera         front: online" in done.stdout
        assert "broker         connected" in done.stdout
        assert done.stdout.count("\n") < 15
        mosquitto.stop()
        told = wait_until(lambda: json.loads(edge_agent.run("status", "-c", "agent.toml", "--json").stdout)["heartbeat"]["reasons"])
        assert told[0].startswith("broker: ")
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0
    done = edge_agent.run("status", "-c", "agent.toml")
    assert (done.returncode, done.stdout) == (69, "")
    assert "no agent is running there" in done.stderr


def test_another_release_is_not_taken_for_the_new_one(told: dict[str, Any]) -> None:
    assert shortcomings(told, Expected(release=sys.prefix, uptime_s=1)) == []
    assert "not /opt/new" in shortcomings(told, Expected(release="/opt/new"))[0]
    assert "of 3600" in shortcomings(told, Expected(uptime_s=3600))[0]


def test_what_worked_must_work_again(told: dict[str, Any]) -> None:
    assert shortcomings(told, Expected(before=told)) == []
    worse = copy.deepcopy(told)
    worse["heartbeat"]["delivery"].update(connected=False, error="refused")
    worse["heartbeat"]["cameras"]["front"].update(state="backoff", error={"code": "busy", "message": "is in use"})
    assert shortcomings(worse, Expected(before=told)) == [
        "the broker is away, and was not before: refused",
        "camera front is backoff, and was online: is in use",
    ]
    assert shortcomings(told, Expected(before=worse)) == []
    assert shortcomings(worse, Expected(before=worse)) == []
    blind = copy.deepcopy(told)
    blind["heartbeat"]["cameras"]["front"]["frames_served_total"] = 0
    assert "nothing of camera front was served yet" in shortcomings(blind, Expected(before=told))[0]
    del blind["heartbeat"]["cameras"]["front"]
    assert shortcomings(blind, Expected(before=told)) == [], "it was taken out of agent.toml"


def test_every_error_is_shown(told: dict[str, Any]) -> None:
    camera = told["heartbeat"]["cameras"]["front"]
    camera.update(state="backoff", latency_ms=None, decoder=None, error={"code": "busy", "message": "is in use"})
    camera["frames_dropped_total"] = {"unreadable": 3}
    told["heartbeat"].update(verdict="failing", reasons=["camera front: is in use"])
    text = "\n".join(as_text(told))
    assert "because camera front: is in use" in text
    assert "3 frames lost; is in use" in text


def test_nobody_answers_where_nothing_runs(edge_agent: CommandLine) -> None:
    done = edge_agent.run("status", "--socket", "nowhere/status.sock")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.count("\n") == 1
    assert edge_agent.run("status", "--socket", "nowhere/status.sock", "--wait", "0.2").returncode == 69


def test_a_comparison_with_something_else_is_refused(edge_agent: CommandLine) -> None:
    (edge_agent.folder / "other.json").write_text("{}")
    done = edge_agent.run("status", "--wait", "0", "--as-good-as", "other.json")
    assert done.returncode == 78
    assert "other.json" in done.stderr


def test_logs_hands_over_to_journalctl(edge_agent: CommandLine) -> None:
    folder = edge_agent.folder / "bin"
    folder.mkdir()
    (folder / "journalctl").write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    (folder / "journalctl").chmod(0o755)
    environ = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = edge_agent.run("logs", "-n", "5", "--errors", "--camera", "a.b", "--since", "-1h", "--", "-o", "json", env=environ)
    assert done.stdout == (
        "<--unit><edge-agent><--lines><5><--no-hostname><--no-pager><--priority><warning>"
        "<--since><-1h><--grep><camera[= ]a\\.b(\\s|:|$)><-o><json>"
    )
    done = edge_agent.run("logs", env={"PATH": "/nowhere"})
    assert done.returncode == 78
    assert "journalctl" in done.stderr
