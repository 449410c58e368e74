"""Whether every event reaches the broker, whatever happens: the real daemon, a real broker, a bad network between, and the books.

What the daemon owes is read from its second sink, a file of JSON Lines: an event is handed to the broker's spool first, so
one that stands in the file was accepted by the spool. What the broker got is read from the packets: an event is delivered
when the broker's own PUBACK for it was seen, whether the daemon ever heard it or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import CommandLine, Mosquitto, wait_until
from tests.proxy import Cut, Direction, Link, PacketType, Proxy, Weather

Identity = tuple[str, int]
"""Camera and seq."""
CAMERAS = ("a", "b")
OVERLOADED = (0x80, 0x88, 0x89, 0x97, 0x9F)
"""Reason codes after which trying again is right (MQTT 5, 2.4)."""


WALL_CLOCK = """
import os, time
of_the_machine, file = time.time, os.environ["WALL_CLOCK"]
def ahead():
    with open(file) as found:
        return of_the_machine() + float(found.read())
time.time = ahead
"""
"""Python runs it first, in the daemon: its wall clock goes as far ahead of the machine's as stands in a file."""


@dataclass
class Books:
    """What went to the broker, as the packets tell. Filled from the proxy's threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    sent: dict[Identity, str] = field(default_factory=dict)
    """A hash of the payload, when it first came."""
    order: dict[str, list[int]] = field(default_factory=lambda: {camera: [] for camera in CAMERAS})
    """Each camera's seqs as they first came."""
    acknowledged: set[Identity] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    duplicates: int = 0
    _pending: dict[tuple[Link, int], Identity] = field(default_factory=dict)
    _on_link: set[tuple[Link, Identity]] = field(default_factory=set)

    def tap(self, link: Link, direction: Direction, packet: bytes) -> None:
        """One packet that went through."""
        kind = packet[0] >> 4
        with self.lock:
            if direction == "up" and kind == PacketType.PUBLISH:
                self._published(link, packet)
            elif direction == "down" and kind == PacketType.PUBACK:
                code = packet[4] if packet[1] > 2 else 0
                identity = self._pending.pop((link, int.from_bytes(packet[2:4], "big")), None)
                if identity is not None and code < 0x80:
                    self.acknowledged.add(identity)

    def _published(self, link: Link, packet: bytes) -> None:
        topic, number, payload = parse_publish(packet)
        if not topic.endswith("/detections"):
            return
        event = json.loads(payload)
        identity = (event["camera"], event["seq"])
        digest = hashlib.sha256(payload).hexdigest()
        if (link, identity) in self._on_link:
            self.violations.append(f"{identity} was sent twice on one connection")
        self._on_link.add((link, identity))
        if identity in self.sent:
            self.duplicates += 1
            if self.sent[identity] != digest:
                self.violations.append(f"{identity} was changed")
        else:
            self.sent[identity] = digest
            if self.order[identity[0]] and self.order[identity[0]][-1] > identity[1]:
                self.violations.append(f"{identity} came after {self.order[identity[0]][-1]}")
            self.order[identity[0]].append(identity[1])
        if number is not None:
            self._pending[link, number] = identity


def parse_publish(packet: bytes) -> tuple[str, int | None, bytes]:
    """Topic, packet identifier and payload of a PUBLISH of MQTT 5 (3.3)."""
    at = 1
    while packet[at] & 0x80:
        at += 1
    at += 1
    length = int.from_bytes(packet[at : at + 2], "big")
    topic = packet[at + 2 : at + 2 + length].decode()
    at += 2 + length
    number = None
    if packet[0] >> 1 & 3:
        number = int.from_bytes(packet[at : at + 2], "big")
        at += 2
    properties, shift = 0, 0
    while True:
        byte = packet[at]
        properties |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            break
    return topic, number, packet[at + properties :]


