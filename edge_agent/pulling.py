"""``edge-agent model pull``: a model by its name or address, whole and verified or not at all."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from edge_agent import state
from edge_agent.catalogue import CATALOGUE, Entry
from edge_agent.errors import ConfigError, EdgeAgentError, ExitCode
from edge_agent.fetching import FetchError, Job, Limits, Progress, check_address, fetch
from edge_agent.part_file import InUse, PartFile, sha256_of
from edge_agent.redaction import redact

DEFAULT_MAX_MB = 1000.0


class PullError(EdgeAgentError):
    """It was not pulled."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Request:
    """What the user asks for."""

    what: str
    """A name of the catalogue, or an address."""
    output: Path | None = None
    """A folder that exists, or a file. Default: the folder ``models`` in the state directory."""
    sha256: str | None = None
    max_mb: float = DEFAULT_MAX_MB
    force: bool = False
    """Replace a file that holds something else."""
    limits: Callable[[int], Limits] = Limits


@dataclass(frozen=True)
class Pulled:
    """What came of it."""

    path: Path
    url: str
    """Without credentials."""
    sha256: str
    size: int
    verified: bool
    """The hash was known before. Where it was not, nobody can tell whether this is the file that its author made."""
    licence: str | None
    fetched: bool = field(compare=False)
    """False: the file was there already."""

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "path": str(self.path)}

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{self.path} ({self.size / 1e6:.2f} MB)" + ("" if self.fetched else ": was there already"),
            f"sha256   {self.sha256}" + (" (verified)" if self.verified else ""),
            f"licence  {self.licence or 'not known to edge-agent: look at where it comes from'}",
        ]
        if not self.verified:
            lines.append("warning  could not be verified: no hash was given. Compare it with its author's, and use --sha256 from now on")
        return lines


@dataclass(frozen=True)
class _Wanted:
    url: str
    target: Path
    sha256: str | None
    max_bytes: int
    licence: str | None = None

    @property
    def record(self) -> Path:
        """Tells where the file came from."""
        return self.target.with_name(self.target.name + ".source.json")


def pull(request: Request, progress: Progress) -> Pulled:
    """Fetch, verify, and only then give the file its name; a right file that is there is left as it is.

    Raises PullError, FetchError, StateError, each with its exit code. After KeyboardInterrupt, or where the server was lost, the
    same call goes on from what had come.
    """
    wanted = _wanted(request)
    with _disk(wanted):
        if request.output is None:
            state.default_directory().mkdir(parents=True, exist_ok=True, mode=0o700)  # as the agent itself makes it
        wanted.target.parent.mkdir(parents=True, exist_ok=True)
        there = _there(wanted, force=request.force)
        if there:
            return there
        try:
            part = PartFile(wanted.target, wanted.url)
        except InUse:
            raise PullError(f"{wanted.target} is being pulled by another process; try again when it is done", ExitCode.TEMPFAIL) from None
        with contextlib.closing(part):
            # The one who held the lock a moment ago may just have finished it.
            there = _there(wanted, force=request.force)
            if there:
                part.discard()
                return there
            return _fetched(wanted, part, Job(wanted.url, request.limits(wanted.max_bytes), wanted.sha256 is not None, progress))


def _wanted(request: Request) -> _Wanted:
    max_bytes = int(request.max_mb * 1e6)
    if "/" not in request.what and ":" not in request.what:
        entry = _entry(request.what)
        if request.sha256 not in {None, entry.sha256}:
            raise PullError(f"{entry.name}: its hash is {entry.sha256}, not the --sha256 given", ExitCode.USAGE)
        if entry.size > max_bytes:
            raise PullError(f"{entry.name} has {entry.size / 1e6:.1f} MB, more than --max-mb allows", ExitCode.DATAERR)
        return _Wanted(entry.url, _target(request.output, entry.file), entry.sha256, entry.size, entry.licence)
    check_address(request.what, trusted=request.sha256 is not None)
    name = PurePosixPath(unquote(urlsplit(request.what).path)).name
    return _Wanted(request.what, _target(request.output, name), request.sha256, max_bytes)


def _entry(name: str) -> Entry:
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in CATALOGUE)
    raise PullError(f"{name!r} is neither an address (https://...) nor one of: {known}", ExitCode.USAGE)


def _target(output: Path | None, name: str) -> Path:
    output = output and output.expanduser()
    if output is not None and not output.is_dir():
        return output.absolute()
    if not re.fullmatch(r"\w[\w.+=@() -]{0,199}", name):
        raise PullError(f"no file name can be read from the address ({redact(name)!r:.80}); say one with -o FILE", ExitCode.USAGE)
    return (state.default_directory() / "models" if output is None else output).absolute() / name


def _there(wanted: _Wanted, *, force: bool) -> Pulled | None:
    """What is there, if it is what is wanted. Raises PullError where it is something else."""
    if not wanted.target.exists() and not wanted.target.is_symlink():
        return None
    if not wanted.target.is_file():
        raise PullError(f"{wanted.target} exists and is no file; say another with -o FILE", ExitCode.CONFIG)
    found = sha256_of(wanted.target)
    if found == (wanted.sha256 or _recorded(wanted)):
        return _pulled(wanted, found, wanted.target.stat().st_size, fetched=False)
    if force:
        return None
    raise PullError(
        f"{wanted.target} exists and holds something else (sha256 {found}); nothing was changed: say -o FILE, or --force to replace it",
        ExitCode.CONFIG,
    )


def _recorded(wanted: _Wanted) -> str | None:
    """The hash that was noted when the file came from this very address."""
    try:
        record = json.loads(wanted.record.read_text("utf-8"))
        return str(record["sha256"]) if record["url"] == redact(wanted.url) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _fetched(wanted: _Wanted, part: PartFile, job: Job) -> Pulled:
    resumed = part.size > 0
    try:
        fetch(job, part)
        found = part.sha256()
        if wanted.sha256 is not None and found != wanted.sha256 and resumed:
            part.begin(part.validator)  # two versions may have met in it: once more, from the first byte
            fetch(job, part)
            found = part.sha256()
        if wanted.sha256 is not None and found != wanted.sha256:
            raise PullError(
                f"{job.shown}: what came is not what was asked for: its sha256 is {found}, not {wanted.sha256}; it was thrown away",
                ExitCode.DATAERR,
            )
        if part.size == 0:
            raise PullError(f"{job.shown}: the file is empty", ExitCode.DATAERR)
        size = part.size
        part.finish()
    except FetchError as error:
        if error.exit_code is ExitCode.DATAERR:
            part.discard()  # else the server may have it again: what came is kept
        raise
    except (PullError, OSError):
        part.discard()
        raise
    pulled = _pulled(wanted, found, size, fetched=True)
    _note(wanted, pulled)
    return pulled


def _pulled(wanted: _Wanted, found: str, size: int, *, fetched: bool) -> Pulled:
    return Pulled(wanted.target, redact(wanted.url), found, size, wanted.sha256 is not None, wanted.licence, fetched)


def _note(wanted: _Wanted, pulled: Pulled) -> None:
    record = {key: value for key, value in pulled.as_json().items() if key not in {"path", "fetched"}}
    temporary = wanted.record.with_name(wanted.record.name + ".new")
    temporary.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    temporary.replace(wanted.record)


@contextmanager
def _disk(wanted: _Wanted) -> Iterator[None]:
    """What the disk refuses, as an error that names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"{wanted.target} cannot be written: {reason}") from None
