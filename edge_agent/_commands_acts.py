"""What each command does that is done at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_agent._commands_payload import Command, HaltArguments, HaltResult, InForce, Refusal, ReportResult, Result, SetArguments, SetResult
from edge_agent.controls import CannotSet, Controls
from edge_agent.errors import StateError
from edge_agent.events import timestamp
from edge_agent.health_event import HealthEvent


@dataclass(frozen=True)
class Acts:
    """Commands to the same methods as everybody else's."""

    controls: Controls
    report: Callable[[], HealthEvent]

    def do(self, command: Command, camera: str | None, cameras: Sequence[str]) -> tuple[Result, bool | None]:
        """What came of it, and whether it holds after a restart; None: nothing was changed. Raises Refusal.

        ``camera``: whose topic it came on; None: the device's. ``cameras``: those that are meant.
        """
        name, arguments = command.name, command.arguments
        try:
            if isinstance(arguments, HaltArguments):
                return self._halt(name == "pause", arguments, cameras)
            if isinstance(arguments, SetArguments):
                return self._set(arguments, cameras)
            if name == "report":
                return self._report(camera), None
            go_on = self.controls.resume if name == "resume" else self.controls.unmute
            return _halted(cameras, go_on(cameras)), True
        except StateError as error:
            raise Refusal("not_kept", f"nothing was changed: {error}") from None

    def _halt(self, is_pause: bool, arguments: HaltArguments, cameras: Sequence[str]) -> tuple[Result, bool]:
        halt = self.controls.pause if is_pause else self.controls.mute
        result = _halted(cameras, halt(cameras, arguments.duration_s, keep=arguments.keep))
        if arguments.duration_s is not None:
            result = replace(result, until=timestamp(time.time() + arguments.duration_s))
        return result, arguments.keep

    def _set(self, arguments: SetArguments, cameras: Sequence[str]) -> tuple[Result, bool]:
        values = {key: getattr(arguments, key) for key in arguments.model_fields_set - {"keep"}}
        try:
            self.controls.set(cameras, values, keep=arguments.keep)
        except CannotSet as error:
            raise Refusal("invalid_argument", f"nothing was changed: {error}") from None
        is_lasting = arguments.keep or not any(value is not None for value in values.values())
        return SetResult({camera: self._goes_by(camera) for camera in cameras}), is_lasting

    def _goes_by(self, camera: str) -> InForce:
        confidence, max_fps = self.controls.goes_by(camera)
        return InForce(confidence, max_fps)

    def _report(self, camera: str | None) -> ReportResult:
        health = self.report()
        return ReportResult(health=health) if camera is None else ReportResult(camera=health.cameras[camera])


def _halted(cameras: Sequence[str], ended: Sequence[str]) -> HaltResult:
    if len(ended) == len(cameras):
        raise Refusal("camera_ended", f"{', '.join(ended)}: has ended, and reads no more")
    return HaltResult([camera for camera in cameras if camera not in ended], list(ended))
