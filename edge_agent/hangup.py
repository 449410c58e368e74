"""SIGHUP, as ``systemctl reload`` sends it: agent.toml is read again, and a file that is wrong changes nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from edge_agent.errors import ConfigError, EdgeAgentError
from edge_agent.notify import Notifier
from edge_agent.redaction import redact

log = logging.getLogger(__name__)


class Changed(Protocol):
    """What a reload did (reloading.Changes, or a command's answer)."""

    @property
    def applied(self) -> Sequence[str]:
        """Keys that hold now."""

    @property
    def needs_restart(self) -> Sequence[str]:
        """Keys that hold after a restart."""


class Hangup:
    """``handle`` from any thread, as often as the signal comes; one reload at a time, and one more if it came meanwhile."""

    def __init__(self, reload: Callable[[], Changed], notifier: Notifier, note: Callable[[str | None], None] = lambda _: None) -> None:
        """``note`` is told why the file was refused, for the heartbeat, and None once one was taken."""
        self._reload, self._notifier, self._note = reload, notifier, note
        self._lock = threading.Lock()
        self._asked = self._running = False

    def handle(self) -> None:
        """Begin, in a thread of its own: files and a model may have to be looked at."""
        with self._lock:
            self._asked = True
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._run, name="reload", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._asked:
                    self._running = False
                    return
                self._asked = False
            self._once()

    def _once(self) -> None:
        self._notifier.reloading()
        status = "new configuration not read, the one before holds"
        try:
            changes = self._reload()
            status = _told(changes)
            self._note(None)
        except ConfigError as error:
            for problem in error.problems:
                log.error("configuration refused, the one before holds: %s", problem)
            more = f" (and {len(error.problems) - 1} more errors)" if len(error.problems) > 1 else ""
            status = f"configuration refused, the one before holds: {redact(str(error.problems[0]))}{more}"
            self._note(status)
        except EdgeAgentError as error:
            log.error("configuration not read again, the one before holds: %s", error)
            status = f"configuration not read again, the one before holds: {redact(str(error))}"
            self._note(status)
        except Exception:  # a defect must not leave the service manager waiting for READY
            log.exception("configuration not read again")
            self._note(status)
        finally:
            self._notifier.ready(status)


def _told(changes: Changed) -> str:
    if not changes.applied and not changes.needs_restart:
        return "configuration read again: nothing has changed"
    later = f"; only a restart changes {', '.join(changes.needs_restart)}" if changes.needs_restart else ""
    return f"configuration read again: {len(changes.applied)} changed{later}"
