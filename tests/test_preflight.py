"""What is tried before anything starts: every file at once, each with the place that names it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_agent import broker_sink, camera_sources, config_file, plugins, preflight, probing, problem_places, state_folder
from edge_agent.config import AgentConfig
from edge_agent.errors import ConfigError, ExitCode, Problem, SourceErrorCode, SourceUnavailable
from edge_agent.host import machine_device_id
from tests.conftest import MODEL, Mosquitto, free_port, needs

CAMERA = '[[cameras]]\nid = "front"\nsource = "synthetic"\n'


@dataclass
class Site:
    """A folder with an agent.toml."""

    folder: Path

    def config(self, text: str, environ: Mapping[str, str] | None = None) -> AgentConfig:
        (self.folder / "agent.toml").write_text(text)
        return config_file.load(self.folder / "agent.toml", plugins.PluginKinds(), environ or {})

    def problems(self, text: str) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            preflight.check_files(self.config(text))
        assert {problem.where for problem in caught.value.problems} == {str(self.folder / "agent.toml")}
        return caught.value.problems


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem, its key.pem, and the same key with a passphrase."""
    folder = tmp_path_factory.mktemp("certificate")
    program = needs("openssl", "openssl")
    for arguments in (
        "req -x509 -newkey rsa:2048 -keyout locked.pem -out cert.pem -days 1 -subj /CN=test -passout pass:Sesame",
        "rsa -in locked.pem -out key.pem -passin pass:Sesame",
    ):
        subprocess.run([program, *arguments.split()], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


def test_what_is_there_is_accepted(site: Site, certificate: Path) -> None:
    (site.folder / "pictures").mkdir()
    (site.folder / "clip.mp4").write_bytes(b"")
    (site.folder / "password").write_text("Sesame\n")
    shutil.copy(MODEL, site.folder / "model.tflite")
    (site.folder / "labels.txt").write_text("person\ncar\n")
    for file in certificate.iterdir():
        shutil.copy(file, site.folder)
    text = """
        [model]
        path = "model.tflite"
        labels = "labels.txt"
        [mqtt]
        username = "edge"
        password_file = "password"
        tls = { ca_file = "cert.pem", cert_file = "cert.pem", key_file = "key.pem" }
        [[cameras]]
        id = "a"
        source = "pictures/"
        [[cameras]]
        id = "b"
        source = "clip.mp4"
        [[cameras]]
        id = "c"
        source = "rtsp://192.0.2.1/stream"
        username = "viewer"
        password_file = "password"
    """
    config = site.config(text)
    preflight.check_files(config)
    sink = broker_sink.build_sink(config, "dev")
    assert (sink.port, sink.context.password, sink.context.client_id) == (8883, "Sesame", "dev")
    assert sink.context.tls is not None
    assert sink.context.tls.verify_mode is ssl.CERT_REQUIRED


def test_every_file_is_looked_at_and_each_problem_has_its_line_and_key(site: Site) -> None:
    text = """\
[device]
state_dir = "~nobody-of-this-name/state"
[model]
path = "none.onnx"
labels = "none.txt"
[mqtt]
password_file = "none"
tls.ca_file = "none.pem"
[[cameras]]
id = "a"
source = "none.mp4"
[[cameras]]
id = "b"
source = "rtsp://cam/1"
username = "u"
password_file = "none"
[[cameras]]
id = "c"
source = "~nobody-of-this-name/"
"""
    found = {problem.key: problem for problem in site.problems(text)}
    assert {key: problem.line for key, problem in found.items()} == {
        "device.state_dir": 2,
        "model.path": 4,
        "model.labels": 5,
        "mqtt.password_file": 7,
        "mqtt.tls.ca_file": 8,
        "cameras[0].source": 11,
        "cameras[1].password_file": 16,
        "cameras[2].source": 19,
    }
    assert found["model.path"].message == f"{site.folder}/none.onnx does not exist"
    assert found["cameras[0].source"].message == f"{site.folder}/none.mp4 does not exist"
    assert all("\n" not in str(problem) for problem in found.values())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.tflite", b"just text, no model", "is no tflite model: it does not begin like one"),
        ("m.onnx", b"just text, no model", "is no onnx model: it does not begin like one"),
        ("m.tflite", b"", "is no tflite model: it is empty"),
        ("m.onnx", b"", "is no onnx model: it is empty"),
        ("m.tflite", None, "is a folder, not a model file"),
        ("x" * 300 + ".tflite", b"", "cannot be read: File name too long"),
    ],
)
def test_a_model_that_is_none(site: Site, name: str, content: bytes | None, message: str) -> None:
    if content is None:
        (site.folder / name).mkdir()
    elif len(name) < 256:
        (site.folder / name).write_bytes(content)
    (found,) = site.problems(CAMERA + f'[model]\npath = "{name}"\n')
    assert (found.key, found.line) == ("model.path", 5)
    assert message in found.message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('"none.mp4"', "none.mp4 does not exist"),
        ('"none/"', "none does not exist"),
        ('"clips.mp4"', 'is a folder; for a folder of pictures set kind = "images"'),
        (f'"{"x" * 300}.mp4"', "cannot be read: File name too long"),
        ('"file.txt/clip.mp4"', "cannot be read: Not a directory"),
        ('"a\\u0000.mp4"', "holds a NUL"),
    ],
)
def test_a_source_that_cannot_be_right(site: Site, source: str, message: str) -> None:
    (site.folder / "clips.mp4").mkdir()
    (site.folder / "file.txt").write_text("")
    text = f'[[cameras]]\nid = "front"\nsource = {source}\n'
    (found,) = site.problems(text)
    assert (found.key, found.line) == ("cameras[0].source", 3)
    assert message in found.message


