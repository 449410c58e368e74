"""What is told to be possible, what the limit, and what to do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.bench.judging import fair_shares, judged
from edge_agent.bench.report import PARTS, BrokerReport, CameraReport, ModelReport, Report

PAIR = {"p50": 1.0, "p95": 2.0}


def camera(name: str = "front", **given: Any) -> CameraReport:
    """One of 30 fps, all of them served in 10 ms each."""
    parts = dict.fromkeys(PARTS, PAIR)
    usual: dict[str, Any] = {
        "camera": name, "kind": "rtsp", "state": "online", "error": None, "live": True, "model": "m", "decoder": "h264",
        "declared_fps": 30.0, "real_fps": 30.0, "served_fps": 30.0, "captured": 300,
        "served": 300, "skipped": {}, "dropped": {}, "in_flight": 0,
        "lost_upstream": 0, "total_ms": PAIR,
        "parts_ms": parts, "service_ms": 10.0, "decode_mean_ms": 2.0, "asked_fps": None, "weight": 1.0,
    }  # fmt: skip
    return CameraReport(**{**usual, **given})


def report(*cameras: CameraReport, **given: Any) -> Report:
    model = ModelReport("m", given.pop("lanes", 1), 1, given.pop("precision", "float32"), "onnx", tuple(c.camera for c in cameras))
    broker = BrokerReport("mqtt://b", publishing=True, connected=True, error=None, delivered=300, dropped={}, queued=0)
    usual = Report(10.0, 10.0, None, 4, {"model": 3.0, "capture and decode": 0.6}, 150.0, cameras, (model,), broker)
    return judged(replace(usual, **given))


def test_a_camera_that_is_served_at_its_own_rate_is_its_own_limit() -> None:
    found = report(camera())
    assert (found.cameras[0].limit, found.cameras[0].ratio, found.models[0].busy, found.advice) == ("camera", 1.0, 0.3, ())


def test_a_model_that_is_never_idle_is_the_limit_and_is_to_be_quantized_or_given_the_idle_cores() -> None:
    found = report(camera(served_fps=9.7, served=97, service_ms=100.0, skipped={"model_busy": 203}))
    assert found.cameras[0].limit == "model"
    assert found.cameras[0].possible_fps == 10.0
    assert found.cameras[0].ratio == 0.97
    assert "quantize" in found.advice[0]
    assert "lanes = 2" in found.advice[0]


def test_a_quantized_model_is_not_to_be_quantized_again_and_busy_cores_are_not_called_idle() -> None:
    found = report(camera(served_fps=9.7, served=97, service_ms=100.0), precision="int8", cpu_s={"model": 38.0, "capture and decode": 1.0})
    assert "quantize" not in found.advice[0]
    assert "lanes" not in found.advice[0]


def test_decoding_that_takes_the_cpu_is_told_before_the_model() -> None:
    found = report(camera(served_fps=9.7, served=97, service_ms=100.0), cpu_s={"model": 15.0, "capture and decode": 24.0})
    assert found.cameras[0].limit == "CPU"
    assert any("62 % of the CPU" in line and "substream" in line for line in found.advice)


def test_a_camera_that_delivers_half_of_what_it_declares_is_told_of() -> None:
    found = report(camera(real_fps=15.0, served_fps=15.0))
    assert found.cameras[0].limit == "camera"
    assert "declares 30 fps and delivers 15.0" in found.advice[0]


def test_max_fps_is_the_limit_where_it_is_kept_to() -> None:
    found = report(camera(asked_fps=5.0, served_fps=4.9, served=49, skipped={"max_fps": 251}))
    assert (found.cameras[0].limit, found.cameras[0].possible_fps) == ("max_fps", 5.0)


def test_a_file_is_limited_by_its_decoder_where_the_model_waits() -> None:
    found = report(camera(live=False, served_fps=98.0, real_fps=98.0, decode_mean_ms=10.0, service_ms=2.0))
    assert (found.cameras[0].limit, found.cameras[0].possible_fps) == ("decode", 100.0)


def test_cameras_that_share_a_model_have_a_share_each() -> None:
    found = report(camera("a", served_fps=10.0, service_ms=50.0), camera("b", served_fps=10.0, service_ms=50.0))
    assert [c.possible_fps for c in found.cameras] == [10.0, 10.0]
    assert any("2 cameras share m" in line for line in found.advice)


def test_what_was_not_reached_is_told_first_and_has_no_ratio() -> None:
    dead = camera("dead", captured=0, served=0, served_fps=0.0, real_fps=0.0, error="connection refused", service_ms=None)
    found = report(camera(), dead)
    assert found.cameras[1].ratio is None
    assert found.advice[0].startswith("dead: not reached (connection refused)")


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"connected": False, "error": "refused"}, "not reached (refused)"), ({"dropped": {"buffer_full": 7}}, "7 events were dropped")],
)
def test_a_broker_that_fails_is_told_of(changed: dict[str, Any], word: str) -> None:
    whole = report(camera())
    assert any(word in line for line in judged(replace(whole, broker=replace(whole.broker, **changed))).advice)


def test_losses_on_the_way_and_damaged_pictures_are_told_of() -> None:
    found = report(camera(lost_upstream=12, dropped={"unreadable": 3}))
    assert any("12 frames never arrived" in line for line in found.advice)
    assert any("3 pictures came damaged" in line for line in found.advice)


@given(
    st.floats(0.0, 100),
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0, 50), st.floats(0.01, 10)), min_size=1),
)
def test_shares_are_never_more_than_asked_nor_than_there_is_and_waste_nothing(
    capacity: float, asked: dict[str, tuple[float, float]]
) -> None:
    demands, weights = {n: d for n, (d, _) in asked.items()}, {n: w for n, (_, w) in asked.items()}
    shares = fair_shares(capacity, demands, weights)
    assert shares.keys() == asked.keys()
    assert all(shares[name] <= demands[name] + 1e-6 for name in shares)
    assert math.isclose(sum(shares.values()), min(capacity, sum(demands.values())), rel_tol=1e-6, abs_tol=1e-6)
    hungry = [shares[name] / weights[name] for name in shares if shares[name] < demands[name] - 1e-6]
    assert not hungry or max(hungry) - min(hungry) <= 1e-6 * max(1.0, *hungry)
