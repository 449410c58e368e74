"""What of a camera is published, and when: every served frame, only what changed, or one message per interval.

Everything here is one camera's, belongs to whoever calls it, and is told the time: no thread, no clock, no I/O. What is not
published takes no ``seq``, so that for consumers a gap is a loss, as ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.config_delivery import CameraPublishSettings, PublishSettings
from edge_agent.events import BestSight, ClassSummary, DetectedObject, DetectionsEvent, IntervalSummary, RichDetectionsEvent
from edge_agent.models.base import Prediction

Withheld = Literal["unchanged", "too_soon", "summed"]
"""Why a served frame has no message of its own."""


@dataclass(frozen=True)
class PublishRule:
    """The keys of ``[publish]`` as they hold for one camera."""

    when: Literal["every", "change", "interval"] = "every"
    interval_s: float = 10.0
    keep_alive_s: float = 60.0
    least_s: float = 0.5
    moved: float = 0.05
    confidence_change: float = 0.2


def rule_for(common: PublishSettings, own: CameraPublishSettings | None) -> PublishRule:
    """A camera's own keys, and for those that it has not, the common ones."""
    keys = tuple(PublishRule.__dataclass_fields__)
    return PublishRule(**{key: getattr(common, key) if (mine := getattr(own, key, None)) is None else mine for key in keys})


@dataclass(frozen=True)
class Scene:
    """What can change in a frame."""

    class_id: NDArray[np.int32]
    confidence: NDArray[np.float32]
    boxes: NDArray[np.float64]
    """float64 [N, 4]: as fractions of width and height."""
    ranks: dict[int, float]
    """Confidence by class of the whole picture, best first."""
    shares: dict[int, float]
    """Of the picture's area by class."""


def scene(prediction: Prediction, width: int, height: int) -> Scene:
    """Of a frame of that size."""
    found, ranked, segmented = prediction.detections, prediction.classes, prediction.segmentation
    return Scene(
        found.class_id,
        found.confidence,
        found.xyxy.astype(np.float64) / (width, height, width, height),
        {} if ranked is None else dict(zip(ranked.class_id.tolist(), ranked.confidence.tolist(), strict=True)),
        {} if segmented is None else {class_id: share for class_id, _, share in segmented.shares()},
    )


def differs(before: Scene, now: Scene, rule: PublishRule, threshold: float) -> bool:
    """Whether a consumer who knows ``before`` should be told of ``now``.

    Every limit has a dead band, so that what trembles at a limit does not count: an object that is there only by a confidence
    near ``threshold``, below which nothing is reported, does not appear; it vanishes only once it is below.
    """
    if _ranks_differ(before.ranks, now.ranks, rule.confidence_change):
        return True
    if any(abs(before.shares.get(c, 0.0) - now.shares.get(c, 0.0)) > rule.moved for c in before.shares.keys() | now.shares.keys()):
        return True
    were, are = Counter(before.class_id.tolist()), Counter(now.class_id.tolist())
    is_sure = now.confidence >= threshold + min(rule.confidence_change, 1 - threshold) / 2
    sure = Counter(now.class_id[is_sure].tolist())
    if any(not sure[c] <= were[c] <= are[c] for c in were.keys() | are.keys()):
        return True
    return bool(were) and _moved(before, now, rule)


def _ranks_differ(before: dict[int, float], now: dict[int, float], limit: float) -> bool:
    if not before or not now:
        return bool(before) != bool(now)
    best, was_best = next(iter(now)), next(iter(before))
    if best == was_best:
        return abs(now[best] - before[best]) > limit
    return now[best] - now.get(was_best, 0.0) > limit


def _moved(before: Scene, now: Scene, rule: PublishRule) -> bool:
    """Whether an object is elsewhere, or surer or less sure: each goes with the nearest of its class that is left, and there is one."""
    away = np.abs(before.boxes[:, None] - now.boxes[None]).max(axis=2)
    away[before.class_id[:, None] != now.class_id[None]] = np.inf
    for distances, was_sure in zip(away, before.confidence.tolist(), strict=True):
        nearest = int(distances.argmin())
        if distances[nearest] > rule.moved or abs(float(now.confidence[nearest]) - was_sure) > rule.confidence_change:
            return True
        away[:, nearest] = np.inf
    return False


