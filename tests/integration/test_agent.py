"""The whole line: a real clip through a real model to a real mosquitto, as the command line runs it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edge_agent import encoding
from edge_agent.errors import ExitCode
from edge_agent.models import _model_file
from tests.conftest import CLIP, TRUTH, CommandLine, Mosquitto, free_port, make_config, needs, terminated, wait_until
from tests.models.reference import iou
from tests.subscriber import Subscriber, subscribed

FRAMES = 150


def write_config(folder: Path, port: int, *cameras: Mapping[str, Any], extra: str = "") -> str:
    """An agent.toml; its name."""
    lines = [extra, "[device]", 'id = "dev"', 'state_dir = "state"', "[mqtt]", 'host = "127.0.0.1"', f"port = {port}", "[health]",
             "interval_s = 0.5"]  # fmt: skip
    for index, camera in enumerate(cameras):
        lines += ["[[cameras]]", *(f"{k} = {json.dumps(v)}" for k, v in {"id": f"cam{index}", **camera}.items())]
    (folder / "agent.toml").write_text("\n".join(lines) + "\n")
    return "agent.toml"


def short_clip(folder: Path, frames: int = 40) -> Path:
    """The first frames of the clip, without encoding them again."""
    target = folder / "short.mp4"
    command = [needs("ffmpeg", "ffmpeg"), "-nostdin", "-v", "error", "-y", "-i", str(CLIP), "-c", "copy", "-frames:v", str(frames)]
    subprocess.run([*command, str(target)], check=True)
    return target


def assert_follows_the_contract(heard: Subscriber, device: str = "dev") -> None:
    """Every message has the schema, the retention and the QoS that the contract gives its topic."""
    schemas = {name: Draft202012Validator(schema) for name, schema in encoding.schemas().items()}
    for message in list(heard.heard):
        levels = message.topic.split("/")
        assert levels[:2] == ["edge", device]
        if levels[2:] == ["status"]:
            assert message.payload in {b"online", b"offline"}
        elif levels[2:] == ["health"]:
            schemas["health"].validate(message.json)
        else:
            schemas["camera_status" if levels[-1] == "status" else levels[-1]].validate(message.json)
        assert message.qos == 1


def test_cameras_of_two_models_are_each_seen_by_their_own(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    model = Path(str(_model_file.model_path(make_config({"cameras": [{"id": "c", "source": "synthetic"}]}))))
    other = edge_agent.folder / "other.tflite"
    shutil.copy(model, other)
    shutil.copy(model.with_suffix(".txt"), other.with_suffix(".txt"))
    extra = f"[models.other]\npath = {json.dumps(str(other))}\nconfidence = 0.9\ncpu_budget = 0.5\nlanes = 1"
    clip = str(short_clip(edge_agent.folder))
    config = write_config(edge_agent.folder, mosquitto.port, {"source": clip}, {"source": clip, "model": "other"}, extra=extra)
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("run", "-c", config)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: [m.payload for m in heard.on("dev/status")] == [b"online", b"offline"])
    for camera, name in (("cam0", model.stem), ("cam1", "other")):
        frames = [m.json for m in heard.on(f"{camera}/detections")]
        assert [f["frame_id"] for f in frames] == list(range(40))
        assert {f["model"]["name"] for f in frames} == {name}
    assert sum(len(m.json["detections"]) for m in heard.on("cam0/detections")) > 10
    assert all(d["confidence"] >= 0.9 for m in heard.on("cam1/detections") for d in m.json["detections"])
    assert [m["name"] for m in heard.on("/health")[-1].json["models"]] == [model.stem, "other"]
    assert_follows_the_contract(heard)
    log = done.stderr
    assert log.count("model loaded") == 2


def test_a_file_is_served_frame_by_frame_and_the_agent_ends_by_itself(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": str(CLIP)})
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("run", "-c", config)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: [m.payload for m in heard.on("dev/status")] == [b"online", b"offline"])
    frames = [m.json for m in heard.on("/detections")]
    assert [f["frame_id"] for f in frames] == list(range(FRAMES))
    assert [f["seq"] for f in frames] == list(range(frames[0]["seq"], frames[0]["seq"] + FRAMES))
    assert len({f["stream"] for f in frames}) == 1
    assert {(f["width"], f["height"]) for f in frames} == {(1280, 720)}
    assert not any(m.retain for m in heard.on("/detections"))
    assert_follows_the_contract(heard)
    health = heard.on("/health")[-1].json["cameras"]["cam0"]
    assert (health["frames_captured_total"], health["frames_served_total"], health["state"]) == (FRAMES, FRAMES, "ended")
    assert health["frames_skipped_total"] == health["frames_dropped_total"] == {}
    assert heard.on("cam0/status")[-1].json["state"] == "ended"
    assert "Traceback" not in done.stderr


@pytest.mark.tflite
def test_the_published_boxes_are_where_the_people_are(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": str(CLIP), "classes": ["Person"]})
    with subscribed(mosquitto.port, "edge/dev/camera/cam0/detections") as heard:
        assert edge_agent.run("run", "-c", config).returncode == 0
        wait_until(lambda: len(heard.heard) == FRAMES)
    truth = [frame["boxes"] for frame in json.loads(TRUTH.read_text())["frames"]]
    right = wrong = 0
    for message in heard.heard:
        frame = message.json
        for found in frame["detections"]:
            x1, y1, x2, y2 = found["xyxy"]
            assert 0 <= x1 <= x2 <= 1280
            assert 0 <= y1 <= y2 <= 720
            assert found["xyxyn"] == pytest.approx([x1 / 1280, y1 / 720, x2 / 1280, y2 / 720], abs=1e-3)
            assert found["label"] == "Person"
            is_right = any(iou(tuple(found["xyxy"]), tuple(box["xyxy"])) >= 0.4 for box in truth[frame["frame_id"]])
            right, wrong = right + is_right, wrong + (not is_right)
    assert right > 60
    assert wrong <= 0.1 * right


def test_more_lanes_keep_the_order_of_frames(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": str(CLIP)}, extra="[model]\nlanes = 3\nthreads = 1")
    with subscribed(mosquitto.port, "edge/dev/camera/cam0/detections") as heard:
        assert edge_agent.run("run", "-c", config).returncode == 0
        wait_until(lambda: len(heard.heard) == FRAMES)
    assert [m.json["frame_id"] for m in heard.heard] == list(range(FRAMES))


def test_every_frame_is_accounted_for_when_the_model_is_too_slow(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    cameras = [{"source": "synthetic", "fps": 200, "frames": 400}, {"source": "synthetic", "fps": 100, "frames": 150, "max_fps": 5}]
    config = write_config(edge_agent.folder, mosquitto.port, *cameras)
    with subscribed(mosquitto.port) as heard:
        assert edge_agent.run("run", "-c", config).returncode == 0
        wait_until(lambda: heard.on("dev/status")[-1:] and heard.on("dev/status")[-1].payload == b"offline")
    final = heard.on("/health")[-1].json["cameras"]
    for name, captured in (("cam0", 400), ("cam1", 150)):
        health = final[name]
        assert health["frames_captured_total"] == captured
        lost = sum(health["frames_skipped_total"].values()) + sum(health["frames_dropped_total"].values())
        assert health["frames_served_total"] + lost + health["frames_in_flight"] == captured
        assert health["frames_in_flight"] == 0
        assert health["frames_served_total"] == len(heard.on(f"{name}/detections"))
    assert final["cam1"]["frames_skipped_total"]["max_fps"] > 0
    assert sum(final["cam1"]["frames_skipped_total"].values()) > 100


def test_one_dead_camera_takes_nothing_from_the_others(mosquitto: Mosquitto, edge_agent: CommandLine, tmp_path: Path) -> None:
    cameras = [{"source": f"rtsp://user:hunter2@127.0.0.1:{free_port()}/none"}, {"source": str(short_clip(tmp_path))}]
    config = write_config(edge_agent.folder, mosquitto.port, *cameras)
    with subscribed(mosquitto.port) as heard, terminated(edge_agent.start("run", "-c", config)) as agent:
        wait_until(lambda: len(heard.on("cam1/detections")) == 40)
        health = wait_until(lambda: [m.json for m in heard.on("/health") if any("cam0" in reason for reason in m.json["reasons"])])[-1]
        assert health["verdict"] in {"degraded", "failing"}
        status = wait_until(lambda: [m.json for m in heard.on("cam0/status") if m.json["state"] == "backoff"])[0]
        assert status["error"]["code"] == "refused"
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(5) == 0
        _, log = agent.communicate()
    assert b"hunter2" not in b"".join(m.payload for m in heard.heard)
    assert "hunter2" not in log
    assert "rtsp://***@127.0.0.1" in log


def test_a_broker_absent_at_start_and_lost_later_costs_nothing_within_the_buffer(tmp_path: Path, edge_agent: CommandLine) -> None:
    broker = Mosquitto(tmp_path)
    config = write_config(edge_agent.folder, broker.port, {"source": "synthetic", "fps": 20})
    try:
        with terminated(edge_agent.start("run", "-c", config)) as agent:
            wait_until((edge_agent.folder / "state" / "sequences.json").exists)
            broker.start()
            with subscribed(broker.port) as heard:
                wait_until(lambda: len(heard.on("/detections")) > 20)
                broker.stop()
                wait_until(lambda: agent.poll() is not None or not _listening(broker.port))
                broker.start()
                before = len(heard.on("/detections"))
                wait_until(lambda: len(heard.on("/detections")) > before + 20, 40)
                health = wait_until(lambda: [m.json for m in heard.on("/health") if m.json["delivery"]["reconnects_total"] >= 1])[-1]
                agent.send_signal(signal.SIGTERM)
                assert agent.wait(5) == 0
                wait_until(lambda: heard.on("dev/status")[-1].payload == b"offline")
    finally:
        broker.stop()
    seen = [m.json["seq"] for m in heard.on("/detections")]
    first = list(dict.fromkeys(seen))
    # What the subscriber missed while it was itself away is not the agent's loss; what it got is in order.
    assert first == sorted(first)
    assert health["delivery"]["events_dropped_total"] == {}


def _listening(port: int) -> bool:
    return subprocess.run(["bash", "-c", f": >/dev/tcp/127.0.0.1/{port}"], capture_output=True, check=False).returncode == 0


def test_a_killed_agent_is_offline_by_its_will_and_its_sequence_never_repeats(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": "synthetic", "fps": 50})
    seen: list[int] = []
    streams = set()
    with subscribed(mosquitto.port) as heard:
        for _ in range(2):
            before = len(heard.on("/detections"))
            with terminated(edge_agent.start("run", "-c", config)) as agent:
                wait_until(lambda: len(heard.on("/detections")) > before + 10)  # noqa: B023 - called at once
                agent.kill()
                agent.wait()
            wait_until(lambda: heard.on("dev/status")[-1].payload == b"offline")
    for message in heard.on("/detections"):
        seen.append(message.json["seq"])
        streams.add(message.json["stream"])
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen)
    assert len(streams) == 2


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_leaves_within_5_s(mosquitto: Mosquitto, edge_agent: CommandLine, first: signal.Signals) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": "synthetic", "fps": 30})
    with subscribed(mosquitto.port) as heard, terminated(edge_agent.start("run", "-c", config)) as agent:
        wait_until(lambda: len(heard.on("/detections")) > 5)
        agent.send_signal(first)
        assert agent.wait(5) == 0
        wait_until(lambda: heard.on("dev/status")[-1].payload == b"offline")
        with subscribed(mosquitto.port) as late:
            wait_until(lambda: len(late.heard) == 3)
        assert all(message.retain for message in late.heard)
        health = late.on("/health")[0].json
        assert late.on("cam0/status")[0].json["state"] == health["cameras"]["cam0"]["state"] == health["verdict"] == "stopped"
        assert health["delivery"]["connected"] is False
        assert_follows_the_contract(heard)


def test_sigterm_while_nothing_can_be_reached_leaves_within_5_s(edge_agent: CommandLine) -> None:
    """A camera that accepts and never answers, a broker that is not there."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        camera = {"source": f"rtsp://127.0.0.1:{silent.getsockname()[1]}/x", "open_timeout_s": 60, "read_timeout_s": 60}
        config = write_config(edge_agent.folder, free_port(), camera)
        with terminated(edge_agent.start("run", "-c", config)) as agent:
            silent.settimeout(20)
            connection, _ = silent.accept()
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(5) == 0
        connection.close()


