"""An agent in this process, between its first signal and its last: SIGTERM is answered from any state, and SIGHUP read."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from edge_agent.app import Agent
from edge_agent.config import AgentConfig
from edge_agent.errors import ExitCode
from edge_agent.last_good import LastGood
from edge_agent.notify import Notifier

log = logging.getLogger("edge_agent.app")  # the name that whoever filters the log knows

LEAVE_WITHIN_S = 4.5
"""From SIGTERM to the end of the process, whatever hangs; the unit's limit and the users' patience is 5."""


def run(
    config: AgentConfig,
    *,
    seconds: float | None = None,
    notifier: Notifier | None = None,
    on_started: Callable[[], None] = lambda: None,
    last_good: LastGood | None = None,
) -> ExitCode:
    """Run an agent in this process: SIGTERM and SIGINT drain and leave, a second one leaves at once; SIGHUP reads agent.toml again.

    Where the process is ended by a signal that says that something is wrong (the watchdog's SIGABRT, SIGSEGV), the stacks of all
    threads go to stderr first.

    The main thread does nothing but wait for signals, so that nothing (a model being loaded, a camera that hangs)
    keeps it from answering them. Call from the main thread.
    """
    caught = {signal.SIGTERM, signal.SIGINT, *_reloads()}
    strays: list[int] = []
    outcome: list[ExitCode | BaseException] = []
    agent = Agent(config, notifier, on_started, last_good)

    def work() -> None:
        try:
            outcome.append(agent.run())
        except BaseException as error:  # handed to the main thread
            outcome.append(error)

    # Threads that libraries began when they were imported (OpenBLAS's) block no signal. One that comes while the main thread is
    # between two waits goes to them, and the handler of before would end the process without stopping anything.
    if sys.stderr is not None:
        faulthandler.enable()
    handlers = {number: signal.signal(number, lambda received, _frame: strays.append(received)) for number in caught}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    try:
        worker = threading.Thread(target=work, name="agent", daemon=True)
        worker.start()
        _wait_for_end(agent, worker, caught, strays, seconds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if not outcome:
        log.warning("something did not end in time and was left behind")
        return ExitCode.OK
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _reloads() -> set[signal.Signals]:
    """SIGHUP, where a service manager sends it: on a terminal it means that the terminal is gone, and under nohup nothing."""
    on_terminal = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    return set() if on_terminal or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else {signal.SIGHUP}


def _wait_for_end(agent: Agent, worker: threading.Thread, caught: set[signal.Signals], strays: list[int], seconds: float | None) -> None:
    """``strays`` are the signals that another thread received."""
    until = None if seconds is None else time.monotonic() + seconds
    leave_by: float | None = None
    while worker.is_alive():
        waited = signal.sigtimedwait(caught, 0.1)
        # Python tells of a signal that is none (0, or any number) where the process was stopped and continued meanwhile.
        came = waited is not None and waited.si_signo in caught
        received = waited.si_signo if waited is not None and came else strays.pop(0) if strays else None
        now = time.monotonic()
        if received == signal.SIGHUP:
            agent.hang_up()
            continue
        timed_out = until is not None and now >= until
        if received is not None or timed_out:
            until = None
            if leave_by is not None:
                log.warning("asked again, leaving at once")
                return
            leave_by = now + LEAVE_WITHIN_S
            agent.stop()
            # Before anything is logged: a reader of stderr that has gone to sleep must not keep us either.
            last_resort = threading.Timer(LEAVE_WITHIN_S + 0.2, os._exit, (int(ExitCode.OK),))
            last_resort.daemon = True
            last_resort.start()
            log.info("stopping because=%s", signal.Signals(received).name if received else "time is up")
        if leave_by is not None and now >= leave_by:
            return


def leave(code: int) -> NoReturn:
    """End the process now, without waiting for threads that are inside a driver or a library."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
