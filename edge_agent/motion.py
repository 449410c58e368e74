"""The motion gate: whether a camera's picture holds anything that its last pictures did not.

It looks at a small plane of brightness, some 160 pixels wide, and keeps what is usual there: the picture behind (a running
mean, as in Heikkilä and Silvén 1999), and how much each place is wont to differ from it. A place has changed when it is out of
the range of the places around it in the picture behind, by more than it usually is: a camera that shakes by a pixel and an
encoder that redraws its edges do not count. Enough changed places side by side are motion.

- What has come and stands still becomes part of the picture behind once it was steady for ``ABSORB_S``.
- A change of most of the picture is light: pictures pass for a moment while the picture behind is taken anew.
- In any case a picture passes every ``look_every_s``.

Figures and limits: docs/scheduling.md; why so: docs/decisions/0017-motion-gate.md.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.config_camera import MotionSettings
from edge_agent.config_values import Region
from edge_agent.image import Image, Pixels
from edge_agent.stats import Sketch

PLANE_WIDTH = 160
SETTLE_S = 1.0
"""Pictures pass for so long while the picture behind is taken for the first time, or anew."""
ABSORB_S = 5.0
FOLLOW_S = 10.0
"""Time constant with which the picture behind follows what changes slowly, such as daylight."""
NOISE_UP_S, NOISE_DOWN_S = 2.0, 30.0
"""Time constants of what is usual: quickly learnt, slowly forgotten, so that it stays near the upper end."""
NOISES = 2.0
"""A place has changed when it differs by more than so many times what is usual there."""
MOST_THRESHOLD = 4
"""No place becomes more insensitive than so many times the threshold, whatever happens there."""
LIGHT_SHARE = 0.5
"""A change of more of the picture than this is light, or another view."""
LIGHT_LOOK_S = 1.0
"""Between two looks at what changes most of the picture again and again: a light that flickers, or one large object after another."""
LIGHT_REST_S = 5.0
"""A light that flickers lets pictures pass once in so long, and not all the time."""
TURN_S = 1.0
"""Longest wait for the picture before, which another lane is looking at."""

Change = Literal["none", "object", "light"]
MotionState = Literal["moving", "still"]


def plane_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the plane that is looked at, for a picture of that size."""
    wide = min(PLANE_WIDTH, width)
    return wide, max(1, round(height * wide / width))