def _has_heard(heard: Subscriber, count: int) -> bool:
    return len(heard.on("/detections")) > count


def test_a_process_that_was_frozen_goes_on(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": "synthetic"})
    with subscribed(mosquitto.port) as heard, terminated(edge_agent.start("run", "-c", config)) as process:
        for count in (5, 15, 25):
            wait_until(partial(_has_heard, heard, count))
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.3)  # longer than it waits for a signal
            process.send_signal(signal.SIGCONT)
        time.sleep(0.3)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=6)
        assert process.returncode == 0
    assert heard.on("dev/status")[-1].payload == b"offline"


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_anything_is_started_is_a_clean_stop(edge_agent: CommandLine, asked: signal.Signals) -> None:
    """agent.toml is a pipe, so it is known how far the agent has come."""
    pipe = edge_agent.folder / "agent.toml"
    os.mkfifo(pipe)
    with terminated(edge_agent.start("run", "-c", str(pipe))) as agent:
        writer = os.open(pipe, os.O_WRONLY)  # returns when the agent has opened it
        agent.send_signal(asked)
        assert agent.wait(5) == 0
        os.close(writer)
        assert agent.stderr is not None
        assert agent.stderr.read() == ""


def test_a_signal_that_a_thread_of_a_library_receives_is_a_clean_stop(edge_agent: CommandLine) -> None:
    """Such threads were there before the agent blocked the signal, and get it while the main thread is between two waits."""
    config = write_config(edge_agent.folder, free_port(), {"source": "synthetic"})
    program = f"""
import signal, sys, threading
from pathlib import Path
from edge_agent import logs, running
from edge_agent.config_file import load
from edge_agent.plugins import PluginKinds
logs.setup("info", "text")
started = threading.Event()
def old():
    started.wait()
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
threading.Thread(target=old, daemon=True).start()
running.leave(running.run(load(Path({str(config)!r}), PluginKinds()), on_started=started.set))
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=edge_agent.folder, env=edge_agent.environment(), stderr=subprocess.PIPE) as agent:
        assert agent.wait(20) == 0
        assert agent.stderr is not None
        assert b"because=SIGTERM" in agent.stderr.read()


def test_sigterm_is_answered_while_nobody_reads_the_log(edge_agent: CommandLine) -> None:
    """stderr is a pipe that is full."""
    config = write_config(edge_agent.folder, free_port(), {"source": "synthetic"}, extra='[log]\nlevel = "debug"')
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "edge_agent", "run", "-c", config]
    with subprocess.Popen(command, cwd=edge_agent.folder, env=edge_agent.environment(), stderr=writer) as agent:
        wait_until((edge_agent.folder / "state" / "sequences.json").exists)
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x")
        os.set_blocking(writer, True)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(6) == 0
    os.close(reader)
    os.close(writer)


def test_a_broker_that_comes_late_still_gets_all_of_a_file(edge_agent: CommandLine, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    config = write_config(edge_agent.folder, broker.port, {"source": str(short_clip(tmp_path))})
    with terminated(edge_agent.start("run", "-c", config)) as agent:
        assert agent.stderr is not None
        while "camera ended" not in agent.stderr.readline():
            pass
        try:
            broker.lines = (*broker.lines, "max_queued_messages 0", "persistent_client_expiration 1h")
            broker.start()
            assert agent.wait(30) == 0
            assert "delivered=40" in agent.stderr.read()
        finally:
            broker.stop()


def test_a_file_that_is_no_video_ends_its_camera_and_not_the_others(mosquitto: Mosquitto, edge_agent: CommandLine, tmp_path: Path) -> None:
    (edge_agent.folder / "text.mp4").write_text("this is no video\n" * 100)
    only = write_config(edge_agent.folder, mosquitto.port, {"source": "text.mp4"})
    done = edge_agent.run("run", "-c", only)
    assert done.returncode == ExitCode.DATAERR
    assert "is no video that can be read" in done.stderr
    assert "Traceback" not in done.stderr
    both = write_config(edge_agent.folder, mosquitto.port, {"source": "text.mp4"}, {"source": str(short_clip(tmp_path))})
    with subscribed(mosquitto.port) as heard:
        assert edge_agent.run("run", "-c", both).returncode == 0
        wait_until(lambda: len(heard.on("cam1/detections")) == 40)


def test_two_agents_with_one_identity_on_one_machine(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": "synthetic"})
    with subscribed(mosquitto.port) as heard, terminated(edge_agent.start("run", "-c", config)) as first:
        wait_until(lambda: heard.on("/detections"))
        second = edge_agent.run("run", "-c", config)
        assert second.returncode == ExitCode.TEMPFAIL
        assert f"process {first.pid}" in second.stderr
        assert first.poll() is None


@pytest.mark.tflite
def test_the_demo_shows_people_over_its_own_broker(edge_agent: CommandLine) -> None:
    pytest.importorskip("amqtt")
    done = edge_agent.run("demo", "--seconds", "5")
    assert done.returncode == 0, done.stderr
    assert "Person 0." in done.stdout
    assert "camera demo: online" in done.stdout


def test_the_demo_on_an_external_broker_is_read_by_mosquitto_sub(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    program = needs("mosquitto_sub", "mosquitto-clients")
    command = [program, "-h", "127.0.0.1", "-p", str(mosquitto.port), "-t", "edge/+/camera/+/detections", "-C", "40", "-W", "40"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        done = edge_agent.run("demo", "--seconds", "5", "--broker", f"127.0.0.1:{mosquitto.port}")
        out, _ = reader.communicate(timeout=60)
    assert done.returncode == 0, done.stderr
    frames = [json.loads(line) for line in out.splitlines()]
    assert len(frames) == 40
    assert any(d["label"] == "Person" for f in frames for d in f["detections"])


def test_demo_takes_ones_own_source_and_model(mosquitto: Mosquitto, edge_agent: CommandLine, tmp_path: Path, assets: Path) -> None:
    clip = short_clip(tmp_path)
    model = shutil.copy(assets / "models" / "yolox_nano.onnx", tmp_path)
    broker = f"127.0.0.1:{mosquitto.port}"
    done = edge_agent.run("demo", "--seconds", "10", "--source", str(clip), "--model", str(model), "--broker", broker, "--json")
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    frames = [m["payload"] for m in messages if m["topic"].endswith("/detections")]
    assert len(frames) == 40
    assert frames[0]["model"]["name"] == "yolox_nano"


def test_watch_shows_what_arrives(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": str(CLIP)})
    with (
        terminated(edge_agent.start("watch", "-c", config, "--label", "Person")) as text,
        terminated(edge_agent.start("watch", "--host", "127.0.0.1", "--port", str(mosquitto.port), "--json")) as as_json,
    ):
        for watcher in (text, as_json):
            assert watcher.stderr is not None
            assert "listening" in watcher.stderr.readline()
        assert edge_agent.run("run", "-c", config).returncode == 0
        assert as_json.stdout is not None
        assert text.stdout is not None
        topics: list[str] = []
        while topics.count("edge/dev/camera/cam0/detections") < FRAMES:
            topics.append(json.loads(as_json.stdout.readline())["topic"])
        line = text.stdout.readline()
        while "Person 0." not in line:
            line = text.stdout.readline()
        assert line.startswith("cam0 frame")
        for watcher in (text, as_json):
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(10) == 0


def test_check_probe_tries_everything_and_says_what_failed(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, mosquitto.port, {"source": str(CLIP)})
    good = edge_agent.run("check", "--probe", "-c", config)
    assert good.returncode == 0, good.stdout
    assert good.stdout.count("ok ") == 3
    config = write_config(edge_agent.folder, free_port(), {"source": "/dev/video99"})
    bad = edge_agent.run("check", "--probe", "-c", config)
    assert bad.returncode == ExitCode.UNAVAILABLE
    assert "failed camera cam0: /dev/video99 does not exist" in bad.stdout
    assert "failed broker" in bad.stdout
    assert not (edge_agent.folder / "state").exists()


def test_systemd_is_told_ready_status_watchdog_and_stopping(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    import socket

    path = str(edge_agent.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20)
        config = write_config(edge_agent.folder, mosquitto.port, {"source": "synthetic"})
        environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000000"}
        with terminated(edge_agent.start("run", "-c", config, env=environment)) as agent:
            told: list[str] = []
            while not any("1 of 1 cameras online" in text for text in told):
                told.append(manager.recv(4096).decode())
            pets = sum("WATCHDOG=1" in text for text in told)
            while pets < 3:
                told.append(manager.recv(4096).decode())
                pets += "WATCHDOG=1" in told[-1]
            agent.send_signal(signal.SIGTERM)
            while not any("STOPPING=1" in text for text in told):
                told.append(manager.recv(4096).decode())
            assert agent.wait(5) == 0
    assert "READY=1" in told[0]
    assert "STOPPING=1" in told[-1]


def test_import_is_light() -> None:
    code = "import sys, edge_agent; print([m for m in ('cv2', 'numpy', 'av', 'onnxruntime', 'paho') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "[]"
