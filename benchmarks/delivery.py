#!/usr/bin/env python3
"""What delivery costs, and what an outage does: a real mosquitto, a real spool on disk, messages of the usual size.

    PYTHONPATH=. python benchmarks/delivery.py [store] [healthy] [outage]

store: SQLite in WAL mode beside a segment log of one's own (docs/decisions/0022-spool-store.md). healthy: throughput, CPU and bytes
written per event with each durability. outage: an hour at 30 events/s, handed over as fast as they come (accelerated), then drained
beside live traffic. Bytes written are those of this process's write calls (/proc/self/io).
"""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from edge_agent._spool_disk import Disk
from edge_agent._spool_rows import Row
from edge_agent._spool_store import Store
from edge_agent.broker_sink import build_sink
from edge_agent.config import AgentConfig
from edge_agent.config_file import build
from edge_agent.events import STATUS_ONLINE, Kind, Message
from edge_agent.plugins import PluginKinds
from edge_agent.publisher import Publisher
from edge_agent.spool import Spool, SpoolLimits
from tests.conftest import Mosquitto
from tests.subscriber import subscribed

SIZE = 1000


def payload(number: int) -> bytes:
    """One detections message of the usual size."""
    return (b'{"seq":%d,"pad":"' % number).ljust(SIZE - 2, b"x") + b'"}'


def written() -> tuple[int, int]:
    """Bytes given to write calls, and bytes that went towards the disk."""
    found = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(found["wchar"]), int(found["write_bytes"])


def rss_mb() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class SegmentLog:
    """The contender: length, checksum, payload, appended and synced; a cursor file for what is done with."""

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "log").open("ab", buffering=0)
        self.cursor = os.open(folder / "cursor", os.O_RDWR | os.O_CREAT, 0o600)

    def apply(self, rows: list[Row], gone: list[tuple[int, int]]) -> None:
        """As Store.apply."""
        if rows:
            heads = ((json.dumps([row.position, row.message.kind.value, row.message.camera]).encode(), row.message.payload) for row in rows)
            self.file.write(b"".join(struct.pack("<II", len(h) + len(p), zlib.crc32(p, zlib.crc32(h))) + h + p for h, p in heads))
            os.fdatasync(self.file.fileno())
        if gone:
            os.pwrite(self.cursor, struct.pack("<QI", gone[-1][1], zlib.crc32(struct.pack("<Q", gone[-1][1]))), 0)
            os.fdatasync(self.cursor)


def store(folder: Path) -> None:
    """The two candidates, in transactions of one, thirty and five hundred."""
    for lot in (1, 30, 500):
        for name in ("sqlite", "segments"):
            place = folder / f"{name}-{lot}"
            place.mkdir()
            made = Store(place / "mqtt.db") if name == "sqlite" else SegmentLog(place)
            if isinstance(made, Store):
                made.open()
            count = 500 if lot == 1 else 6000
            before, start, cpu = written(), time.perf_counter(), time.process_time()
            for first in range(1, count + 1, lot):
                made.apply([Row(n, Message(Kind.DETECTIONS, "front", payload(n), 1.0), 0.0, "b") for n in range(first, first + lot)], [])
            for last in range(lot, count + 1, max(lot, 200)):
                made.apply([], [(max(1, last - max(lot, 200) + 1), last)])
            seconds, used, after = time.perf_counter() - start, time.process_time() - cpu, written()
            print(f"{name:9} {lot:4} a transaction: {seconds / count * 1e6:7.0f} us, {used / count * 1e6:6.0f} us CPU, "
                  f"{(after[0] - before[0]) / count:7.0f} B written/event")  # fmt: skip


def settings(port: int) -> AgentConfig:
    """For the broker on that port."""
    tables = {"mqtt": {"host": "127.0.0.1", "port": port}, "cameras": [{"id": "front", "source": "synthetic"}]}
    return build(tables, PluginKinds(), environ={})


def publisher(port: int, folder: Path, durability: str, name: str) -> Publisher:
    """Connecting, with a spool of its own."""
    disk = None if durability == "memory" else Disk(Store(folder / f"{name}.db"), always=durability == "always")
    spool = Spool(SpoolLimits(10_000, 16 << 20), disk)
    made = Publisher(build_sink(settings(port), "bench"), spool)
    made.publish(STATUS_ONLINE)
    made.start()
    return made


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Poll until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("waited in vain")
        time.sleep(0.005)


