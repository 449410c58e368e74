"""A camera for the benchmarks: a clip sent over TCP at its own pace, and clips with frames that nothing depends on."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import time
from pathlib import Path

import av

from edge_agent.demo import clip_path


def with_skippable_frames(target: Path, size: tuple[int, int], apart: int, fps: int = 30) -> Path:
    """H.264 whose reference frames are ``apart`` frames from each other; those in between are disposable."""
    options = {
        "preset": "veryfast", "crf": "23", "bf": str(apart - 1),
        "x264-params": "b-adapt=0:b-pyramid=none:scenecut=0:keyint=300:open-gop=0",
    }  # fmt: skip
    with av.open(clip_path()) as source, av.open(str(target), "w") as sink:
        stream = sink.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for count, frame in enumerate(source.decode(video=0)):
            scaled = frame.reformat(*size, "yuv420p")
            scaled.pts, scaled.time_base = count, 1 / stream.codec_context.framerate
            scaled.pict_type = av.video.frame.PictureType.NONE
            sink.mux(stream.encode(scaled))
        sink.mux(stream.encode())
    return target


class Sender:
    """A process of its own that sends a clip to whoever connects, over and over, as MPEG-TS at ``fps`` frames per second."""

    def __init__(self, clip: Path, fps: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"tcp://127.0.0.1:{port}"
        self._command = [sys.executable, __file__, str(clip), f"{self.url}?listen=1", str(fps)]

        self._process = subprocess.Popen(self._command)
        time.sleep(0.5)  # until it listens; a look would take its one connection

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def send(clip: str, url: str, fps: float) -> None:
    """Send until the other side has had enough."""
    with av.open(clip) as source:
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        template, base = source.streams.video[0], source.streams.video[0].time_base
        with av.open(url, "w", format="mpegts", options={"flush_packets": "1"}) as sink:
            stream = sink.add_stream_from_template(template)
            step = int(1 / fps / base)
            begun = time.monotonic()
            shift = min(packet.pts - packet.dts for packet in packets if packet.pts is not None and packet.dts is not None)
            for count in itertools.count():
                packet = packets[count % len(packets)]
                own = (packet.pts or 0) - (packet.dts or 0) - shift
                late = round(own / (packet.duration or step)) * step
                again = av.Packet(bytes(packet))
                again.is_keyframe, again.time_base, again.stream = packet.is_keyframe, base, stream
                again.dts, again.pts = count * step, count * step + late
                time.sleep(max(0.0, begun + count / fps - time.monotonic()))
                sink.mux(again)


if __name__ == "__main__":
    send(sys.argv[1], sys.argv[2], float(sys.argv[3]))
