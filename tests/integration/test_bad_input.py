"""What users get wrong, through the real command line: clear lines, the right exit code, no traceback, nothing half-started."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import CLIP, CommandLine, free_port, needs, terminated, wait_until
from tests.models.files import write

CAMERA = '[[cameras]]\nid = "front"\nsource = "synthetic"\n'


@dataclass(frozen=True)
class Case:
    """Something wrong, and what is said about it."""

    name: str
    says: tuple[str, ...]
    """Patterns; each must be found in a line of its own."""
    text: str | bytes | None = CAMERA
    """agent.toml; None: there is none."""
    command: tuple[str, ...] = ("check", "-c", "agent.toml")
    code: int = 78
    env: Mapping[str, str] = field(default_factory=dict)


MODEL = CAMERA + '[model]\npath = "{}"\n'
PASSWORD = CAMERA + '[mqtt]\nusername = "u"\npassword_file = "{}"\n'
PERSN = CAMERA + 'classes = ["persn"]\n'
CHECK = ("check", "-c", "agent.toml")
RUN = ("run", "-c", "agent.toml", "--seconds", "5")
CASES = [
    Case("empty", (r"agent\.toml: cameras: none configured: add a \[\[cameras\]\] table",), ""),
    Case("missing", (r"none\.toml: no such file; write one with: edge-agent example",), None, ("check", "-c", "none.toml")),
    Case("missing, run", (r"none\.toml: no such file; write one with: edge-agent example",), None, ("run", "-c", "none.toml")),
    Case("named by the variable", (r"/else/agent\.toml: no such file",), None, ("check",), env={"EDGE_AGENT_CONFIG": "/else/agent.toml"}),
    Case("folder", (r"pictures: is a folder, not a file",), None, ("check", "-c", "pictures")),
    Case("not UTF-8", (r"agent\.toml:2: byte 0xe9 is not UTF-8",), b"# a\n# caf\xe9\n" + CAMERA.encode()),
    Case("broken TOML", (r"agent\.toml:2: not valid TOML: ",), '[mqtt]\nhost = broker\n'),
    Case("broken TOML, run", (r"agent\.toml:1: not valid TOML: ",), "[mqtt\n", RUN),
    Case(
        "wrong types",
        (
            r'agent\.toml:2: mqtt\.host: 5 is not allowed: must be a string',
            r'agent\.toml:3: mqtt\.port: "high" is not allowed: must be a whole number',
            r'agent\.toml:4: mqtt\.retain: "perhaps" is not allowed',
            r'agent\.toml:6: health\.interval_s: true is not allowed: must be a number',
            r'agent\.toml:9: cameras\[0\]\.source: 1\.5 is not allowed',
        ),
        '[mqtt]\nhost = 5\nport = "high"\nretain = "perhaps"\n[health]\ninterval_s = true\n[[cameras]]\nid = "a"\nsource = 1.5\n',
    ),
    Case("unknown key", (r"agent\.toml:4: cameras\[0\]\.widht: unknown key; did you mean 'width'\?",), CAMERA + "widht = 5\n"),
    Case("duplicate ids", (r"agent\.toml:5: cameras\[1\]\.id: 'front' is the id of cameras\[0\] already",), CAMERA + CAMERA),
    *(
        Case(
            f"name with {name!r}",
            (r"agent\.toml:2: device\.id: .* must be 1 to 64 letters", r"agent\.toml:4: cameras\[0\]\.id: .* is not allowed"),
            f'[device]\nid = "{name}"\n' + CAMERA.replace("front", name),
        )
        for name in ("a/b", "a+", "#", "a\\nb")
    ),
    Case("missing model", (r"agent\.toml:5: model\.path: .*none\.tflite does not exist",), MODEL.format("none.tflite")),
    Case("missing model, run", (r"agent\.toml:5: model\.path: .*none\.onnx does not exist",), MODEL.format("none.onnx"), RUN),
    Case("text as .tflite", (r"text\.tflite is no tflite model: it does not begin like one",), MODEL.format("text.tflite")),
    Case("text as .onnx", (r"text\.onnx is no onnx model: it does not begin like one",), MODEL.format("text.onnx"), RUN),
    Case("zero bytes", (r"zero\.tflite is no tflite model: it is empty",), MODEL.format("zero.tflite")),
    Case("a cut .tflite", (r"toml:5: model\.path: .*cut\.tflite is not a model that .* can run",), MODEL.format("cut.tflite")),
    Case("a cut .onnx", (r"toml:5: model\.path: .*cut\.onnx is not a model that ONNX Runtime can run",), MODEL.format("cut.onnx")),
    Case("a cut .tflite, run", (r"cut\.tflite is not a model that .* can run",), MODEL.format("cut.tflite"), RUN),
    Case("a cut .onnx, run", (r"cut\.onnx is not a model that ONNX Runtime can run",), MODEL.format("cut.onnx"), RUN),
    Case("opset of the future", (r"toml:5: model\.path: .*late\.onnx is not a model .*it needs opset 99",), MODEL.format("late.onnx")),
    Case("opset of the future, run", (r"late\.onnx is not a model .*it needs opset 99",), MODEL.format("late.onnx"), RUN),
    Case("no model suffix", (r"agent\.toml:5: model\.path: 'text\.md' is no model file",), MODEL.format("text.md")),
    Case(
        "state under a file",
        (r"state directory .*text\.md/state cannot be used: Not a directory; set \[device\] state_dir",),
        CAMERA + '[device]\nstate_dir = "text.md/state"\n',
        RUN,
    ),
    Case("state in /proc", (r"state directory /proc/state cannot be used",), CAMERA + '[device]\nstate_dir = "/proc/state"\n', RUN),
    Case("file missing", (r"agent\.toml:3: cameras\[0\]\.source: .*none\.mp4 does not exist",), CAMERA.replace("synthetic", "none.mp4")),
    Case("folder as file", (r"toml:3: cameras\[0\]\.source: .*folder\.mp4 is a folder",), CAMERA.replace("synthetic", "folder.mp4"), RUN),
    Case("no video", (r"text\.mp4",), CAMERA.replace("synthetic", "text.mp4"), (*RUN[:-1], "30"), code=65),
    *(
        Case(f"unknown class, {command[0]}", (r"toml:4: cameras\[0\]\.classes: 'persn' is no class of this model; ",), PERSN, command)
        for command in (CHECK, RUN)
    ),
    Case("class number", (r"toml:5: model\.classes: there is no class 23; .* 0 to 22",), CAMERA + "[model]\nclasses = [23]\n"),
    Case("class number, run", (r"toml:5: model\.classes: there is no class 23; .* 0 to 22",), CAMERA + "[model]\nclasses = [23]\n", RUN),
    Case("labels missing", (r"agent\.toml:5: model\.labels: .*none\.txt cannot be read",), CAMERA + '[model]\nlabels = "none.txt"\n'),
    *(
        Case(
            f"settings, files and model at once, {command[0]}",
            (
                r"toml:4: cameras\[0\]\.widht: unknown key",
                r"toml:5: cameras\[0\]\.classes: 'persn' is no class of this model",
                r"toml:7: mqtt\.tls\.ca_file: .*none\.pem is not a file",
                r"toml:10: cameras\[1\]\.source: .*none\.mp4 does not exist",
            ),
            CAMERA
            + 'widht = 5\nclasses = ["persn"]\n[mqtt.tls]\nca_file = "none.pem"\n'
            + CAMERA.replace("front", "back").replace("synthetic", "none.mp4"),
            command,
        )
        for command in (CHECK, RUN)
    ),
    Case(
        "password twice",
        (r"toml:7: mqtt\.password_file: is one place for the password",),
        PASSWORD.replace("[mqtt]", '[mqtt]\npassword = "Sesame"').format("text.md"),
    ),
    Case("password missing", (r"agent\.toml:6: mqtt\.password_file: .*none cannot be read",), PASSWORD.format("none")),
    Case("password empty", (r"mqtt\.password_file: .*zero\.tflite holds nothing",), PASSWORD.format("zero.tflite")),
    Case("TLS missing", (r"agent\.toml:5: mqtt\.tls\.ca_file: .*none\.pem is not a file",), CAMERA + '[mqtt.tls]\nca_file = "none.pem"\n'),
    Case("TLS garbage", (r"mqtt\.tls\.ca_file: .*text\.md is not a PEM file",), CAMERA + '[mqtt.tls]\nca_file = "text.md"\n'),
    Case("environment", (r"variable EDGE_AGENT_MQTT__QOS: mqtt\.qos: \"7\"",), CAMERA, env={"EDGE_AGENT_MQTT__QOS": "7"}),
]  # fmt: skip


def furnish(folder: Path) -> None:
    for name in ("text.tflite", "text.onnx", "text.md", "text.mp4"):
        (folder / name).write_text("This is just some text, longer than any header of any format would be.\n" * 20)
    (folder / "zero.tflite").write_bytes(b"")
    (folder / "cut.tflite").write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 100)
    (folder / "cut.onnx").write_bytes(b"\x08\x07" + b"\xff" * 100)
    write(folder / "late.onnx", opset=99)
    (folder / "pictures").mkdir()
    (folder / "folder.mp4").mkdir()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Future[subprocess.CompletedProcess[str]]]]]:
    """All of them side by side: most of each is the interpreter's start."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = {}
        for index, case in enumerate(CASES):
            folder = tmp_path_factory.mktemp(f"case{index}")
            furnish(folder)
            if case.text is not None:
                (folder / "agent.toml").write_bytes(case.text if isinstance(case.text, bytes) else case.text.encode())
            started[case.name] = folder, pool.submit(CommandLine(folder).run, *case.command, env=case.env)
        yield started


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, outcomes: dict[str, tuple[Path, Future[subprocess.CompletedProcess[str]]]]) -> None:
    folder, future = outcomes[case.name]
    done = future.result()
    assert done.returncode == case.code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    for pattern in case.says:
        assert len([line for line in lines if re.search(pattern, line)]) == 1, done.stderr
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == (0 if case.code == 65 else len(case.says))
    if case.command[0] == "check":
        assert lines == errors + ([f"{len(errors)} errors"] if len(errors) > 1 else [])
    state = folder / ".local" / "state" / "edge-agent"
    if case.command[0] == "check" or (case.code == 78 and "class" not in case.name):
        assert not state.exists()
    elif state.exists():  # the model had to be loaded to know: nothing was counted, and the lock is free
        assert case.code == 65 or not (state / "sequences.json").exists()
        with (state / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.assets
def test_a_labels_file_with_the_wrong_count(edge_agent: CommandLine, assets: Path) -> None:
    shutil.copy(assets / "models" / "yolox_nano.onnx", edge_agent.folder)
    (edge_agent.folder / "two.txt").write_text("person\ncar\n")
    (edge_agent.folder / "agent.toml").write_text(CAMERA + '[model]\npath = "yolox_nano.onnx"\nlabels = "two.txt"\n')
    done = edge_agent.run("run", "--seconds", "5")
    assert done.returncode == 78
    assert f"model.labels: {edge_agent.folder}/two.txt: 2 class names, but the model has 80 classes" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.tflite
def test_two_agents_with_one_state_directory(edge_agent: CommandLine) -> None:
    (edge_agent.folder / "agent.toml").write_text(
        CAMERA + f'[device]\nstate_dir = "state"\n[mqtt]\nhost = "127.0.0.1"\nport = {free_port()}\n'
    )
    lock = edge_agent.folder / "state" / "lock"
    with terminated(edge_agent.start("run")) as first:
        wait_until(lambda: lock.exists() and lock.read_text().strip() == str(first.pid), what="the first agent's lock")
        second = edge_agent.run("run", "--seconds", "5")
        assert second.returncode == 75
        (line,) = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
        assert f"another edge-agent (process {first.pid}) uses the state directory {lock.parent}" in line
        assert "Traceback" not in second.stderr
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0


@pytest.mark.tflite
@pytest.mark.parametrize(
    ("durability", "code", "told"),
    [
        ("interval", 0, "stopped sink=mqtt delivered=0 kept=6 dropped={}"),  # nothing is lost: they go with the next start
        ("memory", 69, "stopped sink=mqtt delivered=0 kept=0 dropped={'shutdown': 6}"),
    ],
)
def test_an_unreachable_broker_costs_what_it_costs_and_no_more(
    edge_agent: CommandLine, ffmpeg: Callable[..., None], durability: str, code: int, told: str
) -> None:
    ffmpeg("-i", CLIP, "-frames:v", "6", "-s", "320x240", edge_agent.folder / "six.avi")
    port = free_port()
    tables = f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n[spool]\ndurability = "{durability}"\n[log]\nformat = "json"\n'
    (edge_agent.folder / "agent.toml").write_text(CAMERA.replace("synthetic", "six.avi") + tables)
    done = edge_agent.run("run", "--seconds", "60")
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert f"mqtt://127.0.0.1:{port}: Connection refused" in done.stderr
    assert told in done.stderr
    assert re.search(r"frames camera=front captured=6 served=6", done.stderr)


@pytest.mark.tflite
def test_an_unreachable_camera_is_tried_again_until_it_is_time_to_go(edge_agent: CommandLine) -> None:
    port = free_port()
    text = (
        f'[[cameras]]\nid = "front"\nsource = "rtsp://user:Sesame@127.0.0.1:{port}/x"\n[mqtt]\nhost = "127.0.0.1"\nport = {free_port()}\n'
    )
    (edge_agent.folder / "agent.toml").write_text(text)
    done = edge_agent.run("run", "--seconds", "2")
    assert done.returncode == 0
    assert re.search(r"source unavailable camera=front code=refused retry_in=", done.stderr)
    assert "Traceback" not in done.stderr
    assert "Sesame" not in done.stderr


# ------------------------------------------------------------------------------------------------------ without rights


@dataclass
class Ordinary(CommandLine):
    """The command line of a user whom permissions bind, which they do not for root."""

    prefix: tuple[str, ...] = ()

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.prefix, sys.executable, "-m", "edge_agent", *arguments],
            cwd=self.folder, env=self.environment(env), capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip


