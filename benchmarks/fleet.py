"""How many devices one mosquitto carries: the agent's own publisher, MQTT sink and encoder, without cameras and models.

    python benchmarks/fleet.py [--agents 50,100,200,400] [--rate 5] [--seconds 15]

Each agent has one camera, sends ``--rate`` detections messages a second with two boxes in each (QoS 1), a heartbeat every 10 s, and
its states; they share processes, since a whole Python for each would measure this machine's memory. One subscriber of everything
counts, and measures latency from hand-over to its callback, on one clock. CPU of broker and agents is the kernel's account of
their processes. What is printed last is an extrapolation and says on what it stands.
"""

from __future__ import annotations

import argparse
import heapq
import json
import multiprocessing
import os
import random
import resource
import statistics
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue
from pathlib import Path

import paho.mqtt.client as paho
from _broker import free_port, installed
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.config_delivery import MqttSettings
from edge_agent.encoding import encode
from edge_agent.events import STATUS_ONLINE, CameraStatusEvent, DetectedObject, DetectionsEvent, LatencyParts, ModelInfo, timestamp
from edge_agent.publisher import Publisher
from edge_agent.retry import BackoffPolicy
from edge_agent.sinks.mqtt import MqttContext, MqttSink
from edge_agent.spool import Spool, SpoolLimits

PER_PROCESS = 100
SETTLE_S = 3.0
COLUMNS = (
    "agents", "events/s", "received", "dropped", "connected after, s", "broker CPU", "us/event", "broker RSS, MB", "agents' CPU, ms/event",
    "latency p50/p95/p99, ms",
)  # fmt: skip
HEARTBEAT_S = 10.0
HEARTBEAT_BYTES = 3_000
"""As of an agent with two cameras."""
BOX = DetectedObject(3, "Person", 0.9134, (412.3, 153.0, 581.4, 696.0), (0.32211, 0.2125, 0.45422, 0.96667))
LATENCY = LatencyParts(9.4, 0.3, 0.5, 5.1, 0.2, 1.6)
MODEL = ModelInfo("oid_int8_pp", "9" * 64, "int8", "LiteRT 2.3.0")


@dataclass(frozen=True)
class Plan:
    """One step of the benchmark."""

    port: int
    agents: int
    rate: float
    seconds: float


@dataclass
class Fleet:
    """What the agents of one process did."""

    connected_s: float
    sent: int
    acknowledged: int
    dropped: int
    cpu_s: float
    rss_bytes: int
    reconnects: int


class Agent:
    """A device without cameras."""

    def __init__(self, number: int, port: int) -> None:
        self.device = f"device-{number:05d}"
        sink = MqttSink(MqttContext(self.device, self.device, None, None), MqttSettings(host="127.0.0.1", port=port))
        self.publisher = Publisher(sink, Spool(SpoolLimits(10_000, 16 << 20)), BackoffPolicy(0.5, 10.0, 30.0))
        self._seq = 0
        self._event = DetectionsEvent(
            self.device,
            "front",
            "9b1c2d3e4f5a6b7c",
            0,
            0,
            "",
            True,
            1280,
            720,
            MODEL,
            LatencyParts(9.4, 0.3, 0.5, 5.1, 0.2, 1.6),
            [BOX, BOX],
        )

    def start(self) -> None:
        self.publisher.publish(STATUS_ONLINE)
        self.publisher.publish(encode(CameraStatusEvent(self.device, "front", "online", timestamp(time.time()), None, 0, 0.1)))
        self.publisher.start()

    def send(self) -> None:
        """One event, whose ``pts_s`` is the monotonic time."""
        self._seq += 1
        event = replace(self._event, seq=self._seq, frame_id=self._seq, captured_at=timestamp(time.time()), pts_s=time.monotonic())
        self.publisher.publish(encode(event))

    def beat(self) -> None:
        """A heartbeat's worth of bytes: the real one needs cameras to tell of."""
        status = CameraStatusEvent(self.device, "front", "online", timestamp(time.time()), None, 0, 0.1, mode="x" * HEARTBEAT_BYTES)
        self.publisher.publish(encode(status))


def run_agents(first: int, plan: Plan, ready: Queue[None], go: Queue[None], results: Queue[Fleet]) -> None:
    """So many agents in this process."""
    agents = [Agent(first + number, plan.port) for number in range(plan.agents)]
    began = time.monotonic()
    for agent in agents:
        agent.start()
    while not all(agent.publisher.connected for agent in agents) and time.monotonic() - began < 60:
        time.sleep(0.01)
    connected_s = time.monotonic() - began
    ready.put(None)
    go.get()
    cpu = time.process_time()
    due = [(time.monotonic() + random.uniform(0, 1 / plan.rate), number) for number in range(plan.agents)]
    heapq.heapify(due)
    beats = [time.monotonic() + random.uniform(0, HEARTBEAT_S) for _ in agents]
    until, sent = time.monotonic() + plan.seconds, 0
    while (now := time.monotonic()) < until:
        at, number = due[0]
        if at > now:
            time.sleep(min(at - now, until - now))
            continue
        agents[number].send()
        sent += 1
        heapq.heapreplace(due, (at + 1 / plan.rate, number))
        if now >= beats[number]:
            agents[number].beat()
            beats[number] += HEARTBEAT_S
    cpu = time.process_time() - cpu
    time.sleep(1.0)  # for what is on its way
    counts = [agent.publisher.counts for agent in agents]
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    results.put(
        Fleet(
            connected_s, sent, sum(c.delivered for c in counts), sum(c.dropped.sum for c in counts), cpu, rss,
            sum(c.connections - 1 for c in counts),
        )
    )  # fmt: skip
    go.get()  # until the broker has been looked at with all connections
    os._exit(0)


