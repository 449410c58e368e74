"""Password and ACL as the documentation has them, on a real mosquitto."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent import broker_sink, config_file, plugins
from edge_agent.errors import SinkUnavailable
from edge_agent.events import STATUS_ONLINE, Kind, Message
from edge_agent.requests import Request
from edge_agent.sinks.mqtt import MqttSink
from tests.conftest import REPOSITORY, Mosquitto, needs, wait_until
from tests.sinks.mqtt_parts import connected, make_sink, reads
from tests.subscriber import subscribed

SECRET = "s3cret ✓"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """With the ACL of docs/mqtt.md, the devices ``dev`` and ``other``, and one who may do everything."""
    passwords, acl = tmp_path / "passwords", tmp_path / "acl"
    program = needs("mosquitto_passwd", "mosquitto")
    passwords.write_text("")
    for user in ("dev", "other", "root"):
        subprocess.run([program, "-b", str(passwords), user, SECRET], check=True, capture_output=True)
    found = re.search(r"^```\n(# acl: .*?)^```", (REPOSITORY / "docs" / "mqtt.md").read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    acl.write_text(found[1] + "\nuser root\ntopic readwrite #\n")
    made = Mosquitto(tmp_path, lines=("allow_anonymous false", f"password_file {passwords}", f"acl_file {acl}")).start()
    yield made
    made.stop()


def sink_of(port: int, folder: Path, environ: dict[str, str], **mqtt: object) -> MqttSink:
    """As the agent makes it of its configuration."""
    tables = {
        "cameras": [{"id": "front", "source": "synthetic"}],
        "mqtt": {"host": "127.0.0.1", "port": port, "username": "dev", **mqtt},
    }
    config = config_file.build(tables, plugins.PluginKinds(), path=folder / "agent.toml", environ=environ)
    return broker_sink.build_sink(config, "dev")


@pytest.mark.parametrize("where", ["file", "environment", "credential", "setting"])
def test_the_password_may_come_from_each_of_its_places(
    broker: Mosquitto, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "mqtt_password").write_text(SECRET + "\n")
    if where == "credential":
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    environ = {"EDGE_AGENT_MQTT__PASSWORD": SECRET} if where == "environment" else {}
    more = {"file": {"password_file": str(folder / "mqtt_password")}, "setting": {"password": SECRET}}.get(where, {})
    sink = sink_of(broker.port, tmp_path, environ, **more)
    with connected(sink):
        assert sink.write([STATUS_ONLINE]) == [None]
    assert SECRET not in repr(sink.context) + repr(sink._config) + sink.name


def test_without_a_password_it_is_said_that_there_is_none(broker: Mosquitto, tmp_path: Path) -> None:
    with pytest.raises(SinkUnavailable, match="no password is set"):
        sink_of(broker.port, tmp_path, {}).connect()


def test_the_rules_of_the_documentation_let_a_device_do_its_own_and_no_more(broker: Mosquitto) -> None:
    heard: list[Request] = []
    with subscribed(broker.port, "#", "root", SECRET) as live:
        with connected(make_sink(broker.port, SECRET, username="dev", client_id="earlier", cameras=["gone"])) as earlier:
            earlier.write([Message(Kind.CAMERA_STATUS, "gone", b"{}")])
        with connected(make_sink(broker.port, SECRET, username="dev", on_request=heard.append, cameras=["front"])) as sink:
            ours = [STATUS_ONLINE, Message(Kind.CAMERA_STATUS, "front", b"{}"), Message(Kind.DETECTIONS, "front", b"{}")]
            assert sink.write(ours) == [None] * 3
            wait_until(lambda: reads(sink) and any(not message.payload for message in live.on("camera/gone/status")), what="the clearing")
            client = paho.Client(CallbackAPIVersion.VERSION2)
            client.username_pw_set("root", SECRET)
            client.connect("127.0.0.1", broker.port)
            client.publish("edge/dev/camera/front/command", b"{}")
            client.loop_write()
            wait_until(lambda: reads(sink) and heard)
            client.disconnect()
        with connected(make_sink(broker.port, SECRET, username="other", client_id="other")) as other:
            (outcome,) = other.write([STATUS_ONLINE])
            assert "the broker's ACL does not let us write there" in str(outcome)
