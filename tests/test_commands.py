"""Commands obeyed by real cameras' runners and a real loop, by a clock that is moved by hand."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge_agent import _commands_payload
from edge_agent._commands_kept import KeptCamera, KeptSettings
from edge_agent._commands_limits import Answers, TokenBucket
from edge_agent._commands_payload import ReloadResult
from edge_agent._commands_snapshots import MOST_WAITING as MOST_SNAPSHOTS
from edge_agent.camera_state import CameraState
from edge_agent.capture import Capture
from edge_agent.commands import BURST, MOST_WAITING, Commands, CommandsContext
from edge_agent.controls import Controls
from edge_agent.errors import ConfigError, Problem, StateError
from edge_agent.events import Kind, Message, ModelInfo, ReplyTo
from edge_agent.image import BgrImage
from edge_agent.logs import RateLimit
from edge_agent.models.base import Thresholds
from edge_agent.pipeline import Crew, Pipeline, PipelineContext
from edge_agent.requests import Request
from edge_agent.scheduler import Scheduler
from edge_agent.sources.base import Reading
from tests.conftest import make_config, wait_until
from tests.test_capture import ScriptedSource, frame
from tests.test_pipeline import ScriptedModel

ANSWER = Draft202012Validator(_commands_payload.schemas()["command_result"])
PICTURE = np.random.default_rng(1).integers(0, 255, (480, 640, 3), np.uint8)
"""Noise: the hardest there is to make small."""


class Camera(ScriptedSource):
    """A live one whose reads wait for ``allow``."""

    def __init__(self) -> None:
        super().__init__([lambda: Reading(BgrImage(PICTURE), 0.0)] * 100, gated=True)


class Agent:
    """Two cameras and a loop, with commands whose thread is the test's."""

    def __init__(self, folder: Path, *, snapshots: bool = True, extra: dict[str, Any] | None = None) -> None:
        self.now = 1000.0
        self.messages: list[Message] = []
        self.reload: Callable[[], ReloadResult] = lambda: ReloadResult(["cameras.front.max_fps"], [])
        tables = [{"id": "front", "source": "rtsp://x/", **(extra or {})}, {"id": "yard", "source": "rtsp://y/"}]
        config = make_config({"cameras": tables})
        wake = threading.Condition()
        self.sources = {camera.id: Camera() for camera in config.cameras}
        self.captures = {camera.id: Capture(camera, self.sources[camera.id], wake) for camera in config.cameras}
        captures = list(self.captures.values())
        thresholds = dict.fromkeys(self.captures, Thresholds(0.4, 0.45, 10))
        crew = Crew(Scheduler(captures, wake), [ScriptedModel()], thresholds, ModelInfo("m", "h", "int8", "r"))  # type: ignore[list-item]
        context = PipelineContext("dev", "s", lambda _: None, lambda _: range(1000), lambda: True)
        self.pipeline = Pipeline(context, [crew])
        self.kept = KeptSettings(folder).read()
        self.controls = Controls(captures, self.pipeline, self.kept, self.clock)
        commands = CommandsContext("dev", "edge/dev", self.messages.append, self.report, self.reload_now)
        allow = list(_commands_payload.ARGUMENTS)
        self.commands = Commands(commands, self.controls, allow, snapshots=snapshots, clock=self.clock)
        self._next_id = 0

    def clock(self) -> float:
        return self.now

    def report(self) -> Any:
        raise NotImplementedError  # by tests with a whole agent

    def reload_now(self) -> ReloadResult:
        return self.reload()

    def receive(self, payload: bytes, camera: str | None = None, *, retained: bool = False, reply_to: ReplyTo | None = None) -> None:
        self.commands.receive(Request(camera, payload, retained, reply_to))
        self.commands.work()

    def ask(self, name: str, camera: str | None = None, *, id: str | None = None, **arguments: Any) -> dict[str, Any]:  # noqa: A002
        """Send a command; its answer."""
        self._next_id += 1
        self.send(name, camera, id=id, **arguments)
        return self.answers[-1]

    def send(self, name: str, camera: str | None = None, *, id: str | None = None, **arguments: Any) -> None:  # noqa: A002
        content = {"id": id or f"t{self._next_id}", "name": name, "arguments": arguments}
        self.receive(json.dumps(content).encode(), camera)

    @property
    def answers(self) -> list[dict[str, Any]]:
        found = [json.loads(m.payload) for m in self.messages if m.kind is Kind.COMMAND_RESULT]
        for answer in found:
            ANSWER.validate(answer)
        return found

    @property
    def snapshots(self) -> list[Message]:
        return [m for m in self.messages if m.kind is Kind.SNAPSHOT]

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.commands.work()

    def conserved(self) -> bool:
        counts = self.commands.counts
        return counts.received == counts.executed + counts.replayed + counts.refused.sum + counts.ignored.sum


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    for capture in made.captures.values():
        capture.stop()
    for source in made.sources.values():
        source.permits.release(1000)


