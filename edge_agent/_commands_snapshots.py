"""Snapshots that are asked for: the next picture of a camera, as a JPEG, where its owner allows that."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from edge_agent._commands_payload import Code, Picture, Refusal, SnapshotArguments, SnapshotResult
from edge_agent._commands_picture import jpeg_of
from edge_agent.camera_state import CameraState
from edge_agent.controls import Controls
from edge_agent.errors import PictureUnusable
from edge_agent.events import ErrorInfo, Kind, Message, timestamp
from edge_agent.frame import Frame

J = TypeVar("J")

MOST_WAITING = 8
"""Snapshots that wait for their cameras at a time."""


@dataclass
class Snapshot(Generic[J]):
    """One that was asked for, of one camera or several."""

    job: J
    arguments: SnapshotArguments
    deadline: float
    waiting: dict[str, Callable[[Frame], None]] = field(default_factory=dict)
    """Cameras of which nothing has come yet, and what they were given to call."""
    pictures: dict[str, Picture] = field(default_factory=dict)
    failed: dict[str, Refusal] = field(default_factory=dict)

    def result(self) -> SnapshotResult:
        """What came of it. Raises Refusal where that is nothing."""
        if not self.pictures:
            raise next(iter(self.failed.values()))
        return SnapshotResult(self.pictures, {camera: ErrorInfo(why.code, str(why)) for camera, why in self.failed.items()})


class Snapshots(Generic[J]):
    """Those that wait for their cameras. For the thread of commands; frames come from the cameras', by ``post``."""

    def __init__(
        self,
        controls: Controls,
        publish: Callable[[Message], None],
        post: Callable[[Callable[[], None]], None],
        clock: Callable[[], float],
        *,
        allowed: bool,
    ) -> None:
        self.allowed = allowed
        """``[publish] snapshots``."""
        self._controls, self._publish, self._post, self._clock = controls, publish, post, clock
        self._waiting: list[Snapshot[J]] = []

    def begin(self, job: J, cameras: Sequence[str], arguments: SnapshotArguments) -> None:
        """Wait for the next picture of each; ``due`` tells when that is over. Raises Refusal where there will be none."""
        if len(self._waiting) >= MOST_WAITING:
            raise Refusal("busy", f"{MOST_WAITING} snapshots wait for their cameras already; ask again later")
        snapshot = Snapshot(job, arguments, self._clock() + arguments.within_s)
        for camera in cameras:
            problem = self._problem(camera)
            if problem is not None:
                snapshot.failed[camera] = problem
        if len(snapshot.failed) == len(cameras):
            raise next(iter(snapshot.failed.values()))
        self._waiting.append(snapshot)
        for camera in cameras:
            if camera not in snapshot.failed:
                snapshot.waiting[camera] = partial(self._seen, snapshot, camera)
        for camera, onlooker in snapshot.waiting.items():
            self._controls.captures[camera].show_next(onlooker)

    def _problem(self, camera: str) -> Refusal | None:
        capture = self._controls.captures[camera]
        allowed = capture.camera.settings.snapshots
        if not (self.allowed if allowed is None else allowed):
            text = f"pictures of camera {camera} may not leave the device; set snapshots = true, in [publish] or for the camera"
            return Refusal("not_allowed", text)
        if capture.status.state is CameraState.ENDED:
            return Refusal("camera_ended", f"camera {camera} has ended, and reads no more")
        if capture.paused:
            return Refusal("camera_paused", f"camera {camera} is paused, and reads nothing; send resume first")
        return None

    def _seen(self, snapshot: Snapshot[J], camera: str, frame: Frame) -> None:
        """A frame has come. In the camera's thread, with its lock held."""
        self._post(partial(self._take, snapshot, camera, frame))

    def _take(self, snapshot: Snapshot[J], camera: str, frame: Frame) -> None:
        if snapshot not in self._waiting or camera not in snapshot.waiting:
            return  # too late
        del snapshot.waiting[camera]
        try:
            snapshot.pictures[camera] = self._send(frame, snapshot.arguments)
        except (ValueError, PictureUnusable) as error:
            snapshot.failed[camera] = Refusal("picture_unusable", f"camera {camera}: {error}")
        except Exception as error:  # whatever a library makes of a damaged picture
            snapshot.failed[camera] = Refusal("picture_unusable", f"camera {camera}: its picture cannot be read ({type(error).__name__})")

    def _send(self, frame: Frame, arguments: SnapshotArguments) -> Picture:
        jpeg = jpeg_of(frame.image, arguments.max_width, arguments.max_bytes)
        self._publish(Message(Kind.SNAPSHOT, frame.camera, jpeg.data))
        return Picture(
            frame_id=frame.frame_id,
            captured_at=timestamp(frame.captured_utc),
            width=jpeg.width,
            height=jpeg.height,
            source_width=frame.image.width,
            source_height=frame.image.height,
            bytes=len(jpeg.data),
            sha256=hashlib.sha256(jpeg.data).hexdigest(),
        )

    def due(self) -> list[Snapshot[J]]:
        """Those that are done, or have waited for too long."""
        now = self._clock()
        done = []
        for snapshot in list(self._waiting):
            if snapshot.waiting and now >= snapshot.deadline:
                text = f"no picture came within {snapshot.arguments.within_s:g} s; its status says why, or ask with a longer within_s"
                self._give_up(snapshot, "camera_silent", text)
            if not snapshot.waiting:
                self._waiting.remove(snapshot)
                done.append(snapshot)
        return done

    def _give_up(self, snapshot: Snapshot[J], code: Code, text: str) -> None:
        for camera, onlooker in snapshot.waiting.items():
            if camera in self._controls.captures:
                self._controls.captures[camera].look_away(onlooker)
            snapshot.failed[camera] = Refusal(code, f"camera {camera}: {text}")
        snapshot.waiting.clear()

    def next_end(self) -> float | None:
        """Monotonic time when the next one has waited for too long; at once where one is done."""
        return min((snapshot.deadline if snapshot.waiting else self._clock() for snapshot in self._waiting), default=None)

    def abandon(self) -> list[Snapshot[J]]:
        """Wait for none any more; those that waited."""
        waiting, self._waiting = self._waiting, []
        for snapshot in waiting:
            self._give_up(snapshot, "stopping", "the agent ends")
        return waiting
