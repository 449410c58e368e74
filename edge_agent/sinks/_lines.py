"""Messages as JSON for sinks that have no topics: what MQTT says in the topic stands in an envelope around the payload."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge_agent.encoding import as_json
from edge_agent.errors import Rejected
from edge_agent.events import Kind, Message


def envelopes(messages: Sequence[Message], device: str, *, state: bool) -> list[bytes | Rejected | None]:
    """Of each message; None: it is state, and that is not wanted."""
    return [envelope(message, device) if state or not message.kind.is_state else None for message in messages]


def envelope(message: Message, device: str) -> bytes | Rejected:
    """``{"kind":...,"device":...,"camera":...,"payload":...}`` on one line, or why there can be none (its payload is damaged)."""
    payload = message.payload
    if not payload:  # a state that is cleared, as its camera is no more
        content = b"null"
    elif message.kind is Kind.STATUS:
        content = msgspec.json.encode(payload.decode())
    else:
        try:
            content = as_json(payload)
            msgspec.json.decode(content)  # one damaged payload must not make a file or a batch of many unreadable
        except (ValueError, RecursionError) as error:
            return Rejected(f"{message.kind.value} of {message.camera}: not a payload that JSON can hold: {error}")
    around = msgspec.json.encode({"kind": message.kind.value, "device": device, "camera": message.camera})
    return around[:-1] + b',"payload":' + content.replace(b"\n", b" ") + b"}"
