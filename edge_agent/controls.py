"""What can be done to a running agent from outside: the same for commands, the Python API and a page in a browser.

One object for all cameras. What it changes it changes at once, in the running objects; what is to hold after a restart it
also writes into the state directory. The last word on a thing holds: one that is not to be kept replaces one that was.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from edge_agent._commands_kept import KeptCamera, KeptSettings
from edge_agent.capture import Capture
from edge_agent.pipeline import Pipeline

Halt = Literal["paused", "muted"]


class CannotSet(ValueError):
    """A setting that does not fit what agent.toml says of a camera; the text says what to do."""


@dataclass(frozen=True)
class InForce:
    """What a camera goes by instead of what agent.toml says; None: what that says."""

    confidence: float | None = None
    max_fps: float | None = None


class Controls:
    """Every method may be called from any thread. ``cameras``: the ids of those that are meant; those must exist.

    ``kept`` is read already; None: nothing can be kept. Methods with ``keep`` raise StateError if that cannot be written, and
    then nothing is changed.
    """

    def __init__(
        self,
        captures: list[Capture],
        pipeline: Pipeline,
        kept: KeptSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._captures = captures
        """The agent's own list: what is added here is known everywhere."""
        self._pipeline, self._kept, self._clock = pipeline, kept, clock
        self._ends: dict[tuple[str, Halt], float] = {}
        """Monotonic time when a halt of a camera ends by itself."""
        self._in_force: dict[str, InForce] = {}
        self._changing = threading.RLock()

    @property
    def captures(self) -> dict[str, Capture]:
        """The cameras by their ids."""
        return {capture.camera.id: capture for capture in tuple(self._captures)}

    @property
    def in_force(self) -> dict[str, InForce]:
        """What was set of each camera of which something was. Waits for nobody: do not write to it."""
        return self._in_force

    def alone(self) -> AbstractContextManager[object]:
        """While this is held nobody else changes anything; may be nested. For whoever looks at the cameras first and acts then."""
        return self._changing

    def restore(self) -> dict[str, KeptCamera]:
        """Do again what was kept; of which cameras that is what. Call before they are started."""
        known = self.captures
        with self._changing:
            kept = {camera: what for camera, what in (self._kept.cameras if self._kept else {}).items() if camera in known}
            for camera, what in kept.items():
                if what.muted:
                    known[camera].mute()
                if what.paused:
                    known[camera].pause()
                self._set(camera, InForce(what.confidence, what.max_fps if self._may_pace(camera) else None))
        return kept

    def add(self, capture: Capture) -> None:
        """One more camera, not yet started, of which the pipeline knows; the halts that were kept of it hold."""
        with self._changing:
            kept = self._kept.cameras.get(capture.camera.id, KeptCamera()) if self._kept else KeptCamera()
            if kept.muted:
                capture.mute()
            if kept.paused:
                capture.pause()
            self._captures.append(capture)

    def remove(self, capture: Capture) -> None:
        """A camera is no more."""
        camera = capture.camera.id
        with self._changing:
            self._captures.remove(capture)
            self._in_force = {name: each for name, each in self._in_force.items() if name != camera}
            self._ends = {key: end for key, end in self._ends.items() if key[0] != camera}

    # -- halts ------------------------------------------------------------------------------------------------------------

    def pause(self, cameras: Sequence[str], duration_s: float | None = None, *, keep: bool = False) -> list[str]:
        """Stop reading: a camera is let go, a file stays where it is. Those that have ended, and so cannot be paused."""
        return self._halt("paused", cameras, duration_s, keep=keep)

    def resume(self, cameras: Sequence[str]) -> list[str]:
        """The end of a pause, also of one that was kept. Those that have ended."""
        return self._go_on("paused", cameras)

    def mute(self, cameras: Sequence[str], duration_s: float | None = None, *, keep: bool = False) -> list[str]:
        """Go on reading and infer nothing. Those that have ended."""
        return self._halt("muted", cameras, duration_s, keep=keep)

    def unmute(self, cameras: Sequence[str]) -> list[str]:
        """The end of a mute, also of one that was kept. Those that have ended."""
        return self._go_on("muted", cameras)

    def _halt(self, halt: Halt, cameras: Sequence[str], duration_s: float | None, *, keep: bool) -> list[str]:
        with self._changing:
            self._keep(cameras, **{halt: keep})
            ended = []
            for camera in cameras:
                capture = self.captures[camera]
                if not (capture.pause() if halt == "paused" else capture.mute()):
                    ended.append(camera)
                self._ends.pop((camera, halt), None)
                if duration_s is not None and camera not in ended:
                    self._ends[camera, halt] = self._clock() + duration_s
            return ended

    def _go_on(self, halt: Halt, cameras: Sequence[str]) -> list[str]:
        with self._changing:
            self._keep(cameras, **{halt: False})
            return [camera for camera in cameras if not self._release(halt, camera)]

    def _release(self, halt: Halt, camera: str) -> bool:
        self._ends.pop((camera, halt), None)
        capture = self.captures[camera]
        return capture.resume() if halt == "paused" else capture.unmute()

    def due(self) -> list[tuple[str, Halt]]:
        """End the halts whose time has come; which those were. Call when :meth:`next_end` says."""
        with self._changing:
            now = self._clock()
            over = [key for key, end in self._ends.items() if end <= now]
            for camera, halt in over:
                del self._ends[camera, halt]
                if camera in self.captures:
                    self._release(halt, camera)
            return over

    def next_end(self) -> float | None:
        """Monotonic time when the next halt ends by itself."""
        with self._changing:
            return min(self._ends.values(), default=None)

    # -- settings ---------------------------------------------------------------------------------------------------------

    def set(self, cameras: Sequence[str], values: Mapping[str, float | None], *, keep: bool = False) -> None:
        """Go by other values of ``confidence`` and ``max_fps``, of the types of agent.toml; None: by those that stand there.

        Raises CannotSet for what a camera's own settings exclude; then nothing is
        changed.
        """
        with self._changing:
            for camera in cameras:
                if values.get("max_fps") is not None and not self._may_pace(camera):
                    raise CannotSet(f"camera {camera} has interval_s in agent.toml, and max_fps says the same: keep one of them there")
            self._keep(cameras, **(values if keep else dict.fromkeys(values)))
            for camera in cameras:
                was = self._in_force.get(camera, InForce())
                self._set(camera, InForce(values.get("confidence", was.confidence), values.get("max_fps", was.max_fps)))

    def clear(self) -> list[str]:
        """Go by agent.toml again, in every camera, now and after a restart; what that changed. Halts stay as they are."""
        with self._changing:
            if self._kept is not None:
                self._kept.change(list(self._kept.cameras), confidence=None, max_fps=None)
            changed = list(self._in_force)
            for camera in changed:
                self._set(camera, InForce())
            return changed

    def goes_by(self, camera: str) -> tuple[float, float | None]:
        """Confidence and max_fps that hold now, wherever they come from; None: no limit."""
        return self._pipeline.flows[camera].thresholds.confidence, self.captures[camera].max_fps

    def _set(self, camera: str, values: InForce) -> None:
        self._pipeline.set_confidence(camera, values.confidence)
        self.captures[camera].set_pace(values.max_fps)
        others = {name: each for name, each in self._in_force.items() if name != camera}
        self._in_force = others if values == InForce() else {**others, camera: values}

    def _may_pace(self, camera: str) -> bool:
        return self.captures[camera].camera.settings.interval_s is None

    def _keep(self, cameras: Sequence[str], **update: object) -> None:
        if self._kept is not None:
            self._kept.change(list(cameras), **update)
