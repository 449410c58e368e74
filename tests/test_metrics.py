"""Metrics as Prometheus reads them: over HTTP, by its own parser."""

from __future__ import annotations

import dataclasses
import re
import socket
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from edge_agent.events import ModelInfo
from edge_agent.health_event import (
    CameraHealth,
    CommandsHealth,
    DeliveryHealth,
    GovernorHealth,
    HealthEvent,
    HostHealth,
    MotionHealth,
    ProcessHealth,
    SpoolHealth,
    ThrottledBits,
)  # fmt: skip
from edge_agent.metrics import PREFIX, Exporter
from tests.conftest import free_port, wait_until

FAMILIES: Callable[[str], Iterable[Any]] = text_string_to_metric_families
OPENMETRICS: Callable[[str], Iterable[Any]] = openmetrics.text_string_to_metric_families
MILLISECONDS = {"p50": 10.0, "p95": 20.5, "p99": 40.0}
GOVERNOR = GovernorHealth(
    True, 0.5, "temperature", "2026-01-01T00:00:00.000Z", 3, 71.5, "soc", 85.0, 80.0, [], 0.75, None,
    ThrottledBits([], ["throttled"]), False, True, None, None, 2,
)  # fmt: skip


def camera(**changes: Any) -> CameraHealth:
    whole = CameraHealth(
        "online", 100, 60, {"model_busy": 30, "max_fps": 5}, {"model_error": 3}, 2, 30.0, 18.0, MILLISECONDS, 0.25, 4, None, "h264",
        frames_lost_upstream_total=7, stages_ms={"decode": MILLISECONDS, "publish": None},
        motion=MotionHealth("moving", "2026-01-01T00:00:00.000Z", {"p50": 0.5, "p95": 1.0}),
        events_withheld_total={"unchanged": 6},
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def heartbeat(**changes: Any) -> HealthEvent:
    model = ModelInfo("net", "abc", "int8", "onnx")
    whole = HealthEvent(
        "dev", "s1", "2026-01-01T00:00:00.000Z", True, "1.2.3", 12.5, "degraded", ["why"], model, "CPU", {"infer": MILLISECONDS},
        {"front": camera(), 'a "b" \\ ü\n': camera(state="backoff", last_frame_age_s=None, latency_ms=None, motion=None)},
        DeliveryHealth(True, 1, 2, 345, 60, {"buffer_full": 9}, None, SpoolHealth("interval", 5, 345, 4, 1.5, 0, 0, None)),
        ProcessHealth(50.0, 1 << 27, 9, 20),
        HostHealth(0.5, None, {"soc": 71.5}), governor=GOVERNOR,
        sinks={"jsonl": DeliveryHealth(False, 0, 0, 0, 0, {"too_old": 1}, "why")},
        commands=CommandsHealth(5, 3, 0, {"invalid": 2}, {}, {}),
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


@contextmanager
def exporting(health: HealthEvent, port: int = 0) -> Iterator[Exporter]:
    exporter = Exporter("127.0.0.1", port, lambda: health)
    exporter.start()
    try:
        yield exporter
    finally:
        exporter.stop(5.0)


def scrape(exporter: Exporter, accept: str = "text/plain") -> str:
    wait_until(lambda: exporter.url is not None)
    request = urllib.request.Request(f"{exporter.url}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return str(answer.read().decode())


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {(s.name, frozenset(s.labels.items())): s.value for family in FAMILIES(text) for s in family.samples}


@pytest.fixture(scope="module")
def text() -> str:
    with exporting(heartbeat()) as exporter:
        return scrape(exporter)


def of(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((PREFIX + name, frozenset(labels.items())))


def test_the_books_of_a_camera_are_told_and_add_up(text: str) -> None:
    assert of(text, "frames_captured_total", camera="front") == 100
    assert of(text, "frames_skipped_total", camera="front", reason="max_fps") == 5
    assert of(text, "frames_lost_upstream_total", camera="front") == 7
    parts = [
        value
        for (name, labels), value in samples(text).items()
        if ("camera", "front") in labels
        and re.fullmatch(PREFIX + "frames_(served|skipped|dropped)_total|" + PREFIX + "frames_in_flight", name)
    ]
    assert len(parts) == 5
    assert sum(parts) == 100


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("info", {"device": "dev", "version": "1.2.3", "stream": "s1", "accelerator": "CPU"}, 1),
        ("model_info", {"model": "net", "hash": "abc", "precision": "int8", "runtime": "onnx"}, 1),
        ("verdict", {"verdict": "degraded"}, 1),
        ("verdict", {"verdict": "ok"}, 0),
        ("latency_seconds", {"camera": "front", "quantile": "0.95"}, 0.0205),
        ("camera_stage_duration_seconds", {"camera": "front", "stage": "decode", "quantile": "0.5"}, 0.01),
        ("stage_duration_seconds", {"stage": "infer", "quantile": "0.99"}, 0.04),
        ("motion_look_cpu_seconds", {"camera": "front", "quantile": "0.95"}, 0.001),
        ("camera_state", {"camera": 'a "b" \\ ü\n', "state": "backoff"}, 1),
        ("camera_state", {"camera": "front", "state": "backoff"}, 0),
        ("events_dropped_total", {"sink": "mqtt", "reason": "buffer_full"}, 9),
        ("events_dropped_total", {"sink": "jsonl", "reason": "too_old"}, 1),
        ("spool_mode", {"sink": "mqtt", "mode": "interval"}, 1),
        ("spool_events_on_disk", {"sink": "mqtt"}, 4),
        ("commands_refused_total", {"reason": "invalid"}, 2),
        ("events_withheld_total", {"camera": "front", "reason": "unchanged"}, 6),
        ("events_queued_bytes", {"sink": "mqtt"}, 345),
        ("host_temperature_celsius", {"zone": "soc"}, 71.5),
        ("governor_cause", {"cause": "temperature"}, 1),
        ("governor_share_ratio", {}, 0.5),
        ("under_voltage_seen", {}, 1),
    ],
)
def test_the_heartbeat_is_told_in_base_units(text: str, name: str, labels: dict[str, str], value: float) -> None:
    assert of(text, name, **labels) == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("host_memory_available_bytes", {}),
        ("gpu_frequency_cap_ratio", {}),
        ("camera_last_frame_age_seconds", {"camera": 'a "b" \\ ü\n'}),
        ("camera_stage_duration_seconds", {"camera": "front", "stage": "publish", "quantile": "0.5"}),
    ],
)
def test_what_is_not_known_is_not_told(text: str, name: str, labels: dict[str, str]) -> None:
    assert of(text, name, **labels) is None


