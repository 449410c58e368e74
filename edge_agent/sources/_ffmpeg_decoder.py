"""The decoder of one stream: hardware where it works, confirmed by its first picture, else software with the reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

from edge_agent.errors import EndOfStream, SourceErrorCode, SourceUnavailable
from edge_agent.sources._decoders import Candidate, Plan
from edge_agent.sources._network import reason_of

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

PROOF_PACKETS = 60
"""Packets after which a decoder in hardware that has given no picture is taken as one that does not work."""


class Packets(NamedTuple):
    """Where packets come from while a decoder in hardware is tried."""

    next: Callable[[], Packet[VideoStream]]
    timeout_s: float
    """Longest time that all of them may take."""


class Coded(Protocol):
    """A stream of FFmpeg's, or what is one without a container; ``codec_context`` is of the decoder in software."""

    @property
    def codec_context(self) -> VideoCodecContext:
        """Not yet opened."""


class Decoder:
    """Packets in, frames out. ``frames`` are those that came of proving the hardware: the first to be delivered."""

    def __init__(self, stream: Coded, plan: Plan, packets: Packets, shown: str) -> None:
        """Try the plan's candidates. One in hardware is fed with packets until it gives a picture.

        Raises SourceUnavailable where none works, and what ``packets.next`` raises.
        """
        self.frames: list[VideoFrame] = []
        self.reason = plan.reason
        self._proof: list[Packet[VideoStream]] = []
        for candidate in plan.candidates:
            self.candidate = candidate
            if not candidate.hardware:
                self._context = stream.codec_context
                for packet in self._proof:
                    self.frames += self._tolerant(packet)
                break
            fault = self._try(candidate, stream, packets)
            if fault is None:
                break
            self.reason = f"{candidate.name} was tried: {fault}"
        else:
            raise SourceUnavailable(
                f'{shown} is not decoded in software, as decode = "hardware" asks: {self.reason}', SourceErrorCode.CODEC_UNSUPPORTED
            )
        self._proof = []

    @property
    def shown(self) -> str:
        """For the camera's status: what is live, and whether it is hardware."""
        return self.candidate.shown()

    def decode(self, packet: Packet[VideoStream]) -> Iterator[VideoFrame]:
        """The frames that a packet completes. Raises PyAV's errors."""
        yield from self._context.decode(packet)

    def _try(self, candidate: Candidate, stream: Coded, packets: Packets) -> str | None:
        """Open a candidate in hardware and see a picture of it; why not, otherwise."""
        import av

        try:
            self._context = _context_of(candidate.name, stream)
            for packet in chain(tuple(self._proof), self._more(packets)):
                self.frames += self._context.decode(packet)
                if self.frames:
                    return None
        except (av.FFmpegError, OSError, ValueError) as error:
            self.frames = []
            return reason_of(error)
        return f"no picture after {len(self._proof)} packets"

    def _more(self, packets: Packets) -> Iterator[Packet[VideoStream]]:
        deadline = time.monotonic() + packets.timeout_s
        while len(self._proof) < PROOF_PACKETS and time.monotonic() < deadline:
            try:
                packet = packets.next()
            except EndOfStream:  # a short file: what it had is decoded in software
                return
            self._proof.append(packet)
            yield packet

    def _tolerant(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        import av

        try:
            return self._context.decode(packet)
        except (av.FFmpegError, OSError):  # a camera that was joined in the middle sends what nobody can decode
            return []


def _context_of(name: str, stream: Coded) -> VideoCodecContext:
    import av
    from av.video.codeccontext import VideoCodecContext

    context = av.CodecContext.create(name, "r")
    assert isinstance(context, VideoCodecContext)
    given = stream.codec_context
    context.extradata = given.extradata
    context.width, context.height = given.width, given.height
    context.open()
    return context
