"""The service manager is asked for more time for as long as a start deserves it, heard at its end of the socket."""

from __future__ import annotations

import contextlib
import socket

from edge_agent.notify import Notifier
from edge_agent.patience import EXTEND_S, MOST_S, Patience


class Machine:
    """Time and work, moved by hand."""

    def __init__(self) -> None:
        self.now, self.worked = 1000.0, 50.0

    def clock(self) -> float:
        return self.now

    def cpu(self) -> float:
        return self.worked


def extensions(manager: socket.socket) -> list[str]:
    found = []
    manager.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(manager.recv(4096).decode())
    return found


def test_what_was_announced_is_granted_and_what_works_longer_is_too(manager: socket.socket) -> None:
    notifier, machine = Notifier(), Machine()
    patience = Patience(notifier, every_s=3600, clock=machine.clock, cpu=machine.cpu)
    patience.announce("compiling the model", 60.0)
    assert extensions(manager) == [f"EXTEND_TIMEOUT_USEC={int(EXTEND_S * 1e6)}", "STATUS=compiling the model"]
    machine.now += 50
    assert patience.tick(), "it said a minute"
    assert extensions(manager) == [f"EXTEND_TIMEOUT_USEC={int(EXTEND_S * 1e6)}", "STATUS=compiling the model (for 50 s)"]
    machine.now += 50
    assert not patience.tick(), "over its time, and no processor works"
    assert extensions(manager) == []
    machine.now, machine.worked = machine.now + 10, machine.worked + 3600 * 0.02
    assert patience.tick(), "it works"
    machine.now = 1000 + MOST_S + 1
    machine.worked += 3600
    assert not patience.tick(), "not for ever"
    patience.close()
    notifier.close()


def test_it_asks_by_itself_until_the_start_is_over(manager: socket.socket) -> None:
    notifier = Notifier()
    patience = Patience(notifier, every_s=0.01)
    patience.announce("compiling the model", 60.0)
    heard = [manager.recv(4096).decode() for _ in range(6)]
    assert [text.partition("=")[0] for text in heard] == ["EXTEND_TIMEOUT_USEC", "STATUS"] * 3
    patience.close()
    extensions(manager)
    patience.close()
    assert extensions(manager) == []
    notifier.close()


def test_a_start_that_takes_no_time_asks_for_nothing(manager: socket.socket) -> None:
    notifier = Notifier()
    Patience(notifier).close()
    assert extensions(manager) == []
    notifier.close()
