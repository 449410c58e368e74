"""The books as the world reads them: every heartbeat and every camera's status of a real run adds up."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import CLIP, CommandLine, Mosquitto, free_port, terminated, wait_until
from tests.integration.test_agent import assert_follows_the_contract, write_config
from tests.subscriber import subscribed

STAGES = {"wait", "decode", "preprocess", "infer", "postprocess", "publish"}


def assert_adds_up(found: dict[str, Any]) -> None:
    lost = sum(found["frames_skipped_total"].values()) + sum(found["frames_dropped_total"].values())
    assert found["frames_captured_total"] == found["frames_served_total"] + lost + found["frames_in_flight"], found
    assert 0 <= found["frames_in_flight"] <= 20


def test_the_metrics_of_a_real_run_add_up(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    port = free_port()
    extra = f'[metrics]\nlisten = "127.0.0.1:{port}"\n'
    config = write_config(edge_agent.folder, mosquitto.port, {"source": str(CLIP), "realtime": True, "loop": True}, extra=extra)
    with terminated(edge_agent.start("run", "-c", config)) as process:

        def books() -> dict[str, float]:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return told(answer.read().decode())
            return {}

        wait_until(lambda: books().get("frames_served_total", 0) > 20)
        last = books()
        process.terminate()
        process.wait(20)
    captured = last.pop("frames_captured_total")
    assert captured == sum(last.values()), last


def told(text: str) -> dict[str, float]:
    """Of the only camera, summed over reasons."""
    found: dict[str, float] = {}
    families: Iterable[Any] = text_string_to_metric_families(text)
    for sample in (sample for family in families for sample in family.samples):
        name = sample.name.removeprefix("edge_agent_")
        if name.startswith("frames_") and "upstream" not in name:
            found[name] = found.get(name, 0) + sample.value
    return found


def test_each_heartbeat_and_status_adds_up_until_nothing_is_in_flight(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    cameras: tuple[dict[str, Any], ...] = (
        {"source": str(CLIP), "realtime": True, "loop": True},
        {"source": "synthetic", "fps": 200},
        {"source": "synthetic", "fps": 60, "max_fps": 7},
        {"source": f"rtsp://127.0.0.1:{free_port()}/none"},
        {"source": str(CLIP)},
    )
    config = write_config(edge_agent.folder, mosquitto.port, *cameras)
    with subscribed(mosquitto.port) as heard:
        done = edge_agent.run("run", "-c", config, "--seconds", "5")
    assert done.returncode == 0, done.stderr
    assert_follows_the_contract(heard)
    beats = [m.json for m in heard.on("/health")]
    assert len(beats) >= 5
    for beat in beats:
        for camera in beat["cameras"].values():
            assert_adds_up(camera)
    for name in (f"cam{index}" for index in range(len(cameras))):
        told = [m.json for m in heard.on(f"{name}/status")]
        for status in told:
            assert_adds_up(status)
        assert told[-1]["frames_captured_total"] == beats[-1]["cameras"][name]["frames_captured_total"]
        totals = [beat["cameras"][name]["frames_captured_total"] for beat in beats]
        assert totals == sorted(totals)
    last = beats[-1]["cameras"]
    assert all(camera["frames_in_flight"] == 0 for camera in last.values())
    assert last["cam1"]["frames_skipped_total"]["model_busy"] > 50
    assert last["cam2"]["frames_skipped_total"]["max_fps"] > 50
    assert last["cam3"]["frames_captured_total"] == 0
    assert all(camera["frames_lost_upstream_total"] == 0 for camera in last.values())
    served = [camera["frames_served_total"] for camera in last.values()]
    assert sum(served) == len(heard.on("/detections"))
    assert beats[-1]["stages_ms"].keys() == last["cam0"]["stages_ms"].keys() == STAGES
    assert all(last["cam0"]["stages_ms"][stage]["p99"] >= last["cam0"]["stages_ms"][stage]["p50"] for stage in STAGES)
    assert last["cam0"]["stages_ms"]["decode"]["p50"] > 0 == last["cam1"]["stages_ms"]["decode"]["p50"]
    assert set(last["cam3"]["stages_ms"].values()) == {None}
    latency = heard.on("cam1/detections")[-1].json["latency_ms"]
    assert sum(value for part, value in latency.items() if part != "total") <= latency["total"] + 0.1
