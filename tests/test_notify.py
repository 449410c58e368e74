"""sd_notify over a real datagram socket, as systemd receives it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.notify import Notifier


@contextlib.contextmanager
def notifying(environ: dict[str, str] | None = None) -> Iterator[Notifier]:
    notifier = Notifier(environ)
    try:
        yield notifier
    finally:
        notifier.close()
        notifier.watchdog()  # of no effect any more
        notifier.close()


def test_each_call_is_one_datagram_in_the_managers_words(manager: socket.socket) -> None:
    with notifying() as notifier:
        assert notifier.active
        notifier.ready("2 cameras")
        notifier.status("front online\nREADY=0")
        notifier.watchdog()
        notifier.extend_timeout(2.5)
        notifier.stopping()
    assert [manager.recv(4096) for _ in range(5)] == [
        b"READY=1\nSTATUS=2 cameras",
        b"STATUS=front online READY=0",
        b"WATCHDOG=1",
        b"EXTEND_TIMEOUT_USEC=2500000",
        b"STOPPING=1\nSTATUS=stopping",
    ]
    assert notifier.failures_total == 0


def test_a_reload_carries_the_monotonic_clock(manager: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    with notifying() as notifier:
        notifier.reloading()
    first, second = manager.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("text", ["caméra 前 ✓", "\ud800 lone surrogate", "é"])
def test_a_status_is_utf_8_because_systemd_drops_others(manager: socket.socket, text: str) -> None:
    with notifying() as notifier:
        notifier.status(text)
    assert manager.recv(4096).decode("utf-8") == f"STATUS={text}".replace("\ud800", "?")


def test_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"edge-agent-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        with notifying() as notifier:
            notifier.watchdog()
        assert receiver.recv(64) == b"WATCHDOG=1"


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready("x")
    notifier.watchdog()
    assert (notifier.active, notifier.watchdog_s, notifier.failures_total) == (False, None, 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # sdnotify leaves the socket open that it cannot connect
def test_a_manager_that_is_not_there_is_counted_and_does_not_stop_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        notifier = Notifier()
        notifier.ready("x")
    assert notifier.failures_total == 1
    assert "service manager not reached" in caplog.text


def test_a_manager_that_goes_away_is_counted(manager: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    with notifying() as notifier:
        manager.close()
        notifier.watchdog()
        notifier.watchdog()
    assert notifier.failures_total == 2
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize(
    ("environ", "period"),
    [
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "me"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_period_if_it_is_meant_for_us(manager: socket.socket, environ: dict[str, str], period: float | None) -> None:
    with notifying({**environ, "NOTIFY_SOCKET": os.environ["NOTIFY_SOCKET"]}) as notifier:
        assert notifier.watchdog_s == period
