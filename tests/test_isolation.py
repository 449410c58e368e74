"""Calls into a source that never come back, and sources that take their process with them."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent._capture_readers import MOST_LEFT_BEHIND
from edge_agent.camera_sources import camera_source
from edge_agent.camera_state import CameraState
from edge_agent.capture import Capture
from edge_agent.config import AgentConfig
from edge_agent.errors import EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.image import BgrImage
from edge_agent.retry import Backoff, BackoffPolicy
from edge_agent.sources._process import ProcessSource
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo
from tests.conftest import CLIP, make_config, wait_until

SOON = BackoffPolicy(first_s=0.002, least_s=0.001, cap_s=0.002)
PATIENCE_S = 0.15


class Hanging(Source):
    """Gives frames of its own colour, and hangs where it is told to until ``freed``."""

    patience_s = PATIENCE_S

    def __init__(self, colour: int, where: str = "", after: int = 2) -> None:
        self.colour, self.where, self.left = colour, where, after
        self.freed, self.hangs = threading.Event(), threading.Event()
        self.calls: list[tuple[str, int]] = []

    def _call(self, name: str) -> None:
        self.calls.append((name, threading.get_ident()))
        if name == self.where and (name != "read" or self.left == 0):
            self.hangs.set()
            self.freed.wait()

    def open(self) -> StreamInfo:
        self._call("open")
        return StreamInfo(4, 2, None, "none")

    def read(self) -> Reading:
        self._call("read")
        if self.where == "close" and self.left == 0:
            raise SourceUnavailable("lost")
        self.left -= self.left > 0
        time.sleep(0.001)
        return Reading(BgrImage(np.full((2, 4, 3), self.colour, np.uint8)), time.monotonic())

    def close(self) -> None:
        self._call("close")


class Rig:
    """A capture whose sources come from a list, looked after as the agent does."""

    def __init__(self, *sources: Source, recovers: bool = True) -> None:
        self.sources, self.left = sources, list(sources[1:])
        self.wake = threading.Condition()
        self.said: list[CameraState] = []
        config = make_config({"cameras": [{"id": "front", "source": "synthetic"}]})
        another = (lambda: self.left.pop(0)) if recovers else None
        self.capture = Capture(config.cameras[0], sources[0], self.wake, self._changed, Backoff(SOON), another=another)

    def _changed(self, capture: Capture) -> None:
        self.said.append(capture.status.state)

    def colour(self) -> int | None:
        """Of the newest frame."""
        self.capture.check(time.monotonic())
        with self.wake:
            frame = self.capture.take(time.monotonic())
        if frame is None:
            return None
        self.capture.served()
        return int(frame.image.bgr()[0, 0, 0])

    def code(self) -> SourceErrorCode | None:
        self.capture.check(time.monotonic())
        error = self.capture.status.last_error
        return None if error is None else error.code


@contextlib.contextmanager
def running(rig: Rig) -> Iterator[Rig]:
    rig.capture.start()
    try:
        yield rig
    finally:
        for source in rig.sources:
            if isinstance(source, Hanging):
                source.freed.set()
        rig.capture.stop()
        wait_until(lambda: rig.capture.join(5), 10, "the threads to end")
        rig.capture.abandon()
        assert rig.capture.snapshot().in_flight == 0


# -- in a thread --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["open", "read", "close"])
def test_a_call_that_never_returns_is_left_behind_and_the_camera_goes_on(where: str) -> None:
    first, second = Hanging(1, where), Hanging(2)
    with running(Rig(first, second)) as rig:
        wait_until(lambda: rig.colour() == 2)
        status = rig.capture.status
        assert (status.wedged, status.state, status.error) == (1, CameraState.ONLINE, None)
        assert rig.code() is SourceErrorCode.WEDGED
        assert f"{where} of the source has not returned" in str(status.last_error)
        assert CameraState.BACKOFF in rig.said
        assert rig.capture.left_behind == 1
        calls = list(first.calls)
        wait_until(lambda: second.calls[10:])
        assert first.calls == calls, "nobody touches it any more"
        first.freed.set()
        wait_until(lambda: rig.capture.left_behind == 0)
        assert {thread for _, thread in first.calls} == {calls[0][1]}, "it is closed by its own thread, should that come back"
        assert first.calls[-1][0] == "close"
        wait_until(lambda: rig.colour() == 2)
        assert rig.capture.status.wedged == 1


class SelfAware(Hanging):
    """Finds out by itself that its driver hangs, as the sources of GStreamer do."""

    def open(self) -> StreamInfo:
        self._call("open")
        raise SourceUnavailable("a call into its driver has not come back", SourceErrorCode.WEDGED)


def test_a_source_that_says_that_it_hangs_is_followed_by_another_one_too() -> None:
    first = SelfAware(1)
    with running(Rig(first, Hanging(2))) as rig:
        wait_until(lambda: rig.colour() == 2)
        assert rig.code() is SourceErrorCode.WEDGED
        assert rig.capture.status.wedged == 1
        assert first.calls[-1][0] == "close"
        wait_until(lambda: rig.capture.left_behind == 0)


def test_a_source_that_says_that_it_hangs_is_tried_again_where_none_can_follow() -> None:
    with running(Rig(SelfAware(1), recovers=False)) as rig:
        wait_until(lambda: rig.capture.status.wedged >= 3)
        assert rig.capture.left_behind == 0


def test_what_a_call_brings_that_comes_back_too_late_is_ignored() -> None:
    first, second = Hanging(1, "read", after=0), Hanging(2)
    with running(Rig(first, second)) as rig:
        wait_until(lambda: rig.colour() == 2)
        before = rig.capture.snapshot().captured
        first.freed.set()
        wait_until(lambda: rig.capture.left_behind == 0)
        assert all(colour in {2, None} for colour in (rig.colour() for _ in range(50)))
        assert rig.capture.snapshot().captured >= before


def test_only_so_many_threads_are_left_behind_and_when_one_comes_back_it_goes_on() -> None:
    hanging = [Hanging(1, "read", after=0) for _ in range(MOST_LEFT_BEHIND + 1)]
    with running(Rig(*hanging, Hanging(2))) as rig:
        wait_until(lambda: rig.colour() is None and hanging[-1].hangs.is_set())
        wait_until(lambda: rig.code() and "is waited for" in str(rig.capture.status.error))
        assert rig.capture.left_behind == MOST_LEFT_BEHIND
        assert rig.capture.status.wedged == MOST_LEFT_BEHIND + 1
        failures = rig.capture.status.reconnects
        for _ in range(20):
            rig.capture.check(time.monotonic())
        assert rig.capture.status.reconnects == failures, "said once"
        hanging[0].freed.set()
        wait_until(lambda: rig.colour() == 2)


def test_where_no_other_source_can_be_made_the_call_is_waited_for() -> None:
    source = Hanging(1, "read")
    with running(Rig(source, recovers=False)) as rig:
        wait_until(lambda: rig.code() is SourceErrorCode.WEDGED)
        assert rig.capture.status.state is CameraState.BACKOFF
        source.where = ""
        source.freed.set()
        wait_until(lambda: rig.capture.status.state is CameraState.ONLINE)
        assert rig.capture.status.error is None
        assert rig.capture.status.wedged == 1


def test_a_factory_that_fails_is_tried_again() -> None:
    first, third = Hanging(1, "open"), Hanging(3)
    rig = Rig(first, third)

    def another() -> Source:
        if not failed:
            failed.append(True)
            raise SourceUnavailable("the password file is not there")
        return third

    failed: list[bool] = []
    rig.capture._readers.another = another
    with running(rig):
        wait_until(lambda: rig.colour() == 3)
        assert failed


def test_a_file_goes_on_where_it_was() -> None:
    first, second = Hanging(1, "read"), Hanging(2)
    first.position = 17
    with running(Rig(first, second)) as rig:
        wait_until(lambda: rig.colour() == 2)
    assert second.position == 17


def test_a_camera_that_hangs_costs_the_others_nothing() -> None:
    hanging, well = Rig(Hanging(1, "open"), recovers=False), Rig(Hanging(5))
    with running(hanging), running(well):
        wait_until(lambda: hanging.code() is SourceErrorCode.WEDGED)
        frames = well.capture.counts.captured
        wait_until(lambda: well.colour() == 5 and well.capture.counts.captured > frames + 50)
        assert well.capture.status.reconnects == 0


def test_pausing_a_camera_that_hangs_leaves_it_behind_and_resuming_opens_another() -> None:
    first, second = Hanging(1, "read"), Hanging(2)
    with running(Rig(first, second)) as rig:
        wait_until(lambda: rig.colour() is None and first.hangs.is_set())
        rig.capture.pause()
        wait_until(lambda: rig.code() is SourceErrorCode.WEDGED)
        assert rig.capture.status.state is CameraState.PAUSED
        assert not second.calls
        rig.capture.resume()
        wait_until(lambda: rig.colour() == 2)


class Deaf(Source):
    """What a source without timeouts is like: a real connection, and a real recv."""

    patience_s = PATIENCE_S

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: socket.socket | None = None

    def open(self) -> StreamInfo:
        self._connection = socket.create_connection(("127.0.0.1", self._port))
        return StreamInfo(4, 2, None, "none")

    def read(self) -> Reading:
        assert self._connection is not None
        if not self._connection.recv(1):
            raise SourceUnavailable("gone")
        return Reading(BgrImage(np.zeros((2, 4, 3), np.uint8)), time.monotonic())

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def test_a_server_that_accepts_and_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        rig = Rig(Deaf(port), Deaf(port))
        with running(rig):
            silent, _ = server.accept()
            wait_until(lambda: rig.code() is SourceErrorCode.WEDGED)
            answering, _ = server.accept()
            answering.sendall(b"x")
            wait_until(lambda: rig.colour() == 0)
            silent.close()
            answering.close()


# -- in a process of its own --------------------------------------------------------------------------------------------

MODULE = """
import ctypes, os, pathlib, signal, time, numpy
MARK = pathlib.Path(__file__).with_name("done")
numbers = iter(range(10**9))
def frames():
    number = next(numbers)
    time.sleep(0.002)
    if number == 5 and not MARK.exists():
        MARK.touch()
        {what}
    return numpy.full((2, 4, 3), 9 if MARK.exists() else 8, "uint8")
