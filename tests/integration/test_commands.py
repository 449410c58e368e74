"""Commands to the real daemon through a real mosquitto: by its topics, by MQTT 5 requests, and where the broker forbids them."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paho.mqtt.client as paho
import pytest
from jsonschema import Draft202012Validator
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent import _commands_payload
from tests.conftest import REPOSITORY, CommandLine, Mosquitto, free_port, needs, terminated, wait_until
from tests.subscriber import Subscriber, subscribed

ANSWER = Draft202012Validator(_commands_payload.schemas()["command_result"])
TABLES = """
[device]
id = "dev"
state_dir = "state"
[health]
interval_s = 0.5
[publish]
snapshots = true
[mqtt]
host = "127.0.0.1"
port = {port}
{mqtt}
[[cameras]]
id = "front"
source = "synthetic"
fps = 20
{front}
[[cameras]]
id = "yard"
source = "synthetic"
fps = 20
snapshots = false
{yard}
"""


@dataclass
class Daemon:
    """One that runs, who hears all that it says, and a pen to write it commands with."""

    process: subprocess.Popen[str]
    heard: Subscriber
    port: int
    folder: Path

    def __post_init__(self) -> None:
        self._ids = itertools.count()

    def send(self, payload: bytes | str, topic: str = "edge/dev/command", *options: str) -> None:
        """As a person does, by mosquitto_pub."""
        data = payload.encode() if isinstance(payload, str) else payload
        command = [needs("mosquitto_pub", "mosquitto-clients"), "-p", str(self.port), "-q", "1", "-t", topic, "-s", *options]
        subprocess.run(command, input=data, check=True, timeout=20)

    def ask(self, name: str, camera: str | None = None, *, id: str | None = None, **arguments: Any) -> dict[str, Any]:  # noqa: A002
        """Send a command; its answer."""
        id = id or f"i{next(self._ids)}"  # noqa: A001
        where = "edge/dev" if camera is None else f"edge/dev/camera/{camera}"
        self.send(json.dumps({"id": id, "name": name, "arguments": arguments}), f"{where}/command")
        answer: dict[str, Any] = wait_until(lambda: self.answer(id, f"{where}/command/result"), what=f"an answer to {name}")
        return answer

    def answer(self, id: str | None, topic: str = "edge/dev/command/result") -> dict[str, Any] | None:  # noqa: A002
        return next((m.json for m in reversed(self.heard.heard) if m.topic == topic and m.json["id"] == id), None)

    def state(self, camera: str) -> str:
        found = self.heard.on(f"camera/{camera}/status")
        return str(found[-1].json["state"]) if found else ""

    def served(self, camera: str) -> int:
        return len(self.heard.on(f"camera/{camera}/detections"))

    def health(self) -> dict[str, Any]:
        health: dict[str, Any] = self.heard.on("dev/health")[-1].json
        return health

    def stop(self) -> str:
        """Its log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, log
        assert "Traceback" not in log
        return log


def configure(folder: Path, port: int, front: str = "", yard: str = "", mqtt: str = "") -> None:
    (folder / "agent.toml").write_text(TABLES.format(port=port, front=front, yard=yard, mqtt=mqtt))


@contextmanager
def running(edge_agent: CommandLine, port: int, **subscriber: str) -> Iterator[Daemon]:
    with subscribed(port, **subscriber) as heard, terminated(edge_agent.start("run", "-c", "agent.toml")) as process:
        daemon = Daemon(process, heard, port, edge_agent.folder)
        wait_until(lambda: heard.on("camera/front/status") and heard.on("dev/status"), 60)
        yield daemon
    for message in heard.on("command/result"):
        ANSWER.validate(message.json)
        assert not message.retain


@pytest.fixture
def daemon(mosquitto: Mosquitto, edge_agent: CommandLine) -> Iterator[Daemon]:
    configure(edge_agent.folder, mosquitto.port)
    with running(edge_agent, mosquitto.port) as started:
        wait_until(lambda: started.served("front") and started.served("yard"))
        yield started


