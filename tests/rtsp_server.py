"""A real RTSP server, GStreamer's, that loops a clip: a script for the system's Python, and the class that runs it.

The clip is an Annex B file whose access units begin with a delimiter. They are pushed with timestamps that grow for
ever, so a client sees a camera and not a file that begins again.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

FPS = 15
DELIMITER = {"h264": 9, "h265": 35}
GI_CHECK = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


@cache
def python_with_gi() -> str | None:
    """An interpreter that has GStreamer's bindings: they come with the distribution, so usually not with the venv's."""
    candidates = ["/usr/bin/python3", shutil.which("python3") or "", sys.executable]
    for candidate in candidates:
        if Path(candidate).exists() and subprocess.run([candidate, "-c", GI_CHECK], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


@dataclass
class RtspServer:
    """The script below as a process on a loopback port."""

    clip: Path
    port: int
    arguments: tuple[str, ...] = ()
    codec: str = "h264"
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"{'rtsps' if '--certificate' in self.arguments else 'rtsp'}://127.0.0.1:{self.port}/cam"

    def start(self) -> RtspServer:
        python = python_with_gi()
        assert python is not None
        command = [python, __file__, str(self.clip), "--port", str(self.port), "--codec", self.codec, *self.arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError("the RTSP server did not start")
        return self

    def sent(self) -> tuple[int, float]:
        """The next frame that it told of, by ``--tell``: its number and when it was sent, in monotonic seconds."""
        assert self.process is not None
        assert self.process.stdout is not None
        number, at = self.process.stdout.readline().split()
        return int(number), float(at)

    def send(self, number: signal.Signals) -> None:
        """A signal: SIGSTOP is a camera that hangs."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """As a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def access_units(data: bytes, codec: str) -> list[bytes]:
    """Annex B split before each access unit delimiter."""
    starts = []
    position = data.find(b"\0\0\1")
    while position >= 0 and position + 3 < len(data):
        header = data[position + 3]
        kind = header & 0x1F if codec == "h264" else header >> 1 & 0x3F
        if kind == DELIMITER[codec]:
            starts.append(position - 1 if position and data[position - 1] == 0 else position)
        position = data.find(b"\0\0\1", position + 3)
    return [data[begin:end] for begin, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def jpegs(data: bytes) -> list[bytes]:
    """A file of JPEG pictures, one behind the other."""
    return [b"\xff\xd8\xff" + part for part in data.split(b"\xff\xd8\xff")[1:]]


def _serve(options: argparse.Namespace) -> None:
    gi: Any = importlib.import_module("gi")
    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    gst, rtsp, glib = (importlib.import_module(f"gi.repository.{name}") for name in ("Gst", "GstRtspServer", "GLib"))
    gst.init(None)
    data = Path(options.clip).read_bytes()
    units = jpegs(data) if options.codec == "jpeg" else access_units(data, options.codec)
    assert len(units) > 1, "the clip has no access unit delimiters"
    duration = int(gst.SECOND / options.fps)
    period_s = 1 / (options.real_fps or options.fps)

    def push(source: Any) -> None:
        """In a thread of its own, at the clip's own rate, until nobody takes the buffers."""
        beat, due = threading.Event(), time.monotonic()
        for number in _numbers(options.end_after or options.stall_after):
            buffer = gst.Buffer.new_wrapped(units[number % len(units)])
            buffer.pts = buffer.dts = number * duration
            buffer.duration = duration
            if source.emit("push-buffer", buffer) != gst.FlowReturn.OK:
                return
            if options.tell:
                print(number, time.monotonic(), flush=True)
            due = max(due + period_s, time.monotonic())  # what a halt left out is not made up for
            beat.wait(due - time.monotonic())
        if options.end_after:
            source.emit("end-of-stream")

    def configure(_factory: Any, media: Any) -> None:
        source = media.get_element().get_by_name("source")
        if source is None:  # sound only
            return
        threading.Thread(target=push, args=(source,), daemon=True).start()

    source = "appsrc name=source is-live=true format=time max-bytes=0"
    video = (
        f"{source} caps=video/x-{options.codec},stream-format=byte-stream,alignment=au"
        f" ! {options.codec}parse ! rtp{options.codec}pay config-interval=-1 name={{pay}} pt=96"
    )
    if options.codec == "jpeg":
        video = f"{source} caps=image/jpeg ! jpegparse ! rtpjpegpay name={{pay}} pt=26"
    audio = "audiotestsrc is-live=true ! audio/x-raw,rate=8000 ! alawenc ! rtppcmapay name={pay} pt=8"
    parts = [audio] if options.audio_only else [audio, video] if options.audio_first else [video]

    factory = rtsp.RTSPMediaFactory()
    factory.set_launch("( " + " ".join(part.format(pay=f"pay{index}") for index, part in enumerate(parts)) + " )")
    factory.connect("media-configure", configure)
    server = rtsp.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options.port))
    if options.auth:
        _guard(rtsp, server, factory, options.auth)
    if options.certificate:
        gio = importlib.import_module("gi.repository.Gio")
        auth = rtsp.RTSPAuth()
        auth.set_tls_certificate(gio.TlsCertificate.new_from_files(options.certificate, options.certificate.replace(".pem", ".key")))
        token = rtsp.RTSPToken()
        token.set_string("media.factory.role", "anonymous")
        auth.set_default_token(token)
        server.set_auth(auth)
        _permit(rtsp, factory, "anonymous")
    if options.patient:
        server.connect("client-connected", lambda _server, client: client.set_property("drop-backlog", False))
    server.get_mount_points().add_factory("/cam", factory)
    assert server.attach(None), "the port is taken"
    print("ready", flush=True)
    glib.MainLoop().run()


def _numbers(end_after: int) -> Iterator[int]:
    number = 0
    while not end_after or number < end_after:
        yield number
        number += 1


def _guard(rtsp: Any, server: Any, factory: Any, credentials: str) -> None:
    auth = rtsp.RTSPAuth()
    token = rtsp.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    user, _, password = credentials.partition(":")
    auth.add_basic(rtsp.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    _permit(rtsp, factory, "viewer")


def _permit(rtsp: Any, factory: Any, role: str) -> None:
    permissions = rtsp.RTSPPermissions()
    permissions.add_permission_for_role(role, "media.factory.access", True)
    permissions.add_permission_for_role(role, "media.factory.construct", True)
    factory.set_permissions(permissions)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--codec", choices=["h264", "h265", "jpeg"], default="h264")
    parser.add_argument("--certificate", default="", help="of the server, with its key beside it: rtsps")
    parser.add_argument("--tell", action="store_true", help="print each frame's number and when it was sent, in monotonic seconds")
    parser.add_argument("--fps", type=float, default=FPS, help="frames per second, as the timestamps say")
    parser.add_argument("--real-fps", type=float, default=0.0, help="frames per second, in truth; default: the same")
    parser.add_argument("--patient", action="store_true", help="wait for a client that takes its time; default: leave out packets")
    parser.add_argument("--auth", default="", help="user:password")
    parser.add_argument("--audio-first", action="store_true")
    parser.add_argument("--audio-only", action="store_true")
    parser.add_argument("--stall-after", type=int, default=0, help="send no picture after so many frames")
    parser.add_argument("--end-after", type=int, default=0, help="end the stream after so many frames")
    _serve(parser.parse_args())


if __name__ == "__main__":
    _main()