class World:
    """The daemon, the network and the broker, and what may happen to them."""

    def __init__(self, command: CommandLine, durability: str, seed: int, interval_s: float = 0.3) -> None:
        """``interval_s``: of the durability of that name."""
        self.random = random.Random(seed)
        self.durability, self.interval_s = durability, interval_s
        self.books = Books()
        self.broker = Mosquitto(command.folder).start()
        self.proxy = Proxy(self.broker.port, self.books.tap)
        self.happened: dict[str, int] = {}
        self.excused: set[Identity] = set()
        """Accepted so shortly before a kill that they may be lost with it."""
        self._command = command
        self._agent: subprocess.Popen[str] | None = None
        self._disk = self._mount(command.folder / "state")
        self._clock = command.folder / "clock"
        self._clock.write_text("0")
        (command.folder / "sitecustomize.py").write_text(WALL_CLOCK)
        self._write_config()

    def _mount(self, folder: Path) -> Path | None:
        """A small disk of its own for the state, where this user may mount one."""
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "edge-agent-test", str(folder)], capture_output=True, check=False)
        return folder if done.returncode == 0 else None

    def _write_config(self) -> None:
        lines = [
            '[device]\nid = "dev"\nstate_dir = "state"',
            f'[mqtt]\nhost = "127.0.0.1"\nport = {self.proxy.port}\nconnect_timeout_s = 0.5\nack_timeout_s = 0.5\nreconnect_max_s = 0.5',
            f'[spool]\ndurability = "{self.durability}"\ninterval_s = {self.interval_s}',
            '[health]\ninterval_s = 0.5\n[log]\nlevel = "warning"',
            '[sinks.jsonl]\npath = "accepted.jsonl"\nmax_bytes = 1000000000\nfsync = "never"',
            *(f'[[cameras]]\nid = "{camera}"\nsource = "synthetic"\nmax_fps = 15' for camera in CAMERAS),
        ]
        (self._command.folder / "agent.toml").write_text("\n".join(lines) + "\n")

    # -- the daemon -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the daemon."""
        # Nobody reads its log while it runs: a file, not a pipe that would fill up.
        with (self._command.folder / "agent.log").open("a") as log:
            self._agent = subprocess.Popen(
                [sys.executable, "-m", "edge_agent", "run", "-c", "agent.toml"],
                cwd=self._command.folder,
                env=self._command.environment({"PYTHONPATH": str(self._command.folder), "WALL_CLOCK": str(self._clock)}),
                stdout=log,
                stderr=log,
                text=True,
            )

    def kill(self) -> None:
        """kill -9."""
        assert self._agent is not None
        assert self._agent.poll() is None, f"the daemon ended by itself: {self.log()[-2000:]}"
        wait_until(lambda: self.mode() == self.durability, 90, "the spool's disk")  # one that was full is tried again after a while
        if self.durability != "always":
            before = self.owed()
            time.sleep(self.interval_s * 2 + 0.4)  # what was accepted before that must be on disk, or delivered
            self._agent.kill()
            self._agent.wait()
            self.excused |= self.owed() - before
        else:
            self._agent.kill()
            self._agent.wait()

    def end(self) -> int:
        """A clean stop; the exit code."""
        assert self._agent is not None
        self._agent.send_signal(signal.SIGTERM)
        return self._agent.wait(15)

    def close(self) -> None:
        """Let go of everything."""
        if self._agent is not None and self._agent.poll() is None:
            self._agent.kill()
            self._agent.wait()
        self.proxy.close()
        self.broker.stop()
        if self._disk is not None:
            subprocess.run(["umount", "-l", str(self._disk)], check=True)

    def log(self) -> str:
        """What the daemon has said."""
        return (self._command.folder / "agent.log").read_text()

    def accepted(self) -> dict[Identity, str]:
        """The events that the spool has accepted, with a hash of each payload, in order."""
        found = {}
        with contextlib.suppress(FileNotFoundError), (self._command.folder / "accepted.jsonl").open("rb") as lines:
            for line in lines:
                if b'"kind":"detections"' not in line[:100] or not line.endswith(b"}\n"):
                    continue  # the last one of a daemon that was killed may be a part of one
                payload = line[line.index(b',"payload":') + len(b',"payload":') : -2]
                event = json.loads(payload)
                found[event["camera"], event["seq"]] = hashlib.sha256(payload).hexdigest()
        return found

    def mode(self) -> str:
        """What the last heartbeat says of how the spool keeps events now."""
        lines = (self._command.folder / "accepted.jsonl").read_bytes().splitlines()
        last = next((line for line in reversed(lines) if b'"kind":"health"' in line[:100] and line.endswith(b"}")), None)
        return "" if last is None else str(json.loads(last)["payload"]["delivery"]["spool"]["mode"])

    def owed(self) -> set[Identity]:
        """What has to reach the broker."""
        return set(self.accepted())

    # -- what may happen --------------------------------------------------------------------------------------------------

    def faults(self) -> dict[str, Callable[[], None]]:
        """By name; each leaves the world well."""
        return {
            "agent killed": self._agent_killed,
            "broker killed": self._broker_killed,
            "broker away": self._broker_away,
            "cut": self._cut,
            "cut at a packet": self._cut_at_packet,
            "cut in a packet": lambda: self._cut_at_packet(passed=self.random.random()),
            "black hole": lambda: self._for_a_while(Weather(black_hole=True)),
            "clock step": self._clock_step,
            "slow": lambda: self._for_a_while(Weather(latency_s=self.random.uniform(0.01, 0.2))),
            "narrow": lambda: self._for_a_while(Weather(bytes_per_s=self.random.uniform(5_000, 50_000))),
            "refused": lambda: self._for_a_while(Weather(refuses=True), cut=True),
            "no CONNACK": lambda: self._for_a_while(Weather(swallows=frozenset({PacketType.CONNACK})), cut=True),
            "no PUBACK": lambda: self._for_a_while(Weather(swallows=frozenset({PacketType.PUBACK}))),
            "quota": lambda: self._for_a_while(Weather(puback_code=0x97)),
            **({"disk full": self._disk_full} if self._disk is not None else {}),
            "refuses to connect": lambda: self._for_a_while(Weather(connack_code=self.random.choice(OVERLOADED)), cut=True),
        }

    def happen(self, name: str) -> None:
        """One of them."""
        self.happened[name] = self.happened.get(name, 0) + 1
        self.faults()[name]()

    def _agent_killed(self) -> None:
        self.kill()
        self.begin()
        time.sleep(self.random.uniform(0.5, 2.5))  # in its start, or after it

    def _broker_killed(self) -> None:
        self.broker.stop()
        self.broker.start()

    def _broker_away(self) -> None:
        self.broker.stop()
        self._while()
        self.broker.start()

    def _cut(self) -> None:
        self.proxy.cut_all()

    def _cut_at_packet(self, passed: float = 0.0) -> None:
        kind = self.random.choice([t for t in PacketType if t not in {PacketType.PINGREQ, PacketType.PINGRESP, PacketType.DISCONNECT}])
        down = kind in {PacketType.CONNACK, PacketType.PUBACK, PacketType.SUBACK}
        self.proxy.weather = Weather(cut=Cut("down" if down else "up", kind, passed))
        if kind in {PacketType.CONNECT, PacketType.CONNACK, PacketType.SUBSCRIBE, PacketType.SUBACK}:
            self.proxy.cut_all()
        self._while()
        self.proxy.weather = Weather()

    def _clock_step(self) -> None:
        """The wall clock jumps, by seconds or by years, while the broker is away or not."""
        if self.random.random() < 0.5:
            self.proxy.cut_all()
        ahead = self._clock.with_suffix(".new")
        ahead.write_text(repr(self.random.choice([-1, 1]) * 10 ** self.random.uniform(0, 8)))
        ahead.replace(self._clock)
        self._while()

    def _disk_full(self) -> None:
        """While the broker is away, so that there is something to write. What was accepted meanwhile may be in memory only."""
        assert self._disk is not None
        self.proxy.weather = Weather(refuses=True)
        self.proxy.cut_all()
        ballast = self._disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        self._while()
        ballast.unlink()
        self.proxy.weather = Weather()
        owed = self.owed()
        wait_until(lambda: not (owed & self.missing()), 60, f"what came while the disk was full, after {self.happened}")

    def _for_a_while(self, weather: Weather, *, cut: bool = False) -> None:
        self.proxy.weather = weather
        if cut:
            self.proxy.cut_all()
        self._while()
        self.proxy.weather = Weather()

    def _while(self) -> None:
        time.sleep(self.random.uniform(0.05, 1.2))

    # -- the books --------------------------------------------------------------------------------------------------------

    def missing(self) -> set[Identity]:
        """Owed, and not delivered."""
        with self.books.lock:
            return self.owed() - self.excused - self.books.acknowledged

    def changed(self) -> set[Identity]:
        """What reached the broker and is not, to the byte, what was accepted."""
        accepted = self.accepted()
        with self.books.lock:
            return {identity for identity, digest in self.books.sent.items() if accepted.get(identity, digest) != digest}

    def invented(self) -> set[Identity]:
        """What reached the broker and was never accepted: all but what a daemon was killed too early to write down."""
        accepted = self.accepted()
        last = {camera: max((seq for name, seq in accepted if name == camera), default=-1) for camera in CAMERAS}
        with self.books.lock:
            unknown = self.books.sent.keys() - accepted.keys()
        kills = self.happened.get("agent killed", 0)
        return unknown if len(unknown) > 40 * kills or any(seq > last[camera] + 1000 and not kills for camera, seq in unknown) else set()
