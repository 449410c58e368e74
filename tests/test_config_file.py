"""agent.toml: every error at once, each with its place; where values come from; and that no secret is ever shown."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import config_file, credentials, plugins
from edge_agent.config import AgentConfig
from edge_agent.errors import ConfigError, ExitCode, Problem
from edge_agent.redaction import redact
from edge_agent.toml_lines import key_name, line_of

CAMERA = '[[cameras]]\nid = "front"\nsource = "synthetic"\n'


def load(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> AgentConfig:
    file = folder / "agent.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return config_file.load(file, plugins.PluginKinds(), environ or {})


def problems(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ)
    assert caught.value.exit_code is ExitCode.CONFIG
    return caught.value.problems


def places(found: list[Problem]) -> list[tuple[int | None, str]]:
    return [(problem.line, problem.key) for problem in found]


# ---------------------------------------------------------------------------------------------------- what is valid


def test_the_shortest_file_is_one_camera_with_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, CAMERA)
    assert config.settings.mqtt.host == "localhost"
    assert [(camera.id, camera.kind) for camera in config.cameras] == [("front", "synthetic")]
    assert config.runtime == "tflite"
    assert config.path == tmp_path / "agent.toml"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("0", "v4l2"),
        ('"0"', "v4l2"),
        ('"/dev/v4l/by-id/usb-cam-video-index0"', "v4l2"),
        ('"rtsp://192.168.1.20/stream1"', "rtsp"),
        ('"RTSPS://cam/1"', "rtsp"),
        ('"clip.MP4"', "file"),
        ('"https://example.org/clip.mkv"', "file"),
        ('"pictures/"', "images"),
        ('"./pictures"', "images"),
        ('"one.jpeg"', "images"),
        ('"synthetic"', "synthetic"),
    ],
)
def test_the_kind_is_inferred_from_the_source(tmp_path: Path, source: str, kind: str) -> None:
    assert load(tmp_path, f'[[cameras]]\nid = "a"\nsource = {source}\n').cameras[0].kind == kind


def test_a_plugins_own_keys_are_validated_and_given_to_it(tmp_path: Path) -> None:
    camera = load(tmp_path, CAMERA + "width = 320\nfps = 5\n").cameras[0]
    assert (camera.options.model_dump()["width"], camera.options.model_dump()["fps"]) == (320, 5)


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "etc"
    inside.mkdir()
    monkeypatch.chdir(tmp_path)
    config = load(inside, CAMERA)
    assert config.resolve("model.onnx") == inside / "model.onnx"
    assert config.resolve("/srv/model.onnx") == Path("/srv/model.onnx")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert config.resolve("~/model.onnx") == Path("/home/somebody/model.onnx")


@pytest.mark.parametrize("path", ["~nobody-of-this-name/model.onnx", "a\0b.onnx"])
def test_what_can_be_no_path_is_a_configuration_error(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, CAMERA).resolve(path)


# ------------------------------------------------------------------------------------------------- where it is found


def test_the_search_path_is_here_then_the_users_then_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path)}
    user = tmp_path / "xdg" / "edge-agent" / "agent.toml"
    user.parent.mkdir(parents=True)
    user.write_text(CAMERA)
    assert config_file.find(None, environ) == user
    here = tmp_path / "agent.toml"
    here.write_text(CAMERA)
    assert config_file.find(None, environ) == here
    assert config_file.search_path({"HOME": "/home/me"})[1:] == [
        Path("/home/me/.config/edge-agent/agent.toml"),
        Path("/etc/edge-agent/agent.toml"),
    ]


def test_the_variable_beats_the_search_path_and_an_argument_beats_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.toml").write_text(CAMERA)
    environ = {"EDGE_AGENT_CONFIG": "other.toml", "HOME": str(tmp_path)}
    assert config_file.find(None, environ) == tmp_path / "other.toml"
    assert config_file.find(Path("third.toml"), environ) == tmp_path / "third.toml"


def test_a_user_without_a_home_can_still_use_the_other_places() -> None:
    assert config_file.search_path({"HOME": "~nobody-of-this-name"})[2] == Path("/etc/edge-agent/agent.toml")


def test_no_file_at_all_says_where_it_was_looked_for_and_how_to_write_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/etc/edge-agent/agent.toml").exists():
        pytest.skip("this machine has an agent.toml in /etc")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="edge-agent example") as caught:
        config_file.find(None, {"HOME": str(tmp_path)})
    assert f"{tmp_path}/.config/edge-agent/agent.toml" in str(caught.value)


# ------------------------------------------------------------------------------------------------ files that are none


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"\xff\xfe", 1, "not UTF-8"),
        (b"[device]\n# caf\xe9\n", 2, "not UTF-8"),
        (b"[device\n", 1, "not valid TOML"),
        (b"[device]\nid = 1\nid = 2\n", 3, "not valid TOML"),
        (b"[mqtt]\nhost = broker.local\n", 2, "not valid TOML"),
        (b'[mqtt]\nhost = "broker\n', 2, "not valid TOML"),
        (b'a = 1\nb = """never\nended', 3, "not valid TOML"),
        (b"a = " + b"[" * 100_000, None, "not valid TOML"),
    ],
)
def test_text_that_is_no_toml_is_one_problem_with_its_line(tmp_path: Path, content: bytes, line: int | None, message: str) -> None:
    (found,) = problems(tmp_path, content)
    assert found.where == str(tmp_path / "agent.toml")
    assert message in found.message
    assert "(at " not in found.message
    assert found.line == line


