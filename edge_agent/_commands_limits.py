"""What keeps commands from doing harm by their number: how many are obeyed in a time, and that none is obeyed twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class TokenBucket:
    """``burst`` at once, ``per_s`` in the long run. For one thread; times are monotonic seconds."""

    def __init__(self, burst: int, per_s: float, now: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._tokens, self._at = float(burst), now

    def take(self, now: float) -> bool:
        """Whether one more is within the limit."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = max(self._at, now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def next_s(self, now: float) -> float:
        """Seconds until one more is."""
        return max(0.0, (1 - self._tokens) / self._per_s - (now - self._at))


@dataclass
class Kept(Generic[T]):
    """What came of a command."""

    content: Hashable
    """What it said, besides its id."""
    answer: T | None
    """None: it is still being done."""
    at: float


class Answers(Generic[T]):
    """The last answers, by the command's id: ``most`` of them, each for ``seconds``. For one thread."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._kept: OrderedDict[Hashable, Kept[T]] = OrderedDict()

    def get(self, key: Hashable, now: float) -> Kept[T] | None:
        """What is known of a command."""
        while self._kept and now - next(iter(self._kept.values())).at > self._seconds:
            self._kept.popitem(last=False)
        return self._kept.get(key)

    def put(self, key: Hashable, content: Hashable, answer: T | None, now: float) -> None:
        """Note what came of one; ``None``: it is begun."""
        self._kept.pop(key, None)
        self._kept[key] = Kept(content, answer, now)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Nothing came of it: it may be asked again."""
        self._kept.pop(key, None)

    def __len__(self) -> int:
        return len(self._kept)