class OnChange:
    """Only what differs from what was published last: not sooner than ``least_s`` after it, and again after ``keep_alive_s``."""

    def __init__(self, rule: PublishRule) -> None:
        self._rule = rule
        self._told: Scene | None = None
        self._told_at = 0.0
        self._early: Scene | None = None
        """Of the last frame, if it came too soon."""
        self._waiting: DetectionsEvent | None = None
        """Of the same frame."""

    def withholds(self, prediction: Prediction, size: tuple[int, int], now: float, threshold: float) -> Withheld | None:
        """Why a frame is not to be published; None: it is, and counts as published. ``size``: width, height; ``now``: monotonic seconds."""
        seen, since = scene(prediction, *size), now - self._told_at
        self._early = None
        if self._told is not None and since < self._rule.keep_alive_s:
            if not differs(self._told, seen, self._rule, threshold):
                return "unchanged"
            if since < self._rule.least_s:
                self._early = seen
                return "too_soon"
        self._told, self._told_at = seen, now
        return None

    def keep(self, event: DetectionsEvent) -> None:
        """Of the frame that just came too soon: to be told of in time, should no other come before."""
        self._waiting = event

    def forget(self) -> bool:
        """Another frame came; whether one waited, which now has no message of its own."""
        waiting, self._waiting = self._waiting, None
        return waiting is not None

    def is_over(self, now: float) -> bool:
        """Whether a frame waits and its time has come. ``now``: monotonic seconds, as for ``withholds``."""
        return self._waiting is not None and now - self._told_at >= self._rule.least_s

    def take(self, now: float) -> DetectionsEvent | None:
        """The frame that waits, which counts as published; None if there is none."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._told, self._told_at = self._early, now
        return waiting


@dataclass
class _Sum:
    """One class in an interval."""

    class_id: int
    label: str
    most: int = 0
    objects: int = 0
    frames: int = 0
    best: BestSight | None = None

    def add(self, count: int, best: BestSight) -> None:
        """A frame with so many of it."""
        self.frames += 1
        self.objects += count
        self.most = max(self.most, count)
        if self.best is None or best.confidence > self.best.confidence:
            self.best = best


@dataclass
class Interval:
    """Sums up what was served, and is asked for the sum when its time is over."""

    length_s: float
    _begun_at: float = 0.0
    _first: str = ""
    _newest: DetectionsEvent | None = None
    _frames: int = 0
    _sums: dict[tuple[int, str], _Sum] = field(default_factory=dict)

    def is_over(self, now: float) -> bool:
        """Whether there is something to tell, and time to. ``now``: monotonic seconds, as for ``add``."""
        return self._newest is not None and now - self._begun_at >= self.length_s

    def add(self, event: DetectionsEvent, now: float) -> None:
        """A served frame."""
        if self._newest is None:
            self._begun_at, self._first = now, event.captured_at
        self._newest = event
        self._frames += 1
        seen: dict[tuple[int, str], list[BestSight]] = {}
        for found in event.detections:
            seen.setdefault((found.class_id, found.label), []).append(_sight(event, found))
        ranked = event.classes if isinstance(event, RichDetectionsEvent) and event.classes else []
        for best in ranked[:1]:  # of a picture as a whole: its class is the first
            seen.setdefault((best.class_id, best.label), []).append(BestSight(best.confidence, event.frame_id, event.captured_at))
        for key, sights in seen.items():
            self._sums.setdefault(key, _Sum(*key)).add(len(sights), max(sights, key=lambda sight: sight.confidence))

    def take(self) -> tuple[DetectionsEvent, IntervalSummary] | None:
        """The newest frame and the sum of all since the last call; None if there were none."""
        newest, self._newest = self._newest, None
        if newest is None:
            return None
        frames, self._frames = self._frames, 0
        sums, self._sums = self._sums, {}
        return newest, IntervalSummary(self._first, newest.captured_at, frames, _summaries(list(sums.values()), frames))


def _sight(event: DetectionsEvent, found: DetectedObject) -> BestSight:
    return BestSight(found.confidence, event.frame_id, event.captured_at, found.xyxy, found.xyxyn)


def _summaries(sums: Sequence[_Sum], frames: int) -> list[ClassSummary]:
    """Those seen most often first."""
    ordered = sorted(sums, key=lambda each: (-each.frames, each.class_id))
    return [
        ClassSummary(each.class_id, each.label, each.most, round(each.objects / frames, 4), each.frames, each.best)
        for each in ordered
        if each.best is not None
    ]


def publishing_for(rule: PublishRule | None) -> OnChange | Interval | None:
    """What keeps to a camera's rule; None: every frame has a message of its own."""
    if rule is None or rule.when == "every":
        return None
    return OnChange(rule) if rule.when == "change" else Interval(rule.interval_s)