"""
WAYS = {
    "python": "time.sleep(10**6)",
    "without the GIL": "ctypes.CDLL(None).pause()",
    "with the GIL": "ctypes.PyDLL(None).pause()",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
}
DEATHS = {"segfault": ("ctypes.string_at(0)", "was ended by SIGSEGV"), "exit": ("os._exit(3)", r"ended (exit code 3)")}


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    """A camera in a thread is imported by this very process, and a child looks where its parent does."""
    before = list(sys.path)
    yield
    sys.path[:] = before
    sys.modules.pop("misbehaving_camera", None)


def configured(folder: Path, what: str, **keys: Any) -> AgentConfig:
    (folder / "misbehaving_camera.py").write_text(MODULE.format(what=what))
    camera = {"id": "front", "source": "misbehaving_camera:frames", "folder": str(folder), "timeout_s": 10, "isolation": "process"}
    return make_config({"cameras": [camera | keys]})


def isolated(config: AgentConfig) -> ProcessSource:
    source = camera_source(config, config.cameras[0])
    assert isinstance(source, ProcessSource)
    return source


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    return False


def until_failure(source: Source) -> tuple[SourceUnavailable, float]:
    """The error, and how long the call took that raised it."""
    while True:
        began = time.monotonic()
        try:
            source.read()
        except SourceUnavailable as error:
            return error, time.monotonic() - began


@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_hangs_is_killed_and_another_one_goes_on(tmp_path: Path, way: str) -> None:
    source = isolated(configured(tmp_path, WAYS[way], timeout_s=1.5))
    source.open()
    pid = source.pid
    assert pid is not None
    assert source.read().image.bgr()[0, 0, 0] == 8
    error, took = until_failure(source)
    assert error.code is SourceErrorCode.WEDGED
    assert f"process {pid} was killed" in str(error)
    assert 1.4 < took < 5
    assert not is_alive(pid)
    source.close()
    source.open()
    assert source.read().image.bgr()[0, 0, 0] == 9
    assert source.pid != pid
    source.dispose()
    assert source.pid is None


@pytest.mark.parametrize("way", DEATHS)
def test_a_process_that_dies_is_told_and_another_one_goes_on(tmp_path: Path, way: str) -> None:
    what, told = DEATHS[way]
    source = isolated(configured(tmp_path, what))
    source.open()
    error, _ = until_failure(source)
    assert told in str(error)
    source.close()
    source.open()
    assert source.read().image.bgr()[0, 0, 0] == 9
    source.dispose()


def test_a_hint_reaches_a_source_in_a_process_and_what_it_leaves_out_is_counted(tmp_path: Path) -> None:
    source = isolated(configured(tmp_path, "pass"))
    source.open()
    source.read()
    assert source.left_out() == 0
    until = time.monotonic() + 0.1
    source.skip_until(until)
    wait_until(lambda: source.read().captured_at >= until)
    assert source.left_out() > 5
    assert source.left_out() == 0
    source.dispose()


def test_an_auto_camera_that_wedged_in_a_thread_goes_on_in_a_process(tmp_path: Path) -> None:
    config = configured(tmp_path, "time.sleep(5)", isolation="auto", timeout_s=1.5)
    wake = threading.Condition()
    first = camera_source(config, config.cameras[0])
    assert not first.isolated
    capture = Capture(
        config.cameras[0], first, wake, backoff=Backoff(SOON), another=lambda: camera_source(config, config.cameras[0], after_wedge=True)
    )
    capture.start()

    def back() -> bool:
        capture.check(time.monotonic())
        return capture.status.state is CameraState.ONLINE and capture.status.isolation == "process"

    wait_until(back)
    assert (capture.status.wedged, capture.left_behind) == (1, 1)
    capture.stop()
    wait_until(lambda: capture.join(5), 10)
    source = capture.source
    assert isinstance(source, ProcessSource)
    assert source.pid is None, "the process went with the thread"


def test_closing_keeps_the_process_and_disposing_ends_it(tmp_path: Path) -> None:
    source = isolated(configured(tmp_path, "pass"))
    source.open()
    pid = source.pid
    assert pid is not None
    source.read()  # the buffers have descriptors too
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        source.close()
        source.open()
        source.read()
    assert source.pid == pid
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    source.dispose()
    wait_until(lambda: not is_alive(pid))
    source.dispose()


def test_a_process_that_ended_in_a_pause_is_followed_by_another(tmp_path: Path) -> None:
    source = isolated(configured(tmp_path, "pass"))
    source.open()
    source.close()
    pid = source.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    # Its first thread is a zombie before its last one has gone, and only then the process has ended.
    wait_until(lambda: source._running is not None and source._running.has_ended)
    source.open()
    assert source.read().image.width == 4
    assert source.pid != pid
    source.dispose()


def test_many_deaths_leave_nothing_open(tmp_path: Path) -> None:
    source = isolated(configured(tmp_path, "pass"))
    descriptors = []
    for _ in range(6):
        source.open()
        source.read()
        assert source.pid is not None
        os.kill(source.pid, signal.SIGKILL)
        until_failure(source)
        source.close()
        gc.collect()
        descriptors.append(len(list(Path("/proc/self/fd").iterdir())))
    assert descriptors[1:] == descriptors[:-1]
    assert (
        subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "stat="], capture_output=True, text=True, check=False).stdout.count("Z")
        == 0
    )


LIST = """
import numpy
def frames():
    for number in range(3):
        yield numpy.full((2, 4, 3), number, "uint8")
    yield "no picture"
    raise ValueError("a mistake")
