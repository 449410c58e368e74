"""The contract of a sink: it connects, writes, closes and raises.

It holds no retry and no buffer: :class:`edge_agent.publisher.Publisher` drives it, always from one thread, in the
order ``connect``, ``write`` ..., ``close``, and then perhaps ``connect`` again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from edge_agent.errors import Rejected
from edge_agent.events import Message


class Sink(ABC):
    """Somewhere that messages go."""

    name: str
    """For logs, without secrets."""
    most: int = 200
    """The most messages given to one ``write``."""
    proven: bool = True
    """Not after a refusal, where only a ``write`` can show that the receiver is there again: to connect says nothing then."""

    @abstractmethod
    def connect(self) -> None:
        """Get ready to write, within a bounded time. Raises SinkUnavailable."""

    @abstractmethod
    def write(self, messages: Sequence[Message]) -> Sequence[Rejected | None]:
        """Deliver all of them, in order, within a bounded time; returns once the receiver has confirmed.

        One entry for each message: None, or why it was refused for good. Raises SinkUnavailable when it is not
        known to have worked: those beyond its ``confirmed`` are then kept and written again after the next ``connect``, or
        over this connection if it is ``standing``.
        """

    @abstractmethod
    def check(self) -> None:
        """Cheap: reads what came in; raises SinkUnavailable if the connection is known to be lost."""

    def fileno(self) -> int | None:
        """A descriptor that can be read when ``check`` has something to read, so that an idle runner waits for it; None: it never has."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Let go within a bounded time. Never raises."""