def test_a_disabled_camera_may_name_what_is_not_there(site: Site) -> None:
    preflight.check_files(site.config(CAMERA + '[[cameras]]\nid = "later"\nsource = "none.mp4"\nenabled = false\n'))


def test_a_broker_that_is_not_used_may_name_what_is_not_there(site: Site) -> None:
    broker = 'password_file = "none"\nunix_socket = "none"\nport = 1\n[mqtt.tls]\nca_file = "none.pem"\n'
    preflight.check_files(site.config(CAMERA + f"[mqtt]\nenabled = false\n{broker}[sinks.jsonl]\n"))
    with pytest.raises(ConfigError) as caught:
        preflight.check_files(site.config(CAMERA + f"[mqtt]\n{broker}[sinks.jsonl]\n"))
    assert {problem.key for problem in caught.value.problems} >= {"mqtt.password_file", "mqtt.tls.ca_file", "mqtt.unix_socket"}


def test_a_password_needs_a_username(site: Site) -> None:
    (found,) = site.problems(CAMERA + '[mqtt]\npassword = "Sesame"\n')
    assert (found.key, found.line) == ("mqtt.username", 4)
    assert "Sesame" not in str(found)


def test_a_password_has_one_place(site: Site) -> None:
    (site.folder / "word").write_text("Open\n")
    (found,) = site.problems(CAMERA + '[mqtt]\nusername = "u"\npassword = "Sesame"\npassword_file = "word"\n')
    assert (found.key, found.line) == ("mqtt.password_file", 7)
    assert "Sesame" not in str(found)


@pytest.mark.parametrize("source", ["rtsp://cam/1", "http://cam/1.jpg"])
def test_the_password_file_of_a_camera_needs_a_username(site: Site, source: str) -> None:
    (site.folder / "word").write_text("Open\n")
    (found,) = site.problems(CAMERA.replace("synthetic", source) + 'password_file = "word"\n')
    assert (found.key, found.message) == ("cameras[0].username", "is required where there is a password_file")


