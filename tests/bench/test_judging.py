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
        "camera": name, "kind": "rtsp", "state": "online", "error": None, "live": True, "gate": None, "every": False,
        "model": "m", "decoder": "h264",
        "declared_fps": 30.0, "real_fps": 30.0, "served_fps": 30.0, "captured": 300,
        "served": 300, "skipped": {}, "dropped": {}, "in_flight": 0,
        "lost_upstream": 0, "total_ms": PAIR,
        "parts_ms": parts, "service_ms": 10.0, "decode_mean_ms": 2.0, "asked_fps": None, "asked_by": None, "weight": 1.0,
    }  # fmt: skip
    return CameraReport(**{**usual, **given})


def report(*cameras: CameraReport, **given: Any) -> Report:
    shares = given.pop("shares", {})
    model = ModelReport(
        "m", given.pop("lanes", 1), 1, given.pop("precision", "float32"), "onnx", tuple(c.camera for c in cameras),
        share=min(shares.values(), default=1.0), shares=shares, cpu_budget=shares.get("cpu_budget"),
    )  # fmt: skip
    queue = {"accepted": 300, "delivered": 300, "dropped": {}, "queued": 0, "queued_before": 0, **given.pop("queue", {})}
    broker = BrokerReport("mqtt://b", publishing=True, connected=True, error=None, **queue)
    usual = Report(10.0, 10.0, None, 4, {"infer": 3.0, "capture and decode": 0.6}, 0.0, 150.0, cameras, (model,), broker)
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
    found = report(camera(served_fps=9.7, served=97, service_ms=100.0), precision="int8", cpu_s={"infer": 38.0, "capture and decode": 1.0})
    assert "quantize" not in found.advice[0]
    assert "lanes" not in found.advice[0]


def test_decoding_that_takes_the_cpu_is_told_before_the_model() -> None:
    found = report(camera(served_fps=9.7, served=97, service_ms=100.0), cpu_s={"infer": 8.0, "capture and decode": 31.0})
    assert found.cameras[0].limit == "CPU"
    assert any("79 % of the CPU" in line and "substream" in line for line in found.advice)


def test_a_camera_that_delivers_half_of_what_it_declares_is_told_of() -> None:
    found = report(camera(real_fps=15.0, served_fps=15.0))
    assert found.cameras[0].limit == "camera"
    assert "declares 30 fps and delivers 15.0" in found.advice[0]


def test_max_fps_is_the_limit_where_it_is_kept_to() -> None:
    found = report(camera(asked_fps=5.0, asked_by="max_fps", served_fps=4.9, served=49, skipped={"max_fps": 251}))
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


def test_settings_that_hold_a_camera_are_its_limit_and_are_named() -> None:
    lapse = camera(asked_fps=0.2, asked_by="interval_s", served_fps=0.2, served=2, skipped={"interval": 298})
    found = report(lapse)
    assert (found.cameras[0].limit, found.cameras[0].possible_fps) == ("interval_s", 0.2)
    assert "one frame in 5 s by interval_s" in found.advice[0]


def test_a_camera_before_which_nothing_moves_is_held_by_its_gate() -> None:
    found = report(camera(served_fps=3.0, served=30, skipped={"no_motion": 270}))
    assert (found.cameras[0].limit, found.cameras[0].possible_fps) == ("motion", 3.0)
    assert "nothing moved in 90 % of its frames" in found.advice[0]


def test_a_gate_that_lets_all_through_that_the_model_can_do_is_not_the_limit() -> None:
    found = report(camera(served_fps=9.8, served=98, service_ms=100.0, skipped={"no_motion": 30, "model_busy": 172}))
    assert found.cameras[0].limit == "model"


def test_a_camera_of_which_no_frame_was_served_says_by_what() -> None:
    nothing = {"served": 0, "served_fps": 0.0, "service_ms": None}
    found = report(
        camera("still", skipped={"no_motion": 300}, **nothing),
        camera("late", skipped={"stale": 290, "model_busy": 10}, **nothing),
        camera("wrong", skipped={"model_busy": 280}, dropped={"model_error": 20}, **nothing),
        camera("torn", dropped={"unreadable": 300}, **nothing),
    )
    assert [c.limit for c in found.cameras] == ["motion", "staleness_ms", "model_error", "unreadable"]
    assert "wrong: 20 frames failed in the model: edge-agent run says why in its log" in found.advice
    assert "torn: 300 pictures came damaged: look at cable and network" in found.advice
    assert "the limit is errors in the model" in found.text()
    assert any("290 of 300 frames were older than staleness_ms" in line for line in found.advice)
    assert "the limit is the motion gate" in found.text()


