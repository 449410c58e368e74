"""What `edge-agent watch` makes of a message: a line for people, or JSON; and of anything else, no failure."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.encoding import encode
from edge_agent.errors import ExitCode, SinkUnavailable
from edge_agent.events import CameraStatusEvent, DetectedObject, DetectionsEvent, ErrorInfo, LatencyParts, ModelInfo, timestamp
from edge_agent.health_event import CameraHealth, DeliveryHealth, HealthEvent, HostHealth, ProcessHealth
from edge_agent.watch import MOST_SHOWN, Watch, WatchOptions, render
from tests.conftest import free_port

MODEL = ModelInfo("oid", "0" * 64, "int8", "LiteRT")
PERSON = DetectedObject(0, "Person", 0.9134, (10.4, 20.0, 30.0, 40.6), (0.1, 0.2, 0.3, 0.4))
CAR = DetectedObject(1, "Car", 0.5, (1.0, 2.0, 3.0, 4.0), (0.1, 0.2, 0.3, 0.4))
DETECTIONS, STATUS, HEALTH = "edge/dev/camera/front/detections", "edge/dev/camera/front/status", "edge/dev/health"


def detections(*found: DetectedObject, captured: float | None = None) -> bytes:
    event = DetectionsEvent(
        "dev", "front", "s", 7, 42, timestamp(time.time() if captured is None else captured), True, 640, 480, MODEL,
        LatencyParts(20.0, 1.0, 2.0, 12.345, 3.0), list(found),
    )  # fmt: skip
    return encode(event).payload


def health(**changes: Any) -> bytes:
    camera = CameraHealth("online", 100, 90, {}, {}, 0, 15.04, 14.96, None, 0.1, 0, None, "h264")
    event = HealthEvent(
        "dev", "s", timestamp(0), True, "0.1", 5.0, "ok", [], MODEL, "CPU", {}, {"front": camera},
        DeliveryHealth(True, 0, 0, 0, 5, {}, None), ProcessHealth(87.6, 123_400_000, 9, 20), HostHealth(0.5, None, {}),
    )  # fmt: skip
    return encode(dataclasses.replace(event, **changes)).payload


def camera_status(**changes: Any) -> bytes:
    event = CameraStatusEvent("dev", "front", "online", timestamp(0), None, 0, 0.1, 1280, 720, "h264 (FFmpeg)")
    return encode(dataclasses.replace(event, **changes)).payload


def line(topic: str, payload: bytes, **options: Any) -> str | None:
    return render(topic, payload, WatchOptions(**options))


def test_detections_show_label_confidence_box_age_and_inference() -> None:
    shown = line(DETECTIONS, detections(PERSON, CAR))
    assert shown is not None
    assert shown.startswith("front frame 42: Person 0.91 [10, 20, 30, 41]; Car 0.50 [1, 2, 3, 4]  (")
    assert shown.endswith(" ms, inference 12.3 ms)")


def test_what_other_tasks_see_is_shown_too() -> None:
    content = json.loads(detections(PERSON))
    content["detections"][0]["keypoints"] = [[1, 2, 0.5]]
    content["classes"] = [{"class_id": 3, "label": "broccoli", "confidence": 0.7}]
    content["segments"] = [{"class_id": 0, "label": "road", "share": 0.25}]
    line = render(DETECTIONS, json.dumps(content).encode(), WatchOptions())
    assert line is not None
    assert "Person 0.91 [10, 20, 30, 41] with keypoints; broccoli 0.70; road 25.0%" in line
    line = render(DETECTIONS, json.dumps(content).encode(), WatchOptions(label="road"))
    assert line is not None
    assert ": road 25.0%  (" in line


def test_an_old_or_unset_clock_shows_the_time_itself() -> None:
    shown = line(DETECTIONS, detections(PERSON, captured=86400.0))
    assert shown is not None
    assert "(1970-01-02T00:00:00.000Z, inference" in shown


def test_a_crowd_is_cut_short() -> None:
    shown = line(DETECTIONS, detections(*[PERSON] * (MOST_SHOWN + 5)))
    assert shown is not None
    assert shown.count("Person") == MOST_SHOWN
    assert "and 5 more" in shown


def test_empty_frames_and_other_classes_are_left_out_unless_asked_for() -> None:
    assert line(DETECTIONS, detections()) is None
    assert "nothing" in (line(DETECTIONS, detections(), every_frame=True) or "")
    assert line(DETECTIONS, detections(CAR), label="Person") is None
    assert line(DETECTIONS, detections(), label="Person", every_frame=True) is None
    only = line(DETECTIONS, detections(CAR, PERSON), label="Person") or ""
    assert "Person" in only
    assert "Car" not in only


def test_one_camera_only() -> None:
    for topic, payload in ((DETECTIONS, detections(PERSON)), (STATUS, camera_status())):
        assert line(topic, payload, camera="back") is None
        assert line(topic, payload, camera="front") is not None
    assert line(HEALTH, health(), camera="front") is None


def test_health_camera_and_agent_lines() -> None:
    assert line(HEALTH, health()) == "health dev: ok; front online 15.0 of 15.0 fps; CPU 88 %, 123 MB"
    assert "degraded (no broker; hot)" in (line(HEALTH, health(verdict="degraded", reasons=["no broker", "hot"])) or "")
    assert line(STATUS, camera_status()) == "camera front: online, 1280x720, h264 (FFmpeg)"
    error = ErrorInfo("timeout", "no frame for 5 s")
    assert line(STATUS, camera_status(state="backoff", error=error)) == "camera front: backoff: no frame for 5 s"
    assert line("edge/dev/status", b"online") == "agent: online"


def test_a_base_of_several_levels() -> None:
    assert line("site/a/dev/camera/front/detections", detections(PERSON), base="site/a") is not None
    assert line("site/a/dev/camera/front/detections", detections(PERSON), base="site/a", camera="back") is None


def test_json_is_topic_and_payload_of_everything_that_is_asked_for() -> None:
    assert json.loads(line(DETECTIONS, detections(), as_json=True) or "")["payload"]["frame_id"] == 42
    assert line(DETECTIONS, detections(CAR), as_json=True, label="Person") is None
    assert json.loads(line(DETECTIONS, detections(CAR, PERSON), as_json=True, label="Person") or "")["topic"] == DETECTIONS
    assert json.loads(line("edge/dev/status", b"online", as_json=True, label="Person") or "")["payload"] == "online"
    assert json.loads(line("edge/dev/status", b"online", as_json=True) or "") == {"topic": "edge/dev/status", "payload": "online"}


KEYS = ["detections", "label", "confidence", "xyxy", "cameras", "process", "device", "error", "state", "captured_at"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=10,
)
PAYLOADS = st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode())


@given(
    st.sampled_from([DETECTIONS, STATUS, HEALTH, "edge/dev/status", "edge", "edge/", "other/x", "edge/dev/camera/front/snapshot"]), PAYLOADS
)
def test_no_payload_of_anybody_makes_it_fail(topic: str, payload: bytes) -> None:
    for as_json, label in itertools.product((False, True), (None, "Person")):
        shown = line(topic, payload, as_json=as_json, label=label)
        assert shown is None or isinstance(shown, str)


def test_a_deeply_nested_payload_does_not_make_it_fail() -> None:
    assert line("edge/dev/x", b"[" * 100_000) is not None


def test_no_broker_is_one_line_and_exit_code_69() -> None:
    port = free_port()
    with pytest.raises(SinkUnavailable, match=rf"mqtt://127\.0\.0\.1:{port}: Connection refused") as caught:
        Watch(WatchOptions(host="127.0.0.1", port=port), print).start()
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