@pytest.mark.parametrize(
    ("keys", "key", "message"),
    [
        ({"ca_file": "none.pem"}, "ca_file", "is not a file that can be read"),
        ({"ca_file": "garbage.pem"}, "ca_file", "is not a PEM file of certificates"),
        ({"ca_file": "."}, "ca_file", "cannot be"),
        ({"cert_file": "garbage.pem"}, "cert_file", "is not a PEM certificate with its own private key"),
        ({"cert_file": "cert.pem"}, "cert_file", "is not a PEM certificate with its own private key"),
        ({"cert_file": "cert.pem", "key_file": "garbage.pem"}, "cert_file", "cert.pem with"),
        ({"cert_file": "cert.pem", "key_file": "locked.pem"}, "cert_file", "which has no passphrase"),
        ({"cert_file": "cert.pem", "key_file": "none.pem"}, "key_file", "is not a file that can be read"),
        ({"key_file": "key.pem"}, "cert_file", "is required where there is a key_file"),
    ],
)
def test_tls_files_that_cannot_be_used(site: Site, certificate: Path, keys: dict[str, str], key: str, message: str) -> None:
    (site.folder / "garbage.pem").write_text("-----BEGIN CERTIFICATE-----\ngarbage\n")
    for file in certificate.iterdir():
        shutil.copy(file, site.folder)
    table = "\n".join(f'{name} = "{value}"' for name, value in keys.items())
    found = site.problems(CAMERA + f"[mqtt.tls]\n{table}\n")
    assert [problem.key for problem in found] == [f"mqtt.tls.{key}"]
    assert message in found[0].message
    assert "Sesame" not in str(found[0])


def test_a_problem_of_a_variable_names_the_variable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_AGENT_MODEL__PATH", "none.onnx")
    config = site.config(CAMERA, {"EDGE_AGENT_MODEL__PATH": "none.onnx"})
    with pytest.raises(ConfigError, match=r"environment variable EDGE_AGENT_MODEL__PATH: model\.path: "):
        preflight.check_files(config)


def test_the_device_id_is_the_configured_one_else_the_machines_else_one_that_is_kept(site: Site) -> None:
    config = site.config(CAMERA + '[device]\nid = "box-1"\nstate_dir = "state"\n')
    assert state_folder.device_id(config, state_folder.state_for(config)) == "box-1"
    state = state_folder.state_for(config)
    assert state.directory == site.folder / "state"
    assert not state.directory.exists()
    state.open()
    try:
        named = state_folder.device_id(site.config(CAMERA), state)
        assert named == (machine_device_id() or state.device_id())
    finally:
        state.close()


@pytest.mark.parametrize(
    ("directory", "message"),
    [
        ("/proc/x/state", "cannot be used: Permission denied; set [device] state_dir"),
        ("file", "cannot be used: Not a directory"),
        ("file/state", "cannot be used: Not a directory"),
        ("lost", "cannot be used: No such file or directory"),
    ],
)
def test_a_state_directory_that_cannot_be_made_is_found_without_making_it(site: Site, directory: str, message: str) -> None:
    (site.folder / "file").write_text("")
    (site.folder / "lost").symlink_to("none")
    (found,) = site.problems(CAMERA + f'[device]\nstate_dir = "{directory}"\n')
    assert (found.key, found.line) == ("device.state_dir", 5)
    assert message in found.message
    preflight.check_files(site.config(CAMERA + '[device]\nstate_dir = "new/state"\n'))
    assert sorted(path.name for path in site.folder.iterdir()) == ["agent.toml", "file", "lost"]


def test_what_is_found_later_gets_the_place_of_its_key(site: Site) -> None:
    config = site.config(CAMERA + 'classes = ["persn"]\n')
    with pytest.raises(ConfigError) as caught, problem_places.placed(config):
        raise ConfigError("cameras[0].classes: 'persn' is no class", "no key: at all")
    assert [str(problem) for problem in caught.value.problems] == [
        f"{site.folder}/agent.toml:4: cameras[0].classes: 'persn' is no class",
        "no key: at all",
    ]


# ------------------------------------------------------------------------------------------- wrong settings, and the rest

BESIDE = """\
[device]
state_dir = "word/state"
[mqtt]
{mqtt}
[model]
path = "none.onnx"
labels = "none.txt"
{model}
[[cameras]]
id = "front"
source = "front.mp4"
{front}
[[cameras]]
id = "back"
source = "rtsp://cam/1"
username = "u"
password_file = "none"
"""
IN_FILES = {
    "device.state_dir": 2,
    "model.path": 6,
    "model.labels": 7,
    "cameras[0].source": 11,
    "cameras[1].password_file": 17,
}


def draft_problems(site: Site, text: str) -> list[Problem]:
    (site.folder / "agent.toml").write_text(text)
    (site.folder / "word").write_text("Open\n")
    draft = config_file.read_draft(site.folder / "agent.toml", plugins.PluginKinds(), {})
    with pytest.raises(ConfigError) as caught:
        preflight.accepted(draft)
    return caught.value.problems