"""


def test_errors_and_ends_come_through_as_they_are(tmp_path: Path) -> None:
    config = configured(tmp_path, "pass", live=False)
    (tmp_path / "misbehaving_camera.py").write_text(LIST)
    source = isolated(config)
    assert source.finite
    source.open()
    assert [source.read().image.bgr()[0, 0, 0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(FrameUnreadable, match="something of type str"):
        source.read()
    with pytest.raises(SourceUnavailable, match="raised ValueError: a mistake"):
        source.read()
    source.close()
    (tmp_path / "misbehaving_camera.py").write_text(LIST.replace('    yield "no picture"\n    raise ValueError("a mistake")\n', ""))
    source.dispose()
    source.open()
    for _ in range(3):
        source.read()
    with pytest.raises(EndOfStream, match="has ended"):
        source.read()
    source.dispose()
    wrong = isolated(make_config({"cameras": [{"id": "front", "source": "no_such_module:frames", "isolation": "process"}]}))
    with pytest.raises(SourceBroken, match="there is no module 'no_such_module'"):
        wrong.open()
    wrong.dispose()


def test_a_read_in_the_middle_of_a_file_may_take_no_longer_in_a_process_than_one_at_its_beginning() -> None:
    source = isolated(make_config({"cameras": [{"id": "front", "source": str(CLIP), "isolation": "process"}]}))
    source.position = 10_000
    assert source._within_s() < 10
    assert source._within_s(source.position) > 200


PATIENT = """
import time
from edge_agent.sources.callable import CallableSource
read = CallableSource.read
def slow(self):
    time.sleep(0.8)
    return read(self)
