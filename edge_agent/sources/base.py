"""The contract of a source: a dumb thing that opens, reads, closes and raises.

It holds no thread, no retry and no sleep of its own: :class:`edge_agent.capture.Capture` drives it, always from one
thread, in the order ``open``, ``read`` ..., ``close``, and then perhaps ``open`` again. ``close`` may be called at any
time after ``open`` began, also twice. Every blocking call has a bound, ``Source.patience_s``: a source that could wait for
ever is a defect, which the runner survives all the same, by leaving thread and source behind and making another one.
A source with a beat of its own (a file at its own speed) does not wait for it: it says when in ``Reading.not_before``.

A module of a kind exports ``Config``, ``claims(source)``, and ``build(context, config)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from edge_agent.config_values import Seconds, Table, not_bool
from edge_agent.errors import SourceError, SourceErrorCode
from edge_agent.image import Image

Pixels = Annotated[int, BeforeValidator(not_bool), Field(ge=1, le=32768)]


PATIENCE_S = 8.0
"""Longest time that a call of a usual source takes: its own timeouts are 5 s, and a camera that hangs is told within 10."""
MARGIN_S = 3.0
"""What a source may need beyond its own timeout: to look for the reason, to let go of what it had."""


@dataclass(frozen=True)
class SourceContext:
    """What a source is given besides its own ``Config``."""

    camera: str
    source: str | int
    resolve: Callable[[str], Path]
    """Makes a path of the configuration absolute."""
    secret: Callable[[str], str]
    """Reads a secret file; raises ConfigError."""
    model_size: Callable[[], tuple[int, int] | None] = lambda: None
    """Width and height of the model's input, once the model is loaded: a hint for hardware that resizes. Any thread."""


@dataclass(frozen=True)
class StreamInfo:
    """What an opened source turned out to be."""

    width: int
    height: int
    fps: float | None
    """The rate that the source *claims*; nobody should rely on it."""
    decoder: str
    """What turns its bytes into pixels, such as ``h264 (FFmpeg, software)`` or ``none (YUYV)``."""
    hardware: bool = False
    """Whether that is hardware: as confirmed after the start, not as asked for."""
    decoder_reason: str = ""
    """Why this decoder and not another, such as ``h264_v4l2m2m could not be opened: no such device``."""
    mode: str = ""
    """What was negotiated with a device, such as ``MJPG 1280x720 at 30/s``."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One picture as the source delivered it."""

    image: Image
    captured_at: float
    """Monotonic seconds when its data arrived."""
    pts_s: float | None = None
    decode_ms: float = field(default=0.0, kw_only=True)
    """What its decoding took, where the source decodes and knows."""
    not_before: float | None = None
    """Monotonic seconds. The runner holds the picture back until then, and takes that as the time of its arrival."""


class FrameUnreadable(SourceError):
    """One picture of the source is damaged; the next may do. Counted as dropped, and reading goes on."""

    def __init__(self, message: str) -> None:
        super().__init__(message, SourceErrorCode.INVALID_DATA)


class Source(ABC):
    """One camera, stream or file."""

    live: bool = True
    """Live sources have a newest frame; the others have a next frame, and none of theirs is ever skipped by default."""

    unpaced: bool = False
    """Delivers as fast as it is read, so that throughput counts and not latency: files that do not play in real time."""

    patience_s: float = PATIENCE_S
    """Seconds. A call that takes longer than this counts as wedged: it is not expected to return any more."""

    exclusive: bool = False
    """Holds what only one can have, such as a device: a call that hangs in our own process would keep it from its successor."""

    isolated: bool = False
    """Its calls run in a process of their own."""

    position: int = 0
    """How far a source that is not live has come, in its own units; 0 is the beginning.

    When a call of one has wedged, the runner writes its position into a new one before the first ``open``, which then goes
    on there.
    """

    @property
    def finite(self) -> bool:
        """Whether EndOfStream is a finish. A camera that ends its stream is lost, and opened again."""
        return not self.live

    @abstractmethod
    def open(self) -> StreamInfo:
        """Start delivering. Raises SourceUnavailable or SourceBroken within a bounded time."""

    @abstractmethod
    def read(self) -> Reading:
        """Wait for the next picture, a bounded time.

        Raises SourceUnavailable, SourceBroken or EndOfStream, after which only ``close`` and ``open`` are called, and
        FrameUnreadable, after which reading goes on.

        The picture stays valid after the next ``read`` and after ``close``.
        """

    def skip_until(self, at: float, cheaper_by: float = 0.0) -> None:  # noqa: B027 - most sources have nothing to spare
        """A hint: no picture that arrives before ``at`` (monotonic seconds) is going to be served.

        A source may leave out work for those, such as decoding what nothing else depends on, and then not deliver them.
        It must deliver what arrives later as if it had left out nothing; but where one that has to be decoded anyway is
        going to arrive by ``cheaper_by``, it may leave out those before it too. Called from any thread, at any time; cheap.
        """

    def left_out(self) -> int:
        """How many frames arrived since the last call and were not decoded, thanks to ``skip_until``.

        They come before the picture that ``read`` returned last, or before its error. They are frames of the camera: they
        count as captured, have frame ids, and were skipped. Called from the thread that reads, after each ``read`` and
        before ``close``.
        """
        return 0

    def lost_upstream(self) -> int:
        """How many frames the camera made since the last call that never arrived, as its sequence numbers or timestamps tell.

        They are no frames of ours: not captured, without frame ids. Called from the thread that reads.
        """
        return 0

    @abstractmethod
    def close(self) -> None:
        """Let go of everything. Never raises."""

    def dispose(self) -> None:  # noqa: B027 - most sources keep nothing from one ``open`` to the next
        """After the last ``close``: let go of what was kept for another ``open``, such as a process. Never raises."""


class DecodeConfig(Table):
    """Keys of every source whose pictures are decoded by something that may be hardware."""

    decode: Literal["auto", "hardware", "software"] = "auto"
    """"auto": hardware where it works, else software, with the reason in the camera's status; "hardware": or not at all."""


class NetworkConfig(Table):
    """Keys of every source that comes over a network."""

    open_timeout_s: Seconds = 5
    """Longest wait for the camera to answer and its stream to begin."""
    read_timeout_s: Seconds = 5
    """Longest wait for the next frame; then the camera counts as lost and is opened again."""

    @property
    def patience_s(self) -> float:
        """What ``Source.patience_s`` follows from these."""
        return max(self.open_timeout_s, self.read_timeout_s) + MARGIN_S