@pytest.mark.parametrize(
    ("wrong", "key", "hides"),
    [
        ({}, None, set()),
        ({"mqtt": "qos = 7"}, "mqtt.qos", set()),
        ({"mqtt": "tls = 5"}, "mqtt.tls", set()),
        ({"mqtt": "tls.verfy = true"}, "mqtt.tls.verfy", set()),
        ({"model": "confidence = 2"}, "model.confidence", set()),
        ({"model": "classes = [1.5]"}, "model.classes[0]", set()),
        ({"model": "providrs = 1"}, "model.providrs", set()),
        ({"front": "widht = 2"}, "cameras[0].widht", set()),
        ({"front": "loop = 7"}, "cameras[0].loop", set()),
        ({"front": 'kind = "film"'}, "cameras[0].kind", {"cameras[0].source"}),
        ({"front": "classes = {}"}, "cameras[0].classes", set()),
        ({"front": '[[cameras]]\nid = "front"\nsource = "synthetic"'}, "cameras[1].id", set()),
        ({"front": '[[cameras]]\nsource = "synthetic"'}, "cameras[1].id", set()),
        ({"front": '[[cameras]]\nid = "side"'}, "cameras[1].source", set()),
        ({"front": "[logs]"}, "logs", set()),
    ],
)
def test_a_wrong_setting_hides_nothing_that_is_wrong_with_the_files_of_others(
    site: Site, wrong: dict[str, str], key: str | None, hides: set[str]
) -> None:
    text = BESIDE.format(**{"mqtt": "", "model": "", "front": ""} | wrong)
    (site.folder / "agent.toml").write_text(text)
    found = site.problems(text.replace("word/state", "agent.toml/state")) if key is None else draft_problems(site, text)
    keys = [problem.key.replace("cameras[2]", "cameras[1]") for problem in found]
    assert sorted(keys) == sorted((IN_FILES.keys() - hides) | ({key} if key else set()))
    assert [problem.line for problem in found] == sorted(problem.line or 0 for problem in found)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", ["cameras"]),
        ('[model]\npath = "none.tflite"\n', ["cameras", "model.path"]),
        ('cameras = 5\n[model]\npath = "none.tflite"\n', ["cameras", "model.path"]),
        ('cameras = [1]\n[model]\npath = "none.tflite"\n', ["cameras[0]", "model.path"]),
        (CAMERA + 'enabled = false\n[model]\npath = "none.tflite"\n', ["cameras", "model.path"]),
        ("model = 5\n" + CAMERA.replace("synthetic", "none.mp4"), ["model", "cameras[0].source"]),
        (CAMERA + '[model]\npath = "text.md"\n', ["model.path"]),
        (CAMERA + '[model]\nruntime = "tensorflow"\npath = "none.tflite"\n', ["model.runtime", "model.path"]),
        (CAMERA + '[mqtt]\nusername = 5\npassword_file = "none"\n', ["mqtt.username"]),
        (CAMERA.replace("synthetic", "rtsp://cam/1") + 'username = 5\npassword_file = "word"\n', ["cameras[0].username"]),
    ],
)
def test_what_depends_on_a_wrong_setting_is_not_judged(site: Site, text: str, keys: list[str]) -> None:
    assert [problem.key for problem in draft_problems(site, text)] == keys


@pytest.mark.tflite
def test_the_models_classes_are_looked_up_beside_everything_else(site: Site) -> None:
    text = CAMERA + 'classes = ["Persn"]\nwidht = 4\n[[cameras]]\nid = "b"\nsource = "none.mp4"\nclasses = ["Person", 23]\n'
    assert [(problem.line, problem.key) for problem in draft_problems(site, text)] == [
        (4, "cameras[0].classes"),
        (5, "cameras[0].widht"),
        (8, "cameras[1].source"),
        (9, "cameras[1].classes"),
    ]
    whole = text.replace("widht = 4\n", "")
    for starting in (False, True):
        with pytest.raises(ConfigError) as caught:
            preflight.check_files(site.config(whole + "[mqtt.tls]\nca_file = 'none'\n"), starting=starting, load_model=not starting)
        keys = [problem.key for problem in caught.value.problems]
        late = [] if starting else ["cameras[1].source"]  # which may come yet
        assert keys == ["cameras[0].classes", *late, "cameras[1].classes", "mqtt.tls.ca_file"]