def started(agent: Agent) -> Agent:
    for capture in agent.captures.values():
        capture.start()
    for source in agent.sources.values():
        source.allow()
    wait_until(lambda: all(c.status.state is CameraState.ONLINE for c in agent.captures.values()))
    return agent


# -- halts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "back", "is_so"), [("pause", "resume", "paused"), ("mute", "unmute", "muted")])
def test_a_camera_is_halted_until_that_is_taken_back(agent: Agent, name: str, back: str, is_so: str) -> None:
    answer = agent.ask(name, "front")
    assert answer["ok"]
    assert answer["result"] == {"cameras": ["front"], "ended": [], "until": None}
    assert answer["survives_restart"] is False
    assert [getattr(c, is_so) for c in agent.captures.values()] == [True, False]
    agent.pass_time(1e6)
    assert getattr(agent.captures["front"], is_so)
    assert agent.ask(back)["result"]["cameras"] == ["front", "yard"]
    assert not getattr(agent.captures["front"], is_so)


@pytest.mark.parametrize(("name", "is_so"), [("pause", "paused"), ("mute", "muted")])
def test_a_halt_with_a_duration_ends_by_itself(agent: Agent, name: str, is_so: str) -> None:
    agent.ask(name, duration_s=10)
    agent.ask(name, "yard", duration_s=20)  # the last word holds
    agent.pass_time(9.9)
    assert all(getattr(c, is_so) for c in agent.captures.values())
    assert agent.commands.work() == pytest.approx(1010)
    agent.pass_time(0.2)
    assert [getattr(c, is_so) for c in agent.captures.values()] == [False, True]
    agent.pass_time(10)
    assert not agent.captures["yard"].muted
    assert agent.commands.work() is None


def test_a_later_halt_replaces_one_with_a_duration(agent: Agent) -> None:
    agent.ask("mute", "front", duration_s=10)
    agent.ask("mute", "front")
    agent.pass_time(100)
    assert agent.captures["front"].muted
    agent.ask("pause", "front", duration_s=10)
    agent.ask("resume", "front")
    agent.ask("pause", "front")
    agent.pass_time(100)
    assert agent.captures["front"].paused, "the end of a pause that was taken back is not the end of the next"


def test_what_comes_while_muted_is_counted(agent: Agent) -> None:
    started(agent)
    agent.ask("mute", "front")
    agent.sources["front"].allow(3)
    wait_until(lambda: agent.captures["front"].snapshot().captured == 4)
    assert agent.captures["front"].snapshot().skipped == {"muted": 4}, "the one that waited too"
    assert agent.captures["front"].status.state is CameraState.MUTED


def test_a_camera_that_has_ended_cannot_be_halted_and_the_others_are(agent: Agent) -> None:
    started(agent)
    agent.sources["front"].steps = []
    agent.sources["front"].permits.release()
    wait_until(lambda: agent.captures["front"].status.state is CameraState.ENDED)
    assert agent.ask("pause", "front")["error"]["code"] == "camera_ended"
    assert agent.ask("mute")["result"] == {"cameras": ["yard"], "ended": ["front"], "until": None}
    assert agent.ask("snapshot", "front")["error"]["code"] == "camera_ended"


# -- what is kept ---------------------------------------------------------------------------------------------------------


def test_what_is_kept_holds_after_a_restart(agent: Agent, tmp_path: Path) -> None:
    assert agent.ask("pause", "yard", keep=True)["survives_restart"] is True
    assert agent.ask("set", confidence=0.75, keep=True)["survives_restart"] is True
    assert agent.ask("mute", "front")["survives_restart"] is False
    again = Agent(tmp_path)
    assert again.controls.restore() == {"front": KeptCamera(confidence=0.75), "yard": KeptCamera(paused=True, confidence=0.75)}
    assert [c.paused for c in again.captures.values()] == [False, True]
    assert not again.captures["front"].muted
    assert again.pipeline.flows["front"].thresholds.confidence == 0.75


