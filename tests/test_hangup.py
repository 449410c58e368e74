"""SIGHUP's way: RELOADING, what was read, READY, and a file that is wrong changes nothing."""

from __future__ import annotations

import logging
import socket
import threading
import time

import pytest

from edge_agent._commands_payload import ReloadResult
from edge_agent.errors import ConfigError, Problem, StateError
from edge_agent.hangup import Hangup
from edge_agent.notify import Notifier


def one_reload(manager: socket.socket, outcome: ReloadResult | Exception) -> tuple[str, list[str | None]]:
    """The status at its end, and what was noted; checks the two datagrams."""
    notes: list[str | None] = []

    def reload() -> ReloadResult:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    before = time.monotonic_ns() // 1000
    notifier = Notifier()
    Hangup(reload, notifier, notes.append).handle()
    began, ended = manager.recv(4096).decode().split("\n"), manager.recv(4096).decode().split("\n")
    assert began[0] == "RELOADING=1"
    assert before <= int(began[1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert ended[0] == "READY=1"
    notifier.close()
    return ended[1].removeprefix("STATUS="), notes


def test_what_changed_and_what_waits_for_a_restart_is_said(manager: socket.socket) -> None:
    told, notes = one_reload(manager, ReloadResult(["cameras.front.max_fps"], ["mqtt.host"]))
    assert told == "configuration read again: 1 changed; only a restart changes mqtt.host"
    assert notes == [None], "what was refused before is forgotten"
    assert one_reload(manager, ReloadResult([], []))[0] == "configuration read again: nothing has changed"


def test_a_file_that_is_wrong_is_refused_with_all_its_errors_in_the_journal(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    problems = [Problem("is not allowed", "/etc/edge-agent/agent.toml", 3, "mqtt.port"), Problem("unknown key", "agent.toml", 5, "x")]
    with caplog.at_level(logging.ERROR):
        told, notes = one_reload(manager, ConfigError(*problems))
    assert told.startswith("configuration refused, the one before holds: /etc/edge-agent/agent.toml:3: mqtt.port: is not allowed")
    assert told.endswith("(and 1 more errors)")
    assert notes == [told]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "agent.toml:5: x: unknown key" in caplog.text


def test_whatever_happens_the_service_manager_gets_its_ready(manager: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    told, notes = one_reload(manager, ZeroDivisionError())
    assert "the one before holds" in told
    assert notes == [told]
    assert "ZeroDivisionError" in caplog.text
    told, _ = one_reload(manager, StateError("the state directory cannot be used"))
    assert told == "configuration not read again, the one before holds: the state directory cannot be used"


def test_signals_that_come_meanwhile_are_one_more_reload(manager: socket.socket) -> None:
    go, began = threading.Semaphore(0), threading.Semaphore(0)

    def reload() -> ReloadResult:
        began.release()
        assert go.acquire(timeout=5)
        return ReloadResult([], [])

    notifier = Notifier()
    hangup = Hangup(reload, notifier)
    hangup.handle()
    assert began.acquire(timeout=5)
    for _ in range(3):
        hangup.handle()
    go.release()
    assert began.acquire(timeout=5)
    go.release()
    assert [manager.recv(4096).decode().partition("\n")[0] for _ in range(4)] == ["RELOADING=1", "READY=1"] * 2
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)
    notifier.close()