def test_a_model_that_its_library_refuses_is_a_wrong_file(site: Site) -> None:
    from tests.models.files import write

    write(site.folder / "late.onnx", opset=99)
    (found,) = site.problems(CAMERA + '[model]\npath = "late.onnx"\n')
    assert (found.key, found.line) == ("model.path", 5)
    assert "late.onnx is not a model that ONNX Runtime" in found.message


def test_a_model_that_takes_too_long_is_not_called_wrong(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(preflight, "MODEL_WITHIN_S", 0.01)  # no interpreter starts so fast
    preflight.check_files(site.config(CAMERA))
    assert "the model was not loaded within" in caplog.text


# --------------------------------------------------------------------------------------------------------------- probe


@pytest.mark.tflite
def test_a_probe_tries_the_model_each_enabled_camera_and_the_broker(site: Site, mosquitto: Mosquitto) -> None:
    text = (
        CAMERA.replace("front", "pattern")
        + f'[[cameras]]\nid = "lost"\nsource = "rtsp://127.0.0.1:{free_port()}/x"\n[[cameras]]\nid = "off"\nsource = 7\nenabled = false\n'
        + f'[mqtt]\nhost = "127.0.0.1"\nport = {mosquitto.port}\n'
    )
    results = {result.what: result for result in probing.probe(site.config(text))}
    assert list(results) == ["model", "camera pattern", "camera lost", "broker"]
    assert {what: result.exit_code for what, result in results.items()} == {
        "model": ExitCode.OK,
        "camera pattern": ExitCode.OK,
        "camera lost": ExitCode.UNAVAILABLE,
        "broker": ExitCode.OK,
    }
    assert "23 classes, int8" in results["model"].text
    assert results["camera pattern"].text.startswith("640x480, none (synthetic), first frame after ")


@pytest.mark.tflite
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[model]\nclasses = ["Persn"]\n', "/agent.toml:5: model.classes: 'Persn' is no class of this model; did you mean 'Person'?"),
        ("[model]\nclasses = [23]\n", "there is no class 23; the model has 0 to 22"),
    ],
)
def test_a_probe_that_finds_the_configuration_wrong_says_78_and_not_69(site: Site, text: str, message: str) -> None:
    result = next(iter(probing.probe(site.config(CAMERA + text))))
    assert (result.ok, result.exit_code) == (False, ExitCode.CONFIG)
    assert message in result.text


def test_a_probe_of_a_broker_that_takes_connections_and_says_nothing_ends(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = site.config(CAMERA + f'enabled = true\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\nconnect_timeout_s = 0.2\n')
        result = probing._tried("broker", lambda: probing._probe_broker(config))
    assert (result.ok, result.exit_code) == (False, ExitCode.UNAVAILABLE)
    assert "did not answer" in result.text


def test_a_camera_that_is_absent_at_the_start_does_not_keep_the_others(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    both = CAMERA + '[[cameras]]\nid = "nas"\nsource = "nas.mp4"\n'
    config = site.config(both)
    preflight.check_files(config, starting=True, load_model=False)
    assert f"{site.folder}/agent.toml:6: cameras[1].source: {site.folder}/nas.mp4 does not exist" in caplog.text
    with pytest.raises(ConfigError):
        preflight.check_files(config)
    alone = site.config('[[cameras]]\nid = "nas"\nsource = "nas.mp4"\n')
    with pytest.raises(ConfigError):
        preflight.check_files(alone, starting=True, load_model=False)


def test_a_source_that_cannot_be_made_yet_is_made_when_it_can(site: Site) -> None:
    text = CAMERA + '[[cameras]]\nid = "net"\nsource = "rtsp://127.0.0.1:1/x"\nusername = "me"\npassword_file = "secret"\n'
    config = site.config(text)
    preflight.check_files(config, starting=True, load_model=False)
    source = camera_sources.patient_source(config, config.cameras[1])
    with pytest.raises(ConfigError, match="secret"):
        source.open()
    (site.folder / "secret").write_text("word\n")
    (site.folder / "secret").chmod(0o600)
    with pytest.raises(SourceUnavailable) as caught:
        source.open()
    assert caught.value.code is SourceErrorCode.REFUSED
    source.close()
