"""`edge-agent watch` as people run it, at a real mosquitto."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.events import timestamp
from tests.conftest import CommandLine, Mosquitto, free_port, needs, terminated, wait_until
from tests.integration.test_agent import short_clip, write_config
from tests.sinks.test_mqtt import certificates  # noqa: F401 - a fixture
from tests.subscriber import subscribed


def detections(camera: str, seq: int, label: str = "Person", age_s: float = 0.2) -> tuple[str, dict[str, Any]]:
    box = {"class_id": 0, "label": label, "confidence": 0.9, "xyxy": [0, 0, 9, 9], "xyxyn": [0, 0, 1, 1]}
    content = {
        "device": "dev", "camera": camera, "stream": "s", "seq": seq, "frame_id": seq, "captured_at": timestamp(time.time() - age_s),
        "clock_synced": True, "latency_ms": {"infer": 5.0}, "detections": [box],
    }  # fmt: skip
    return f"edge/dev/camera/{camera}/detections", content


class Speaker:
    """Publishes at a broker what a device might."""

    def __init__(self, port: int) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def say(self, topic: str, content: Any) -> None:
        payload = content if isinstance(content, (bytes, str)) else json.dumps(content)
        self._client.publish(topic, payload, qos=1).wait_for_publish(10)

    def end(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def speaker(mosquitto: Mosquitto) -> Iterator[Speaker]:
    made = Speaker(mosquitto.port)
    yield made
    made.end()


def watched(edge_agent: CommandLine, port: int, *arguments: str) -> subprocess.Popen[str]:
    """A watch that listens already."""
    process = edge_agent.start("watch", "--host", "127.0.0.1", "--port", str(port), *arguments)
    assert process.stderr is not None
    assert "listening" in process.stderr.readline()
    return process


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    process.send_signal(2)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    return out, err


def test_json_tells_of_loss_copies_and_latency(mosquitto: Mosquitto, speaker: Speaker, edge_agent: CommandLine) -> None:
    with terminated(watched(edge_agent, mosquitto.port, "--json")) as process:
        for seq in (1, 2, 5, 5):
            speaker.say(*detections("front", seq))
        speaker.say("edge/dev/camera/front/detections", msgspec.msgpack.encode(detections("front", 6)[1]))
        assert process.stdout is not None
        shown = [json.loads(process.stdout.readline()) for _ in range(5)]
        _, err = ended(process)
    assert [(each["payload"]["seq"], each["lost"], each["duplicate"]) for each in shown] == [
        (1, 0, False), (2, 0, False), (5, 2, False), (5, 2, True), (6, 2, False),
    ]  # fmt: skip
    assert all(150 < each["latency_ms"] < 5000 for each in shown)
    assert "# dev/front: 5 received, 2 lost, 1 twice, latency " in err


def test_only_what_is_asked_for_and_nothing_that_moves_the_cursor(mosquitto: Mosquitto, speaker: Speaker, edge_agent: CommandLine) -> None:
    with terminated(watched(edge_agent, mosquitto.port, "--camera", "front", "--label", "Person\x1b[2J")) as process:
        speaker.say(*detections("back", 1, "Person\x1b[2J"))
        speaker.say(*detections("front", 1, "Car"))
        speaker.say(*detections("front", 2, "Person\x1b[2J"))
        assert process.stdout is not None
        line = process.stdout.readline()
        _, err = ended(process)
    assert "front frame 2: Person\ufffd[2J 0.90" in line
    assert "dev/back" not in err
    assert "dev/front: 2 received, 0 lost" in err  # what is not shown is not lost


def test_the_table_updates_and_warns_of_clocks(mosquitto: Mosquitto, speaker: Speaker, edge_agent: CommandLine) -> None:
    with terminated(watched(edge_agent, mosquitto.port, "--table")) as process:
        speaker.say("edge/dev/camera/front/status", {"state": "online"})
        speaker.say("edge/dev/health", {"at": timestamp(time.time() - 100)})
        for seq in (1, 2, 5):
            speaker.say(*detections("front", seq))
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        row = next(line for line in lines if line.startswith("dev") and " 3 " in line)
        warning = next(line for line in lines if line.startswith("!"))
        ended(process)
    assert row.split()[:2] == ["dev", "front"]
    assert "online" in row
    assert row.split()[4:7] == ["3", "2", "0"]
    assert "1 Person" in row
    assert "the clock of dev is 100." in warning


def test_tls_user_and_password_are_those_of_the_configuration(
    tmp_path: Path,
    certificates: Path,  # noqa: F811
    edge_agent: CommandLine,
) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run([needs("mosquitto_passwd", "mosquitto"), "-b", "-c", str(passwords), "edge", "right"], check=True, capture_output=True)
    files = (f"cafile {certificates}/ca.pem", f"certfile {certificates}/server.pem", f"keyfile {certificates}/server.key")
    broker = Mosquitto(tmp_path, lines=(*files, "allow_anonymous false", f"password_file {passwords}")).start()
    try:
        config = write_config(edge_agent.folder, broker.port, {"source": "synthetic", "fps": 20})
        text = (edge_agent.folder / config).read_text()
        more = f'username = "edge"\npassword = "right"\n[mqtt.tls]\nca_file = "{certificates}/ca.pem"\n[health]'
        (edge_agent.folder / config).write_text(text.replace("[health]", more))
        with terminated(edge_agent.start("run", "-c", config)), terminated(edge_agent.start("watch", "-c", config, "--json")) as process:
            assert process.stdout is not None
            line = next(line for line in iter(process.stdout.readline, "") if "/detections" in line)
            _, err = ended(process)
        assert json.loads(line)["payload"]["camera"] == "cam0"
        assert " 0 lost, 0 twice" in err
        (edge_agent.folder / config).write_text(text.replace("[health]", more.replace("right", "wrong")))
        done = edge_agent.run("watch", "-c", config, "--seconds", "5")
        assert done.returncode == 69
        assert "Not authorized" in done.stderr or "not authorised" in done.stderr
    finally:
        broker.stop()


@pytest.mark.parametrize("way", ["websocket", "unix"])
def test_over_websockets_and_unix_sockets_too(tmp_path: Path, edge_agent: CommandLine, way: str) -> None:
    port = free_port()
    path = tmp_path / "m.sock"
    listeners = {"websocket": f"listener {port} 127.0.0.1\nprotocol websockets", "unix": f"listener 0 {path}"}
    broker = Mosquitto(tmp_path, lines=("allow_anonymous true", listeners[way])).start()
    config = write_config(edge_agent.folder, port, {"source": str(short_clip(edge_agent.folder))})
    text = (edge_agent.folder / config).read_text()
    other = {"websocket": f"port = {port}\n[mqtt.websocket]", "unix": f'unix_socket = "{path}"'}
    (edge_agent.folder / config).write_text(text.replace(f"port = {port}", other[way]))
    try:
        with subscribed(broker.port) as heard, terminated(edge_agent.start("watch", "-c", config, "--json")) as process:
            assert process.stderr is not None
            assert "listening" in process.stderr.readline()
            done = edge_agent.run("run", "-c", config)
            assert done.returncode == 0, done.stderr
            wait_until(lambda: len(heard.on("/detections")) == 40 and heard.on("dev/status")[-1].payload == b"offline")
            assert process.stdout is not None
            shown = [json.loads(line) for line in iter(process.stdout.readline, '{"topic": "edge/dev/status", "payload": "offline"}\n')]
            ended(process)
        assert sum(each["topic"].endswith("/detections") for each in shown) == 40
    finally:
        broker.stop()
