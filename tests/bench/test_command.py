"""``edge-agent bench`` as a user runs it: real cameras, the real model, a real broker."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.bench.report import PARTS
from tests.conftest import CLIP, MODEL, CommandLine, Mosquitto, free_port, terminated, wait_until
from tests.integration.test_agent import write_config
from tests.subscriber import subscribed

LIVE = {"source": str(CLIP), "realtime": True, "loop": True}


def assert_adds_up(camera: dict[str, Any]) -> None:
    lost = sum(camera["skipped"].values()) + sum(camera["dropped"].values())
    assert camera["captured"] == camera["served"] + lost + camera["in_flight"]


def test_the_users_own_configuration_is_measured_and_published(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    dead = {"source": f"rtsp://127.0.0.1:{free_port()}/none", "id": "dead"}
    config = write_config(edge_agent.folder, mosquitto.port, LIVE, {"source": "synthetic", "max_fps": 5}, dead)
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("bench", "-c", config, "--seconds", "3", "--json", "--picture", "stages.html")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    cameras = {camera["camera"]: camera for camera in found["cameras"]}
    for camera in cameras.values():
        assert_adds_up(camera)
    assert cameras["cam0"]["decoder"].startswith("h264")
    assert all(cameras["cam0"]["parts_ms"][part] for part in PARTS)
    assert cameras["cam0"]["parts_ms"]["decode"]["p50"] > 0
    assert cameras["cam1"]["limit"] == "max_fps"
    assert cameras["cam1"]["skipped"]["max_fps"] > 10
    assert cameras["dead"]["captured"] == 0
    assert any("dead: not reached" in line for line in found["advice"])
    assert found["broker"]["connected"]
    assert 0 < found["broker"]["delivered"] <= len(heard.on("/detections"))
    assert all(found["cpu_s"][part] > 0 for part in ("infer", "preprocess", "postprocess", "events", "capture and decode", "publish"))
    assert cameras["cam1"]["ratio"] <= 1
    assert 2.9 <= found["seconds"] < 6
    assert "<svg" in (edge_agent.folder / "stages.html").read_text()


def test_without_a_broker_it_goes_on_and_says_so(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, free_port(), LIVE)
    done = edge_agent.run("bench", "-c", config, "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert "was not reached" in done.stdout
    assert "captured =" in done.stdout


def test_published_nowhere_events_are_counted(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, LIVE)
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("bench", "-c", config, "--seconds", "2", "--no-publish", "--json")
    found = json.loads(done.stdout)
    assert found["broker"]["delivered"] > 5
    assert not found["broker"]["publishing"]
    assert heard.heard == []


def test_a_file_that_ends_is_measured_to_its_end(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, free_port(), {"source": str(CLIP)})
    done = edge_agent.run("bench", "-c", config, "--seconds", "50", "--no-publish", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["stopped_early"] == "every source has ended"
    assert found["cameras"][0]["served"] > 100
    assert found["cameras"][0]["limit"] in {"model", "decode", "CPU"}


def test_a_file_that_ends_before_the_time_is_told_by_its_own_time(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, free_port(), {"source": str(CLIP)}, {"source": "synthetic", "max_fps": 5})
    done = edge_agent.run("bench", "-c", config, "--seconds", "6", "--no-publish", "--json")
    found = json.loads(done.stdout)
    ended = found["cameras"][0]
    assert ended["state"] == "ended"
    if ended["served"]:  # a fast machine has read it before measuring begins
        assert ended["served_fps"] > 1.2 * ended["served"] / found["seconds"]
    else:
        assert any("had ended before measuring began" in line for line in found["advice"])


def test_no_camera_at_all_is_told_with_69(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, free_port(), {"source": f"rtsp://127.0.0.1:{free_port()}/none"})
    done = edge_agent.run("bench", "-c", config, "--seconds", "5", "--no-publish")
    assert done.returncode == 69
    assert "no camera was reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_video_is_told_with_69(edge_agent: CommandLine) -> None:
    (edge_agent.folder / "a.mp4").write_bytes(CLIP.read_bytes()[:4000])
    config = write_config(edge_agent.folder, free_port(), {"source": "a.mp4"})
    done = edge_agent.run("bench", "-c", config, "--seconds", "20", "--no-publish")
    assert done.returncode == 69
    assert "a.mp4" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_between_it_tells_what_it_has(mosquitto: Mosquitto, edge_agent: CommandLine, number: signal.Signals) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, LIVE)
    arguments = ("bench", "-c", config, "--seconds", "500", "--picture", "a.png")
    with subscribed(mosquitto.port) as heard, terminated(edge_agent.start(*arguments)) as process:
        wait_until(lambda: heard.on("/detections"), 20, "a frame that is served")
        process.send_signal(number)
        output, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    assert process.returncode == 0, errors
    assert "stopped; 500 s were asked for" in output
    served = re.search(r"captured = (\d+) served", output)
    assert served is not None
    assert int(served[1]) >= 1
    assert (edge_agent.folder / "a.png").stat().st_size > 1000


def test_stopped_before_any_frame_it_says_that_there_is_nothing(edge_agent: CommandLine) -> None:
    with listening() as port:  # takes the connection, and never answers
        config = write_config(edge_agent.folder, free_port(), {"source": f"rtsp://127.0.0.1:{port}/none"})
        with terminated(edge_agent.start("bench", "-c", config, "--seconds", "500", "--no-publish")) as process:
            wait_until((edge_agent.folder / "state" / "lock").exists, 20, "the agent")
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "stopped before anything was measured" in errors
    assert output == ""


@contextlib.contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_each_model_has_its_cameras_and_a_budget_is_told_as_the_limit(edge_agent: CommandLine) -> None:
    budget = f'[models.second]\npath = "{MODEL}"\ncpu_budget = 0.05\n'
    cameras = (LIVE, {"source": "synthetic", "model": "second"})
    config = write_config(edge_agent.folder, free_port(), *cameras, extra=budget)
    done = edge_agent.run("bench", "-c", config, "--seconds", "4", "--no-publish", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(m["table"], m["cameras"]) for m in found["models"]] == [("model", ["cam0"]), ("models.second", ["cam1"])]
    held = found["cameras"][1]
    # on a machine that other programs keep busy, that is the limit, and is told
    assert held["limit"] == "cpu_budget" or (held["limit"] == "CPU" and found["others_share"] > 0.4)
    assert held["served_fps"] < 0.5 * held["real_fps"]
    assert held["ratio"] <= 1
    assert found["models"][1]["shares"] == {"cpu_budget": 0.05}
    assert any("cpu_budget = 0.05 in [models.second]" in line for line in found["advice"])


def test_a_scene_in_which_nothing_moves_is_told_as_the_limit(edge_agent: CommandLine, ffmpeg: Callable[..., None]) -> None:
    still = edge_agent.folder / "still.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=gray:size=640x480:rate=15:duration=4", "-pix_fmt", "yuv420p", str(still))
    config = write_config(edge_agent.folder, free_port(), {"source": str(still), "realtime": True, "loop": True, "motion": {}})
    done = edge_agent.run("bench", "-c", _with_motion(edge_agent.folder, config), "--seconds", "4", "--no-publish", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["cameras"][0]
    assert found["limit"] == "motion"
    assert found["skipped"]["no_motion"] > found["served"]


def _with_motion(folder: Path, config: str) -> str:
    """Tables are not written by ``write_config``."""
    file = folder / config
    file.write_text(file.read_text().replace("motion = {}", 'mode = "freshest"\n[cameras.motion]\nlook_every_s = 60'))
    return config


def test_a_way_to_the_broker_that_is_too_narrow_is_told_as_the_limit(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    with narrow(mosquitto.port, bytes_per_s=1000) as port:
        config = write_config(edge_agent.folder, port, LIVE)
        done = edge_agent.run("bench", "-c", config, "--seconds", "5", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["broker"]["connected"], found["broker"]
    assert found["cameras"][0]["limit"] == "broker", found["broker"]
    assert any("events a second of" in line for line in found["advice"])


@contextlib.contextmanager
def narrow(port: int, bytes_per_s: int) -> Iterator[int]:
    """A port that leads to another one, which is told no more than so many bytes a second."""
    over = threading.Event()
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def begin(target: Callable[..., None], *args: Any) -> None:
        threads.append(threading.Thread(target=target, args=args, daemon=True))
        threads[-1].start()

    def carry(source: socket.socket, target: socket.socket, pause_s: float) -> None:
        with contextlib.suppress(OSError):
            while not over.is_set() and (data := source.recv(100)):
                target.sendall(data)
                over.wait(pause_s)

    def accept(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = server.accept()
                sockets.append(here)
                here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                there = socket.create_connection(("127.0.0.1", port))
                sockets.append(there)
                begin(carry, here, there, 100 / bytes_per_s)
                begin(carry, there, here, 0.0)

    with socket.create_server(("127.0.0.1", 0)) as server:
        begin(accept, server)
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            for one in (server, *sockets):
                with contextlib.suppress(OSError):  # the other side went first
                    one.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(10)
            for one in sockets:
                one.close()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--seconds", "0"), "--seconds"), (("--seconds", "-3"), "--seconds"), (("--seconds", "nan"), "--seconds"),
        (("--picture", "a.gif"), ".png or .html"), (("--picture", "none/a.png"), "cannot be written"),
        (("--picture", "/proc/a.png"), "cannot be written"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_starts(edge_agent: CommandLine, arguments: tuple[str, ...], word: str) -> None:
    config = write_config(edge_agent.folder, free_port(), LIVE)
    done = edge_agent.run("bench", "-c", config, *arguments)
    assert done.returncode == 2
    assert word in done.stderr
    assert not (edge_agent.folder / "state").exists()
