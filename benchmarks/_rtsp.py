"""RTSP cameras of our own on loopback: GStreamer's server of the tests, and clips with a number burned into each frame."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
from _broker import free_port
from _contender import BITS, CELL

from edge_agent.demo import clip_path

SERVER = Path(__file__).parents[1] / "tests" / "rtsp_server.py"
GI_PYTHON = "/usr/bin/python3"
_GI_CHECK = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


def available() -> bool:
    """Whether GStreamer's RTSP server and its Python bindings are installed."""
    try:
        return subprocess.run([GI_PYTHON, "-c", _GI_CHECK], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def numbered(target: Path, size: tuple[int, int], fps: int, frames: int, gop: int) -> Path:
    """The built-in clip as a camera sends it (H.264, Annex B, a key frame every ``gop``, no B-frames), each frame with its number."""
    x264 = f"aud=1:sliced-threads=0:scenecut=0:repeat-headers=1:keyint={gop}:min-keyint={gop}"
    options = {"preset": "veryfast", "crf": "23", "bf": "0", "x264-params": x264}
    cell = CELL * size[0] // 1920
    count = 0
    with av.open(str(target), "w", format="h264") as sink:
        stream = sink.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        while count < frames:
            with av.open(clip_path()) as source:
                for frame in source.decode(video=0):
                    if count == frames:
                        break
                    planes = frame.reformat(*size, "yuv420p").to_ndarray()
                    _burn(planes[:cell], planes, size, count, cell)
                    marked = av.VideoFrame.from_ndarray(planes, "yuv420p")
                    marked.pts, marked.time_base = count, 1 / stream.codec_context.framerate
                    sink.mux(stream.encode(marked))
                    count += 1
        sink.mux(stream.encode())
    return target


def _burn(luma: np.ndarray, planes: np.ndarray, size: tuple[int, int], number: int, cell: int) -> None:
    width, height = size
    for bit in range(BITS):
        luma[:, bit * cell : (bit + 1) * cell] = 235 if number >> bit & 1 else 16
    chroma = planes[height:].reshape(2, height // 2, width // 2)  # grey, so that every channel is as bright
    chroma[:, : cell // 2, : BITS * cell // 2] = 128


class Camera:
    """A server in a process of its own; notes when it sent which frame, where it is asked to."""

    def __init__(self, clip: Path, fps: float, real_fps: float = 0.0, *, tell: bool = False, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"
        self.sent: list[float] = []
        """Monotonic seconds by number, of the last client that came."""
        self._command = [GI_PYTHON, str(SERVER), str(clip), "--port", str(self.port), "--fps", str(fps), "--real-fps", str(real_fps)]
        self._command += ["--patient", *(["--tell"] if tell else [])]
        self.start()

    def start(self) -> None:
        """Begin to serve. Raises RuntimeError."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError("the RTSP server did not start")
        threading.Thread(target=self._note, args=(self._process,), daemon=True).start()

    def _note(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            number, at = line.split()
            if number == "0":
                self.sent = []
            if int(number) == len(self.sent):
                self.sent.append(float(at))
            else:
                print(f"the RTSP server has more than one client: frame {number} after {len(self.sent)}", file=sys.stderr)

    def halt(self) -> None:
        """Hang, as a camera whose firmware does."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After ``halt``."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """As a power cut would."""
        self._process.kill()
        self._process.wait()