def subscribe(port: int, ready: Queue[None], stop: Queue[None], results: Queue[tuple[int, list[float], float]]) -> None:
    """Counts everything, and takes the latency of one event in ten."""
    latencies: list[float] = []
    count = 0
    client = paho.Client(CallbackAPIVersion.VERSION2, "the-subscriber")

    def heard(_client: paho.Client, _user: object, message: paho.MQTTMessage) -> None:
        nonlocal count
        if message.topic.endswith("/detections"):
            count += 1
            if count % 10 == 0:
                latencies.append((time.monotonic() - json.loads(message.payload)["pts_s"]) * 1e3)

    client.on_message = heard
    client.on_subscribe = lambda *_: ready.put(None)
    client.connect("127.0.0.1", port)
    client.subscribe("edge/#", qos=1)
    threading.Thread(target=client.loop_forever, daemon=True).start()
    stop.get()
    results.put((count, latencies, time.process_time()))


@dataclass(frozen=True)
class Step:
    """One line of the table."""

    agents: int
    sent: int
    received: int
    lost: int
    seconds: float
    connect_s: float
    broker_cpu_s: float
    broker_rss: int
    broker_idle_rss: int
    agents_cpu_s: float
    agents_rss: int
    latency: tuple[float, float, float]
    reconnects: int


def measure(plan: Plan) -> Step:
    """A broker, a subscriber and so many agents, all new."""
    with tempfile.TemporaryDirectory(prefix="edge-agent-fleet-") as folder:
        config = Path(folder, "mosquitto.conf")
        config.write_text(
            f"listener {plan.port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest none\nmax_queued_messages 0\n"
        )
        binary = installed()
        assert binary is not None
        broker = subprocess.Popen([binary, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(0.5)
            return _with_broker(plan, broker.pid)
        finally:
            broker.kill()
            broker.wait()


def _with_broker(plan: Plan, broker: int) -> Step:
    context = multiprocessing.get_context("spawn")
    ready, results, heard = context.Queue(), context.Queue(), context.Queue()
    stop: Queue[None] = context.Queue()
    idle_rss = _rss(broker)
    listener = context.Process(target=subscribe, args=(plan.port, ready, stop, heard), daemon=True)
    listener.start()
    ready.get(timeout=30)
    workers, gates = [], []
    for first in range(0, plan.agents, PER_PROCESS):
        gate: Queue[None] = context.Queue()
        mine = replace(plan, agents=min(PER_PROCESS, plan.agents - first))
        workers.append(context.Process(target=run_agents, args=(first, mine, ready, gate, results), daemon=True))
        gates.append(gate)
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.get(timeout=90)
    time.sleep(SETTLE_S)
    cpu = _cpu_s(broker)
    for gate in gates:
        gate.put(None)
    fleets = [results.get(timeout=plan.seconds + 60) for _ in workers]
    cpu, rss = _cpu_s(broker) - cpu, _rss(broker)
    stop.put(None)
    received, latencies, _ = heard.get(timeout=30)
    for gate, worker in zip(gates, workers, strict=True):
        gate.put(None)
        worker.join(10)
    listener.join(10)
    ordered = sorted(latencies) or [0.0]
    at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 0.99)]
    return Step(
        agents=plan.agents,
        sent=sum(each.sent for each in fleets),
        received=received,
        lost=sum(each.dropped for each in fleets),
        seconds=plan.seconds,
        connect_s=max(each.connected_s for each in fleets),
        broker_cpu_s=cpu,
        broker_rss=rss,
        broker_idle_rss=idle_rss,
        agents_cpu_s=sum(each.cpu_s for each in fleets),
        agents_rss=sum(each.rss_bytes for each in fleets),
        latency=(at[0], at[1], at[2]),
        reconnects=sum(each.reconnects for each in fleets),
    )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def show(step: Step) -> None:
    """One line of the table."""
    p50, p95, p99 = step.latency
    print(
        f"| {step.agents} | {step.sent / step.seconds:.0f} | {step.received} of {step.sent} | {step.lost} | {step.connect_s:.1f} "
        f"| {100 * step.broker_cpu_s / step.seconds:.0f} % | {1e6 * step.broker_cpu_s / max(1, step.sent):.0f} "
        f"| {step.broker_rss / 1e6:.1f} | {1e3 * step.agents_cpu_s / max(1, step.sent):.2f} | {p50:.1f} / {p95:.1f} / {p99:.1f} |",
        flush=True,
    )


def extrapolate(steps: list[Step], rate: float) -> None:
    """From the steps to what one core of broker may carry, with what that leaves out."""
    largest = steps[-1]
    per_message = statistics.median(step.broker_cpu_s / max(1, step.sent) for step in steps[len(steps) // 2 :])
    per_agent = (largest.broker_rss - largest.broker_idle_rss) / largest.agents
    print(f"\nBroker: {per_message * 1e6:.0f} us of CPU per event with one subscriber, {per_agent / 1e3:.1f} kB of memory per agent.")
    print(f"Of one core to half: {0.5 / per_message:.0f} events/s, which is {0.5 / per_message / rate:.0f} agents at {rate:g} events/s.")
    print(
        "Extrapolated, not measured: mosquitto works in one thread, so a second core is no help; each further subscriber costs about as\n"
        "much again; TLS, persistence and a real network are not in it; and here broker, agents and subscriber shared one machine's cores."
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", default="50,100,200,400")
    parser.add_argument("--rate", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    given = parser.parse_args()
    if installed() is None:
        raise SystemExit("needs mosquitto (Debian package mosquitto)")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    steps = []
    for agents in map(int, given.agents.split(",")):
        steps.append(measure(Plan(free_port(), agents, given.rate, given.seconds)))
        show(steps[-1])
    extrapolate(steps, given.rate)


if __name__ == "__main__":
    main()
