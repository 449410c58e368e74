"""Clips for the benchmarks, made from the built-in one: other sizes and rates, and as long as needed."""

from __future__ import annotations

from pathlib import Path

import av

from edge_agent.demo import clip_path

BUILTIN_FPS = 15


def encoded(target: Path, size: tuple[int, int], fps: int, gop: int | None = None) -> Path:
    """The built-in clip as H.264 of another size and rate; as many frames.

    ``gop``: as a camera sends it, a key frame every so many frames and no B-frames; else as files are made.
    """
    with av.open(clip_path()) as source, av.open(str(target), "w") as sink:
        options = {"preset": "veryfast", "crf": "23", "bf": "0", "sc_threshold": "0"} if gop else {"preset": "veryfast", "crf": "23"}
        stream = sink.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop or 2 * fps
        for count, frame in enumerate(source.decode(video=0)):
            scaled = frame.reformat(*size, "yuv420p")
            scaled.pts, scaled.time_base = count, 1 / stream.codec_context.framerate
            sink.mux(stream.encode(scaled))
        sink.mux(stream.encode())
    return target


def repeated(source: Path, target: Path, times: int) -> Path:
    """The same packets several times over, as one file without a seam."""
    with av.open(str(target), "w") as sink:
        copy, offset = None, 0
        for _ in range(times):
            with av.open(str(source)) as one:
                stream = one.streams.video[0]
                copy = copy or sink.add_stream_from_template(stream)
                length = stream.duration or 0
                for packet in one.demux(stream):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = copy
                    sink.mux(packet)
                offset += length
    return target


def frame_count(path: Path) -> int:
    """Frames that the container declares."""
    with av.open(str(path)) as container:
        return int(container.streams.video[0].frames)
