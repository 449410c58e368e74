"""Logging: short facts with ``key=value`` pairs, to stderr. Repetition is counted instead of repeated."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from edge_agent.events import timestamp
from edge_agent.journal import Journal, field_name
from edge_agent.redaction import redact

BURST = 5
PERIOD_S = 60.0
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_PAIR = re.compile(r"(?<!\S)([A-Za-z_]\w*)=('[^']*'(?!\S)|\"[^\"]*\"(?!\S)|\S*)")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d{1,17})?")
_MAX_KEYS = 1000


class RateLimit(logging.Filter):
    """Lets a burst of one kind of line through per period, then says how many it held back.

    A kind is the message before its arguments are filled in, and its first argument (the camera or the sink). A record with the
    attribute ``always`` is let through: its number is bounded elsewhere, and each one counts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a line too many."""
        if getattr(record, "always", False):
            return True
        first = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        key = (str(record.msg), first)
        now = self._clock()
        with self._lock:
            if len(self._seen) > _MAX_KEYS:
                self._seen.clear()
            began, count = self._seen.get(key, (now, 0))
            held_back = 0
            if now - began >= PERIOD_S:
                held_back, began, count = max(0, count - BURST), now, 0
            self._seen[key] = (began, count + 1)
        if count >= BURST:
            return False
        if held_back:
            record.msg = f"{record.getMessage()} (held back {held_back} like it)"
            record.args = ()
        return True


class TextFormatter(logging.Formatter):
    """For a terminal: time, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or a traceback for a defect."""
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return redact(f"{moment} {level}{record.getMessage()}{self._trace(record)}")

    def _trace(self, record: logging.LogRecord) -> str:
        return "\n" + self.formatException(record.exc_info) if record.exc_info else ""


class JournalFormatter(TextFormatter):
    """For the journal, which stamps time itself and reads the priority from ``<N>``."""

    def format(self, record: logging.LogRecord) -> str:
        """Each line with its priority."""
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        lines = redact(record.getMessage() + self._trace(record)).splitlines()
        return "\n".join(prefix + line for line in lines)


class JsonFormatter(TextFormatter):
    """One JSON object a line; the pairs of the message become fields."""

    def format(self, record: logging.LogRecord) -> str:
        """A line of JSON."""
        message = redact(record.getMessage())
        fields: dict[str, object] = {
            "at": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        for name, value in _pairs(message):
            fields.setdefault(name, value)
        if record.exc_info:
            fields["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False)


class JournalHandler(logging.StreamHandler[TextIO]):
    """Hands each record to the journal with fields, by which it can be searched: the pairs of its message are ``EDGE_<KEY>``.

    What the journal does not take goes to ``stream``, which ends there too.
    """

    def __init__(self, journal: Journal, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(JournalFormatter())
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """One entry."""
        try:
            sent = self._journal.send(_fields(record))
        except Exception:  # as all of logging's handlers do: no log line ends the agent
            self.handleError(record)
            return
        if not sent:
            super().emit(record)

    def close(self) -> None:
        """At the process's end."""
        self._journal.close()
        super().close()


def _fields(record: logging.LogRecord) -> dict[str, str]:
    message = redact(record.getMessage())
    trace = redact(logging.Formatter().formatException(record.exc_info)) if record.exc_info else ""
    ours = {field_name(key): str(value) for key, value in _pairs(message)}
    return {
        **ours,
        "MESSAGE": f"{message}\n{trace}" if trace else message,
        "PRIORITY": str(_PRIORITY.get(record.levelno, 6)),
        "SYSLOG_IDENTIFIER": "edge-agent",
        "LOGGER": record.name,
        "THREAD": record.threadName or "",
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
    }


def _pairs(message: str) -> list[tuple[str, object]]:
    """The ``key=value`` pairs. An unquoted ``reason`` or last value reaches to the end: texts of others hold blanks and "="."""
    found: list[tuple[str, object]] = []
    matches = list(_PAIR.finditer(message))
    for match in matches:
        name, value = match[1], match[2]
        quoted = len(value) > 1 and value[0] in "'\"" and value[0] == value[-1]
        if not quoted and (match is matches[-1] or name == "reason"):
            found.append((name, _typed(message[match.start(2) :].rstrip())))
            break
        found.append((name, value[1:-1] if quoted else _typed(value)))
    return found


def _typed(value: str) -> object:
    if not value.isascii() or not _NUMBER.fullmatch(value):
        return value
    return float(value) if "." in value else int(value)


def setup(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send this package's log, and warnings of the libraries under it, to stderr."""
    stream = sys.stderr if stream is None else stream
    if stream is None:  # started with stderr closed: there is nowhere to log to
        logging.getLogger().handlers[:] = [logging.NullHandler()]
        return
    if form == "auto":
        form = "journal" if is_journal(stream) else "text"
    handler = _to_journal(stream) if form == "journal" else None
    if handler is None:
        handler = logging.StreamHandler(stream)
        handler.setFormatter({"text": TextFormatter, "journal": JournalFormatter, "json": JsonFormatter}[form]())
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("edge_agent").setLevel(level.upper())


def _to_journal(stream: TextIO) -> logging.StreamHandler[TextIO] | None:
    """With fields, where the stream goes to a journal that can be reached; None where lines have to do."""
    if not is_journal(stream):
        return None
    try:
        return JournalHandler(Journal(), stream)
    except OSError:
        return None


def is_journal(stream: TextIO, environ: Mapping[str, str] | None = None) -> bool:
    """Whether a stream goes to the journal: systemd says which device and inode it is in JOURNAL_STREAM."""
    environ = os.environ if environ is None else environ
    try:
        device, inode = (int(part) for part in environ.get("JOURNAL_STREAM", "").split(":"))
        status = os.fstat(stream.fileno())
    except (ValueError, OSError):
        return False
    return stat.S_ISSOCK(status.st_mode) and (status.st_dev, status.st_ino) == (device, inode)
