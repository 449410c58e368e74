"""Every error this package raises on purpose, and what each one makes the agent do.

EdgeAgentError
├── ConfigError          the user's settings or files are wrong      exit 78, systemd does not restart
├── StateError           the state directory cannot be used          exit 78
│   └── AlreadyRunning   another agent holds this state directory    exit 75, systemd tries again
├── SourceError
│   ├── SourceUnavailable  camera absent, busy, silent, lost         back off and retry, for ever
│   ├── SourceBroken       a file that is no video                   this camera ends, the others go on; exit 65
│   │                                                                when nothing else is left to run
│   ├── FrameUnreadable    one damaged picture (sources/base.py)     drop it and count it, read on
│   └── EndOfStream        a file was read to its end                a finish, not a failure; exit 0
├── ModelError           the model cannot be loaded, or one frame    at load, or many in a row: exit 1, restart;
│   │                    could not be inferred                       one frame: dropped and counted
│   └── ModelBroken      a file that no library can read             exit 78, systemd does not restart
├── MemoryExceeded       the process grew to its ceiling             drain, leave with 71, restart
└── SinkError
    ├── SinkUnavailable  broker absent or lost                       keep the events, back off, retry; exit 69 from a
    │                                                                command that needs it now (watch)
    └── Rejected         the receiver will never take this event     drop it and count it

Third-party exceptions are translated in the plugin that meets them and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum


class ExitCode(IntEnum):
    """What the process returns; the names of sysexits.h where one fits."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    DATAERR = 65
    UNAVAILABLE = 69
    OSERR = 71
    TEMPFAIL = 75
    CONFIG = 78


class EdgeAgentError(Exception):
    """Base of all errors raised on purpose; its text is one line for a person to read."""

    exit_code = ExitCode.FAILURE


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the configuration.

    ``where`` is a file, or the environment; ``line`` counts from 1; ``key`` is dotted (``cameras[0].source``).
    """

    message: str
    where: str = ""
    line: int | None = None
    key: str = ""

    def __str__(self) -> str:
        place = self.where if self.line is None else f"{self.where}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part)


class ConfigError(EdgeAgentError):
    """The configuration, or a file that it names, is wrong. Holds every problem found, not only the first."""

    exit_code = ExitCode.CONFIG

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = [Problem(p) if isinstance(p, str) else p for p in problems]
        super().__init__("\n".join(str(problem) for problem in self.problems))


class StateError(EdgeAgentError):
    """The state directory cannot be created, written or read."""

    exit_code = ExitCode.CONFIG


class AlreadyRunning(StateError):
    """Another agent uses the same state directory, and so the same identity."""

    exit_code = ExitCode.TEMPFAIL


class SourceErrorCode(str, Enum):
    """Why a camera gives no frames. Published as ``last_error.code`` in the camera's status."""

    NOT_FOUND = "not_found"
    PERMISSION = "permission"
    BUSY = "busy"
    UNPLUGGED = "unplugged"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    AUTH_FAILED = "auth_failed"
    TLS = "tls"
    CODEC_UNSUPPORTED = "codec_unsupported"
    UNSUPPORTED = "unsupported"
    """The device does not offer the size, rate, format or control that the configuration asks of it."""
    INVALID_DATA = "invalid_data"
    WEDGED = "wedged"
    """A call into a driver or library never came back."""
    ENDED = "ended"
    FAILED = "failed"


class SourceError(EdgeAgentError):
    """Something about one camera."""

    def __init__(self, message: str, code: SourceErrorCode = SourceErrorCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


class SourceUnavailable(SourceError):
    """The camera cannot be opened or read now; it is tried again."""


class SourceBroken(SourceError):
    """Trying again cannot help (the file is no video, nothing in the folder is an image)."""

    exit_code = ExitCode.DATAERR


class EndOfStream(SourceError):
    """The file has been read to its end."""

    def __init__(self, message: str = "end of stream") -> None:
        super().__init__(message, SourceErrorCode.ENDED)


class ModelError(EdgeAgentError):
    """The model cannot be loaded, or failed on a frame."""


class PictureUnusable(ModelError):
    """One picture is damaged, which is seen when it is decoded for the model: counted as unreadable, however many come."""


class ModelBroken(ModelError):
    """Trying again cannot help: the model's file is damaged, or a part of it is missing."""

    exit_code = ExitCode.CONFIG


class MemoryExceeded(EdgeAgentError):
    """As much memory is used as may be: the process ends by itself, before the kernel ends it."""

    exit_code = ExitCode.OSERR


class SinkError(EdgeAgentError):
    """Something about delivery."""


class SinkUnavailable(SinkError):
    """Nothing can be delivered now; what is waiting is kept and tried again.

    ``confirmed``: with so many of the messages of the write that failed, from the first, the receiver is done;
    ``rejected``: which of those, by position, it refused for good. ``retry_after_s``: trying again sooner would only annoy it.
    ``standing``: the connection is not lost by that, and serves for the next try.
    """

    def __init__(
        self,
        message: str,
        confirmed: int = 0,
        *,
        rejected: Mapping[int, Rejected] | None = None,
        retry_after_s: float = 0.0,
        standing: bool = False,
    ) -> None:
        super().__init__(message)
        self.confirmed, self.rejected, self.retry_after_s = confirmed, dict(rejected or {}), retry_after_s
        self.standing = standing

    exit_code = ExitCode.UNAVAILABLE


class Rejected(SinkError):
    """The receiver refuses this one event for good."""
