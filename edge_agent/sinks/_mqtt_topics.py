"""The topic layout of the contract (docs/mqtt.md), both ways."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.events import Kind, Message

_LEAVES = {Kind.CAMERA_STATUS: "status", Kind.COMMAND_RESULT: "command/result"}
_LONGEST_REPLY = 1024
"""Bytes of a response topic that are believed: it comes from anyone who may send a command."""


@dataclass(frozen=True)
class Topics:
    """The topics of one device."""

    base: str
    device: str

    @property
    def root(self) -> str:
        """What all of them begin with."""
        return f"{self.base}/{self.device}"

    def of(self, message: Message) -> str:
        """Where a message goes."""
        leaf = _LEAVES.get(message.kind, message.kind.value)
        return f"{self.root}/{leaf}" if message.camera is None else f"{self.root}/camera/{message.camera}/{leaf}"

    @property
    def commands(self) -> tuple[str, str]:
        """What to subscribe to for commands: the device's, and those of all its cameras."""
        return f"{self.root}/command", f"{self.root}/camera/+/command"

    def is_command(self, topic: str) -> tuple[bool, str | None]:
        """Whether a topic is one for commands, and of which camera; None: the device."""
        if topic == f"{self.root}/command":
            return True, None
        camera, leaf = self.of_camera(topic)
        return leaf == "command", camera if leaf == "command" else None

    @property
    def leftovers(self) -> tuple[str, ...]:
        """What to subscribe to for what the broker has kept of cameras, perhaps of some that are no more."""
        return f"{self.root}/camera/+/status", f"{self.root}/camera/+/detections"

    def of_camera(self, topic: str) -> tuple[str | None, str]:
        """The camera that a topic of this device is about, and what it tells of it; ``None, ""`` for any other topic."""
        start = f"{self.root}/camera/"
        camera, slash, leaf = topic[len(start) :].partition("/")
        return (camera, leaf) if topic.startswith(start) and camera and slash and "/" not in leaf else (None, "")

    def may_answer_on(self, topic: str) -> bool:
        """Whether an answer may go where a request asks for it.

        It is the requester who chooses, and us who may write there: so never below our own topics, which others believe,
        nor to what is a command of another device. Some brokers hang up on control characters.
        """
        if (
            not topic
            or len(topic.encode(errors="replace")) > _LONGEST_REPLY
            or not topic.isprintable()
            or any(c in topic for c in "+#")
            or topic[0] == "$"
        ):
            return False
        is_ours = topic == self.root or topic.startswith(f"{self.root}/")
        return not is_ours and not (topic.startswith(f"{self.base}/") and topic.endswith("/command"))
