"""One way in for all sinks: each has a publisher of its own, with a queue, a thread and a pace, so that none waits for another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from edge_agent.events import Message
from edge_agent.publisher import DeliveryCounts, Publisher
from edge_agent.sinks.base import Sink

BROKER = "mqtt"


class Delivery:
    """All publishers, by the names of their sinks. What is asked of it as if it were one is the first one's. From any thread."""

    def __init__(self, publishers: Mapping[str, Publisher]) -> None:
        """At least one; the broker's first, if there is one."""
        self.publishers = dict(publishers)
        self.main = next(iter(self.publishers.values()))

    def publish(self, message: Message) -> None:
        """To all of them; never raises, and blocks no longer than ``Publisher.publish`` does.

        What passes (answers to commands, snapshots) only to the broker, which commands come from.
        """
        for name, publisher in self.publishers.items():
            if name == BROKER or message.kind.keeping != "passing":
                publisher.publish(message)

    def start(self) -> None:
        """Begin to connect."""
        for publisher in self.publishers.values():
            publisher.start()

    def stop(self, timeout_s: float, *, keep_trying: bool = False, hurry: Callable[[], bool] = lambda: False) -> bool:
        """As ``Publisher.stop``, all at the same time: what one cannot deliver takes nothing of the others' time."""
        ended: dict[str, bool] = {}

        def end(name: str, publisher: Publisher) -> None:
            ended[name] = publisher.stop(timeout_s, keep_trying=keep_trying, hurry=hurry)

        threads = [threading.Thread(target=end, args=each, daemon=True) for each in self.publishers.items()]
        until = time.monotonic() + timeout_s + 1.0
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return all(ended.get(name, False) for name in self.publishers)

    @property
    def is_alive(self) -> bool:
        """Whether every runner's thread runs."""
        return all(publisher.is_alive for publisher in self.publishers.values())

    @property
    def connected(self) -> bool:
        """Whether the first one is."""
        return self.main.connected

    @property
    def error(self) -> str | None:
        """Why the first one is not connected."""
        return self.main.error

    @property
    def sink(self) -> Sink:
        """The first one."""
        return self.main.sink

    @property
    def counts(self) -> DeliveryCounts:
        """Of the first one."""
        return self.main.counts

    @property
    def undelivered(self) -> int:
        """Events that were lost at the end, by whichever sink lost most. What is kept on disk is not: the next run delivers it."""
        return max(publisher.counts.dropped["shutdown"] for publisher in self.publishers.values())

    def acknowledged_ms(self, camera: str | None = None) -> dict[str, float] | None:
        """Of the first one, as ``Publisher.acknowledged_ms``."""
        return self.main.acknowledged_ms(camera)
