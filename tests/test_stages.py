"""What keeps the watchdog petted, and the line for ``systemctl status``."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edge_agent.notify import Notifier
from edge_agent.service_status import EVERY_S, LONGEST, ServiceStatus, StatusLine
from edge_agent.stages import Stage, Stages


def test_a_stage_with_work_that_brings_nothing_through_is_stuck_and_one_that_waits_is_not() -> None:
    mark, waits = [0], [False]
    stages = Stages([Stage("publisher", lambda: mark[0], lambda: waits[0], 30.0), Stage("other", lambda: 1, lambda: True, 1.0)])
    assert stages.stuck(0.0) == {}
    assert stages.stuck(30.0) == {}
    assert stages.stuck(31.0) == {"publisher": 31.0}
    waits[0] = True
    assert stages.stuck(1000.0) == {}, "the broker has gone: that is waited for, however long"
    waits[0] = False
    assert stages.stuck(1029.0) == {}
    assert stages.stuck(1031.0) == {"publisher": 31.0}, "since it stopped waiting"
    mark[0] = 1
    assert stages.stuck(1032.0) == {}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(tmp_path / "notify"))
    receiver.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return receiver


def received(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def test_the_status_line_is_sent_when_it_says_something_else(told: socket.socket) -> None:
    notifier = Notifier()
    line = StatusLine(notifier)
    good = ServiceStatus(2, 2, 29.9, "connected")
    with told:
        assert line.tell(good, 0.0)
        assert not line.tell(ServiceStatus(2, 2, 30.1, "connected"), 0.5), "the rate alone can wait"
        assert line.tell(ServiceStatus(2, 2, 30.1, "connected"), EVERY_S)
        assert line.tell(ServiceStatus(1, 2, 15.0, "away (refused)", ("front: unplugged",)), EVERY_S + 0.5)
        notifier.close()
        assert received(told) == [
            "STATUS=2 of 2 cameras online, 29.9 fps served, broker connected",
            "STATUS=2 of 2 cameras online, 30.1 fps served, broker connected",
            "STATUS=1 of 2 cameras online, 15.0 fps served, broker away (refused); front: unplugged",
        ]


def test_a_long_problem_is_cut_and_the_number_of_the_others_is_not() -> None:
    text = str(ServiceStatus(0, 3, 0.0, "connected", ("x" * 2000, "b", "c")))
    assert len(text) == LONGEST
    assert text.endswith("x (and 2 more)")