def test_the_process_itself_is_told_by_the_usual_names(text: str) -> None:
    found = {name for name, _ in samples(text)}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= found


def test_names_follow_the_conventions(text: str) -> None:
    for family in FAMILIES(text):
        if not family.name.startswith(PREFIX):
            continue
        assert family.documentation.endswith("."), family.name
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name), family.name
        assert not re.search(r"_(ms|millis|mb|percent|fps)\b", family.name), family.name
        assert all(sample.name.endswith("_total") == (family.type == "counter") for sample in family.samples), family.name


def test_the_newer_format_is_valid_too() -> None:
    with exporting(heartbeat()) as exporter:
        text = scrape(exporter, "application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert PREFIX + "frames_captured" in {family.name for family in OPENMETRICS(text)}


def test_a_port_that_is_taken_is_told_of_and_taken_once_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_agent.metrics.RETRY_S", 0.05)
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with exporting(heartbeat(), port) as exporter:
            wait_until(lambda: exporter.error is not None)
            assert exporter.error == f"127.0.0.1:{port} cannot be listened on: Address already in use"
            other.close()
            assert of(scrape(exporter), "uptime_seconds") == 12.5
            assert exporter.error is None


@pytest.mark.parametrize(
    "ask", [b"\x00\xff" * 500 + b"\r\n\r\n", b"GET " + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"POST /metrics HTTP/1.1\r\n\r\n"]
)
def test_nonsense_is_answered_and_the_next_is_served(ask: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with exporting(heartbeat()) as exporter:
        scrape(exporter)
        with socket.create_connection(("127.0.0.1", exporter.port), timeout=5) as hostile, suppress(OSError):
            hostile.sendall(ask)  # it may hang up before all of it was sent
            assert b"200 OK" not in hostile.recv(100)
        assert of(scrape(exporter), "uptime_seconds") == 12.5
    assert "Traceback" not in capfd.readouterr().err


def test_one_that_waits_without_a_word_keeps_nobody() -> None:
    with exporting(heartbeat()) as exporter:
        scrape(exporter)
        with socket.create_connection(("127.0.0.1", exporter.port), timeout=5):
            assert of(scrape(exporter), "uptime_seconds") == 12.5


def test_stopped_before_it_could_listen() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other, exporting(heartbeat(), other.getsockname()[1]) as exporter:
        wait_until(lambda: exporter.error is not None)
    assert not exporter.is_alive


def test_an_ipv6_address_is_listened_on() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    exporter = Exporter("::1", free_port(), heartbeat)
    exporter.start()
    try:
        assert of(scrape(exporter), "uptime_seconds") == 12.5
        assert str(exporter.url).startswith("http://[::1]:")
    finally:
        exporter.stop(5.0)