CallableSource.read, CallableSource.patience_s = slow, property(lambda _: 5.0)
"""
FAILS = """
from edge_agent.errors import SourceErrorCode, SourceUnavailable
from edge_agent.sources import callable
def failing(self):
    raise SourceUnavailable("its driver is lost", SourceErrorCode("%s"))
callable.CallableSource.read = failing
"""


@pytest.mark.parametrize("code", ["wedged", "unplugged"])
def test_a_process_whose_source_hangs_or_lost_its_device_is_followed_by_another(tmp_path: Path, code: str) -> None:
    source = isolated(configured(tmp_path, "pass"))
    module = tmp_path / "misbehaving_camera.py"
    as_it_was = module.read_text()
    module.write_text(as_it_was + FAILS % code)
    source.open()
    pid = source.pid
    assert pid is not None
    with pytest.raises(SourceUnavailable, match="its driver is lost") as caught:
        source.read()
    assert caught.value.code is SourceErrorCode(code)
    wait_until(lambda: not is_alive(pid))
    module.write_text(as_it_was)
    source.close()
    source.open()
    assert source.read().image.width == 4
    source.dispose()


def test_a_source_in_a_process_may_take_as_long_as_it_says_once_it_is_open(tmp_path: Path) -> None:
    source = isolated(configured(tmp_path, "pass", timeout_s=0.5))
    module = tmp_path / "misbehaving_camera.py"
    module.write_text(PATIENT + module.read_text())
    source.open()
    source.read()
    assert source.read().image.width == 4, "after 0.8 s"
    source.dispose()


def test_a_file_that_was_cut_short_says_so_from_a_process_too(tmp_path: Path) -> None:
    short = tmp_path / "short.mp4"
    short.write_bytes(CLIP.read_bytes()[: CLIP.stat().st_size * 3 // 4])
    source = isolated(make_config({"cameras": [{"id": "front", "source": str(short), "isolation": "process"}]}))
    source.open()

    def play() -> None:
        while True:
            with contextlib.suppress(FrameUnreadable):
                source.read()

    with pytest.raises(EndOfStream, match="ends early") as ended:
        play()
    assert ended.value.code is SourceErrorCode.INVALID_DATA
    source.dispose()


@pytest.mark.parametrize(
    ("keys", "after_wedge", "in_process"),
    [
        ({"source": "/dev/video0"}, False, True),
        ({"source": "/dev/video0", "isolation": "thread"}, True, False),
        ({"source": "synthetic"}, False, False),
        ({"source": "synthetic"}, True, True),
        ({"source": "synthetic", "isolation": "process"}, False, True),
        ({"source": "rtsp://127.0.0.1/x"}, False, False),
    ],
)
def test_where_a_source_runs(keys: dict[str, str], after_wedge: bool, in_process: bool) -> None:
    config = make_config({"cameras": [{"id": "front", **keys}]})
    source = camera_source(config, config.cameras[0], after_wedge=after_wedge)
    assert source.isolated == isinstance(source, ProcessSource) == in_process


def test_a_process_does_not_outlive_its_parent_not_even_one_that_hangs(tmp_path: Path) -> None:
    configured(tmp_path, WAYS["with the GIL"])
    program = f"""
