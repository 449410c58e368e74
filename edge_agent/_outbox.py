"""What is sent before events: state, kept as a last value, and what passes. Guarded by the publisher's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from edge_agent.events import STATUS_OFFLINE, Kind, Message
from edge_agent.stats import ReasonCounter

PASSING_MOST = 64
PASSING_MOST_BYTES = 8 << 20
"""Of answers and snapshots that wait; they are sent before events, so only a slow connection lets any wait."""
_STATUS = (Kind.STATUS, None)


class Outbox:
    """States and passing messages that wait for one sink."""

    def __init__(self) -> None:
        self.passing_delivered = 0
        self.passing_dropped = ReasonCounter()
        self._states: dict[tuple[Kind, str | None], Message] = {}
        self._unsent: dict[tuple[Kind, str | None], Message] = {}
        self._passing: deque[Message] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._unsent or self._passing)

    def set_state(self, message: Message) -> None:
        """A state's new value, which takes the place of the one before."""
        key = (message.kind, message.camera)
        self._states[key] = self._unsent[key] = message

    def pass_on(self, message: Message, *, connected: bool) -> None:
        """Send it soon, or not at all."""
        if not connected:
            self.passing_dropped["not_connected"] += 1
            return
        self._passing.append(message)
        self._bytes += len(message.payload)
        while len(self._passing) > PASSING_MOST or self._bytes > PASSING_MOST_BYTES:
            self._bytes -= len(self._passing.popleft().payload)
            self.passing_dropped["buffer_full"] += 1

    def begin(self) -> None:
        """A new connection: all states are sent again."""
        self._unsent = dict(self._states)

    def drop_passing(self, reason: str) -> None:
        """Nobody waits for them any more."""
        if self._passing:
            self.passing_dropped[reason] += len(self._passing)
        self._passing.clear()
        self._bytes = 0

    def take(self, most: int) -> list[Message]:
        """State first, then what passes. ``offline`` is the last word: it waits (see :meth:`take_last`)."""
        last = self._is_last
        states = [message for key, message in self._unsent.items() if not (last and key == _STATUS)][:most]
        for message in states:
            del self._unsent[(message.kind, message.camera)]
        passing = [self._passing.popleft() for _ in range(min(most - len(states), len(self._passing)))]
        self._bytes -= sum(len(message.payload) for message in passing)
        return states + passing

    def take_last(self) -> list[Message]:
        """``offline``, once nothing else is left."""
        return [self._unsent.pop(_STATUS)] if self._is_last and not self._passing else []

    @property
    def _is_last(self) -> bool:
        return self._unsent.get(_STATUS) is STATUS_OFFLINE

    def settled(self, taken: Sequence[Message], done: int, rejected: Sequence[bool]) -> None:
        """With the first ``done`` of what was taken the sink is through. Of the others, states wait again unless they are newer now."""
        for message, refused in zip(taken, rejected, strict=False):
            if not message.kind.is_state:
                if refused:
                    self.passing_dropped["rejected"] += 1
                else:
                    self.passing_delivered += 1
        for message in taken[done:]:
            if message.kind.is_state:
                self._unsent.setdefault((message.kind, message.camera), message)
            else:
                self.passing_dropped["not_connected"] += 1