def test_a_missing_file_a_folder_and_a_huge_file_are_named(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none.toml", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(ConfigError, match=message) as caught:
            config_file.read(path)
        assert caught.value.problems[0].where == str(path)
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (config_file.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        config_file.read(huge)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    text = CAMERA + "[mqtt]\nqos = 7\n"
    assert load(tmp_path, b"\xef\xbb\xbf" + CAMERA.replace("\n", "\r\n").encode()).cameras[0].id == "front"
    assert places(problems(tmp_path, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())) == [(5, "mqtt.qos")]


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing but a comment\n", "cameras = []\n"])
def test_an_empty_file_lacks_cameras_and_says_how_to_add_one(tmp_path: Path, text: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.key == "cameras"
    assert "[[cameras]]" in found.message


# -------------------------------------------------------------------------------------------------- every error at once

MANY = """\
[device]
id = "a/b"
[model]
pth = "m.onnx"
lanes = true
[mqtt]
host = 5
qos = 3
tls.verfy = false
[[cameras]]
id = "front"
source = "synthetic"
fpz = 9
[[cameras]]
id = "FRONT"
source = "what is this"
[[cameras]]
source = true
[helth]
interval_s = 5
"""


def test_every_error_comes_at_once_each_with_file_line_key_and_what_is_allowed(tmp_path: Path) -> None:
    found = problems(tmp_path, MANY)
    by_key = {problem.key: problem for problem in found}
    assert {key: problem.line for key, problem in by_key.items()} == {
        "device.id": 2,
        "model.pth": 4,
        "model.lanes": 5,
        "mqtt.host": 7,
        "mqtt.qos": 8,
        "mqtt.tls.verfy": 9,
        "cameras[0].fpz": 13,
        "cameras[1].id": 15,
        "cameras[1].source": 16,
        "cameras[2].id": 17,
        "cameras[2].source": 18,
        "helth": 19,
    }
    assert [problem.line for problem in found] == sorted(problem.line or 0 for problem in found)
    assert {problem.where for problem in found} == {str(tmp_path / "agent.toml")}
    assert '"a/b" is not allowed' in by_key["device.id"].message
    assert "did you mean 'path'?" in by_key["model.pth"].message
    assert "true is not allowed: must be a number" in by_key["model.lanes"].message
    assert "5 is not allowed: must be a string" in by_key["mqtt.host"].message
    assert "3 is not allowed: must be less than or equal to 2" in by_key["mqtt.qos"].message
    assert "did you mean 'verify'?" in by_key["mqtt.tls.verfy"].message
    assert "did you mean 'fps'?" in by_key["cameras[0].fpz"].message
    assert "is the id of cameras[0] already" in by_key["cameras[1].id"].message
    assert "kind = one of callable, csi, file, gstreamer, http, images, rtsp, synthetic, v4l2" in by_key["cameras[1].source"].message
    assert "is required" in by_key["cameras[2].id"].message
    assert "true is not allowed" in by_key["cameras[2].source"].message
    assert "did you mean 'health'?" in by_key["helth"].message
    assert str(by_key["mqtt.qos"]).startswith(f"{tmp_path}/agent.toml:8: mqtt.qos: 3 is not allowed")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("source = true", "source"),
        ("source = 1.0", "source"),
        ("source = 2024-01-01", "source"),
        ('source = ["a.mp4"]', "source"),
        ('source = "synthetic"\nclasses = [true]', "classes[0]"),
        ('source = "synthetic"\nclasses = "person"', "classes"),
        ('source = "synthetic"\nmax_fps = 0', "max_fps"),
        ('source = "synthetic"\nmax_fps = nan', "max_fps"),
        ('source = "synthetic"\nmax_fps = inf', "max_fps"),
        ('source = "synthetic"\nconfidence = nan', "confidence"),
        ('source = "synthetic"\nconfidence = 1.5', "confidence"),
        ('source = "synthetic"\nmode = "newest"', "mode"),
        ('source = "synthetic"\nenabled = "perhaps"', "enabled"),
        ('source = "synthetic"\nkind = 5', "kind"),
        ('source = "synthetic"\nkind = "webcam"', "kind"),
        ('source = "synthetic"\nwidth = "wide"', "width"),
        ('source = "synthetic"\nfps = true', "fps"),
        ('source = ""', "source"),
    ],
)
def test_a_camera_with_a_wrong_value_is_refused_and_never_left_out(tmp_path: Path, line: str, key: str) -> None:
    found = problems(tmp_path, f'[[cameras]]\nid = "a"\n{line}\n')
    assert [problem.key for problem in found] == [f"cameras[0].{key}"]
    assert found[0].line == 2 + line.count("\n") + 1


@pytest.mark.parametrize("name", ["a/b", "a+b", "a#b", "a\nb", "a b", "", "-a", ".a", "$SYS", "x" * 65, "a\0", "a\n"])
@pytest.mark.parametrize("key", ["device.id", "mqtt.client_id", "cameras[0].id"])
def test_a_name_that_would_break_a_topic_is_refused(tmp_path: Path, name: str, key: str) -> None:
    tables: dict[str, Any] = {"cameras": [{"id": "a", "source": "synthetic"}], "device": {}, "mqtt": {}}
    table, last = key.split(".")
    (tables["cameras"][0] if table == "cameras[0]" else tables[table])[last] = name
    with pytest.raises(ConfigError, match="MQTT topics") as caught:
        config_file.build(tables, plugins.PluginKinds(), environ={})
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize("base", ["", "a b", "a/", "/a", "a//b", "a/+", "#", "$share/x", "a\nb"])
def test_a_base_that_is_no_topic_is_refused(tmp_path: Path, base: str) -> None:
    assert places(problems(tmp_path, CAMERA + f"[mqtt]\nbase = {json.dumps(base)}\n")) == [(5, "mqtt.base")]


@pytest.mark.parametrize("host", ["", "mqtt://broker", "broker:1883", "u:p@broker", "a b", "broker\n", "broker/", "[::1]", "a\0"])
def test_a_host_that_no_broker_can_have_is_refused_and_not_tried_for_ever(tmp_path: Path, host: str) -> None:
    assert places(problems(tmp_path, CAMERA + f"[mqtt]\nhost = {json.dumps(host)}\n")) == [(5, "mqtt.host")]


@pytest.mark.parametrize("host", ["broker.local", "192.168.1.20", "::1", "fe80::1%eth0", "my_broker"])
def test_a_host_may_be_a_name_or_an_address(tmp_path: Path, host: str) -> None:
    assert load(tmp_path, CAMERA + f"[mqtt]\nhost = {json.dumps(host)}\n").settings.mqtt.host == host


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("model = 5\n" + CAMERA, "model", "must be a table"),
        ("cameras = 5\n", "cameras", "must be a list"),
        ("cameras = {}\n", "cameras", "must be a list"),
        ("cameras = [5]\n", "cameras[0]", "must be a table"),
        ("_env_file = 'x'\n" + CAMERA, "_env_file", "unknown key"),
        ('"" = 1\n' + CAMERA, "", "unknown key"),
        (CAMERA + "enabled = false\n", "cameras", "every camera is disabled"),
        (CAMERA + '[model]\nruntime = "torch"\n', "model.runtime", "there are: onnx, tflite"),
        (CAMERA + '[model]\nfamily = "yolo"\n', "model.family", "'yolo' is no family of models; there are: centerface, classify, detr"),
        (CAMERA + '[model]\npath = "m.pt"\n', "model.path", "must end in .onnx"),
        (CAMERA + '[model]\npath = "m.onnx"\nprovider = []\n', "model.provider", "did you mean 'providers'?"),
        (CAMERA + '[model]\npath = "m.onnx"\nlibrary = "x"\n', "model.library", "unknown key"),
    ],
)
def test_wrong_shapes_and_kinds(tmp_path: Path, text: str, key: str, message: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found.key == key
    assert message in found.message


def test_a_deeply_nested_value_does_not_break_the_report(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, CAMERA + "[mqtt]\nhost" + ".a" * 3000 + " = 1\n")
    if "more than the allowed" not in found.message:  # tomli refuses it as a text already, without saying where
        assert (found.key, found.line) == ("mqtt.host", 5)


def test_long_values_are_shortened(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, CAMERA + f'[mqtt]\nbase = "{"x" * 5000} "\n')
    assert len(found.message) < 300


# -------------------------------------------------------------------------------------------------------- environment


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    environ = {
        "EDGE_AGENT_MQTT__HOST": "broker.local",
        "edge_agent_mqtt__qos": "0",
        "EDGE_AGENT_MQTT__TLS__VERIFY": "false",
        "EDGE_AGENT_MODEL__CLASSES": '["person", 3]',
        "EDGE_AGENT_MODEL__LABELS": "names.txt",
        "EDGE_AGENT_CAMERAS__0__SOURCE": "rtsp://cam/1",
        "EDGE_AGENT_CAMERAS__0__CLASSES": '["car"]',
        "EDGE_AGENT_CAMERAS__0__TRANSPORT": "udp",
        "HOME": "/nowhere",
    }
    config = load(tmp_path, CAMERA + '[mqtt]\nhost = "elsewhere"\nretain = true\n', environ)
    mqtt, model, camera = config.settings.mqtt, config.settings.model, config.cameras[0]
    assert (mqtt.host, mqtt.qos, mqtt.retain) == ("broker.local", 0, True)
    assert mqtt.tls is not None
    assert mqtt.tls.verify is False
    assert (model.classes, model.labels) == (("person", 3), "names.txt")
    assert (camera.id, camera.kind, camera.settings.classes) == ("front", "rtsp", ("car",))
    assert camera.options.model_dump()["transport"] == "udp"


def test_a_plugins_list_and_all_cameras_can_be_given_as_json(tmp_path: Path) -> None:
    environ = {
        "EDGE_AGENT_MODEL__PROVIDERS": '["CUDAExecutionProvider"]',
        "EDGE_AGENT_MODEL__PATH": "m.onnx",
        "EDGE_AGENT_CAMERAS": '[{"id": "x", "source": 0}, {"id": "y", "source": "synthetic"}]',
    }
    config = load(tmp_path, CAMERA, environ)
    assert config.runtime_options.model_dump()["providers"] == ("CUDAExecutionProvider",)
    assert [(camera.id, camera.kind) for camera in config.cameras] == [("x", "v4l2"), ("y", "synthetic")]


def test_a_password_is_taken_as_it_is_even_if_it_looks_like_json(tmp_path: Path) -> None:
    password = load(tmp_path, CAMERA, {"EDGE_AGENT_MQTT__PASSWORD": '["a"]'}).settings.mqtt.password
    assert password is not None
    assert password.get_secret_value() == '["a"]'


@pytest.mark.parametrize(
    ("variable", "value", "key", "message"),
    [
        ("EDGE_AGENT_MQTT__QOS", "9", "mqtt.qos", '"9" is not allowed'),
        ("EDGE_AGENT_MQTT__PORT", "", "mqtt.port", "is not allowed"),
        ("edge_agent_mqtt__porrt", "1", "mqtt.porrt", "did you mean 'port'?"),
        ("EDGE_AGENT_MQTT", "{", "mqtt", "not valid JSON"),
        ("EDGE_AGENT_MQTT", "[1]", "mqtt", "must be a table"),
        ("EDGE_AGENT_CAMERAS__0__FPSS", "3", "cameras[0].fpss", "did you mean 'fps'?"),
        ("EDGE_AGENT_CAMERAS", '[{"id": "x"}]', "cameras[0].source", "is required"),
        ("EDGE_AGENT_CAMERAS__1__ID", "x", "", "none of the 1 cameras"),
        ("EDGE_AGENT_CAMERAS__FRONT__ID", "x", "", "none of the 1 cameras"),
        ("EDGE_AGENT_HELTH__INTERVAL_S", "3", "", "did you mean 'health'?"),
    ],
)
def test_an_error_in_the_environment_names_the_variable(tmp_path: Path, variable: str, value: str, key: str, message: str) -> None:
    (found,) = problems(tmp_path, CAMERA, {variable: value})
    assert found.where == f"environment variable {variable}"
    assert (found.line, found.key) == (None, key)
    assert message in found.message


def test_an_error_of_the_file_is_not_blamed_on_a_variable_that_sets_another_key(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, CAMERA + "[mqtt]\nqos = 9\n", {"EDGE_AGENT_MQTT": '{"port": 1884}'})
    assert (found.where, found.line) == (str(tmp_path / "agent.toml"), 5)


def test_a_variable_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, CAMERA, {"EDGE_AGENT_MQTT__USERNAME": "caf\udce9", "OTHER": "\udce9"})
    assert str(found) == "environment variable EDGE_AGENT_MQTT__USERNAME: is not UTF-8 text"


