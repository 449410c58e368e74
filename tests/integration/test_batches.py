"""The whole line with frames inferred together: what is published is what one at a time would be."""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import CommandLine, Mosquitto, wait_until
from tests.integration.test_agent import assert_follows_the_contract, short_clip, write_config
from tests.models.test_batches import seeing, yolov8
from tests.subscriber import subscribed


def published(mosquitto: Mosquitto, edge_agent: CommandLine, batch: int) -> tuple[list[dict[str, Any]], str]:
    """The detections of two cameras, in the order in which each one's came, and the log."""
    model, clip = seeing(edge_agent.folder / "seeing.onnx", *yolov8()), str(short_clip(edge_agent.folder))
    extra = f"[model]\npath = {json.dumps(str(model))}\nbatch = {batch}\nlanes = 1\nthreads = 1"
    config = write_config(edge_agent.folder, mosquitto.port, {"source": clip}, {"source": clip, "roi": [0.0, 0.0, 0.5, 0.5]}, extra=extra)
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("run", "-c", config)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: [m.payload for m in heard.on("dev/status")][-2:] == [b"online", b"offline"])  # and the run's of before
    assert_follows_the_contract(heard)
    return [message.json for camera in ("cam0", "cam1") for message in heard.on(f"{camera}/detections")], done.stderr


def test_two_cameras_inferred_together_are_published_as_one_at_a_time(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    alone, _ = published(mosquitto, edge_agent, 1)
    together, log = published(mosquitto, edge_agent, 4)
    assert "frames inferred together name=seeing batch=4" in log
    told = [[(e["camera"], e["frame_id"], e["detections"]) for e in events] for events in (alone, together)]
    assert told[0] == told[1]
    assert len(told[0]) == 80
    assert all(detections for _, _, detections in told[0])
