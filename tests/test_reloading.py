"""agent.toml read again under running cameras: what changes at once, what is opened anew, what comes and goes, and what waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent import config_file, plugins
from edge_agent._commands_kept import KeptSettings
from edge_agent.camera_sources import patient_source
from edge_agent.camera_state import CameraState
from edge_agent.capture import Capture
from edge_agent.config import AgentConfig
from edge_agent.controls import Controls
from edge_agent.errors import ConfigError, StateError
from edge_agent.events import Message, ModelInfo
from edge_agent.health import STUCK_AFTER_S, Health, HealthContext
from edge_agent.models._thresholds import all_thresholds
from edge_agent.notify import Notifier
from edge_agent.pipeline import Crew, Pipeline, PipelineContext
from edge_agent.publisher import Publisher
from edge_agent.reloading import Changes, ReloadContext, Reloader
from edge_agent.scheduler import Scheduler
from edge_agent.spool import Spool, SpoolLimits
from tests.conftest import wait_until
from tests.test_pipeline import ScriptedModel
from tests.test_publisher import ScriptedSink

LABELS, USUAL = ("person", "car"), 0.3
"""That of the built-in model, which these stand for."""
HEAD = '[device]\nid = "dev"\nstate_dir = "state"\n'
CAMERA = '[[cameras]]\nid = "{id}"\nsource = "synthetic"\nfps = 50\nwidth = 64\nheight = 48\n'
FRONT, YARD = CAMERA.format(id="front"), CAMERA.format(id="yard")
OTHER = '[models.other]\npath = "builtin"\n'


class Rig:
    """Cameras, loops and a reloader, as an agent has them."""

    def __init__(self, folder: Path, text: str, kept: KeptSettings | None = None) -> None:
        self.file = folder / "agent.toml"
        self.config = self.written(text)
        self.wake = threading.Condition()
        self.changed: list[str] = []
        cameras = [camera for camera in self.config.cameras if camera.settings.enabled]
        self.captures = [Capture(c, patient_source(self.config, c), self.wake, self._on_change) for c in cameras]
        self.messages: list[Message] = []
        context = PipelineContext("dev", "s", self.messages.append, lambda _: range(100_000), lambda: True)
        crews = [self._crew(view) for view in self.config.per_model()]
        self.pipeline = Pipeline(context, crews)
        self.controls = Controls(self.captures, self.pipeline, kept)
        self.published: list[AgentConfig] = []
        models = {view.model_name: (LABELS, USUAL) for view in self.config.per_model()}
        reload = ReloadContext(self.pipeline, self.controls, models, lambda _: lambda: None, self.published.append)
        self.reloader = Reloader(self.config, reload)

    def _crew(self, view: AgentConfig) -> Crew:
        captures = [c for c in self.captures if c.camera.settings.model == view.model_name]
        thresholds = all_thresholds(view, LABELS)
        return Crew(Scheduler(captures, self.wake), [ScriptedModel()], thresholds, ModelInfo("m", "h", "int8", "r"))  # type: ignore[list-item]

    def _on_change(self, capture: Capture) -> None:
        self.changed.append(f"{capture.camera.id} {'retired' if capture.retired else capture.status.state.value}")

    def written(self, text: str) -> AgentConfig:
        self.file.write_text(text)
        return config_file.load(self.file, plugins.PluginKinds(), {})

    def reload(self, text: str) -> Changes:
        self.file.write_text(text)
        return self.reloader.reload()

    def start(self) -> None:
        self.pipeline.start()
        for capture in self.captures:
            capture.start()
        self.all_online()

    def all_online(self) -> None:
        wait_until(lambda: all(c.status.state is CameraState.ONLINE for c in self.captures), 10)

    def served(self, camera: str) -> int:
        return self.controls.captures[camera].counts.served

    def is_served(self, camera: str) -> None:
        before = self.served(camera)
        wait_until(lambda: self.served(camera) > before + 2, 10, f"{camera} to be served")

    def stop(self) -> None:
        for capture in self.captures:
            capture.stop()
        self.pipeline.stop(5)
        assert all(capture.join(5) for capture in self.captures)
        assert self.pipeline.failure is None
        for capture in self.captures:
            capture.abandon()
            counts = capture.snapshot()
            assert counts.captured == counts.served + counts.skipped.sum + counts.dropped.sum


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, HEAD + FRONT + YARD)
    made.start()
    yield made
    made.stop()


def test_a_file_that_is_the_same_changes_nothing(rig: Rig) -> None:
    before = list(rig.changed)
    assert rig.reload("# a comment\n" + HEAD + FRONT + YARD) == Changes()
    assert rig.changed == before


@pytest.mark.parametrize(
    ("key", "value", "holds"),
    [
        ("confidence", "0.7", lambda rig: rig.pipeline.flows["yard"].thresholds.confidence == 0.7),
        ("iou", "0.3", lambda rig: rig.pipeline.flows["yard"].thresholds.iou == 0.3),
        ("max_detections", "3", lambda rig: rig.pipeline.flows["yard"].thresholds.max_detections == 3),
        ("classes", '["car"]', lambda rig: list(rig.pipeline.flows["yard"].thresholds.class_ids) == [1]),
        ("max_fps", "4", lambda rig: rig.controls.captures["yard"].max_fps == 4),
        ("interval_s", "2", lambda rig: rig.controls.captures["yard"].slot.policy.pace == "interval"),
        ("staleness_ms", "500", lambda rig: rig.controls.captures["yard"].slot.policy.staleness_s == 0.5),
        ("snapshots", "true", lambda rig: rig.controls.captures["yard"].camera.settings.snapshots is True),
    ],
)
def test_what_holds_at_once_interrupts_nothing(rig: Rig, key: str, value: str, holds: Any) -> None:
    before = list(rig.changed)
    changes = rig.reload(HEAD + FRONT + YARD + f"{key} = {value}\n")
    assert changes == Changes([f"cameras.yard.{key}"], [])
    assert holds(rig)
    assert rig.changed == before, "no camera was opened anew"
    assert rig.reload(HEAD + FRONT + YARD).applied == [f"cameras.yard.{key}"], "and back"
    assert rig.pipeline.flows["yard"].thresholds == rig.pipeline.flows["front"].thresholds
    assert rig.controls.captures["yard"].slot.policy == rig.controls.captures["front"].slot.policy


@pytest.mark.parametrize("lines", ["width = 128\n", "roi = [0.0, 0.0, 0.5, 0.5]\n", 'mode = "every"\n', "[cameras.motion]\n"])
def test_a_camera_that_changes_is_opened_anew_and_the_other_is_not(rig: Rig, lines: str) -> None:
    before = len(rig.changed)
    yard = YARD.replace("width = 64\n", "") if "width" in lines else YARD
    changes = rig.reload(HEAD + FRONT + yard + lines)
    assert len(changes.applied) == 1
    assert not changes.needs_restart
    wait_until(lambda: "yard online" in rig.changed[before:])
    assert not [each for each in rig.changed[before:] if each.startswith("front")]
    rig.is_served("front")
    if "motion" not in lines:
        rig.is_served("yard")


def test_another_source_of_another_kind(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    changes = rig.reload(HEAD + FRONT + '[[cameras]]\nid = "yard"\nkind = "images"\nsource = "pictures"\n')
    assert {"cameras.yard.source", "cameras.yard.kind"} <= set(changes.applied)
    assert rig.controls.captures["yard"].camera.kind == "images"
    assert rig.reload(HEAD + FRONT + YARD).applied
    rig.is_served("yard")


def test_a_wrong_file_changes_nothing(rig: Rig) -> None:
    good = HEAD + FRONT.replace("width = 64", "width = 80") + YARD
    for text in ("[", HEAD, good + "max_fps = 0\n", good + "confidnce = 0.9\n", good + 'classes = ["cat"]\n', good + YARD):
        with pytest.raises(ConfigError):
            rig.reload(text)
        assert rig.reloader.config == rig.config
    assert rig.controls.captures["front"].camera.options == rig.config.cameras[0].options
    with pytest.raises(ConfigError, match=r"agent\.toml:\d+: cameras\[1\]\.classes: .*'cat'"):
        rig.reload(HEAD + FRONT + YARD + 'classes = ["cat"]\n')
    rig.file.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        rig.reloader.reload()
    rig.is_served("front")


def test_what_needs_a_restart_is_named_each_time_and_left_alone(rig: Rig) -> None:
    text = HEAD + '[mqtt]\nhost = "elsewhere"\n[health]\ninterval_s = 3\n' + FRONT + YARD + "weight = 2\n"
    for _ in range(2):
        changes = rig.reload(text)
        assert changes.applied == []
        assert set(changes.needs_restart) == {"mqtt.host", "health.interval_s", "cameras.yard.weight"}
    assert rig.reloader.config.settings.mqtt.host == "localhost"


def test_tables_that_hold_at_once(rig: Rig) -> None:
    changes = rig.reload(HEAD + '[commands]\nallow = ["report"]\n[publish]\nsnapshots = true\n[model]\nconfidence = 0.6\n' + FRONT + YARD)
    assert set(changes.applied) == {"commands.allow", "publish.snapshots", "model.confidence"}
    assert rig.published[-1].settings.commands.allow == ("report",)
    assert rig.published[-1].settings.publish.snapshots
    assert {flow.thresholds.confidence for flow in rig.pipeline.flows.values()} == {0.6}


def test_an_agent_that_does_not_listen_for_commands_does_not_begin_to(tmp_path: Path) -> None:
    rig = Rig(tmp_path, HEAD + "[commands]\nallow = []\n" + FRONT)
    assert rig.reload(HEAD + FRONT) == Changes([], ["commands.allow"])


def test_thresholds_of_a_model_that_is_not_loaded_wait_for_it(rig: Rig) -> None:
    changes = rig.reload(HEAD + "[model]\nconfidence = 0.6\nlanes = 2\n" + FRONT + YARD)
    assert changes == Changes([], ["model.confidence", "model.lanes"])
    assert {flow.thresholds.confidence for flow in rig.pipeline.flows.values()} == {USUAL}


def test_what_was_set_by_command_is_void_and_halts_are_not(rig: Rig) -> None:
    rig.controls.set(["front"], {"confidence": 0.9, "max_fps": 3})
    rig.controls.mute(["yard"])
    changes = rig.reload(HEAD + FRONT + "max_fps = 65\n" + YARD)
    assert changes.applied == ["cameras.front.max_fps", "front: what was set by command is void"]
    confidence, max_fps = rig.controls.goes_by("front")
    assert confidence == USUAL
    assert max_fps == pytest.approx(65)
    assert rig.controls.captures["yard"].muted


def test_where_what_was_kept_cannot_be_cleared_nothing_changes(tmp_path: Path) -> None:
    state = tmp_path / "kept"
    state.mkdir()
    rig = Rig(tmp_path, HEAD + FRONT, KeptSettings(state))
    rig.controls.set(["front"], {"max_fps": 3}, keep=True)
    (state / "commands.json").unlink()
    state.rmdir()
    with pytest.raises(StateError, match="cannot be written"):
        rig.reload(HEAD + FRONT + "confidence = 0.9\n")
    assert rig.controls.goes_by("front") == (USUAL, 3)
    state.mkdir()
    assert rig.reload(HEAD + FRONT + "confidence = 0.9\n").applied == ["cameras.front.confidence", "front: what was set by command is void"]
    assert rig.controls.goes_by("front") == (0.9, None)
    assert KeptSettings(state).read().cameras == {}


def test_cameras_come_and_go(rig: Rig) -> None:
    gone = rig.controls.captures["yard"]
    changes = rig.reload(HEAD + FRONT + CAMERA.format(id="door") + "confidence = 0.8\n")
    assert changes == Changes(["cameras.door: is new", "cameras.yard: is no more"], [])
    assert [c.camera.id for c in rig.captures] == ["front", "door"]
    assert gone.retired
    assert "yard retired" in rig.changed
    assert gone.join(5)
    counts = gone.snapshot()
    assert counts.captured == counts.served + counts.skipped.sum + counts.dropped.sum
    rig.all_online()
    rig.is_served("door")
    rig.is_served("front")
    assert rig.pipeline.flows["door"].thresholds.confidence == 0.8
    assert rig.reload(HEAD + YARD).applied == ["cameras.yard: is new", "cameras.front: is no more", "cameras.door: is no more"]
    rig.is_served("yard")
    assert rig.reload(HEAD + YARD) == Changes()


def test_a_camera_that_is_disabled_is_gone_and_comes_back(rig: Rig) -> None:
    assert rig.reload(HEAD + FRONT + YARD + "enabled = false\n").applied == ["cameras.yard: is no more"]
    assert rig.reload(HEAD + FRONT + YARD + "enabled = false\n") == Changes()
    assert rig.reload(HEAD + FRONT + YARD).applied == ["cameras.yard: is new"]
    rig.is_served("yard")


def test_a_new_camera_of_a_model_that_is_not_loaded_waits(rig: Rig) -> None:
    changes = rig.reload(HEAD + OTHER + FRONT + YARD + CAMERA.format(id="door") + 'model = "other"\n')
    assert changes == Changes([], ["models.other", "cameras.door: is new, and its model is not loaded"])


def test_the_end_of_all_cameras_of_one_model_is_not_the_end_of_the_others(tmp_path: Path) -> None:
    other = 'model = "other"\n'
    rig = Rig(tmp_path, HEAD + OTHER + FRONT + YARD + other)
    rig.start()
    assert rig.reload(HEAD + OTHER + FRONT).applied == ["cameras.yard: is no more"]
    wait_until(lambda: not rig.pipeline.is_at_work(1))
    rig.is_served("front")
    assert not rig.pipeline.finished.is_set()
    assert rig.reload(HEAD + OTHER + FRONT + YARD + other).needs_restart == ["cameras.yard: is new, and its model is not loaded"]
    publisher = Publisher(ScriptedSink(), Spool(SpoolLimits(10, 1 << 20)))
    publisher.start()
    info = ModelInfo("m", "h", "int8", "r")
    health = Health(HealthContext("dev", "s", (info,), "CPU", 10.0), rig.captures, rig.pipeline, publisher, Notifier({}))
    for now in (0.0, 60.0 + STUCK_AFTER_S, 120.0 + STUCK_AFTER_S):
        rig.is_served("front")
        health._watch(now)
    assert rig.pipeline.failure is None, "lanes that have ended are not stuck"
    publisher.stop(1.0)
    rig.stop()


def test_a_configuration_that_is_not_from_a_file_cannot_be_read_again(rig: Rig) -> None:
    rig.reloader.config = config_file.build({"cameras": [{"id": "front", "source": "synthetic"}]}, plugins.PluginKinds(), environ={})
    with pytest.raises(ConfigError, match="did not come from a file"):
        rig.reloader.reload()