def test_variables_of_other_purposes_are_left_alone(tmp_path: Path) -> None:
    environ = {"EDGE_AGENT_CONFIG": "x", "EDGE_AGENTS": "5", "_EDGE_AGENT_COMPLETE": "bash_source", "MQTT__HOST": "x"}
    assert load(tmp_path, CAMERA, environ).settings.mqtt.host == "localhost"


# ------------------------------------------------------------------------------------------------------------ secrets


@given(st.sampled_from(["", "/", "@", ":", "#", "?", " ", "%", "&", "=", "'", '"', "\\", "é", "://", "\t", "\n", "]"]), st.data())
@settings(deadline=None, max_examples=80)
def test_no_error_shows_a_secret(between: str, data: st.DataObject) -> None:
    password = f"Sesame{between}Open"
    url = f"rtmp://user:{password}@host/x"
    text, environ = data.draw(
        st.sampled_from(
            [
                (f"[mqtt]\npassword = [{json.dumps(password)}]\n", {}),
                (f"[mqtt]\npassword = {{x = {json.dumps(password)}}}\n", {}),
                (f"[mqtt]\npasword = {json.dumps(password)}\n", {}),
                (f"[mqtt]\npassword = {json.dumps(password)}\nqos = 9\n", {}),
                (f"[[mqtt]]\npassword = {json.dumps(password)}\n", {}),
                (f"[mqtt]\nhost = {json.dumps('mqtt://u:' + password + '@h')}\nbase = {json.dumps('mqtt://u:' + password + '@h')}\n", {}),
                (f'[[cameras]]\nid = "b"\nsource = {json.dumps(url)}\n', {}),
                (f'[[cameras]]\nid = "b"\nsource = [{json.dumps(url)}]\n', {}),
                (f"[[cameras]]\nid = {json.dumps(url)}\nsource = 0\n", {}),
                (f"[model]\npath = {json.dumps('https://u:' + password + '@h/model')}\n", {}),
                ("[mqtt]\nqos = 9\n", {"EDGE_AGENT_MQTT__PASSWORD": password}),
                ("[mqtt]\nqos = 9\n", {"EDGE_AGENT_MQTT__PASSWORD__X": password}),
                ("", {"EDGE_AGENT_MQTT": json.dumps({"password": password})[:-1]}),
                ("", {"EDGE_AGENT_MQTT": json.dumps([{"password": password}])}),
                ("", {"EDGE_AGENT_CAMERAS__0__SOURCE": url}),
            ]
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        found = problems(Path(folder), CAMERA + text, environ)
    shown = "\n".join(map(str, found))
    assert "Sesame" not in shown
    assert "Open" not in shown


def test_a_valid_password_is_not_in_what_the_configuration_prints(tmp_path: Path) -> None:
    config = load(tmp_path, CAMERA + '[mqtt]\npassword = "Sesame"\n')
    assert "Sesame" not in f"{config!r} {config.settings} {config.settings.model_dump()} {config.settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:pw@cam/1", "rtsp://***@cam/1"),
        ("rtsp://user@cam/1", "rtsp://***@cam/1"),
        ("rtsp://user:p/w@cam/1", "rtsp://***@cam/1"),
        ("rtsp://user:p@w@cam/1", "rtsp://***@cam/1"),
        ("rtsp://user:p w@cam/1", "rtsp://***@cam/1"),
        ("camera=front url=RTSP://user:p/w@cam/1 and http://u:p@h", "camera=front url=RTSP://***@cam/1 and http://***@h"),
        ("/srv/https:/user:pw@host/model.onnx does not exist", "/srv/https:/***@host/model.onnx does not exist"),
        ("rtsp://cam:554/1 mail to a@b", "rtsp://***@b"),
        ("mqtt://localhost:1883: connection refused", "mqtt://localhost:1883: connection refused"),
        ("write to a@b", "write to a@b"),
        ("http://viewer:s3cr3t@127.0.0.1:9/x.mp4?token=tok123", "http://***@127.0.0.1:9/x.mp4?token=***"),
        ("rtsp://cam/user=admin_password=x_y_channel=1_stream=0.sdp", "rtsp://cam/user=admin_password=***_channel=1_stream=0.sdp"),
        ("rtsp://cam/1?user=a&password=p/w&channel=1", "rtsp://cam/1?user=a&password=***&channel=1"),
        ("rtsp://cam/1?password=p@w", "rtsp://***@***"),
        ("rtsp://user:a&key=p@cam/1", "rtsp://***@***"),
        ("http://cam/s?api_key=abc: Connection refused", "http://cam/s?api_key=***: Connection refused"),
        ("cannot tell what 'rtmp://cam/s?auth=it's' is", "cannot tell what 'rtmp://cam/s?auth=***' is"),
        ("url=http://cam/s?loginuse=u&loginpas=p camera=front", "url=http://cam/s?loginuse=u&loginpas=*** camera=front"),
        ("http://cam/s?a=1&Signature=xyz==&b=2", "http://cam/s?a=1&Signature=***&b=2"),
        ("http://cam/s%3Ftoken%3Dabc", "http://cam/s%3Ftoken%3D***"),
        ("no address here", "no address here"),
    ],
)
def test_redact_takes_user_and_password_out_of_addresses(text: str, shown: str) -> None:
    assert redact(text) == shown