@pytest.mark.parametrize("cause", ["cpu_budget", "governor"])
def test_a_model_that_must_rest_is_held_by_who_makes_it_rest(cause: str) -> None:
    found = report(camera(served_fps=4.9, served=49, service_ms=100.0), shares={cause: 0.5, "other": 1.0}, governor_cause="temperature")
    assert (found.cameras[0].limit, found.cameras[0].possible_fps, found.models[0].busy) == (cause, 5.0, 0.98)
    assert {"cpu_budget": "cpu_budget = 0.5 in [model]", "governor": "50 % of the time: the chip is near"}[cause] in found.advice[0]
    assert "98 % busy within the 50 % of the time" in found.text()


def test_a_budget_that_is_not_used_up_holds_nobody() -> None:
    found = report(camera(), shares={"cpu_budget": 0.5})
    assert (found.cameras[0].limit, found.models[0].busy, found.advice) == ("camera", 0.6, ())


@pytest.mark.parametrize("queue", [{"delivered": 100, "queued": 200}, {"delivered": 100, "queued": 0, "dropped": {"buffer_full": 200}}])
def test_a_broker_that_takes_less_than_is_made_is_the_limit(queue: dict[str, Any]) -> None:
    found = report(camera(), queue=queue)
    assert found.cameras[0].limit == "broker"
    assert "takes 10.0 events a second of 30.0" in found.advice[0]


def test_events_on_their_way_are_no_broker_that_is_slow() -> None:
    assert report(camera(), queue={"delivered": 295, "queued": 8, "queued_before": 3}).cameras[0].limit == "camera"
    assert report(camera(), queue={"delivered": 300, "queued": 500, "queued_before": 500}).cameras[0].limit == "camera"


def test_what_was_served_was_possible() -> None:
    found = report(camera(served_fps=31.0, served=310, real_fps=30.0))
    assert (found.cameras[0].possible_fps, found.cameras[0].ratio) == (31.0, 1.0)


def test_a_source_that_waits_for_the_model_is_not_taken_for_a_slow_camera() -> None:
    waits = camera(every=True, real_fps=9.8, served_fps=9.8, served=98, captured=98, service_ms=100.0)
    found = report(waits)
    assert (found.cameras[0].limit, found.cameras[0].possible_fps) == ("model", 10.0)
    assert not any("declares" in line for line in found.advice)


def test_cores_that_others_use_are_not_called_idle_and_are_told() -> None:
    found = report(camera(served_fps=9.7, served=97, service_ms=100.0), others_s=35.0)
    assert found.cameras[0].limit == "CPU"
    assert not any("idle" in line for line in found.advice)
    assert any("other programs used 88 % of all cores" in line for line in found.advice)
    assert "9 % of all cores, and other programs 88 %" in found.text()


def test_a_model_that_ran_all_the_time_is_the_limit_whatever_else_used_the_other_cores() -> None:
    found = report(camera(served_fps=9.7, served=97, service_ms=100.0), cpu_s={"infer": 9.6}, others_s=30.0)
    assert found.cameras[0].limit == "model"


def test_a_gate_that_does_nothing_is_told() -> None:
    assert any("motion gate is off" in line for line in report(camera(gate=False, every=True)).advice)
    assert report(camera(gate=True)).advice == ()


def test_one_frame_in_a_minute_is_a_rate_too() -> None:
    text = report(camera(asked_fps=1 / 60, asked_by="interval_s", served_fps=0.017, served=1)).text()
    assert "0.017 fps served of 0.017 that were possible: 100 %" in text


def test_a_file_that_had_ended_was_not_out_of_reach() -> None:
    found = report(camera("short", state="ended", captured=0, served=0, served_fps=0.0, real_fps=0.0, service_ms=None))
    assert (found.cameras[0].limit, found.advice[0]) == ("", "short had ended before measuring began: a longer file, or loop = true")


def test_each_camera_and_model_is_told_with_the_other() -> None:
    text = report(camera("a"), camera("b", model="m2")).text()
    assert "a  rtsp, h264, model m;" in text
    assert "b  rtsp, h264, model m2;" in text


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"connected": False, "error": "refused"}, "not reached (refused)"), ({"dropped": {"buffer_full": 7}}, "7 were dropped")],
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
