"""FFmpeg through PyAV, for files and network streams: demux, decode, and hand out the decoder's own planes.

PyAV and not OpenCV's FFmpeg backend: see docs/decisions/0002-pyav.md.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_agent.errors import EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.image import JpegImage
from edge_agent.libraries import ensure_libraries
from edge_agent.sources._decoders import Decode, candidates
from edge_agent.sources._ffmpeg_decoder import Decoder, Packets
from edge_agent.sources._ffmpeg_errors import error_code, network_fault, refuse_unverified
from edge_agent.sources._ffmpeg_images import image_of
from edge_agent.sources._ffmpeg_pictures import Pictures
from edge_agent.sources._ffmpeg_times import Arrivals, Backlog, Timestamps
from edge_agent.sources._gaps import TimestampGaps
from edge_agent.sources._jpeg import JPEG_DECODER, jpeg_size
from edge_agent.sources._network import reason_of
from edge_agent.sources._packets import PacketKinds, PacketSkipper
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

_ATTACHED_PICTURE = 0x400
MOST_BEHIND_S = 0.4
"""A live stream of which more waits to be read is caught up with at its next key frame."""
_USUAL_INTERVAL_S = 1 / 25
_USUAL_GAP_S = 0.5
"""What the last frame of a whole file may be away from its declared end."""
_PARSED = {"h264", "hevc"}


@dataclass(frozen=True)
class FfmpegTarget:
    """What to open and how."""

    url: str
    shown: str
    """The url as it may be logged."""
    live: bool
    open_timeout_s: float
    read_timeout_s: float
    options: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    format: str | None = None
    decode: Decode = "auto"
    tls: ssl.SSLContext | None = None
    """To find out why a connection with TLS failed; FFmpeg has its own, set by ``options``."""


class FfmpegSource(Source):
    """A file or stream that FFmpeg can demux."""

    def __init__(self, target: FfmpegTarget) -> None:
        self.live = target.live
        self._target = target
        self._container: InputContainer | None = None
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self._timestamps = Timestamps(_USUAL_INTERVAL_S)
        self._decoded_before = 0
        self._pictures = self._new_pictures("")
        self._jpeg = False
        self._gaps, self._lost_upstream = TimestampGaps(), 0
        self._backlog = Backlog()
        self._packets_read = 0
        self._declared: tuple[int, float | None] = (0, None)

    @property
    def decoded_total(self) -> int:
        """Pictures that were decoded since this was made, whatever became of them."""
        return self._decoded_before + self._pictures.decoded_total

    def _new_pictures(self, codec: str, *, interlaced: bool = False, headers: bytes | None = None) -> Pictures:
        target, kinds = self._target, PacketKinds("" if interlaced else codec, headers)
        arrivals = Arrivals(parsed=codec in _PARSED)
        return Pictures(target.shown, PacketSkipper(kinds), arrivals, live=self.live, read_timeout_s=target.read_timeout_s)

    def open(self) -> StreamInfo:
        self.close()
        ensure_libraries()
        import av

        # Silent: errors reach us as exceptions. With any level, FFmpeg's threads would wait for the GIL to log, also while
        # closing, which holds it, waits for them.
        av.logging.set_level(None)
        target, asked = self._target, time.monotonic()
        refuse_unverified(target.url, target.tls)
        try:
            self._container = av.open(
                target.url, options=dict(target.options), format=target.format, timeout=(target.open_timeout_s, target.read_timeout_s)
            )
            stream = self._video_stream(self._container)
            self._packets = self._container.demux(stream)
        except (av.FFmpegError, OSError, ValueError) as error:
            self.close()
            late = time.monotonic() - asked >= target.open_timeout_s
            raise self._cannot_open(error, late=late) from None
        self._declared = _declared(self._container, stream)
        codec = stream.codec_context.name
        self._pictures = self._new_pictures(codec, interlaced=_is_interlaced(stream), headers=stream.codec_context.extradata)
        if self.live and codec == "mjpeg":  # each picture for itself: not decoded before it is served
            self._jpeg = True
            return self._describe(stream, None)
        decoder = Decoder(stream, candidates(codec, target.decode), Packets(self._next_packet, target.open_timeout_s), target.shown)
        self._pictures.decode_with(decoder)
        return self._describe(stream, decoder)

    def _video_stream(self, container: InputContainer) -> VideoStream:
        for stream in container.streams.video:
            if not _is_cover_art(stream):
                stream.thread_count = self._target.threads
                # Frame threads add one frame of delay each: right for files, wrong for what is live.
                stream.thread_type = "SLICE" if self.live else "FRAME"
                return stream
        self.close()
        raise SourceBroken(f"{self._target.shown} has no video in it", SourceErrorCode.INVALID_DATA)

    def _describe(self, stream: VideoStream, decoder: Decoder | None) -> StreamInfo:
        context = stream.codec_context
        # From a few packets of a camera FFmpeg can only average; in a file it knows better from the codec's own headers.
        rate = (stream.average_rate or stream.guessed_rate) if self.live else (stream.guessed_rate or stream.average_rate)
        fps = round(float(rate), 3) if rate else None
        self._timestamps = Timestamps(1 / fps if fps else _USUAL_INTERVAL_S)
        # Its pixel format is not asked for: where FFmpeg could not find one out, PyAV 17 takes the process down.
        if decoder is None:
            return StreamInfo(context.width, context.height, fps, JPEG_DECODER)
        return StreamInfo(context.width, context.height, fps, decoder.shown, decoder.candidate.hardware, decoder.reason)

    def missing(self, last_pts_s: float) -> str:
        """Of a file that has ended: what its container declared and it did not hold; empty if nothing, or if that cannot be told."""
        packets, duration_s = self._declared
        if packets and self._packets_read < packets:
            return f"{self._packets_read} of {packets} frames"
        if duration_s is not None and duration_s - last_pts_s > max(_USUAL_GAP_S, duration_s * 0.05):
            return f"{last_pts_s:.1f} of {duration_s:.1f} s"
        return ""

    def read(self) -> Reading:
        return self._read_jpeg() if self._jpeg else self._read_decoded()

    def _read_jpeg(self) -> Reading:
        packet = self._next_packet()
        data, came = bytes(packet), self._pictures.arrivals.of(packet.pts, time.monotonic())
        try:
            width, height = jpeg_size(data)
        except ValueError as error:
            raise FrameUnreadable(f"{self._target.shown} holds damaged data: {error}") from None
        return Reading(JpegImage(data, width, height), came, float(packet.pts * packet.time_base) if packet.pts is not None else None)

    def _read_decoded(self) -> Reading:
        frame, arrived = self._pictures.next(self._next_packet)
        pts_s = frame.time if self.live else self._timestamps.next(frame.time)
        return Reading(image_of(frame), arrived, pts_s, decode_ms=self._pictures.decode_ms())

    def skip_until(self, at: float, cheaper_by: float = 0.0) -> None:
        self._pictures.skipper.until(at, cheaper_by)

    def left_out(self) -> int:
        return self._pictures.skipper.left_out()

    def lost_upstream(self) -> int:
        count, self._lost_upstream = self._lost_upstream, 0
        return count

    def _next_packet(self) -> Packet[VideoStream]:
        import av

        asked = time.monotonic()
        packet, code, reason = None, SourceErrorCode.FAILED, ""
        try:
            packet = next(self._packets)
        except StopIteration:
            self._pictures.skipper.lost()
            raise EndOfStream(f"{self._target.shown} ended") from None
        except (av.FFmpegError, OSError) as error:
            code, reason = error_code(error), reason_of(error)
        now = time.monotonic()
        # A packet after that time is no sign of life: FFmpeg has timed out and hands out what its parser still held.
        late = self.live and now - asked >= self._target.read_timeout_s
        if packet is not None and not late:
            self._packets_read += bool(packet.size)
            self._pictures.arrivals.note(packet.pts, now - self._behind_s(packet, asked, now) if self.live else now)
            if self.live:
                self._lost_upstream += self._gaps.note(None if packet.pts is None else float(packet.pts * packet.time_base), now)
            return packet
        self._pictures.skipper.lost()
        if late or code is SourceErrorCode.TIMEOUT:
            code, reason = SourceErrorCode.TIMEOUT, f"nothing came for {self._target.read_timeout_s:g} s"
        raise SourceUnavailable(f"{self._target.shown} was lost: {reason}", code)

    def _behind_s(self, packet: Packet[VideoStream], asked: float, now: float) -> float:
        """For how long a packet of a live stream had waited to be read; too long, and what comes is left out until a key frame."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        behind_s = self._backlog.note(None if stamp is None else float(stamp * packet.time_base), asked, now)
        if behind_s > MOST_BEHIND_S and not self._jpeg and self._pictures.skipper.fall_back(now):
            log.warning(
                "decoding is slower than the camera: going on at its next key frame source=%s behind=%.1fs", self._target.shown, behind_s
            )
        return behind_s

    def close(self) -> None:
        self._packets = iter(())
        self._backlog = Backlog()
        self._decoded_before = self.decoded_total
        self._pictures = self._new_pictures("")
        self._packets_read, self._jpeg = 0, False
        self._gaps = TimestampGaps()
        container, self._container = self._container, None
        if container is not None:
            with contextlib.suppress(Exception):  # of PyAV's own, which is not imported for this
                container.close()

    def _cannot_open(self, error: Exception, *, late: bool) -> SourceUnavailable | SourceBroken:
        shown, code, reason = self._target.shown, error_code(error), reason_of(error)
        if late or code is SourceErrorCode.TIMEOUT:
            code, reason = SourceErrorCode.TIMEOUT, f"no answer within {self._target.open_timeout_s:g} s"
        elif code in {SourceErrorCode.FAILED, SourceErrorCode.INVALID_DATA}:
            code, reason = network_fault(self._target.url, self._target.tls) or (code, reason)
        if not self.live and code in {SourceErrorCode.INVALID_DATA, SourceErrorCode.CODEC_UNSUPPORTED}:
            return SourceBroken(f"{shown} is no video that can be read: {reason}", code)
        return SourceUnavailable(f"{shown} cannot be opened: {reason}", code)


def _declared(container: InputContainer, stream: VideoStream) -> tuple[int, float | None]:
    """How many frames and how many seconds a file says that it holds: 0 and None where it does not say."""
    if stream.duration and stream.time_base:
        return stream.frames, float((stream.start_time or 0) * stream.time_base + stream.duration * stream.time_base)
    alone = len(container.streams) == 1
    return stream.frames, (container.duration + (container.start_time or 0)) / 1e6 if alone and container.duration else None


def _is_interlaced(stream: VideoStream) -> bool:
    """Whether half pictures may be coded one by one: leaving out one of two would tear a picture."""
    return int(getattr(stream.codec_context, "field_order", 0) or 0) > 1


def _is_cover_art(stream: VideoStream) -> bool:
    disposition = stream.disposition  # a number, or before PyAV 15 an enum.Flag, which is none
    return bool(int(getattr(disposition, "value", disposition)) & _ATTACHED_PICTURE)