@given(
    st.sampled_from(["password", "passwd", "PWD", "pass", "token", "access_token", "secret", "key", "auth", "sig", "signature"]),
    st.sampled_from(["?", "?a=1&", "/", "/user=admin_", "?user=u&"]),
    st.sampled_from(["", "&b=2", "_channel=1", " is it", "' is it", ": refused"]),
    st.text("abc019._~%-/:@'!$*+,;=?#", max_size=12),
    st.booleans(),
)
def test_no_secret_of_a_query_or_path_is_shown(name: str, before: str, after: str, middle: str, credentials: bool) -> None:
    user = "viewer:Open@" if credentials else ""
    shown = redact(f"url='http://{user}cam/x{before}{name}=Sesame{middle}Sesame{after}")
    assert "Sesame" not in shown
    assert "Open" not in shown
    assert f"{name}=***" in shown or "***@***" in shown
    assert shown.endswith(after)


@pytest.mark.parametrize("piece", ["pass", "password=", "key=a@", "_user", "'\":", "a://", "pass=_channel", "http://a?key='"])
def test_redacting_takes_time_that_grows_with_the_length(piece: str) -> None:
    started = time.process_time()
    redact(piece * 100_000)
    assert time.process_time() - started < 5


def test_credentials_are_quoted_into_an_address() -> None:
    assert (
        credentials.with_credentials("rtsp://old:x@cam:554/1?a=b", "us er", "p@s/s:é") == "rtsp://us%20er:p%40s%2Fs%3A%C3%A9@cam:554/1?a=b"
    )


