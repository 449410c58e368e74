"""What comes in: a command as a sink received it, not yet read."""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.events import ReplyTo


@dataclass(frozen=True, slots=True)
class Request:
    """One message on a command topic. Its payload comes from anyone who may write there, and is not to be trusted."""

    camera: str | None
    """Which camera it is for; None: the device."""
    payload: bytes
    retained: bool
    """The broker kept it from earlier: nobody asks this now."""
    reply_to: ReplyTo | None
