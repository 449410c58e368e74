"""What the broker sends us: commands, and what it has kept of cameras that are no more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.events import ReplyTo
from edge_agent.requests import Request
from edge_agent.sinks._mqtt_link import Link
from edge_agent.sinks._mqtt_paho import INBOUND_LARGEST, BoundedClient
from edge_agent.sinks._mqtt_topics import Topics
from edge_agent.sinks._mqtt_words import FAILURE, said
from edge_agent.stats import ReasonCounter

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""How long the broker may take to send what it has kept."""
_MOST_STALE = 1000
"""Topics to clear that are remembered at once; the others are found on the next connection."""
_STRIKES = 3
_DEAF_S, _DEAFEST_S = 60.0, 3600.0
"""How long to do without commands where the broker hangs up on whoever asks for them: twice as long each time, for it may
have been the network."""


class Inbound:
    """Outlives its connections; used by the thread that drives the sink."""

    def __init__(
        self,
        topics: Topics,
        on_request: Callable[[Request], None] | None,
        cameras: Collection[str] | None,
        *,
        v5: bool,
        keeps_detections: bool,
    ) -> None:
        """``cameras``: those that exist; None: not to look for others. ``keeps_detections``: ours are to be retained."""
        self._topics, self._on_request, self._cameras = topics, on_request, cameras
        self._v5, self._keeps_detections = v5, keeps_detections
        self.received = 0
        """Requests handed on."""
        self.ignored = ReasonCounter()
        """Messages that were not: ``too_large``, ``not_ours``."""
        self._told: set[str] = set()
        self._commands_mid: int | None = None
        self._leftovers_mid: int | None = None
        self._looked_until: float | None = None
        self._strikes = 0
        """Connections in a row that ended before the broker answered a subscription."""
        self._deaf_s = _DEAF_S
        self._ask_at: float | None = None
        """When to subscribe again; None: that was done."""
        self._stale: list[str] = []
        self._clearing: dict[int, str] = {}
        """By the number of what was sent to clear them."""
        self._client: BoundedClient | None = None

    def attach(self, link: Link) -> None:
        """Subscribe, on a connection that has just come up."""
        client = self._client = link.client
        client.on_message, client.on_subscribe = self._on_message, self._on_subscribe
        self._commands_mid = self._leftovers_mid = None
        self._stale.clear()
        self._clearing.clear()
        if self._strikes >= _STRIKES and self._on_request is not None and self._cameras is not None:
            # Perhaps it is only what we look for that it does not like: commands are worth another try.
            self._strikes, self._cameras, self._looked_until = 0, None, None
            self._ask(client)
        elif self._strikes >= _STRIKES:
            self._strikes = _STRIKES - 1  # the next time, one is enough
            self._ask_at = time.monotonic() + self._deaf_s
            self._deaf_s = min(2 * self._deaf_s, _DEAFEST_S)
            self._tell("no commands for now, the broker hangs up when we subscribe; allow us to read our command topics")
        elif self._ask_at is None:
            self._ask(client)

    def _ask(self, client: paho.Client) -> None:
        if self._on_request is not None:
            self._commands_mid = self._subscribe(client, self._topics.commands, no_local=False)
        if self._cameras is not None:
            self._leftovers_mid = self._subscribe(client, self._topics.leftovers, no_local=True)
            self._looked_until = time.monotonic() + LOOK_S

    def _subscribe(self, client: paho.Client, topics: Sequence[str], *, no_local: bool) -> int | None:
        options: list[Any] = [(topic, SubscribeOptions(qos=1, noLocal=no_local) if self._v5 else 1) for topic in topics]
        return client.subscribe(options)[1]

    def detach(self, link: Link) -> None:
        """The connection is no more. Some brokers say no to a subscription by hanging up; they are not asked for ever."""
        unanswered = self._commands_mid is not None or self._leftovers_mid is not None
        if unanswered and link.hung_up:
            self._strikes += 1

    def has_state(self, camera: str) -> None:
        """The camera is alive, for its state is about to be written: a reload may have added it."""
        if self._cameras is not None and camera not in self._cameras:
            self._cameras = {*self._cameras, camera}

    def tidy(self, link: Link) -> None:
        """Clear what the broker keeps of cameras that are no more, and stop looking for it in time. Cheap."""
        now = time.monotonic()
        if self._ask_at is not None and now > self._ask_at:
            self._ask_at = None
            self._ask(link.client)
        while self._stale and link.in_flight < link.granted.window and link.granted.may_retain:
            topic = self._stale.pop()
            if self._is_stale(topic):
                log.info("clearing what the broker kept of a camera that is no more topic=%s", topic)
                self._clearing[link.publish(topic, b"", min(1, link.granted.most_qos), True)] = topic
        for mid in self._clearing.keys() & link.acks.keys():  # numbers come again: none may be left that nobody asks about
            topic, (reason, told) = self._clearing.pop(mid), link.acks.pop(mid)
            if reason.value >= FAILURE:
                log.warning("what the broker kept of a camera stays, it refuses topic=%s reason=%s", topic, said(reason, told))
        if self._looked_until is not None and now > self._looked_until:
            self._looked_until = None
            self._cameras = None  # who removes one while we run says so itself
            link.client.unsubscribe(list(self._topics.leftovers))

    def _on_subscribe(
        self, _client: paho.Client, _user: Any, mid: int, reasons: Sequence[ReasonCode], properties: Properties | None
    ) -> None:
        refused = [reason for reason in reasons if reason.is_failure]
        if mid == self._leftovers_mid:
            self._leftovers_mid = None
            if refused:
                log.debug("the broker does not let us look for what it kept of cameras reason=%s", refused[0])
        elif mid == self._commands_mid:
            self._commands_mid = None
            if refused:
                why = said(refused[0], properties)
                self._tell(f"no commands will come, the broker refuses the subscription: {why} (allow us to read our command topics)")
            else:
                self._told.clear()
        if self._commands_mid is None and self._leftovers_mid is None:
            self._strikes, self._deaf_s = 0, _DEAF_S

    def _tell(self, what: str) -> None:
        """Once, not on every reconnect."""
        if what not in self._told:
            self._told.add(what)
            log.warning("%s topics=%s", what, ", ".join(self._topics.commands))

    def _on_message(self, _client: paho.Client, _user: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self.ignored["not_ours"] += 1
            return
        is_command, camera = self._topics.is_command(topic)
        if is_command and self._on_request is not None:
            self._request(self._on_request, camera, message)
        elif message.retain and message.payload and self._is_stale(topic):
            if len(self._stale) < _MOST_STALE:
                self._stale.append(topic)
        elif self._looked_until is None:
            self.ignored["not_ours"] += 1

    def _request(self, on_request: Callable[[Request], None], camera: str | None, message: paho.MQTTMessage) -> None:
        size = 0 if self._client is None else self._client.received_bytes
        if size > INBOUND_LARGEST:  # of MQTT 3.1.1, which has no way to tell the broker
            self.ignored["too_large"] += 1
            self._tell(f"commands of more than {INBOUND_LARGEST} bytes are ignored")
            return
        self.received += 1
        on_request(Request(camera, bytes(message.payload), message.retain, self._reply_to(message.properties)))

    def _reply_to(self, properties: Properties | None) -> ReplyTo | None:
        topic = getattr(properties, "ResponseTopic", None)
        if topic is None:
            return None
        if not self._topics.may_answer_on(topic):
            self._tell("a command wanted its answer on a topic that is not for answers: it is only answered on command/result")
            return None
        return ReplyTo(topic, getattr(properties, "CorrelationData", None))

    def _is_stale(self, topic: str) -> bool:
        camera, leaf = self._topics.of_camera(topic)
        if self._cameras is None or camera is None:
            return False
        return camera not in self._cameras or (leaf == "detections" and not self._keeps_detections)