def healthy(folder: Path) -> None:
    """A broker that answers."""
    broker = Mosquitto(folder).start()
    try:
        for durability in ("memory", "interval", "always"):
            made = publisher(broker.port, folder, durability, name=f"healthy-{durability}")
            until(lambda made=made: made.connected)  # type: ignore[misc]
            # as cameras give them: 30 a second
            before, cpu, start = written(), time.process_time(), time.monotonic()
            for n in range(150):
                made.publish(Message(Kind.DETECTIONS, "front", payload(n)))
                time.sleep(max(0.0, start + (n + 1) / 30 - time.monotonic()))
            until(lambda made=made: made.queued[0] == 0)  # type: ignore[misc]
            slow_cpu, after = (time.process_time() - cpu) / 150 * 1e6, written()
            sent = (after[0] - before[0]) / 150  # not what goes to the socket; waking a thread writes 8
            # as fast as it goes
            count = 2000 if durability == "always" else 20_000
            cpu, start = time.process_time(), time.perf_counter()
            for n in range(count):
                while made.queued[0] > 5000:
                    time.sleep(0.001)
                made.publish(Message(Kind.DETECTIONS, "front", payload(n)))
            until(lambda made=made: made.queued[0] == 0)  # type: ignore[misc]
            seconds = time.perf_counter() - start
            print(f"{durability:8}: {count / seconds:7.0f} events/s, {(time.process_time() - cpu) / count * 1e6:5.0f} us CPU each; at 30/s "
                  f"{slow_cpu:5.0f} us CPU each, written {sent:6.0f} B each, dropped {made.counts.dropped.sum}")  # fmt: skip
            made.stop(5)
    finally:
        broker.stop()


def outage(folder: Path) -> None:
    """A broker that is away for an hour."""
    broker = Mosquitto(folder).start()
    made = publisher(broker.port, folder, "interval", name="outage")
    until(lambda: made.connected)
    broker.stop()
    until(lambda: not made.connected)
    hour, cpu, before, start = 3600 * 30, time.process_time(), written(), time.perf_counter()
    memory = [rss_mb()]
    for n in range(hour):
        if n % 1000 == 0:  # the acceleration must not be what overflows memory: disks are slower than this loop
            until(lambda: made.queued[0] - made.spool.on_disk < 4000)
        made.publish(Message(Kind.DETECTIONS, "front", payload(n)))
        if n % 10_000 == 0:
            memory.append(rss_mb())
    seconds, after = time.perf_counter() - start, written()
    until(lambda: made.spool.on_disk > hour * 0.9)
    file_mb = sum(file.stat().st_size for file in folder.glob("outage.db*")) / 1e6
    print(f"outage: {hour} events in {seconds:.1f} s, {(time.process_time() - cpu) / hour * 1e6:.0f} us CPU each, "
          f"{(after[0] - before[0]) / hour:.0f} B written each, file {file_mb:.0f} MB, "
          f"RSS {memory[1]:.0f} -> {max(memory):.0f} MB, dropped {made.counts.dropped.sum}")  # fmt: skip
    _drain(broker, made)
    made.stop(5)


def _drain(broker: Mosquitto, made: Publisher) -> None:
    broker.start()
    with subscribed(broker.port, "edge/bench/health") as heard:
        until(lambda: made.connected, 90)
        start, first, waiting, live, late = time.perf_counter(), made.counts.delivered, made.queued[0], 0, [0.0]
        while made.queued[0] > 2 and time.perf_counter() - start < 170:
            made.publish(Message(Kind.DETECTIONS, "front", payload(live)))
            if live % 30 == 0:
                said, before = time.perf_counter(), len(heard.heard)
                made.publish(Message(Kind.HEALTH, None, b"%d" % live))
                until(lambda before=before: len(heard.heard) > before, 30)  # type: ignore[misc]
                late.append(time.perf_counter() - said)
            live += 1
            time.sleep(1 / 30)
        seconds = time.perf_counter() - start
    print(f"drained: {waiting} waited, {(made.counts.delivered - first) / seconds:.0f} events/s beside {live} live ones, "
          f"left {made.queued[0]}, RSS {rss_mb():.0f} MB, health at a subscriber within {max(late) * 1e3:.0f} ms")  # fmt: skip


def main() -> None:
    """Those that were asked for."""
    wanted = sys.argv[1:] or ["store", "healthy", "outage"]
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        for name in wanted:
            {"store": store, "healthy": healthy, "outage": outage}[name](Path(folder))


if __name__ == "__main__":
    main()