@pytest.fixture
def ordinary(tmp_path: Path) -> Ordinary:
    if os.geteuid() != 0:
        return Ordinary(tmp_path)
    user = Ordinary(tmp_path, (needs("setpriv", "util-linux"), "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"))
    if user.run("--version").returncode != 0:
        pytest.skip("root cannot give up its rights here")
    return user


def test_an_unreadable_file(ordinary: Ordinary) -> None:
    file = ordinary.folder / "agent.toml"
    file.write_text(CAMERA)
    file.chmod(0)
    done = ordinary.run("check", "-c", "agent.toml")
    assert (done.returncode, done.stderr) == (78, f"error: {file}: cannot be read: Permission denied\n")


def test_unreadable_things_that_the_file_names(ordinary: Ordinary) -> None:
    closed = ordinary.folder / "closed"
    closed.mkdir()
    closed.chmod(0)
    (ordinary.folder / "agent.toml").write_text(
        '[model]\npath = "closed/m.onnx"\n[mqtt]\npassword_file = "closed/p"\ntls.ca_file = "closed/ca.pem"\n'
        '[[cameras]]\nid = "a"\nsource = "closed/a.mp4"\n[device]\nstate_dir = "closed/state"\n'
    )
    done = ordinary.run("check", "-c", "agent.toml")
    assert done.returncode == 78
    keys = re.findall(r"^error: \S+:(\d+): (\S+): ", done.stderr, re.MULTILINE)
    assert keys == [
        ("2", "model.path"),
        ("4", "mqtt.password_file"),
        ("5", "mqtt.tls.ca_file"),
        ("8", "cameras[0].source"),
        ("10", "device.state_dir"),
    ]
    (ordinary.folder / "agent.toml").write_text(CAMERA + '[device]\nstate_dir = "closed/state"\n')
    done = ordinary.run("run", "-c", "agent.toml", "--seconds", "5")
    assert done.returncode == 78
    assert f"the state directory {closed}/state cannot be used: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_without_a_home_is_told_what_to_set(edge_agent: CommandLine) -> None:
    (edge_agent.folder / "agent.toml").write_text(CAMERA)
    done = edge_agent.run("run", "--seconds", "5", env={"HOME": "~nobody-of-this-name"})
    assert done.returncode == 78
    assert "device.state_dir: this user has no home directory to keep state in; set [device] state_dir" in done.stderr
    assert "Traceback" not in done.stderr