from pathlib import Path
from tests.test_isolation import *
config = make_config({{"cameras": [{{"id": "front", "source": "misbehaving_camera:frames", "folder": {str(tmp_path)!r},
    "timeout_s": 60, "isolation": "process"}}]}})
source = isolated(config)
source.open()
print(source.pid, flush=True)
while True:
    source.read()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until((tmp_path / "done").exists)
        assert is_alive(child)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(child))


def test_a_password_is_not_on_the_command_line_of_the_process() -> None:
    address = "rtsp://viewer:Sesame@127.0.0.1:9/x"
    config = make_config({"cameras": [{"id": "front", "source": address, "isolation": "process", "open_timeout_s": 1}]})
    source = isolated(config)
    with pytest.raises(SourceUnavailable) as caught:
        source.open()
    assert caught.value.code is SourceErrorCode.REFUSED
    assert "Sesame" not in str(caught.value)
    assert "Sesame" not in Path(f"/proc/{source.pid}/cmdline").read_text()
    source.dispose()


def test_signals_to_the_whole_group_leave_the_end_to_the_parent(tmp_path: Path) -> None:
    source = isolated(configured(tmp_path, "pass"))
    source.open()
    assert source.pid is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(source.pid, number)
    assert source.read().image.width == 4
    source.dispose()