class _Background:
    """What is usual in one picture of one size. Not thread-safe."""

    def __init__(self, first: Pixels, settings: MotionSettings, roi: Region | None) -> None:
        self._threshold, self._most = settings.threshold, MOST_THRESHOLD * settings.threshold
        self._watched = watched_places(first.shape[1], first.shape[0], settings, roi)
        self._cells = max(1, int(np.count_nonzero(self._watched)))
        self._least = max(1, math.ceil(settings.least_area * first.size))
        self._noise: NDArray[np.float32] = np.zeros(first.shape, np.float32)
        self._mean: NDArray[np.float32] = first.astype(np.float32)
        self._seen = 0
        self._anchor, self._steady_s = first, np.zeros(first.shape, np.float32)
        self._was_changed = False

    def renew(self, luma: Pixels) -> None:
        """Take this for the picture behind; what is usual around it stays."""
        self._mean = luma.astype(np.float32)
        self._seen, self._was_changed = 0, False

    def compare(self, luma: Pixels, passed_s: float, *, settling: bool) -> Change:
        """What is different, ``passed_s`` after the last one; and take it into account."""
        import cv2

        mean: Pixels = cv2.convertScaleAbs(self._mean)  # type: ignore[assignment]
        shift = self._shift(luma, mean)
        if abs(shift) > self._threshold:
            return "light"
        if shift:
            self._mean += np.float32(shift)
            mean = np.clip(self._mean, 0, 255).astype(np.uint8)
        kernel = np.ones((3, 3), np.uint8)
        above, below = cv2.subtract(luma, cv2.dilate(mean, kernel)), cv2.subtract(cv2.erode(mean, kernel), luma)
        excess: Pixels = cv2.max(above, below)  # type: ignore[assignment]
        limit = np.clip(self._noise * NOISES, self._threshold, self._most)
        changed = (excess > limit) & self._watched
        count = int(np.count_nonzero(changed))
        if count > LIGHT_SHARE * self._cells:
            return "light"
        # While the picture behind is being taken, whatever is there becomes part of it.
        objects = self._objects(changed) if count >= self._least and not settling else None
        self._learn(luma, excess, objects, passed_s)
        return "none" if objects is None else "object"

    def _shift(self, luma: Pixels, mean: NDArray[np.generic]) -> int:
        """By how much the whole picture is lighter: an exposure that hunts is neither motion nor a new light."""
        few = np.subtract(luma[2::5, 2::5], mean[2::5, 2::5], dtype=np.int16)[self._watched[2::5, 2::5]]
        return int(np.partition(few, few.size // 2)[few.size // 2]) if few.size else 0

    def _objects(self, changed: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """The changed places that lie together in large enough groups; None where there is no such group."""
        import cv2

        joined = cv2.dilate(changed.view(np.uint8), np.ones((3, 3), np.uint8))
        _, labels = cv2.connectedComponents(joined)
        sizes = np.bincount(labels[changed])
        large = sizes >= self._least
        return large[np.where(changed, labels, 0)] & changed if large.any() else None

    def _learn(self, luma: Pixels, excess: Pixels, objects: NDArray[np.bool_] | None, passed_s: float) -> None:
        import cv2

        self._seen += 1
        share = max(_share(passed_s, FOLLOW_S), 1 / (self._seen + 1) if self._seen < 10 else 0.0)
        common = None if objects is None else (~objects).view(np.uint8)
        cv2.accumulateWeighted(luma, self._mean, share, mask=common)
        # An object teaches nothing of what is usual; a single place out of the way does, little by little.
        usual = np.minimum(excess, np.float32(2 * self._threshold))
        step = usual - self._noise
        step *= np.where(step > 0, np.float32(_share(passed_s, NOISE_UP_S)), np.float32(_share(passed_s, NOISE_DOWN_S)))
        if objects is not None:
            step[objects] = 0
        self._noise += step
        if objects is not None:
            self._absorb(luma, objects, passed_s)
        self._was_changed = objects is not None

    def _absorb(self, luma: Pixels, objects: NDArray[np.bool_], passed_s: float) -> None:
        import cv2

        if not self._was_changed:
            self._anchor, self._steady_s = luma.copy(), np.zeros(luma.shape, np.float32)
            return
        steady = (cv2.absdiff(luma, self._anchor) <= self._threshold) & objects
        self._anchor = np.where(steady, self._anchor, luma)
        self._steady_s = np.where(steady, self._steady_s + np.float32(passed_s), np.float32(0))
        belongs = self._steady_s >= ABSORB_S
        self._mean[belongs] = luma[belongs]
        self._steady_s[belongs] = 0


class MotionGate:
    """Decides for one camera's pictures in their order. Not thread-safe; its clock is what it is given."""

    def __init__(self, settings: MotionSettings, roi: Region | None = None) -> None:
        self._settings, self._roi = settings, roi
        self._background: _Background | None = None
        self._shape: tuple[int, ...] = ()
        self._now = 0.0
        self._last: float | None = None
        self._settled_at = self._moving_until = 0.0
        self._lit_at = -math.inf
        self._passed_at = -math.inf
        self.moving = True

    def passes(self, luma: Pixels, at: float) -> bool:
        """Whether the picture is to be served. ``luma``: uint8 [h, w] of ``plane_size``; ``at``: seconds, of any clock.

        Time that jumps back or stands still counts as none that has passed.
        """
        passed_s = self._advance(at)
        change: Change = "light"
        lit = False
        if self._background is None or self._shape != luma.shape:
            self._background, self._shape = _Background(luma, self._settings, self._roi), luma.shape
            self._settle()
        else:
            change = self._background.compare(luma, passed_s, settling=self._now < self._settled_at)
            if change == "light":
                self._background.renew(luma)
                if self._now - self._lit_at >= LIGHT_REST_S:
                    self._settle()
                elif self._now - self._passed_at >= LIGHT_LOOK_S:
                    lit = True  # what fills the picture may be a light again, or a lorry
        if change == "object":
            self._moving_until = self._now + self._settings.hold_s
        self.moving = change == "object" or self._now < self._moving_until or self._now < self._settled_at
        if not (self.moving or lit or self._lit_at == self._now or self._now - self._passed_at >= self._settings.look_every_s):
            return False
        self._passed_at = self._now
        return True

    def _settle(self) -> None:
        self._lit_at, self._settled_at = self._now, self._now + SETTLE_S

    def _advance(self, at: float) -> float:
        passed_s = 0.0 if self._last is None else max(0.0, at - self._last)
        self._last = at
        self._now += passed_s
        return passed_s


@dataclass(frozen=True)
class MotionStatus:
    """What a camera's gate says of itself."""

    state: MotionState
    since_utc: float
    gate_ms: dict[str, float] | None
    """CPU of one decision, with making the small plane: p50, p95."""


class MotionWatch:
    """One camera's gate where several lanes take its frames: each is decided upon in its turn. Any thread."""

    def __init__(self, settings: MotionSettings, roi: Region | None = None, utc: Callable[[], float] = time.time) -> None:
        self.look_s = 1 / settings.looks_per_s
        """Between two looks while nothing moves."""
        self.patience_s = settings.look_within_s
        """Longest between them where waiting spares decoding."""
        self._gate, self._utc = MotionGate(settings, roi), utc
        self._turn = threading.Condition()
        self._next_ticket = 0
        self._costs = Sketch()
        self._state: MotionState = "moving"
        self._since_utc = utc()

    def passes(self, image: Image, ticket: int, at: float) -> bool:
        """Whether the picture with that place in its camera's order, of time ``at`` in seconds, is to be served.

        One that cannot be decoded passes: the model says what is wrong with it.
        """
        began = time.thread_time()
        try:
            luma = image.luma(*plane_size(image.width, image.height))
        except ValueError:
            luma = None
        with self._turn:
            # A lane looks at what it has taken at once; should one have died in between, the others go on without it.
            self._turn.wait_for(lambda: self._next_ticket >= ticket, TURN_S)
            try:
                passes = luma is None or self._gate.passes(luma, at)
                self._note()
            finally:
                self._next_ticket = max(self._next_ticket, ticket + 1)
                self._turn.notify_all()
        self._costs.add((time.thread_time() - began) * 1e3)
        return passes

    def _note(self) -> None:
        state: MotionState = "moving" if self._gate.moving else "still"
        if state != self._state:
            self._state, self._since_utc = state, self._utc()

    def status(self) -> MotionStatus:
        """As of now."""
        with self._turn:
            state, since = self._state, self._since_utc
        costs = self._costs.percentiles()
        return MotionStatus(state, since, costs and {name: costs[name] for name in ("p50", "p95")})


def watched_places(width: int, height: int, settings: MotionSettings, roi: Region | None) -> NDArray[np.bool_]:
    """Bool [height, width]: what is inside the region of interest and outside the masks."""
    import cv2

    places = np.zeros((height, width), np.uint8)
    left, top, right, bottom = roi or (0.0, 0.0, 1.0, 1.0)
    places[math.floor(top * height) : math.ceil(bottom * height), math.floor(left * width) : math.ceil(right * width)] = 1
    for mask in settings.masks:
        cv2.fillPoly(places, [np.array([[round(x * width), round(y * height)] for x, y in mask], np.int32)], (0,))
    return places.astype(np.bool_)


def _share(passed_s: float, constant_s: float) -> float:
    return -math.expm1(-passed_s / constant_s)
