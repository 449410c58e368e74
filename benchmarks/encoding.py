"""What it costs to encode an event: pydantic, which did it before, msgspec, which does it now, and orjson where it is installed.

    python benchmarks/encoding.py

Microseconds of CPU per message, the least of five turns of a thousand, with warm caches; then the whole of ``encode``, and what it costs
to put a prediction into a payload.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import msgspec
import numpy as np
from pydantic import TypeAdapter

from edge_agent.detections import Detections, Masks
from edge_agent.encoding import encode
from edge_agent.events import DetectionsEvent, LatencyParts, ModelInfo
from edge_agent.models.base import Prediction, Timings
from edge_agent.payload import enriched, objects

WIDTH, HEIGHT = 1280, 720
ROUNDS, TURNS = 1000, 5


def prediction(boxes: int, *, masks: bool = False) -> Prediction:
    """So many boxes anywhere."""
    random = np.random.default_rng(1)
    corners = np.sort(random.random((boxes, 2, 2)), axis=1).reshape(boxes, 4) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    outlines = None
    if masks:
        sizes = [(int(x), int(y), np.ones((max(1, int(b - y)), max(1, int(r - x))), np.bool_)) for x, y, r, b in corners]
        outlines = Masks(WIDTH, HEIGHT, sizes)
    names = tuple(f"class {number}" for number in range(5))
    classes = random.integers(0, 5, boxes).astype(np.int32)
    found = Detections(corners.astype(np.float32), random.random(boxes).astype(np.float32), classes, names, masks=outlines)
    return Prediction(found, Timings(1, 2, 3))


def event(seen: Prediction) -> DetectionsEvent:
    """As the pipeline makes it."""
    model, parts = ModelInfo("oid_int8_pp", "9" * 64, "int8", "LiteRT 2.3.0"), LatencyParts(9.4, 0.3, 0.5, 5.1, 0.2, 1.6)
    return DetectionsEvent(
        "edge-3f9c12ab", "front", "9b1c12345678abcd", 1 << 20, 3, "2026-11-22T21:30:48.812Z", True, WIDTH, HEIGHT, model, parts,
        objects(seen, WIDTH, HEIGHT),
    )  # fmt: skip


def cost_us(action: Callable[[], object]) -> float:
    """CPU of one call."""
    action()
    turns = []
    for _ in range(TURNS):
        began = time.process_time()
        for _ in range(ROUNDS):
            action()
        turns.append((time.process_time() - began) / ROUNDS * 1e6)
    return min(turns)


def main() -> None:
    """See the module."""
    adapter = TypeAdapter(DetectionsEvent)
    text, packed = msgspec.json.Encoder(), msgspec.msgpack.Encoder()
    orjson = import_module("orjson") if find_spec("orjson") else None
    print("| boxes | bytes | pydantic | orjson | msgspec | MessagePack | encode | make the event |")
    print("|---|---|---|---|---|---|---|---|")
    for boxes in (0, 5, 20, 100):
        seen = prediction(boxes)
        made = event(seen)
        assert text.encode(made) == adapter.dump_json(made)
        costs = [
            cost_us(lambda made=made: adapter.dump_json(made, warnings=False)),  # type: ignore[misc]
            cost_us(lambda made=made: orjson.dumps(made)) if orjson else float("nan"),  # type: ignore[misc]
            cost_us(lambda made=made: text.encode(made)),  # type: ignore[misc]
            cost_us(lambda made=made: packed.encode(made)),  # type: ignore[misc]
            cost_us(lambda made=made: encode(made)),  # type: ignore[misc]
            cost_us(lambda seen=seen: event(seen)),  # type: ignore[misc]
        ]
        print(f"| {boxes} | {len(text.encode(made))} | {' | '.join(f'{cost:.1f}' for cost in costs)} |", flush=True)
    masked = prediction(5, masks=True)
    rich = enriched(event(masked), masked, "polygon")
    print(f"| 5 with masks | {len(encode(rich).payload)} | | | | | {cost_us(lambda: encode(rich)):.1f} | |")


if __name__ == "__main__":
    main()