@pytest.mark.parametrize("isolation", ["thread", "auto"])
def test_a_fifo_that_nobody_writes_to_is_no_file_and_hangs_nobody_else(tmp_path: Path, isolation: str) -> None:
    fifo = tmp_path / "clip.mp4"
    os.mkfifo(fifo)
    config = make_config({"cameras": [{"id": "front", "source": str(fifo), "isolation": isolation}]})
    camera = config.cameras[0]
    first = camera_source(config, camera)
    capture = Capture(
        camera, first, threading.Condition(), backoff=Backoff(SOON), another=lambda: camera_source(config, camera, after_wedge=True)
    )
    capture.start()
    patience = first.patience_s
    began = time.monotonic()

    def wedged() -> bool:
        capture.check(time.monotonic() + patience - 0.2)  # as if it had waited for nearly as long as it may
        return capture.status.last_error is not None and capture.status.last_error.code is SourceErrorCode.WEDGED

    wait_until(wedged)
    assert time.monotonic() - began < 5
    assert patience + 0.5 <= 10, "told within ten seconds"
    capture.stop()
    # Whoever hangs in open(2) of a FIFO is let go by a writer.
    with contextlib.suppress(OSError):
        wait_until(lambda: _writer(fifo) or capture.join(0.05), 20)
    wait_until(lambda: capture.join(0.1), 20)


def _writer(fifo: Path) -> bool:
    with contextlib.suppress(OSError):
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    return False
