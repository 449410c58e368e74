"""H.264 as a camera's own encoder sends it, one picture in each of V4L2's buffers: decoded and skipped as network streams are.

No container and no parser: a picture is decoded when its buffer comes, not when the next one begins. Some drivers (that of the
Raspberry Pi's older camera stack) send the parameter sets in a buffer of their own, which is no picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from edge_agent.errors import SourceUnavailable
from edge_agent.sources._decoders import Decode, candidates
from edge_agent.sources._ffmpeg_decoder import Decoder, Packets
from edge_agent.sources._ffmpeg_images import image_of
from edge_agent.sources._ffmpeg_pictures import Pictures
from edge_agent.sources._ffmpeg_times import Arrivals
from edge_agent.sources._packets import PacketKinds, PacketSkipper
from edge_agent.sources._v4l2 import PictureFormat
from edge_agent.sources._v4l2_stream import Buffer
from edge_agent.sources.base import FrameUnreadable, Reading

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

_LARGEST_HEADERS = 1024
"""Bytes. A buffer that is larger holds a picture."""
_SLICES = range(1, 6)


class _Camera:
    """What stands for a container's stream."""

    def __init__(self, given: PictureFormat) -> None:
        import av
        from av.video.codeccontext import VideoCodecContext

        context = av.CodecContext.create("h264", "r")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height = given.width, given.height
        # Frame threads would add one frame of delay each.
        context.thread_type, context.thread_count = "SLICE", 1
        self.codec_context: VideoCodecContext = context


class CodedPictures:
    """Pictures of one started stream. ``skipper`` as in :class:`PacketSkipper`."""

    def __init__(self, shown: str, given: PictureFormat, decode: Decode, take: Callable[[], Buffer | None], timeout_s: float) -> None:
        """``take`` gives the camera's next buffer, or None for one that was not copied.

        Raises SourceUnavailable where nothing decodes it as ``decode`` asks, and what ``take`` raises.
        """
        self._shown, self._take = shown, take
        self._headers = b""
        self._count = 0
        self._is_open = False
        self.skipper = PacketSkipper(PacketKinds("h264"))
        self._pictures = Pictures(shown, self.skipper, Arrivals(parsed=False), live=True, read_timeout_s=timeout_s)
        self.decoder = Decoder(_Camera(given), candidates("h264", decode), Packets(self._next_packet, timeout_s), shown)
        self._pictures.decode_with(self.decoder)
        self._is_open = True

    def read(self) -> Reading:
        """As :meth:`Source.read`."""
        frame, arrived = self._pictures.next(self._next_packet)
        return Reading(image_of(frame), arrived, decode_ms=self._pictures.decode_ms())

    def _next_packet(self) -> Packet[VideoStream]:
        import av

        while True:
            buffer = self._next_buffer()
            data = self._headers + buffer.planes[0].tobytes()
            if _holds_a_picture(data):
                break
            self._headers = data
        self._headers = b""
        packet = cast("Packet[VideoStream]", av.Packet(data))
        packet.pts = packet.dts = self._count
        self._count += 1
        self._pictures.arrivals.note(packet.pts, min(buffer.arrived_at, time.monotonic()))
        return packet

    def _next_buffer(self) -> Buffer:
        while True:
            try:
                buffer = self._take()
            except SourceUnavailable:
                self.skipper.lost()
                raise
            if buffer is None:
                continue
            if not buffer.damaged and buffer.planes[0].size:
                return buffer
            if self._is_open:  # while a decoder is tried, the next may do
                raise FrameUnreadable(f"{self._shown} sent a picture that {'its driver calls damaged' if buffer.damaged else 'is empty'}")


def _holds_a_picture(data: bytes) -> bool:
    """Whether there is a slice among its NAL units (ITU-T H.264, 7.4.1, Annex B)."""
    if len(data) > _LARGEST_HEADERS:
        return True
    starts = (position + 3 for position in range(len(data) - 3) if data[position : position + 3] == b"\0\0\1")
    return any(data[start] & 0x1F in _SLICES for start in starts)
