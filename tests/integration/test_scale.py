"""The blocks of docs/scale.md, at real brokers: the bridge, the ACL, and what shared subscriptions do to order."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, CommandLine, Mosquitto, needs, terminated, wait_until
from tests.integration.test_agent import short_clip, write_config
from tests.integration.test_watch import Speaker
from tests.subscriber import subscribed


def block(title: str) -> list[str]:
    """The lines of the block in docs/scale.md that begins so."""
    found = re.search(rf"```\n# {re.escape(title)}\n(.*?)```", (REPOSITORY / "docs" / "scale.md").read_text(), re.DOTALL)
    assert found is not None
    return [line for line in found[1].splitlines() if line and not line.startswith("#")]


@contextlib.contextmanager
def running(broker: Mosquitto) -> Iterator[Mosquitto]:
    broker.folder.mkdir(exist_ok=True)
    yield broker.start()
    broker.stop()


@contextlib.contextmanager
def site_and_cluster(folder: Path) -> Iterator[tuple[Mosquitto, Mosquitto]]:
    with running(Mosquitto(folder / "cluster")) as cluster:
        bridge = [line for line in block("site: mosquitto.conf") if not line.startswith("persistence")]
        lines = [line.replace("cluster.example.com:1883", f"127.0.0.1:{cluster.port}") for line in bridge]
        with running(Mosquitto(folder / "site", lines=("allow_anonymous true", *lines, "restart_timeout 1"))) as site:
            wait_until(lambda: "site-north" in (cluster.folder / "mosquitto.log").read_text(), what="the bridge")
            yield site, cluster


def test_the_bridge_carries_everything_up_and_commands_down(tmp_path: Path, edge_agent: CommandLine) -> None:
    with site_and_cluster(tmp_path) as (site, cluster), subscribed(cluster.port) as above, subscribed(site.port) as at_site:
        config = write_config(edge_agent.folder, site.port, {"source": "synthetic", "fps": 10})
        with terminated(edge_agent.start("run", "-c", config)) as agent:
            wait_until(lambda: len(above.on("/detections")) > 5 and above.on("dev/health"), what="detections above")
            caller = Speaker(cluster.port)
            caller.say("edge/dev/camera/cam0/command", {"id": "1", "name": "pause", "arguments": {}})
            answer = wait_until(lambda: above.on("cam0/command/result"), what="an answer above")[0].json
            assert (answer["id"], answer["ok"]) == ("1", True)
            wait_until(lambda: any(m.json["state"] == "paused" for m in above.on("cam0/status")))
            agent.kill()
            wait_until(lambda: above.on("dev/status") and above.on("dev/status")[-1].payload == b"offline", what="the will above")
            caller.end()
        wait_until(lambda: len(above.on("/detections")) == len(at_site.on("/detections")))
        assert len(above.on("cam0/command")) == 1  # it did not go round in a circle


def test_what_is_retained_at_the_site_is_retained_above(tmp_path: Path, edge_agent: CommandLine) -> None:
    with site_and_cluster(tmp_path) as (site, cluster):
        config = write_config(edge_agent.folder, site.port, {"source": str(short_clip(edge_agent.folder))})
        with subscribed(cluster.port) as above:
            done = edge_agent.run("run", "-c", config)
            assert done.returncode == 0, done.stderr
            wait_until(lambda: above.on("dev/status") and above.on("dev/status")[-1].payload == b"offline")
        with subscribed(cluster.port) as later:
            wait_until(lambda: {m.topic for m in later.heard} == {"edge/dev/status", "edge/dev/health", "edge/dev/camera/cam0/status"})
            assert all(m.retain for m in later.heard)


def test_the_acl_lets_a_device_work_and_keeps_it_from_others(tmp_path: Path, edge_agent: CommandLine) -> None:
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    passwords.touch()
    for user in ("dev", "other", "dashboard"):
        subprocess.run([needs("mosquitto_passwd", "mosquitto"), "-b", str(passwords), user, "x"], check=True, capture_output=True)
    acl.write_text("\n".join(block("acl: devices")) + "\n")
    broker = Mosquitto(tmp_path / "b", lines=("allow_anonymous false", f"password_file {passwords}", f"acl_file {acl}"))
    with running(broker), subscribed(broker.port, "edge/#", "dashboard", "x") as heard:
        config = write_config(edge_agent.folder, broker.port, {"source": "synthetic", "fps": 10})
        text = (edge_agent.folder / config).read_text()
        (edge_agent.folder / config).write_text(text.replace("[health]", 'username = "dev"\npassword = "x"\n[health]'))
        publish = [needs("mosquitto_pub", "mosquitto-clients"), "-p", str(broker.port), "-V", "5", "-q", "1", "-P", "x"]
        with terminated(edge_agent.start("run", "-c", config)):
            wait_until(lambda: len(heard.on("/detections")) > 3)
            command = json.dumps({"id": "7", "name": "report", "arguments": {}})
            attempts = ("other", "edge/dev/camera/cam0/detections"), ("other", "edge/dev/command"), ("dashboard", "edge/dev/command")
            for user, topic in attempts:
                subprocess.run([*publish, "-u", user, "-t", topic, "-m", command], check=False, capture_output=True)
            wait_until(lambda: heard.on("dev/command/result"), what="the answer to who may ask")
    assert len(heard.on("dev/command/result")) == 1
    assert all("seq" in m.json for m in heard.on("/detections"))  # nothing of the other device is among them


@pytest.mark.parametrize("members", [1, 3])
def test_members_of_a_group_share_the_work_and_each_message_goes_to_one(mosquitto: Mosquitto, members: int) -> None:
    with contextlib.ExitStack() as stack:
        group = [stack.enter_context(subscribed(mosquitto.port, "$share/g/edge/+/camera/+/detections")) for _ in range(members)]
        speaker = Speaker(mosquitto.port)
        for seq in range(30):
            speaker.say("edge/dev/camera/c/detections", {"seq": seq})
        speaker.end()
        wait_until(lambda: sum(len(each.heard) for each in group) == 30)
    assert sorted(m.json["seq"] for each in group for m in each.heard) == list(range(30))
    assert all(each.heard for each in group)
