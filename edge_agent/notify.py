"""Talks to systemd (sd_notify(3)) over the package sdnotify, whose gaps are filled here.

It swallows every error or raises them all, encodes Latin-1 where systemd reads UTF-8, and does not read WATCHDOG_USEC.
Outside systemd all of this does nothing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import sdnotify

log = logging.getLogger(__name__)


class Notifier:
    """One process's line to its service manager. Thread-safe: each message is one datagram."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self.active = bool(environ.get("NOTIFY_SOCKET"))
        self.watchdog_s = _watchdog_period(environ) if self.active else None
        self.failures_total = 0
        self._notifier: Any = None
        if self.active:
            try:
                self._notifier = sdnotify.SystemdNotifier(debug=True)
            except (OSError, ValueError) as error:
                self._failed(error)

    def ready(self, status: str) -> None:
        """The service is up: configuration valid, model loaded, publisher started."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, text: str) -> None:
        """The line that ``systemctl status`` shows."""
        self._send(f"STATUS={_one_line(text)}")

    def watchdog(self) -> None:
        """Progress was made."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The service is on its way out."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def extend_timeout(self, seconds: float) -> None:
        """Starting takes longer, for a reason."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def reloading(self) -> None:
        """A reload began; ``ready`` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def close(self) -> None:
        """Let go of the socket; nothing is sent any more."""
        if self._notifier is not None:
            self._notifier.socket.close()
            self._notifier = None

    def _send(self, text: str) -> None:
        if self._notifier is None:
            return
        try:
            # Latin-1 turns these characters back into the bytes of UTF-8.
            self._notifier.notify(text.encode().decode("latin-1"))
        except OSError as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.failures_total += 1
        log.warning("service manager not reached reason=%s", error)


def _watchdog_period(environ: Mapping[str, str]) -> float | None:
    """WATCHDOG_USEC in seconds, if it is meant for this process (sd_watchdog_enabled(3))."""
    owner = environ.get("WATCHDOG_PID")
    try:
        if owner is not None and int(owner) != os.getpid():
            return None
        period = int(environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return None
    return period if period > 0 else None


def _one_line(text: str) -> str:
    return " ".join(text.split()).encode("utf-8", "replace").decode("utf-8")
