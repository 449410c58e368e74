"""Several ways out at once, on the real daemon; what is published when; and consumers as people have them."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from edge_agent.delivery import Delivery
from edge_agent.encoding import schemas
from edge_agent.errors import ExitCode, Rejected, SinkUnavailable
from edge_agent.events import STATUS_OFFLINE, STATUS_ONLINE, Kind, Message
from edge_agent.publisher import Publisher
from edge_agent.sinks.base import Sink
from edge_agent.spool import Spool, SpoolLimits
from tests.conftest import CommandLine, Mosquitto, free_port, needs, terminated, wait_until
from tests.integration.test_agent import short_clip, write_config
from tests.sinks.test_webhook import Receiver
from tests.subscriber import subscribed

FRAMES = 40


def in_file(path: Path, kind: str = "detections") -> list[Any]:
    return [line["payload"] for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == kind]


def test_broker_file_and_webhook_get_the_same_events_in_order(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    with Receiver() as receiver, subscribed(mosquitto.port) as heard:
        extra = f'[sinks.jsonl]\n[sinks.webhook]\nurl = "{receiver.url}"\nlinger_s = 0.05\n'
        config = write_config(edge_agent.folder, mosquitto.port, {"source": str(short_clip(edge_agent.folder))}, extra=extra)
        done = edge_agent.run("run", "-c", config)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: len(heard.on("/detections")) == FRAMES and heard.on("dev/status")[-1:] != [])
        posted = [m["payload"] for _, body in receiver.requests for m in body["messages"] if m["kind"] == "detections"]
    wanted = [m.json for m in heard.on("/detections")]
    assert [event["frame_id"] for event in wanted] == list(range(FRAMES))
    assert in_file(edge_agent.folder / "events.jsonl") == wanted
    assert posted == wanted
    assert in_file(edge_agent.folder / "events.jsonl", "status")[-1] == "offline"
    health = in_file(edge_agent.folder / "events.jsonl", "health")[-1]
    assert sorted(health["sinks"]) == ["jsonl", "webhook"]


def test_a_dead_webhook_costs_the_broker_nothing_and_is_told_of(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    extra = f'[sinks.webhook]\nurl = "http://127.0.0.1:{free_port()}/"\n'
    config = write_config(edge_agent.folder, mosquitto.port, {"source": "synthetic", "fps": 30}, extra=extra)
    with subscribed(mosquitto.port) as heard, terminated(edge_agent.start("run", "-c", config)) as agent:
        wait_until(lambda: len(heard.on("/detections")) > 30)
        health = wait_until(lambda: [m.json for m in heard.on("dev/health") if m.json["sinks"]["webhook"]["events_queued"] > 20])[-1]
        assert health["verdict"] == "degraded"
        assert any(reason.startswith("webhook: ") and "Connection refused" in reason for reason in health["reasons"])
        assert health["delivery"]["connected"]
        assert health["delivery"]["events_queued"] < 20
        agent.terminate()
        assert agent.wait(5) == 0
    wait_until(lambda: heard.on("dev/status")[-1].payload == b"offline")


def test_without_a_broker_a_file_is_enough(edge_agent: CommandLine) -> None:
    config = write_config(edge_agent.folder, free_port(), {"source": str(short_clip(edge_agent.folder))}, extra="[sinks.jsonl]\n")
    text = (edge_agent.folder / config).read_text().replace("[mqtt]", "[mqtt]\nenabled = false")
    (edge_agent.folder / config).write_text(text)
    done = edge_agent.run("run", "-c", config)
    assert done.returncode == 0, done.stderr
    assert [event["frame_id"] for event in in_file(edge_agent.folder / "events.jsonl")] == list(range(FRAMES))
    (edge_agent.folder / config).write_text(text.replace("[sinks.jsonl]", ""))
    done = edge_agent.run("run", "-c", config)
    assert done.returncode == ExitCode.CONFIG
    assert "agent.toml:" in done.stderr
    assert "mqtt.enabled: is false, and there is nowhere else to publish to" in done.stderr


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ('[sinks.webhook]\nurl = "http://x/"\ntoken_file = "absent"', "sinks.webhook.token_file: "),
        ('[sinks.webhook]\nurl = "http://x/"\ntoken = "a"\ntoken_file = "b"', "keep one of them"),
        ('[sinks.webhook]\nurl = "http://x/"\ntoken = "a"\nheaders = {authorization = "b"}', "keep one of them"),
        ('[sinks.webhook]\nurl = "http://x/"\n[sinks.webhook.tls]', "sinks.webhook.tls: is for https://"),
        ('[sinks.webhook]\nurl = "https://x/"\n[sinks.webhook.tls]\nca_file = "absent.pem"', "absent.pem cannot be read"),
        ('[sinks.jsonl]\npath = "/tmp"', "sinks.jsonl.path: /tmp is a folder"),
        ("[sinks.webhook]", "sinks.webhook.url"),
        ("[sinks.pigeon]", "sinks.pigeon"),
    ],
)
def test_what_is_wrong_with_a_sink_is_told_before_the_start(edge_agent: CommandLine, keys: str, said: str) -> None:
    config = write_config(edge_agent.folder, free_port(), {"source": "synthetic"})
    (edge_agent.folder / config).write_text((edge_agent.folder / config).read_text() + keys + "\n")
    done = edge_agent.run("check", "-c", config)
    assert done.returncode == ExitCode.CONFIG, done.stderr
    assert said in done.stderr + done.stdout


@pytest.mark.parametrize(("when", "fewest", "most"), [("change", 2, FRAMES - 1), ("interval", 1, 1)])
def test_when_to_publish_holds_on_the_whole_line_and_every_frame_is_accounted_for(
    mosquitto: Mosquitto, edge_agent: CommandLine, when: str, fewest: int, most: int
) -> None:
    extra = f'[publish]\nwhen = "{when}"\nleast_s = 0\nmoved = 0.1\ninterval_s = 3600\n'
    config = write_config(edge_agent.folder, mosquitto.port, {"source": str(short_clip(edge_agent.folder))}, extra=extra)
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("run", "-c", config)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: heard.on("dev/status")[-1:] and heard.on("dev/status")[-1].payload == b"offline")
    events = [m.json for m in heard.on("/detections")]
    validator = Draft202012Validator(schemas()["detections"])
    for event in events:
        validator.validate(event)
    assert fewest <= len(events) <= most
    assert [e["seq"] - events[0]["seq"] for e in events] == list(range(len(events)))
    camera = heard.on("dev/health")[-1].json["cameras"]["cam0"]
    assert camera["frames_served_total"] == FRAMES
    withheld = camera["events_withheld_total"]
    assert camera["events_published_total"] == len(events)
    if when == "change":
        assert len(events) + sum(withheld.values()) == FRAMES
    else:
        assert withheld == {"summed": FRAMES}
        assert sum(event["interval"]["frames"] for event in events) == FRAMES
        assert events[0]["interval"]["classes"][0]["most"] >= 1


def test_messagepack_has_what_json_has(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    extra = '[publish]\nencoding = "msgpack"\n[sinks.jsonl]\n'
    config = write_config(edge_agent.folder, mosquitto.port, {"source": str(short_clip(edge_agent.folder))}, extra=extra)
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("run", "-c", config)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: len(heard.on("/detections")) == FRAMES and heard.on("dev/status")[-1].payload == b"offline")
    events = [msgspec.msgpack.decode(m.payload) for m in heard.on("/detections")]
    assert events == in_file(edge_agent.folder / "events.jsonl")
    assert heard.on("dev/health")[-1].json["device"] == "dev"


# ------------------------------------------------------------------------------------------------------------- consumers

# What a flow does: an "mqtt in" node with output "a parsed JSON object", a "switch" on a label, a "change" node, a "template".
_FLOW = """
const lines = require('fs').readFileSync(0, 'utf8').split('\\n').filter(Boolean);
let people = 0, frames = 0, late = 0, states = 0;
for (const line of lines) {
  const space = line.indexOf(' ');
  const msg = {topic: line.slice(0, space), payload: line.slice(space + 1)};
  const levels = msg.topic.split('/');
  if (levels[levels.length - 1] !== 'detections') { states += 1; continue; }
  msg.payload = JSON.parse(msg.payload);
  frames += 1;
  if (!Number.isSafeInteger(msg.payload.seq)) throw new Error('seq is not a number that JavaScript can hold');
  if (Number.isNaN(Date.parse(msg.payload.captured_at))) throw new Error('captured_at is no date');
  if (levels[3] !== msg.payload.camera) throw new Error('topic and payload name different cameras');
  late += msg.payload.latency_ms.total > 60000;
  for (const d of msg.payload.detections.filter(d => d.label === 'Person' && d.confidence >= 0.3)) {
    if (!(d.xyxyn[2] > d.xyxyn[0])) throw new Error('a box without width');
    people += 1;
  }
}
console.log(JSON.stringify({frames, people, late, states}));
"""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({key for key, _ in pairs}) == len(pairs), "a key twice"
    return dict(pairs)


def _never(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


def test_mosquitto_sub_and_a_flow_as_in_node_red_understand_it(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    command = [needs("mosquitto_sub", "mosquitto-clients"), "-p", str(mosquitto.port), "-q", "1", "-t", "edge/#", "-v"]
    config = write_config(edge_agent.folder, mosquitto.port, {"source": str(short_clip(edge_agent.folder))})
    out = edge_agent.folder / "heard.txt"
    with out.open("w") as file, subscribed(mosquitto.port) as heard:
        consumer = subprocess.Popen(command, stdout=file)
        try:
            log = edge_agent.folder / "mosquitto.log"
            wait_until(lambda: log.read_text().count("Sending SUBACK") >= 2, what="both subscribers")
            done = edge_agent.run("run", "-c", config)
            assert done.returncode == 0, done.stderr
            wait_until(lambda: "edge/dev/status offline" in out.read_text())
        finally:
            consumer.terminate()
            consumer.wait()
    lines = out.read_text().splitlines()
    assert len(lines) == len(heard.heard)  # what a plain paho subscriber got, and not a line more
    people = 0
    for topic, _, payload in (line.partition(" ") for line in lines):
        if topic.endswith("/detections"):
            content = json.loads(payload, object_pairs_hook=_unique, parse_constant=_never)
            people += sum(d["label"] == "Person" and d["confidence"] >= 0.3 for d in content["detections"])
    node = shutil.which("node")
    if node is None:
        return  # what has been asserted is what a flow would use, read by the strictest parser there is
    done = subprocess.run([node, "-e", _FLOW], input=out.read_text(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["frames"], result["late"], result["people"]) == (FRAMES, 0, people)
    assert people > 10


# ------------------------------------------------------------------------------------------------------------- fan-out


class Gated(Sink):
    """Takes everything, once its gate is open."""

    def __init__(self, name: str, *, is_open: bool = True, most: int = 200) -> None:
        self.name, self.most = name, most
        self.gate = threading.Event()
        self.got: list[Message] = []
        if is_open:
            self.gate.set()

    def connect(self) -> None:
        if not self.gate.is_set():
            raise SinkUnavailable("closed")

    def write(self, messages: Any) -> list[Rejected | None]:
        self.gate.wait(20)
        self.got += messages
        return [None] * len(messages)

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def three() -> Iterator[tuple[Delivery, Gated, Gated, Gated]]:
    sinks = Gated("mqtt"), Gated("slow"), Gated("dead", is_open=False)
    most = {"mqtt": 1000, "slow": 1000, "dead": 50}
    delivery = Delivery({sink.name: Publisher(sink, Spool(SpoolLimits(most[sink.name], 1 << 20))) for sink in sinks})
    delivery.start()
    yield (delivery, *sinks)
    for sink in sinks:
        sink.gate.set()
    delivery.stop(2)


def test_a_slow_and_a_dead_sink_harm_no_other(three: tuple[Delivery, Gated, Gated, Gated]) -> None:
    delivery, broker, slow, _ = three
    wait_until(lambda: delivery.publishers["slow"].connected and delivery.connected)
    slow.gate.clear()
    sent = [Message(Kind.DETECTIONS, "c", b'{"n":%d}' % number) for number in range(40)]
    for message in sent:
        delivery.publish(message)
    wait_until(lambda: broker.got == sent)
    assert slow.got == []
    counts = delivery.publishers["dead"].counts
    assert (counts.accepted, counts.delivered) == (40, 0)
    assert delivery.publishers["dead"].queued[0] == 40
    for number in range(100):
        delivery.publish(Message(Kind.DETECTIONS, "c", b'{"n":%d}' % number))
    wait_until(lambda: len(broker.got) == 140)
    assert delivery.publishers["dead"].queued[0] == 50  # bounded, and counted
    assert delivery.publishers["dead"].counts.dropped["buffer_full"] == 90
    slow.gate.set()
    wait_until(lambda: delivery.publishers["slow"].queued[0] == 0)


def test_answers_go_to_the_broker_only_and_state_to_all(three: tuple[Delivery, Gated, Gated, Gated]) -> None:
    delivery, broker, slow, _ = three
    wait_until(lambda: delivery.publishers["slow"].connected and delivery.connected)
    delivery.publish(STATUS_ONLINE)
    delivery.publish(Message(Kind.COMMAND_RESULT, None, b"{}"))
    wait_until(lambda: len(broker.got) == 2 and slow.got == [STATUS_ONLINE])


def test_a_stop_says_goodbye_to_all_within_the_time_of_one(three: tuple[Delivery, Gated, Gated, Gated]) -> None:
    delivery, broker, slow, _ = three
    wait_until(lambda: delivery.publishers["slow"].connected and delivery.connected)
    assert delivery.is_alive
    delivery.stop(2)
    assert broker.got[-1] == slow.got[-1] == STATUS_OFFLINE
    assert not delivery.is_alive
