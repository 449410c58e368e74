"""Commands from the broker: queued by whoever receives them, read and obeyed in one thread of their own, each answered.

What may come is anything, at any rate: see :mod:`edge_agent._commands_payload` for how it is read, and
:mod:`edge_agent._commands_limits` for how much of it. What is done is :mod:`edge_agent.controls`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial

from edge_agent._commands_acts import Acts
from edge_agent._commands_limits import Answers, TokenBucket
from edge_agent._commands_payload import (
    LARGEST,
    Code,
    Command,
    CommandResult,
    Refusal,
    ReloadResult,
    Result,
    SnapshotArguments,
    encode,
    parse,
    shown,
)  # fmt: skip
from edge_agent._commands_snapshots import Snapshot, Snapshots
from edge_agent.controls import Controls
from edge_agent.errors import ConfigError, EdgeAgentError, StateError
from edge_agent.events import ErrorInfo, Message, timestamp
from edge_agent.health_event import CommandedHealth, CommandsHealth, HealthEvent
from edge_agent.redaction import redact
from edge_agent.requests import Request
from edge_agent.stats import ReasonCounter, merged

log = logging.getLogger(__name__)

MOST_WAITING = 64
"""Commands that may wait to be read."""
BURST, PER_S = 20, 5.0
"""Commands that are read at once, and in the long run."""
MOST_ANSWERS, ANSWERS_S = 256, 600.0
"""How many answers are remembered, and for how long: a command whose id is among them is not obeyed again."""
_LOGGED_BURST, _LOGGED_PER_S = 10, 0.1
_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class CommandsContext:
    """What commands need besides the controls."""

    device: str
    root: str
    """``<base>/<device>``, for the log."""
    publish: Callable[[Message], None]
    report: Callable[[], HealthEvent]
    reload: Callable[[], ReloadResult]
    """Raises ConfigError or StateError. Called in a thread of its own, one at a time."""


@dataclass
class CommandCounts:
    """received = executed + replayed + refused + ignored + waiting or being done."""

    received: int = 0
    executed: int = 0
    replayed: int = 0
    """Answered from memory: their ids were known."""
    refused: ReasonCounter = field(default_factory=ReasonCounter)
    """By the code of the answer; of ``rate_limited`` only the first in a row was answered."""
    ignored: ReasonCounter = field(default_factory=ReasonCounter)
    """Without an answer: ``retained``, ``queue_full``, ``stopping``."""


@dataclass(frozen=True)
class _Job:
    """A command that is being done."""

    request: Request
    command: Command
    cameras: list[str]


class Commands:
    """The queue and its thread. ``receive`` may be called from any thread; ``start`` and ``stop`` from one."""

    def __init__(
        self,
        context: CommandsContext,
        controls: Controls,
        allow: Collection[str],
        *,
        snapshots: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``snapshots``: whether those are allowed of cameras whose own settings do not say."""
        self.counts = CommandCounts()
        self.allow = allow
        self.snapshots: Snapshots[_Job] = Snapshots(controls, context.publish, self._post, clock, allowed=snapshots)
        self._context, self._controls, self._clock = context, controls, clock
        self._acts = Acts(controls, context.report)
        self._changed = threading.Condition()
        self._requests: deque[Request] = deque()
        self._posted: deque[Callable[[], None]] = deque()
        self._closed = False
        now = clock()
        self._bucket, self._log_bucket = TokenBucket(BURST, PER_S, now), TokenBucket(_LOGGED_BURST, _LOGGED_PER_S, now)
        self._told_of_limit = False
        self._answers: Answers[CommandResult] = Answers(MOST_ANSWERS, ANSWERS_S)
        self._reloading: _Job | None = None
        self._thread = threading.Thread(target=self._run, name="commands", daemon=True)

    def receive(self, request: Request) -> None:
        """Take what came in. Returns at once and never raises, whatever it is."""
        with self._changed:
            self.counts.received += 1
            if request.retained:  # nobody asks this now
                self.counts.ignored["retained"] += 1
            elif self._closed:
                self.counts.ignored["stopping"] += 1
            elif len(self._requests) >= MOST_WAITING:
                self.counts.ignored["queue_full"] += 1
            else:
                if len(request.payload) > LARGEST:
                    request = replace(request, payload=request.payload[: LARGEST + 1])  # it is refused, and need not be kept
                self._requests.append(request)
                self._changed.notify_all()

    def start(self) -> None:
        """Begin to obey, in the thread of commands."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Obey no more, and say so to those that wait for an answer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def health(self) -> CommandsHealth:
        """For the heartbeat. From any thread; waits for nobody."""
        counts = self.counts
        in_force = {camera: CommandedHealth(each.confidence, each.max_fps) for camera, each in self._controls.in_force.items()}
        return CommandsHealth(counts.received, counts.executed, counts.replayed, merged(counts.refused), merged(counts.ignored), in_force)

    def _post(self, work: Callable[[], None]) -> None:
        """Have something done in the thread of commands. From any thread."""
        with self._changed:
            self._posted.append(work)
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._closed:
            try:
                wake_at = self.work()
                with self._changed:
                    if not (self._requests or self._posted or self._closed):
                        self._changed.wait(None if wake_at is None else max(0.0, wake_at - self._clock()))
            except Exception:  # a defect in one command must not be the end of all
                log.exception("commands failed")
        self._end()

    def work(self) -> float | None:
        """Do all that is to be done now; when to come back though nothing comes in, in monotonic seconds. In one thread only."""
        for camera, halt in self._controls.due():
            log.info("time is up, camera=%s is no longer %s", camera, halt)
        for snapshot in self.snapshots.due():
            self._show(snapshot)
        while True:
            with self._changed:
                work = self._posted.popleft() if self._posted else None
                request = self._requests.popleft() if work is None and self._requests else None
            if work is not None:
                work()
            elif request is not None:
                self._handle(request)
            else:
                break
        return min((at for at in (self._controls.next_end(), self.snapshots.next_end()) if at is not None), default=None)

    def _end(self) -> None:
        stopping = Refusal("stopping", "the agent ends; ask again when its status is online")
        for job in [snapshot.job for snapshot in self.snapshots.abandon()] + ([self._reloading] if self._reloading else []):
            self._fail(job, stopping)
        while self._requests:
            request = self._requests.popleft()
            self._refuse(request, stopping)

    # -- one command ------------------------------------------------------------------------------------------------------

    def _handle(self, request: Request) -> None:
        now = self._clock()
        is_within = self._bucket.take(now)
        if not is_within and self._told_of_limit:
            self.counts.refused["rate_limited"] += 1
            return
        self._told_of_limit = not is_within
        command: Command | None = None
        try:
            command = parse(request.payload)
            if is_within:
                with self._controls.alone():  # no reload takes a camera away meanwhile
                    self._begin(self._job(request, command))
                return
            refusal = Refusal("rate_limited", "")
        except Refusal as found:
            refusal = found
        except Exception as error:
            refusal = _unexpected(error)
        if not is_within:
            text = f"too many commands: {PER_S:g} a second are read; send this one again in {self._bucket.next_s(now):.1f} s or later"
            refusal = Refusal("rate_limited", text, id=refusal.id, name=refusal.name)
        if command is not None:
            refusal.id, refusal.name = command.id, command.name
        self._refuse(request, refusal)

    def _job(self, request: Request, command: Command) -> _Job:
        known = list(self._controls.captures)
        if request.camera is not None and request.camera not in known:
            raise Refusal("unknown_camera", f"there is no camera {shown(request.camera)}, only {', '.join(known)}")
        if command.name not in self.allow:
            raise Refusal("not_allowed", f'{command.name} is not among [commands] allow in agent.toml; add "{command.name}" there')
        return _Job(request, command, known if request.camera is None else [request.camera])

    def _begin(self, job: _Job) -> None:
        """Obey, or answer as before. Raises Refusal."""
        key, now = (job.request.camera, job.command.id), self._clock()
        content = (job.command.name, job.command.arguments.model_dump_json(exclude_unset=True))
        before = self._answers.get(key, now)
        if before is not None and before.content != content:
            raise Refusal("id_reused", "another command had this id; give each a new one")
        if before is not None:
            self.counts.replayed += 1
            if before.answer is not None:  # else it comes when it is done
                self._context.publish(encode(replace(before.answer, replayed=True), job.request.reply_to))
            return
        if job.command.name != "report":
            self._answers.put(key, content, None, now)
        try:
            result = self._obey(job)
        except BaseException:
            self._answers.forget(key)
            raise
        if result is not None:
            self._succeed(job, *result)

    def _obey(self, job: _Job) -> tuple[Result, bool | None] | None:
        """What came of it, and whether it holds after a restart; None: that comes later. Raises Refusal."""
        if isinstance(job.command.arguments, SnapshotArguments):
            self.snapshots.begin(job, job.cameras, job.command.arguments)
        elif job.command.name == "reload":
            self._begin_reload(job)
        else:
            return self._acts.do(job.command, job.request.camera, job.cameras)
        return None

    # -- what comes later -------------------------------------------------------------------------------------------------

    def _show(self, snapshot: Snapshot[_Job]) -> None:
        try:
            self._succeed(snapshot.job, snapshot.result(), None)
        except Refusal as refusal:
            self._fail(snapshot.job, refusal)

    def _begin_reload(self, job: _Job) -> None:
        if job.request.camera is not None:
            raise Refusal("wrong_topic", f"reload is for the device: send it to {self._context.root}/command")
        if self._reloading is not None:
            raise Refusal("busy", "agent.toml is being read already; wait for that answer")
        self._reloading = job
        threading.Thread(target=self._reload, args=(job,), name="reload", daemon=True).start()

    def _reload(self, job: _Job) -> None:
        """In a thread of its own: a model that is checked takes seconds, and no mute is to wait for it."""
        try:
            done = partial(self._succeed, job, self._context.reload(), True)
        except ConfigError as error:
            problems = [redact(str(problem)) for problem in error.problems]
            text = f"nothing was changed, agent.toml has {len(problems)} error(s): {problems[0]}"
            done = partial(self._fail, job, Refusal("invalid_configuration", text), problems[:_MOST_PROBLEMS])
        except EdgeAgentError as error:
            code: Code = "not_kept" if isinstance(error, StateError) else "invalid_configuration"
            done = partial(self._fail, job, Refusal(code, f"nothing was changed: {redact(str(error))}"))
        except Exception as error:
            done = partial(self._fail, job, _unexpected(error))
        self._post(partial(self._reloaded, done))

    def _reloaded(self, done: Callable[[], None]) -> None:
        self._reloading = None
        done()

    # -- answers ----------------------------------------------------------------------------------------------------------

    def _succeed(self, job: _Job, result: Result, survives_restart: bool | None) -> None:
        self.counts.executed += 1
        command = job.command
        arguments = command.arguments.model_dump_json(exclude_unset=True)
        # Who had what done is never held back by the log's own limit; the bucket bounds it.
        who = (command.name, arguments, self._topic(job.request), ascii(command.id))
        log.info("command obeyed name=%s arguments=%s topic=%s id=%s", *who, extra={"always": True})
        answer = replace(self._answer(job.request, command.id, command.name), ok=True, result=result, survives_restart=survives_restart)
        if command.name != "report":
            content = (command.name, arguments)
            self._answers.put((job.request.camera, command.id), content, answer, self._clock())
        self._context.publish(encode(answer, job.request.reply_to))

    def _fail(self, job: _Job, refusal: Refusal, problems: list[str] | None = None) -> None:
        """Nothing came of a command that was begun: it may be sent again."""
        self._answers.forget((job.request.camera, job.command.id))
        refusal.id, refusal.name = job.command.id, job.command.name
        self._refuse(job.request, refusal, problems)

    def _refuse(self, request: Request, refusal: Refusal, problems: list[str] | None = None) -> None:
        self.counts.refused[refusal.code] += 1
        if self._log_bucket.take(self._clock()):
            who = "unknown" if refusal.id is None else ascii(refusal.id)
            log.warning("command refused code=%s topic=%s id=%s reason=%s", refusal.code, self._topic(request), who, refusal)
        answer = replace(
            self._answer(request, refusal.id, refusal.name), error=ErrorInfo(refusal.code, str(refusal)), problems=problems or []
        )
        self._context.publish(encode(answer, request.reply_to))

    def _answer(self, request: Request, command_id: str | None, name: str | None) -> CommandResult:
        camera = request.camera if request.camera in self._controls.captures else None
        return CommandResult(self._context.device, camera, command_id, name, ok=False, at=timestamp(time.time()))

    def _topic(self, request: Request) -> str:
        if request.camera is None:
            return f"{self._context.root}/command"
        is_known = request.camera in self._controls.captures
        return f"{self._context.root}/camera/{request.camera if is_known else shown(request.camera)}/command"


def _unexpected(error: Exception) -> Refusal:
    """A defect of ours: told of, with its traceback in the log, and never the end of the thread."""
    log.error("command failed unexpectedly", exc_info=error)
    return Refusal("internal", f"unexpected {type(error).__name__}; the agent's log has more")
