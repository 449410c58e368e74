"""From packets to pictures, the same for network streams, files and webcams that code: what nobody is going to want is not decoded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edge_agent.errors import SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.sources._ffmpeg_decoder import Decoder
from edge_agent.sources._ffmpeg_times import Arrivals
from edge_agent.sources._network import reason_of
from edge_agent.sources._packets import PacketSkipper
from edge_agent.sources.base import FrameUnreadable

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_UNDECODABLE = 300
"""Packets in a row without one picture before a file or stream counts as undecodable."""
LONGEST_GROUP_S = 30.0
"""And for a camera also so much time: some send a key frame every twenty seconds."""


class Pictures:
    """What one decoder gives, one by one. ``skipper.until`` may be called from any thread, the rest from the one that reads."""

    def __init__(self, shown: str, skipper: PacketSkipper, arrivals: Arrivals, *, live: bool, read_timeout_s: float) -> None:
        """``shown``: the source as its errors name it."""
        self.skipper, self.arrivals = skipper, arrivals
        self.decoded_total = 0
        self._shown, self._live, self._read_timeout_s = shown, live, read_timeout_s
        self._decoder: Decoder | None = None
        self._wanted: deque[Packet[VideoStream]] = deque()
        self._decoded: deque[tuple[VideoFrame, float]] = deque()
        self._undecodable = 0
        self._spent_ms = 0.0
        self._started = False
        self._decoded_at = time.monotonic()

    def decode_with(self, decoder: Decoder) -> None:
        """Begin with what came of proving ``decoder``."""
        self._decoder = decoder
        self._deliver(decoder.frames)

    def next(self, next_packet: Callable[[], Packet[VideoStream]]) -> tuple[VideoFrame, float]:
        """The next picture, and when its data came (monotonic seconds).

        Raises what ``next_packet`` raises, FrameUnreadable, and SourceUnavailable or SourceBroken where nothing can be decoded.
        """
        asked = time.monotonic()
        while not self._decoded:
            if self._wanted:
                self._decode(self._wanted.popleft())
                self._sign_of_life(asked)
            else:
                packet = next_packet()
                self._wanted.extend(self.skipper.take(packet, time.monotonic()) if self._live else [packet])
        self._started = True
        return self._decoded.popleft()

    def decode_ms(self) -> float:
        """What decoding has taken since this was last asked, in milliseconds: after ``next``, what its picture has cost."""
        spent, self._spent_ms = self._spent_ms, 0.0
        return spent

    def _decode(self, packet: Packet[VideoStream]) -> None:
        import av

        assert self._decoder is not None, "next() before decode_with()"
        damaged, began = None, time.perf_counter()
        try:
            self._deliver(self._decoder.decode(packet))
        except (av.FFmpegError, OSError) as error:  # a damaged packet; the next ones may do
            damaged = reason_of(error)
        self._spent_ms += (time.perf_counter() - began) * 1e3
        now = time.monotonic()
        self._undecodable = 0 if self._decoded else self._undecodable + 1
        self._decoded_at = now if self._decoded else self._decoded_at
        if self._undecodable > MAX_UNDECODABLE and (not self._live or now - self._decoded_at > LONGEST_GROUP_S):
            kind = SourceUnavailable if self._live else SourceBroken
            raise kind(f"{self._shown} sends nothing that can be decoded", SourceErrorCode.CODEC_UNSUPPORTED)
        # Before its first key frame a camera that was joined in the middle sends what nobody can decode: no loss.
        if damaged and (self._started or not self._live):
            raise FrameUnreadable(f"{self._shown} holds damaged data: {damaged}")

    def _sign_of_life(self, asked: float) -> None:
        """A camera that was joined in the middle of a long group sends, and nothing of it can be shown yet."""
        waited = time.monotonic() - asked
        if self._live and not self._decoded and waited > self._read_timeout_s:
            raise FrameUnreadable(f"{self._shown} sends nothing that can be decoded without a key frame, which has not come yet")

    def _deliver(self, frames: Iterable[VideoFrame]) -> None:
        now = time.monotonic()
        for frame in frames:
            self.decoded_total += 1
            self._decoded.append((frame, self.arrivals.of(frame.pts, now) if self._live else now))