def test_the_last_word_holds_after_a_restart_too(agent: Agent, tmp_path: Path) -> None:
    agent.ask("pause", keep=True)
    agent.ask("set", max_fps=5, confidence=0.5, keep=True)
    agent.ask("resume", "front")
    agent.ask("pause", "yard", duration_s=5)
    agent.ask("set", "front", max_fps=None)
    assert agent.ask("set", "yard", max_fps=7)["survives_restart"] is False
    assert KeptSettings(tmp_path).read().cameras == {"front": KeptCamera(confidence=0.5), "yard": KeptCamera(confidence=0.5)}
    agent.ask("set", confidence=None)
    assert KeptSettings(tmp_path).read().cameras == {}


def test_nothing_changes_where_it_cannot_be_kept(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "gone")
    answer = agent.ask("pause", "front", keep=True)
    assert answer["error"]["code"] == "not_kept"
    assert "No such file" in answer["error"]["message"]
    assert not agent.captures["front"].paused
    assert agent.ask("set", "front", confidence=0.9, keep=True)["error"]["code"] == "not_kept"
    assert agent.pipeline.flows["front"].thresholds.confidence == 0.4
    assert agent.ask("pause", "front")["ok"], "without keep it can be done"


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[]", b'{"cameras": {"front": {"max_fps": -1}}}', b'{"cameras": {"a/b": {}}}'])
def test_a_damaged_file_is_told_of_and_set_aside(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    kept = KeptSettings(tmp_path)
    kept.path.write_bytes(damage)
    with pytest.raises(StateError, match="damaged"):
        kept.read()
    kept.read_or_set_aside()
    assert kept.cameras == {}
    assert kept.path.with_suffix(".damaged").read_bytes() == damage
    assert "agent.toml holds" in caplog.text
    kept.change(["front"], paused=True)
    assert KeptSettings(tmp_path).read().cameras == {"front": KeptCamera(paused=True)}


def test_what_is_kept_of_a_camera_that_is_no_more_does_no_harm(tmp_path: Path) -> None:
    KeptSettings(tmp_path).change(["gone", "front"], muted=True)
    agent = Agent(tmp_path)
    assert set(agent.controls.restore()) == {"front"}
    agent.ask("unmute")
    assert set(KeptSettings(tmp_path).read().cameras) == {"gone"}


# -- settings -------------------------------------------------------------------------------------------------------------


def test_settings_hold_at_once_and_null_goes_back(agent: Agent) -> None:
    answer = agent.ask("set", "front", confidence=0.8, max_fps=4)
    assert answer["result"] == {"settings": {"front": {"confidence": 0.8, "max_fps": 4.0}}}
    assert answer["survives_restart"] is False
    assert agent.pipeline.flows["front"].thresholds == Thresholds(0.8, 0.45, 10)
    assert agent.captures["front"].slot.policy.interval_s == 0.25
    assert agent.pipeline.flows["yard"].thresholds.confidence == 0.4
    assert set(agent.controls.in_force) == {"front"}
    agent.ask("set", "front", confidence=None)
    assert agent.pipeline.flows["front"].thresholds.confidence == 0.4
    assert agent.captures["front"].max_fps == 4
    assert agent.ask("set", max_fps=None)["result"]["settings"]["front"] == {"confidence": 0.4, "max_fps": None}
    assert agent.controls.in_force == {}


def test_a_slow_pace_does_not_hold_up_a_faster_one(agent: Agent) -> None:
    started(agent)
    capture = agent.captures["front"]
    with capture._wake:
        agent.ask("set", "front", max_fps=0.01)
        now = capture.slot._clock()
        assert capture.take(now) is not None
        assert capture.slot.due > now + 99
        agent.ask("set", "front", max_fps=10)
        assert capture.slot.due < now + 5


def test_a_camera_with_an_interval_takes_no_max_fps_and_nothing_is_changed(tmp_path: Path) -> None:
    agent = Agent(tmp_path, extra={"interval_s": 60})
    answer = agent.ask("set", max_fps=5, confidence=0.9)
    assert answer["error"]["code"] == "invalid_argument"
    assert "camera front has interval_s" in answer["error"]["message"]
    assert agent.captures["yard"].max_fps is None
    assert agent.pipeline.flows["yard"].thresholds.confidence == 0.4
    assert agent.ask("set", max_fps=None)["ok"]
    assert agent.captures["front"].slot.policy.interval_s == 60


# -- snapshots ------------------------------------------------------------------------------------------------------------


def shot(agent: Agent, camera: str, **arguments: Any) -> dict[str, Any]:
    """A snapshot of the next picture that a camera gives."""
    before = len(agent.answers)
    agent.send("snapshot", camera, id=f"shot{before}", **arguments)
    assert len(agent.answers) == before, "the picture has not come yet"
    agent.sources[camera].allow()

    def answered() -> bool:
        agent.commands.work()
        return len(agent.answers) > before

    wait_until(answered)
    return agent.answers[-1]


def test_a_snapshot_is_the_next_picture_and_the_answer_says_which(agent: Agent) -> None:
    answer = shot(started(agent), "front")
    picture = answer["result"]["pictures"]["front"]
    [message] = agent.snapshots
    assert message.camera == "front"
    assert picture["bytes"] == len(message.payload) <= 256 * 1024
    assert picture["sha256"] == hashlib.sha256(message.payload).hexdigest()
    assert (picture["frame_id"], picture["source_width"], picture["source_height"]) == (1, 640, 480)
    decoded = cv2.imdecode(np.frombuffer(message.payload, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (picture["height"], picture["width"], 3) == PICTURE.shape
    assert abs(float(decoded.mean()) - float(PICTURE.mean())) < 5
    assert agent.messages.index(message) < len(agent.messages) - 1, "the picture goes before the answer"


@pytest.mark.parametrize(("arguments", "width"), [({"max_width": 320}, 320), ({"max_bytes": 20_000}, 320), ({"max_width": 8192}, 640)])
def test_a_snapshot_is_as_small_as_is_asked(agent: Agent, arguments: dict[str, Any], width: int) -> None:
    picture = shot(started(agent), "front", **arguments)["result"]["pictures"]["front"]
    assert picture["width"] == width
    assert picture["height"] == width * 3 // 4
    assert picture["bytes"] <= arguments.get("max_bytes", 256 * 1024)


def test_a_frame_of_a_snapshot_is_served_all_the_same(agent: Agent) -> None:
    started(agent)
    shot(agent, "front")
    capture = agent.captures["front"]
    with capture._wake:
        taken = capture.take(agent.now)
    assert taken is not None
    assert taken.frame_id == 1
    assert (taken.image.bgr() == PICTURE).all()
    assert (taken.image.cropped(2, 2, 64, 64).resized(32, 32, "RGB").shape) == (32, 32, 3)


def test_a_muted_camera_gives_snapshots_and_a_paused_one_says_why_not(agent: Agent) -> None:
    started(agent)
    agent.ask("mute", "front")
    assert shot(agent, "front")["ok"]
    agent.ask("pause", "front")
    answer = agent.ask("snapshot", "front")
    assert answer["error"]["code"] == "camera_paused"
    assert "resume" in answer["error"]["message"]


def test_snapshots_are_only_made_where_their_owner_allows_them(tmp_path: Path) -> None:
    agent = Agent(tmp_path, snapshots=False)
    answer = agent.ask("snapshot")
    assert answer["error"]["code"] == "not_allowed"
    assert "snapshots = true" in answer["error"]["message"]
    agent = Agent(tmp_path, snapshots=True, extra={"snapshots": False})
    assert agent.ask("snapshot", "front")["error"]["code"] == "not_allowed"
    assert not agent.captures["front"]._intake.onlookers


def test_of_all_cameras_those_are_sent_that_can_be(tmp_path: Path) -> None:
    agent = started(Agent(tmp_path, extra={"snapshots": False}))
    agent.send("snapshot", id="x")
    agent.sources["yard"].allow()
    wait_until(lambda: agent.commands.work() is None and agent.answers)
    result = agent.answers[0]["result"]
    assert set(result["pictures"]) == {"yard"}
    assert result["failed"]["front"]["code"] == "not_allowed"
    for source in agent.sources.values():
        source.permits.release(100)


def test_a_camera_that_gives_no_picture_in_time_is_told_of_and_not_waited_for(agent: Agent) -> None:
    started(agent)
    agent.send("snapshot", "front", within_s=3)
    agent.pass_time(2.9)
    assert agent.answers == []
    agent.pass_time(0.2)
    assert agent.answers[0]["error"]["code"] == "camera_silent"
    assert not agent.captures["front"]._intake.onlookers
    agent.sources["front"].allow()
    agent.commands.work()
    assert agent.snapshots == []
    assert agent.conserved()


def test_few_snapshots_wait_at_a_time(agent: Agent) -> None:
    started(agent)
    for number in range(MOST_SNAPSHOTS):
        agent.send("snapshot", "front", id=f"s{number}")
    assert agent.ask("snapshot", "front")["error"]["code"] == "busy"
    assert agent.ask("mute", "yard")["ok"], "nothing else waits for them"


def test_a_picture_that_cannot_be_read_is_an_answer(agent: Agent) -> None:
    class Damaged(BgrImage):
        def bgr(self) -> Any:
            raise ValueError("the camera sent a JPEG that cannot be decoded")

    started(agent)
    agent.sources["front"].steps = [lambda: Reading(Damaged(PICTURE), 0.0), frame()]
    answer = shot(agent, "front")
    assert answer["error"] == {"code": "picture_unusable", "message": "camera front: the camera sent a JPEG that cannot be decoded"}


# -- reload ---------------------------------------------------------------------------------------------------------------


def reloaded(agent: Agent) -> dict[str, Any]:
    agent.send("reload", id=f"r{len(agent.messages)}")
    before = len(agent.answers)

    def answered() -> bool:
        agent.commands.work()
        return len(agent.answers) > before or agent.commands._reloading is None

    wait_until(answered)
    return agent.answers[-1]


def test_reload_is_done_beside_other_commands_and_one_at_a_time(agent: Agent) -> None:
    gate = threading.Event()
    done = ReloadResult(["cameras.front.max_fps"], ["mqtt.host"])

    def reload() -> ReloadResult:
        assert gate.wait(10)
        return done

    agent.reload = reload
    agent.send("reload", id="r")
    assert agent.ask("mute", "front")["ok"]
    assert agent.ask("reload", id="r2")["error"]["code"] == "busy"
    agent.send("reload", id="r")
    assert agent.commands.counts.replayed == 1, "the same one again is not another"
    gate.set()
    wait_until(lambda: agent.commands.work() is None and agent.commands._reloading is None)
    assert agent.answers[-1]["result"] == {"applied": done.applied, "needs_restart": done.needs_restart}
    assert agent.conserved()


def test_a_file_that_is_wrong_is_refused_with_its_errors(agent: Agent) -> None:
    def reload() -> ReloadResult:
        raise ConfigError(Problem("unknown key", "agent.toml", 3, "mqtt.hots"), Problem("rtsp://me:secret@host is wrong", key="cameras"))

    agent.reload = reload
    answer = reloaded(agent)
    assert answer["error"]["code"] == "invalid_configuration"
    assert "2 error(s): agent.toml:3: mqtt.hots: unknown key" in answer["error"]["message"]
    assert len(answer["problems"]) == 2
    assert "secret" not in json.dumps(answer)


def test_a_reload_that_cannot_clear_what_was_kept_says_so(agent: Agent) -> None:
    def reload() -> ReloadResult:
        raise StateError("commands.json cannot be written: No space left on device")

    agent.reload = reload
    assert reloaded(agent)["error"]["code"] == "not_kept"


def test_a_defect_in_reloading_is_an_answer_and_not_the_end(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    def reload() -> ReloadResult:
        raise ZeroDivisionError

    agent.reload = reload
    assert reloaded(agent)["error"]["code"] == "internal"
    assert "ZeroDivisionError" in caplog.text
    agent.reload = lambda: ReloadResult([], [])
    assert reloaded(agent)["ok"]
    assert agent.ask("reload", "front")["error"]["code"] == "wrong_topic"


# -- who may, how much, how often -----------------------------------------------------------------------------------------


def test_retained_commands_are_ignored_and_counted(agent: Agent) -> None:
    agent.receive(b'{"id": "1", "name": "pause"}', retained=True)
    assert not agent.captures["front"].paused
    assert agent.messages == []
    assert agent.commands.counts.ignored == {"retained": 1}


def test_a_command_with_a_known_id_is_answered_and_not_obeyed_again(agent: Agent) -> None:
    first = agent.ask("mute", "front", id="a", duration_s=5)
    agent.ask("unmute", "front", id="b")
    again = agent.ask("mute", "front", id="a", duration_s=5)
    assert again == {**first, "replayed": True}
    assert not agent.captures["front"].muted
    assert agent.commands.counts.replayed == 1
    other = agent.ask("mute", "front", id="a", duration_s=6)
    assert other["error"]["code"] == "id_reused"
    assert agent.ask("mute", "yard", id="a", duration_s=6)["ok"], "ids are each topic's own"
    agent.pass_time(601)
    agent.ask("mute", "front", id="a", duration_s=5)
    assert [c.muted for c in agent.captures.values()] == [True, False], "memory has an end"
    assert agent.conserved()


def test_what_was_refused_may_be_sent_again(tmp_path: Path) -> None:
    agent = Agent(tmp_path / "state")
    assert agent.ask("pause", id="a", keep=True)["error"]["code"] == "not_kept"
    (tmp_path / "state").mkdir()
    assert agent.ask("pause", id="a", keep=True)["ok"]


def test_too_many_commands_are_answered_once_and_counted(agent: Agent) -> None:
    for number in range(BURST + 50):
        agent.send("unmute", "front", id=f"n{number}")
    assert [a["ok"] for a in agent.answers] == [True] * BURST + [False]
    error = agent.answers[-1]["error"]
    assert error["code"] == "rate_limited"
    assert "in 0.2 s" in error["message"]
    assert agent.answers[-1]["id"] == f"n{BURST}"
    assert agent.commands.counts.refused == {"rate_limited": 50}
    agent.pass_time(0.21)
    assert agent.ask("unmute", "front", id="later")["ok"]
    assert agent.conserved()


def test_rubbish_counts_against_the_limit_too(agent: Agent) -> None:
    for _ in range(BURST + 10):
        agent.receive(b"\xff" * 100)
    assert agent.commands.counts.refused == {"not_json": BURST, "rate_limited": 10}
    assert agent.answers[-1]["error"]["code"] == "rate_limited"


def test_the_queue_is_bounded_in_number_and_bytes(agent: Agent) -> None:
    for _ in range(MOST_WAITING + 10):
        agent.commands.receive(Request("front", b"[" * 10_000_000, False, None))
    assert agent.commands.counts.ignored == {"queue_full": 10}
    assert sum(len(request.payload) for request in agent.commands._requests) < 2_000_000
    agent.commands.work()
    assert agent.answers[0]["error"]["code"] == "too_large"
    assert agent.conserved()


def test_only_what_is_allowed_is_obeyed(agent: Agent) -> None:
    agent.commands.allow = ["report", "snapshot"]
    answer = agent.ask("pause")
    assert answer["error"]["code"] == "not_allowed"
    assert "[commands] allow" in answer["error"]["message"]
    assert not agent.captures["front"].paused


@pytest.mark.parametrize("camera", ["gone", "front/../yard", "#", "\u202e", "x" * 60_000, "\ud800"])
def test_a_camera_that_is_none_is_answered_on_the_device_topic(agent: Agent, camera: str, caplog: pytest.LogCaptureFixture) -> None:
    agent.receive(b'{"id": "1", "name": "pause"}', camera)
    [message] = agent.messages
    assert message.camera is None
    assert agent.answers[0]["error"]["code"] == "unknown_camera"
    assert "only front, yard" in agent.answers[0]["error"]["message"]
    assert len(message.payload) < 600
    assert len(caplog.text) < 600
    assert caplog.text.isascii()


def test_a_response_topic_is_answered_with_its_correlation(agent: Agent) -> None:
    reply_to = ReplyTo("me/answers", b"7")
    for payload in (b'{"id": "1", "name": "mute"}', b'{"id": "1", "name": "mute"}', b"rubbish"):
        agent.receive(payload, reply_to=reply_to)
    assert [m.reply_to for m in agent.messages] == [reply_to] * 3


def test_who_did_what_is_in_the_log_and_payloads_are_not(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    agent.ask("mute", "front", id="phone-7", duration_s=5)
    assert "name=mute" in caplog.text
    assert "topic=edge/dev/camera/front/command id='phone-7'" in caplog.text
    limit = RateLimit(agent.clock)
    assert all(limit.filter(each) for each in caplog.records * 20), "each one"
    agent.pass_time(6)
    assert "camera=front is no longer muted" in caplog.text
    caplog.clear()
    agent.receive(b'{"password": "hunter2", "id": "1", "name": "hunter2\\u001b[2J"' + b" " * 100)
    agent.receive(b"hunter2")
    assert "hunter2" not in caplog.text
    for _ in range(200):
        agent.now += 1
        agent.receive(b"hunter2")
    assert len([r for r in caplog.records if "refused" in r.message]) < 40, "whoever fills the queue does not fill the log"


def test_a_defect_in_one_command_is_an_answer_and_not_the_end(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    answer = agent.ask("report")
    assert answer["error"] == {"code": "internal", "message": "unexpected NotImplementedError; the agent's log has more"}
    assert "Traceback" in caplog.text
    assert agent.ask("mute")["ok"]


def test_whoever_waits_when_the_agent_ends_is_told(agent: Agent) -> None:
    started(agent)
    agent.commands.start()
    for payload in (b'{"id": "1", "name": "snapshot", "arguments": {"within_s": 60}}', b'{"id": "2", "name": "mute"}'):
        agent.commands.receive(Request("front", payload, False, None))
    wait_until(lambda: len(agent.answers) == 1)
    agent.commands.stop(5)
    assert agent.answers[-1]["id"] == "1"
    assert agent.answers[-1]["error"]["code"] == "stopping"
    agent.commands.receive(Request("front", b"{}", False, None))
    assert agent.commands.counts.ignored == {"stopping": 1}
    assert agent.conserved()


def test_the_thread_wakes_for_what_comes_and_for_what_ends(agent: Agent) -> None:
    agent.commands.start()
    agent.commands.receive(Request("front", b'{"id": "1", "name": "mute", "arguments": {"duration_s": 5}}', False, None))
    wait_until(lambda: agent.captures["front"].muted)
    agent.now += 6
    agent.commands.receive(Request("yard", b'{"id": "2", "name": "unmute"}', False, None))
    wait_until(lambda: not agent.captures["front"].muted)
    agent.commands.stop(5)
    assert not agent.commands._thread.is_alive()


arguments = st.dictionaries(
    st.sampled_from(["duration_s", "keep", "max_fps", "confidence"]), st.sampled_from([None, 1, 0.5, True, "x", -1]), max_size=2
)
contents = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b", "c", "", 1]), "name": st.sampled_from([*_commands_payload.ARGUMENTS, "x"]), "arguments": arguments}
)
payloads = st.binary(max_size=60) | contents.map(lambda content: json.dumps(content).encode())
requests = st.builds(Request, st.sampled_from([None, "front", "yard", "gone", "\ud800"]), payloads, st.booleans(), st.none())


@given(sent=st.lists(st.tuples(requests, st.floats(0, 30)), max_size=40))
def test_whatever_comes_each_is_accounted_for_and_nothing_raises(tmp_path_factory: pytest.TempPathFactory, sent: list[Any]) -> None:
    agent = Agent(tmp_path_factory.mktemp("state"))
    for request, pause_s in sent:
        agent.commands.receive(request)
        agent.pass_time(pause_s)
    agent.pass_time(1e6)
    wait_until(lambda: agent.commands.work() is None and agent.commands._reloading is None)
    assert agent.conserved()
    answered = agent.commands.counts.executed + agent.commands.counts.refused.sum
    assert len(agent.answers) <= answered + agent.commands.counts.replayed
    kept = KeptSettings(agent.kept.path.parent).read().cameras
    assert kept == agent.kept.cameras


# -- limits ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 5), max_size=100))
def test_a_bucket_never_gives_more_than_it_may(waits: list[float]) -> None:
    bucket, now, given_out = TokenBucket(3, 2.0, 0.0), 0.0, 0
    for wait in waits:
        now += wait
        given_out += bucket.take(now)
        assert given_out <= 3 + 2.0 * now + 1e-6
    now += bucket.next_s(now) + 1e-6
    assert bucket.take(now)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(1, 1.0, 100.0)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.1)


def test_answers_are_forgotten_by_number_and_age() -> None:
    answers: Answers[str] = Answers(2, 10.0)
    for at, key in enumerate("abc"):
        answers.put(key, None, key, float(at))
    assert answers.get("a", 3.0) is None
    assert answers.get("b", 3.0) is not None
    answers.forget("b")
    assert answers.get("b", 3.0) is None
    assert answers.get("c", 13.0) is None
    assert len(answers) == 0