def test_cameras_are_halted_go_on_and_the_frames_are_counted(daemon: Daemon) -> None:
    assert daemon.ask("mute", "front")["ok"]
    assert daemon.ask("pause", "yard", duration_s=1)["result"]["until"]
    wait_until(lambda: (daemon.state("front"), daemon.state("yard")) == ("muted", "paused"))
    wait_until(lambda: daemon.state("yard") == "online", what="the end of the pause")
    wait_until(lambda: daemon.health()["cameras"]["front"]["frames_skipped_total"].get("muted", 0) > 10)
    served = daemon.served("front")
    assert daemon.ask("unmute")["result"]["cameras"] == ["front", "yard"]
    wait_until(lambda: daemon.served("front") > served)
    for camera in daemon.ask("report")["result"]["health"]["cameras"].values():
        accounted = sum(camera["frames_skipped_total"].values()) + sum(camera["frames_dropped_total"].values())
        assert camera["frames_captured_total"] == camera["frames_served_total"] + accounted + camera["frames_in_flight"]
    log = daemon.stop()
    assert "command obeyed name=mute arguments={} topic=edge/dev/camera/front/command id='i0'" in log
    assert "camera=yard is no longer paused" in log


def test_a_snapshot_comes_on_its_topic_where_that_is_allowed(daemon: Daemon) -> None:
    answer = daemon.ask("snapshot", max_width=320)
    picture = answer["result"]["pictures"]["front"]
    assert set(answer["result"]["failed"]) == {"yard"}
    [message] = wait_until(lambda: daemon.heard.on("camera/front/snapshot"))
    assert not message.retain
    assert len(message.payload) == picture["bytes"]
    decoded = cv2.imdecode(np.frombuffer(message.payload, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (240, 320, 3)
    assert daemon.ask("snapshot", "yard")["error"]["code"] == "not_allowed"
    assert not daemon.heard.on("camera/yard/snapshot")


def test_settings_hold_and_after_a_restart_those_that_are_kept(daemon: Daemon, edge_agent: CommandLine) -> None:
    assert daemon.ask("set", "front", max_fps=2, keep=True)["survives_restart"] is True
    assert daemon.ask("set", "yard", confidence=0.9)["survives_restart"] is False
    assert daemon.ask("pause", "yard", keep=True)["survives_restart"] is True
    wait_until(lambda: daemon.health()["cameras"]["front"]["served_fps"] < 5)
    daemon.stop()
    checked = edge_agent.run("check", "-c", "agent.toml")
    assert checked.returncode == 0
    assert "state/commands.json: camera front: max_fps = 2" in checked.stdout
    assert "camera yard: paused" in checked.stdout
    daemon.heard.heard.clear()
    with terminated(edge_agent.start("run", "-c", "agent.toml")) as process:
        again = Daemon(process, daemon.heard, daemon.port, edge_agent.folder)
        wait_until(lambda: again.served("front") >= 3)
        assert again.state("yard") == "paused"
        assert again.served("yard") == 0
        assert again.ask("set", "front", id="n", max_fps=None)["result"]["settings"]["front"]["max_fps"] is None
        assert again.ask("resume", "yard", id="m")["survives_restart"] is True
        wait_until(lambda: again.served("yard") >= 3)
        assert "kept by command, and holds: camera=yard paused" in again.stop()
    assert "kept by command" not in edge_agent.run("check", "-c", "agent.toml").stdout


def test_a_reload_changes_the_cameras_that_changed_and_no_others(daemon: Daemon) -> None:
    daemon.ask("set", "yard", max_fps=1)
    configure(daemon.folder, daemon.port, front="width = 320\nheight = 240", yard="confidence = 0.9")
    before = len(daemon.heard.on("camera/yard/status"))
    answer = daemon.ask("reload")
    applied = answer["result"]["applied"]
    assert set(applied) == {
        "cameras.front.width",
        "cameras.front.height",
        "cameras.yard.confidence",
        "yard: what was set by command is void",
    }
    assert answer["result"]["needs_restart"] == []
    wait_until(lambda: daemon.heard.on("front/detections")[-1].json["width"] == 320)
    assert {m.json["state"] for m in daemon.heard.on("camera/yard/status")[before:]} <= {"online"}
    wait_until(lambda: daemon.health()["cameras"]["yard"]["served_fps"] > 5)
    streams = {m.json["stream"] for m in daemon.heard.on("/detections")}
    assert len(streams) == 1, "it is the same run of the agent"
    seqs = [m.json["seq"] for m in daemon.heard.on("front/detections")]
    assert seqs == sorted(set(seqs))
    status = daemon.heard.on("camera/front/status")[-1].json
    assert status["hanging"] == 0
    assert status["frames_captured_total"] > 0


def test_cameras_come_and_go_with_a_reload(daemon: Daemon) -> None:
    file = daemon.folder / "agent.toml"
    file.write_text(file.read_text().replace('id = "yard"', 'id = "door"'))
    answer = daemon.ask("reload")
    assert answer["result"] == {"applied": ["cameras.door: is new", "cameras.yard: is no more"], "needs_restart": []}
    wait_until(lambda: daemon.heard.on("camera/yard/status")[-1].payload == b"" and daemon.served("door") > 3)
    wait_until(lambda: set(daemon.health()["cameras"]) == {"front", "door"})
    served = daemon.served("front")
    wait_until(lambda: daemon.served("front") > served)
    assert daemon.ask("mute", "door")["ok"]
    assert daemon.ask("report")["result"]["health"]["verdict"] == "ok"
    daemon.send('{"id": "y", "name": "mute"}', "edge/dev/camera/yard/command")
    wait_until(lambda: daemon.answer("y"))
    with subscribed(daemon.port, "edge/dev/camera/#") as late:
        wait_until(lambda: daemon.served("front") > served + 5)
        assert not late.on("camera/yard/status"), "nothing of it is retained"
    daemon.stop()


def test_a_reload_of_a_wrong_file_changes_nothing_and_says_what_is_wrong(daemon: Daemon) -> None:
    configure(daemon.folder, daemon.port, front="width = 320\nconfidnce = 0.5", yard="max_fps = 0")
    answer = daemon.ask("reload")
    assert answer["error"]["code"] == "invalid_configuration"
    assert len(answer["problems"]) == 2
    assert "confidnce" in answer["problems"][0]
    assert "agent.toml:" in answer["problems"][0]
    served = daemon.served("front")
    wait_until(lambda: daemon.served("front") > served + 5)
    assert {m.json["width"] for m in daemon.heard.on("front/detections")} == {640}
    configure(daemon.folder, daemon.port, mqtt='username = "other"')
    answer = daemon.ask("reload")
    assert answer["result"] == {"applied": [], "needs_restart": ["mqtt.username"]}


def test_an_mqtt5_request_is_answered_where_it_asks_with_its_correlation(daemon: Daemon) -> None:
    answers: list[paho.MQTTMessage] = []
    ready = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _client, _user, message: answers.append(message)
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", daemon.port)
    client.loop_start()
    client.subscribe("me/answers", qos=1)
    assert ready.wait(10)
    wanted: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    wanted.ResponseTopic, wanted.CorrelationData = "me/answers", b"\x00\xff42"
    client.publish("edge/dev/camera/front/command", b'{"id": "q1", "name": "mute"}', qos=1, properties=wanted)
    client.publish("edge/dev/command", b"rubbish", qos=1, properties=wanted)
    wait_until(lambda: len(answers) == 2)
    client.loop_stop()
    client.disconnect()
    assert [getattr(a.properties, "CorrelationData", None) for a in answers] == [b"\x00\xff42"] * 2
    first, second = (json.loads(a.payload) for a in answers)
    assert (first["id"], first["ok"], second["error"]["code"]) == ("q1", True, "not_json")
    wait_until(lambda: daemon.answer("q1", "edge/dev/camera/front/command/result"))


def test_whatever_is_sent_the_agent_goes_on_and_counts_it(daemon: Daemon) -> None:
    daemon.send(b'{"id": "old", "name": "pause"}', "edge/dev/command", "-r")  # it is heard live: only a later subscriber gets it retained
    wait_until(lambda: daemon.answer("old"))
    assert daemon.ask("resume")["ok"]
    for payload in (b" ", b"\x00\xff", b"[" * 10_000, b'{"id": "\\ud800", "name": "pause"}', b'{"id":"x","name":"pause","name":"mute"}',
                    b'{"id": "x", "name": "mute", "arguments": {"duration_s": NaN}}', b"x" * 20_000, b"x" * 10_000_000):  # fmt: skip
        daemon.send(payload)
    daemon.send(b'{"id": "1", "name": "pause"}', "edge/dev/camera/gone/command")
    daemon.send(b'{"id": "1", "name": "pause"}', "edge/dev/camera/front%2f..%2fyard/command")
    wait_until(lambda: len([m for m in daemon.heard.on("dev/command/result") if not m.json["ok"]]) >= 9, what="the refusals")
    assert daemon.ask("report")["ok"]
    served = daemon.served("front")
    wait_until(lambda: daemon.served("front") > served + 5)
    refused: Callable[[], dict[str, int]] = lambda: daemon.health()["commands"]["refused_total"]  # noqa: E731
    wait_until(lambda: refused().get("unknown_camera") == 2)
    assert refused()["not_json"] >= 4
    log = daemon.stop()
    assert "xxxx" not in log


def test_by_mqtt_3_1_1_too(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    configure(edge_agent.folder, mosquitto.port, mqtt='protocol = "3.1.1"')
    with running(edge_agent, mosquitto.port) as daemon:
        daemon.send(b"x" * 10_000_000)
        assert daemon.ask("mute", "front")["ok"]
        assert daemon.ask("snapshot", "front")["ok"]
        wait_until(lambda: daemon.heard.on("front/snapshot"))
        assert "xxxx" not in daemon.stop()


def test_a_damaged_file_of_what_is_kept_is_told_of_and_holds_up_nothing(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    configure(edge_agent.folder, mosquitto.port)
    (edge_agent.folder / "state").mkdir()
    (edge_agent.folder / "state" / "commands.json").write_bytes(b"\x00" * 100)
    checked = edge_agent.run("check", "-c", "agent.toml")
    assert checked.returncode == 0
    assert "commands.json is damaged" in checked.stderr
    with running(edge_agent, mosquitto.port) as daemon:
        assert daemon.ask("set", max_fps=3, keep=True)["survives_restart"] is True
        assert "agent.toml holds" in daemon.stop()
    assert "max_fps = 3" in edge_agent.run("check", "-c", "agent.toml").stdout


def test_a_flood_is_answered_once_and_delays_nothing_else(daemon: Daemon) -> None:
    needs("mosquitto_pub", "mosquitto-clients")
    lines = "".join(f'{{"id": "f{n}", "name": "report"}}\n' for n in range(900))  # mosquitto queues 1000 for one subscriber
    program = ["mosquitto_pub", "-p", str(daemon.port), "-q", "1", "-t", "edge/dev/command", "-l"]
    served = daemon.served("front")
    subprocess.run(program, input=lines.encode(), check=True, timeout=60)

    def counted() -> dict[str, Any] | None:
        """Once each is done."""
        counts: dict[str, Any] = daemon.health()["commands"]
        done = counts["executed_total"] + sum(counts["refused_total"].values()) + sum(counts["ignored_total"].values())
        return counts if done == counts["received_total"] >= 900 else None

    counts = wait_until(counted, 60, "all to be counted")
    wait_until(lambda: daemon.served("front") > served + 10)
    limited = [m for m in daemon.heard.on("dev/command/result") if not m.json["ok"]]
    assert {m.json["error"]["code"] for m in limited} == {"rate_limited"}
    assert len(limited) < 100
    assert 600 < counts["refused_total"]["rate_limited"] + counts["ignored_total"].get("queue_full", 0) < 900
    for number in itertools.count():
        if daemon.ask("unmute", id=f"after{number}")["ok"]:
            break
        assert number < 20, "the limit is only for as long as too many come"
    assert limited


def test_what_was_retained_before_the_start_is_ignored(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    needs("mosquitto_pub", "mosquitto-clients")
    retained = ["mosquitto_pub", "-p", str(mosquitto.port), "-r", "-m", '{"id": "1", "name": "pause"}']
    for topic in ("edge/dev/command", "edge/dev/camera/front/command"):
        subprocess.run([*retained, "-t", topic], check=True, timeout=10)
    configure(edge_agent.folder, mosquitto.port)
    with running(edge_agent, mosquitto.port) as daemon:
        wait_until(lambda: daemon.served("front") >= 5)
        wait_until(lambda: daemon.health()["commands"]["ignored_total"] == {"retained": 2})
        assert not daemon.heard.on("command/result")


def documented_acl() -> str:
    """The one in docs/commands.md."""
    text = (REPOSITORY / "docs" / "commands.md").read_text()
    [found] = re.findall(r"```\n(# Each device: .*?)```", text, re.DOTALL)
    return str(found)


def test_the_broker_decides_who_may_command_by_the_rules_in_the_documentation(tmp_path: Path, edge_agent: CommandLine) -> None:
    password, acl = tmp_path / "passwords", tmp_path / "acl"
    for user in ("dev", "operator", "dashboard"):
        program = needs("mosquitto_passwd", "mosquitto")
        subprocess.run([program, "-b", *([] if password.exists() else ["-c"]), str(password), user, "pw"], check=True, capture_output=True)
    acl.write_text(documented_acl().replace("edge-1", "dev"))
    lines = (f"password_file {password}", f"acl_file {acl}", "allow_anonymous false")
    broker = Mosquitto(tmp_path, port=free_port(), lines=lines).start()
    try:
        configure(edge_agent.folder, broker.port, mqtt='username = "dev"\npassword = "pw"')
        with (
            running(edge_agent, broker.port, username="operator", password="pw") as daemon,
            subscribed(broker.port, username="dashboard", password="pw") as dashboard,
        ):
            daemon.send('{"id": "g", "name": "pause"}', "edge/dev/command", "-u", "dashboard", "-P", "pw")
            daemon.send('{"id": "g", "name": "pause"}', "edge/dev/camera/front/command", "-u", "dashboard", "-P", "pw")
            daemon.send('{"id": "b", "name": "snapshot"}', "edge/dev/command", "-u", "operator", "-P", "pw")
            wait_until(lambda: daemon.answer("b") and daemon.heard.on("front/snapshot"))
            assert daemon.answer("g") is None
            assert daemon.state("front") == "online"
            wait_until(lambda: daemon.health()["commands"]["received_total"] == 1)
            asked = [
                needs("mosquitto_rr", "mosquitto-clients"),
                "-V",
                "5",
                "-p",
                str(broker.port),
                "-u",
                "operator",
                "-P",
                "pw",
                "-W",
                "10",
            ]
            topics = ["-t", "edge/dev/camera/yard/command", "-e", "answers/operator/1", "-m", '{"id": "r", "name": "mute"}']
            answered = subprocess.run([*asked, *topics], check=True, capture_output=True, timeout=20)
            assert json.loads(answered.stdout)["id"] == "r"
            wait_until(lambda: dashboard.on("front/detections") and dashboard.on("dev/health"))
            assert not dashboard.on("snapshot") + dashboard.on("command") + dashboard.on("result")
    finally:
        broker.stop()


def test_a_broker_that_forbids_the_agent_to_listen_keeps_it_from_nothing_else(tmp_path: Path, edge_agent: CommandLine) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic write edge/dev/#\ntopic deny edge/dev/command\ntopic deny edge/dev/camera/+/command\ntopic read edge/dev/#\n")
    broker = Mosquitto(tmp_path, port=free_port(), lines=(f"acl_file {acl}", "allow_anonymous true")).start()
    try:
        configure(edge_agent.folder, broker.port)
        with running(edge_agent, broker.port) as daemon:
            daemon.send('{"id": "1", "name": "pause"}')  # mosquitto takes it, and delivers it to nobody who may not read it
            before = daemon.served("front")
            wait_until(lambda: daemon.served("front") >= before + 10)
            assert daemon.health()["commands"]["received_total"] == 0
            daemon.stop()
    finally:
        broker.stop()


def test_an_agent_that_obeys_nothing_does_not_listen(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    configure(edge_agent.folder, mosquitto.port)
    file = edge_agent.folder / "agent.toml"
    file.write_text("[commands]\nallow = []\n" + file.read_text())
    with running(edge_agent, mosquitto.port) as daemon:
        daemon.send('{"id": "1", "name": "pause"}')
        wait_until(lambda: daemon.served("front") >= 5)
        assert daemon.state("front") == "online"
        assert (
            "edge/dev/command" not in (edge_agent.folder / "mosquitto.log").read_text().split("SUBSCRIBE from dev")[-1].split("PUBLISH")[0]
        )
