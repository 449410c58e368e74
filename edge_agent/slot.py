"""The slot: the first of the two places where a frame changes thread, and where every frame is accounted for.

A live source's slot is latest-wins: a frame that is overtaken before the model is free is *skipped*, unless the model is so
much faster than the camera that both are served before the camera's next one is due (frames that come in a burst). A file's
slot is lossless and a few frames deep: the reader waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edge_agent.frame import Frame
from edge_agent.stats import FrameCounts, ReasonCounter


@dataclass(frozen=True)
class SlotPolicy:
    """``every``: no frame is left out, and up to ``depth`` wait. ``interval_s``: one is handed out in that time at most.

    ``pace``: the key that asks for that, by which what came before the next was due is counted. ``staleness_s``: what is
    older than that is not handed out any more.
    """

    every: bool
    depth: int = 1
    interval_s: float | None = None
    pace: Literal["max_fps", "interval"] = "max_fps"
    staleness_s: float | None = None


class Slot:
    """The frames of one camera that wait for the model, and what became of all the others.

    ``wake`` is the lock of all slots, which lanes wait on. The methods that say so want it held.
    """

    def __init__(self, policy: SlotPolicy, wake: threading.Condition, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy
        self.counts = FrameCounts()
        self.due = 0.0
        """Monotonic time from when the next frame may be handed out, by ``interval_s``."""
        self.hidden = False
        """Nothing is handed out for now."""
        self.muted = False
        """Nothing is kept: what comes is skipped."""
        self._room, self._patience_s = 1, 0.0
        """Frames of a live source that may wait, and how long while there is a newer one."""
        self._wake, self._clock = wake, clock
        self._frames: deque[Frame] = deque()
        self._is_full = False
        """The reader waits for room."""
        self._closed = self._abandoned = self._resting = self._let_go = False

    def __bool__(self) -> bool:
        return bool(self._frames)

    def ready_at(self, now: float | None = None) -> float | None:
        """Monotonic time from when a frame may be taken; None when none waits. What is stale by ``now`` is skipped. Lock held."""
        if self.policy.staleness_s is not None:
            self._skip_stale((self._clock() if now is None else now) - self.policy.staleness_s)
        return self.due if self._frames and not self.hidden else None

    def deadline(self) -> float:
        """Monotonic time when the frame that waits longest becomes stale; infinite where none does, or none waits. Lock held."""
        stale_after = self.policy.staleness_s
        return self._frames[0].captured_at + stale_after if self._frames and stale_after is not None else float("inf")

    def set_policy(self, policy: SlotPolicy) -> None:
        """Go by another from now on. Lock held."""
        self.policy = policy
        self.due = min(self.due, self._clock() + (policy.interval_s or 0.0))
        self._skip_beyond(self._room)
        self._wake.notify_all()

    def make_room(self, frames: int, patience_s: float) -> None:
        """Let so many frames of a live source wait for that long, as the model is fast enough for all of them. Lock held."""
        self._room, self._patience_s = frames, patience_s
        self._skip_beyond(frames)

    def _skip_beyond(self, frames: int) -> None:
        if not self.policy.every:
            while len(self._frames) > frames:
                self._frames.popleft()
                self.counts.skipped["model_busy"] += 1

    def _skip_stale(self, oldest: float) -> None:
        while self._frames and self._frames[0].captured_at < oldest:
            self._frames.popleft()
            self.counts.skipped["stale"] += 1
            self._make_room()

    def take(self, now: float) -> Frame | None:
        """The frame that waits longest. Lock held."""
        if self.hidden or not self._frames:
            return None
        while len(self._frames) > 1 and not self.policy.every and now - self._frames[0].captured_at > self._patience_s:
            self._skip_beyond(len(self._frames) - 1)
        frame = self._frames.popleft()
        self._resting = False
        interval = self.policy.interval_s
        if interval:
            # The schedule keeps its beat unless it fell behind by more than one interval.
            self.due = max(self.due + interval, now) if self.due > now - interval else now + interval
        self._make_room()
        return frame

    def _make_room(self) -> None:
        if self._is_full and len(self._frames) <= self.policy.depth // 2:
            self._is_full = False
            self._wake.notify_all()

    def put(self, frame: Frame) -> None:
        """One more frame was captured. Where every one counts, waits for room. Lock held, and let go while waiting."""
        if self._abandoned:
            return
        self.counts.captured += 1
        if self.policy.every and len(self._frames) >= self.policy.depth:
            # Filled again only once it is half empty: fewer changes between threads, and several frames in a row.
            self._is_full = True
            while self._is_full and not self._closed and not self.muted:
                self._wake.wait(1.0)
            if self._let_go:
                self.counts.skipped["paused"] += not self._abandoned
                return
        if self._closed:
            if not self._abandoned:
                self.counts.dropped["shutdown"] += 1
            return
        if self.muted:
            self.counts.skipped["muted"] += 1
            return
        if not self.policy.every and self._frames and self.due > self._clock():
            self._skip_waiting(self._pace())
        self._skip_beyond(self._room - 1)
        self._frames.append(frame)
        self._wake.notify_all()

    def pass_by(self, reason: str, frames: int = 1) -> None:
        """So many frames were captured and left out, by policy. Lock held."""
        if not self._abandoned:
            self.counts.captured += frames
            self.counts.skipped[reason] += frames

    def spoil(self, reason: str) -> None:
        """A frame was captured and is lost. Lock held."""
        if not self._abandoned:
            self.counts.captured += 1
            self.counts.dropped[reason] += 1

    def hide(self, *, let_go: bool) -> None:
        """Hand out nothing for now, and keep nothing that will be old. Lock held.

        ``let_go``: the camera is closed, so whoever waits for room goes, also where every frame counts.
        """
        self.hidden = True
        self._let_go = let_go
        if let_go or not self.policy.every:
            self._skip_waiting("paused")
        if let_go:
            self._is_full = False
            self._wake.notify_all()

    def let_go(self) -> None:
        """Whoever waits for room gets it: its source is not read any more. Lock held."""
        self._is_full = False
        self._wake.notify_all()

    def show(self) -> None:
        """Hand out again. Lock held."""
        self.hidden = self._let_go = False
        self._wake.notify_all()

    def mute(self, muted: bool) -> None:
        """Keep nothing from now on, also of what waits; or keep again. Lock held."""
        self.muted = muted
        if muted:
            self._skip_waiting("muted")
            self._is_full = False
            self._wake.notify_all()

    def _skip_waiting(self, reason: str) -> None:
        if self._frames:
            self.counts.skipped[reason] += len(self._frames)
            self._frames.clear()

    def served(self) -> None:
        """A frame that was taken has become an event. Lock held."""
        self.counts.served += not self._abandoned

    def lost(self, reason: str) -> None:
        """A frame that was taken has come to nothing. Lock held."""
        if not self._abandoned:
            self.counts.dropped[reason] += 1

    def unmoved(self) -> None:
        """In the frame that was taken nothing moves: it is not served. Lock held."""
        if not self._abandoned:
            self.counts.skipped["no_motion"] += 1

    def rest(self, until: float) -> None:
        """Hand out the next frame at ``until``: nothing moves. What ``interval_s`` said is void, as nothing is served. Lock held."""
        if not self.policy.every:
            self.due, self._resting = until, True
            self._wake.notify_all()

    def _pace(self) -> str:
        return "no_motion" if self._resting else self.policy.pace

    def close(self) -> None:
        """Take no more, and let a reader go that waits for room. Lock held."""
        self._closed = True
        self._wake.notify_all()

    def abandon(self) -> None:
        """Give up every frame that is on its way, and count them: the last word. Lock held."""
        if self.counts.in_flight:
            self.counts.dropped["shutdown"] += self.counts.in_flight
        self._closed = self._abandoned = True
        self._frames.clear()

    def snapshot(self) -> FrameCounts:
        """The counters as of one moment, so that they add up. Lock held."""
        counts = self.counts
        return FrameCounts(counts.captured, counts.served, ReasonCounter(counts.skipped), ReasonCounter(counts.dropped))