# --------------------------------------------------------------------------------------------------- the line of a key


@pytest.mark.parametrize(
    ("text", "location", "line"),
    [
        ("a = 1\nb = 2\n", ("b",), 2),
        ("a.b.c = 1\na.b.d = 2\n", ("a", "b", "d"), 2),
        ("\n# c\n[t]\n\n# c\nk = 1\n", ("t", "k"), 6),
        ("[t]\nk = 1\n[t.u]\nk = 2\n", ("t", "u", "k"), 4),
        ("[t.u]\nk = 2\n[t]\nk = 1\n", ("t", "k"), 4),
        ('["t u".\'v.w\']\n"k = 1" = 2\n', ("t u", "v.w", "k = 1"), 2),
        ("t = { a = 1, b = { c = 2 } }\n", ("t", "b", "c"), 1),
        ("[[c]]\nk = 1\n[[c]]\nk = 2\n", ("c", 1, "k"), 4),
        ("[[c]]\n[c.d]\nk = 1\n[[c]]\n[c.d]\nk = 2\n", ("c", 1, "d", "k"), 6),
        ("[[c]]\n[[c.d]]\n[[c.d]]\nk = 1\n[[c]]\n[[c.d]]\nk = 2\n", ("c", 1, "d", 0, "k"), 7),
        ("[[c]]\n[[c.d]]\n[[c.d]]\nk = 1\n[[c]]\n[[c.d]]\nk = 2\n", ("c", 0, "d", 1, "k"), 4),
        ("c = [\n {k = 1},\n {k = 2},\n]\nz = 1\n", ("c", 1, "k"), 1),
        ("c = [\n {k = 1},\n {k = 2},\n]\nz = 1\n", ("z",), 5),
        ('a = """\nb = 1\n[t]\n"""\nb = 2\n', ("b",), 5),
        ("a = '''\nb = 1\n]\n'''\nb = 2\n", ("b",), 5),
        ('a = """one line"""\nb = 2\n', ("b",), 2),
        ('a = """x\n"""" # four\nb = 2\n', ("b",), 3),
        ("a = [ # ]\n 1, # ]\n]\nb = 2\n", ("b",), 4),
        ("a = 1\r\nb = '''\r\nx\r\n'''\r\nc = 3\r\n", ("c",), 5),
        ('a = "\u2028\u0085" # \u2029\nb = 1\n', ("b",), 2),
        ("[t]\nk = 1\n", ("t", "missing", "x"), 1),
        ("[[c]]\n[[c]]\n", ("c", 1, "id"), 2),
        ("a = 1\n", ("b",), None),
        ("a = 1", ("a",), 1),
        ("", ("a",), None),
    ],
)
def test_line_of_every_way_to_write_a_key(text: str, location: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(text, location) == line


@dataclass
class Written:
    """A TOML text in the making, with the line of each key in it."""

    lines: list[str] = field(default_factory=list)
    keys: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    names: Any = field(default_factory=itertools.count)

    def add(self, text: str, *locations: tuple[str | int, ...]) -> None:
        for location in locations:
            self.keys[location] = len(self.lines) + 1
        self.lines += text.split("\n")


VALUES = [
    "1",
    "true",
    '"text with [brackets] # and = signs"',
    "'literal \\'",
    "[1, [2, 3], []]",
    '[\n  "]", # ]\n  "[t]",\n\n]',
    '"""\n[t]\nk = 1\n# no comment\n"""',
    '"""ends with a quote\\\n  """',
    "'''\n[[cameras]]\n'''",
    '"\u2028 and \u0085 end no line"',
    "[\n  [ # '''\n  1,\n  ],\n  '''\n]\n''',\n]",
    "1979-05-27T07:32:00Z",
]


def write_keys(data: st.DataObject, written: Written, table: tuple[str | int, ...]) -> None:
    for _ in range(data.draw(st.integers(0, 3))):
        name = f"k{next(written.names)}"
        key = data.draw(st.sampled_from([name, f'"{name}"', f"'{name}'", f'"{name} #=["']))
        plain = f"{name} #=[" if "#" in key else name
        value = data.draw(st.sampled_from(VALUES))
        shape = data.draw(st.sampled_from(["plain", "dotted", "inline", "comment"]))
        if shape == "plain":
            written.add(f"{key}={value} # ]'", (*table, plain))
        elif shape == "dotted":
            written.add(f" {key} . b.'c' = {value}", (*table, plain), (*table, plain, "b"), (*table, plain, "b", "c"))
        elif shape == "inline":
            written.add(
                f"{key} = {{ a.b = {value}, c = [{{ d = 1 }}] }}", (*table, plain), (*table, plain, "a", "b"), (*table, plain, "c", 0, "d")
            )
        else:
            written.add("")
            written.add(f"\t# {key} = {{")


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_line_of_any_text_with_known_lines(data: st.DataObject) -> None:
    written = Written()
    write_keys(data, written, ())
    counts: dict[str, int] = {}
    for _ in range(data.draw(st.integers(0, 5))):
        name = f"t{next(written.names)}"
        match data.draw(st.sampled_from(["table", "deep", "array", "array", "sub"])):
            case "table":
                table: tuple[str | int, ...] = (name,)
                written.add(f"[ {name} ] # [x]", table)
            case "deep":
                table = (name, "a.b", "c")
                written.add(f"[{name}.'a.b'.c]", table)
            case "array":
                array = data.draw(st.sampled_from(["cameras", "zones"]))
                table = (array, counts.get(array, 0))
                counts[array] = counts.get(array, 0) + 1
                written.add(f"[[{array}]]", table)
            case _ if counts:
                array = data.draw(st.sampled_from(sorted(counts)))
                table = (array, counts[array] - 1, name)
                written.add(f"[{array}.{name}]", table)
            case _:
                continue
        write_keys(data, written, table)
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    text = end.join("\n".join(written.lines).split("\n")) + data.draw(st.sampled_from(["", end]))
    config_file.parse(text, "the test's own text")
    found = {location: line_of(text, location) for location in written.keys}
    assert found == written.keys
    for location, line in written.keys.items():
        assert line_of(text, (*location, "no such key")) == line


def test_lines_of_a_long_file_are_found_in_time_that_grows_with_its_length() -> None:
    cameras = "".join(f'[[cameras]]\nid = "c{index}"\nsource = "synthetic"\n\n' for index in range(2000))
    assert line_of(cameras, ("cameras", 1999, "source")) == 1999 * 4 + 3
    labels = "labels = [\n" + '  "name",\n' * 20_000 + "]\nlast = 1\n"
    assert line_of(labels, ("last",)) == 20_003


def test_key_names_are_written_with_dots_and_numbers() -> None:
    assert key_name(("cameras", 0, "zones", 1, "id")) == "cameras[0].zones[1].id"


MODELS = """
[models.faces]
path = "faces.onnx"
confidenc = 0.5
[models.cars]
family = "yolox8"
cpu_budget = 0
[models."a.b"]
[[cameras]]
id = "a"
source = "synthetic"
model = "face"
"""


def test_what_is_wrong_with_further_models_is_told_as_what_is_wrong_with_the_first(tmp_path: Path) -> None:
    found = {problem.key: problem for problem in problems(tmp_path, MODELS)}
    assert {key: problem.line for key, problem in found.items()} == {
        "models.faces.confidenc": 4, "models.cars.family": 6, "models.cars.cpu_budget": 7, "models.a.b": 8, "cameras[0].model": 12,
    }  # fmt: skip
    assert "did you mean 'confidence'" in found["models.faces.confidenc"].message
    assert "did you mean 'faces'" in found["cameras[0].model"].message


def test_a_configuration_is_seen_by_one_model_at_a_time() -> None:
    tables = {
        "model": {"confidence": 0.2},
        "models": {"faces": {"path": "faces.onnx", "providers": ["CPUExecutionProvider"]}, "unused": {"path": "x.onnx"}},
        "cameras": [
            {"id": "a", "source": "synthetic", "model": "faces"},
            {"id": "b", "source": "synthetic"},
            {"id": "c", "source": "synthetic", "model": "unused", "enabled": False},
        ],
    }
    config = config_file.build(tables, plugins.PluginKinds(), environ={})
    faces, default = config.per_model()
    assert (faces.model_key, faces.settings.model.path, faces.runtime) == ("models.faces", "faces.onnx", "onnx")
    assert faces.runtime_options.model_dump()["providers"] == ("CPUExecutionProvider",)
    assert [camera.settings.enabled for camera in faces.cameras] == [True, False, False]
    assert (default.model_key, default.settings.model.confidence, default.runtime) == ("model", 0.2, "tflite")
    assert [camera.settings.enabled for camera in default.cameras] == [False, True, False]
    assert faces.per_model() == [faces]
    assert default.per_model() == [default]


def test_two_keys_that_say_how_often_are_one_too_many(tmp_path: Path) -> None:
    text = '[[cameras]]\nid = "a"\nsource = "synthetic"\nmax_fps = 5\ninterval_s = 60\n'
    (problem,) = problems(tmp_path, text)
    assert (problem.key, problem.line) == ("cameras[0].interval_s", 5)
    assert "max_fps" in problem.message
