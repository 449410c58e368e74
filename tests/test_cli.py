"""The command line: what its help teaches, its exit codes, and that a closed pipe or a wrong word ends in no traceback."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from edge_agent import __version__, example
from edge_agent.cli import main
from edge_agent.cli_demo import host_port
from edge_agent.encoding import schemas
from edge_agent.errors import ExitCode
from edge_agent.watch import WatchOptions
from tests.conftest import CLIP, CommandLine, Mosquitto, free_port, needs, terminated, wait_until
from tests.subscriber import subscribed

COMMANDS = ["run", "check", "demo", "watch", "devices", "schema", "example", "completion", "version"]
CAMERA = '[[cameras]]\nid = "front"\nsource = "synthetic"\n'


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name="edge-agent")


# ---------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_help_teaches_the_way_from_a_first_look_to_running(option: str) -> None:
    text = invoke(option).output
    ways = [
        "edge-agent demo",
        "--source /dev/video0",
        "edge-agent example > agent.toml",
        "edge-agent check --probe",
        "edge-agent run",
        "watch",
    ]
    places = [text.index(way) for way in ways]
    assert places == sorted(places)
    assert [command for command in re.findall(r"^  (\w+)  ", text, re.MULTILINE) if command in COMMANDS] == COMMANDS


def test_the_help_keeps_its_lines() -> None:
    lines = invoke("--help").output.splitlines()
    assert "  First look, no camera or broker needed:   edge-agent demo" in lines
    assert "  See what arrives at the broker:           edge-agent watch" in lines
    assert "  0   ended as asked, or every file was read to its end" in [line.replace("    ", "  ", 1) for line in lines]
    assert not any("\\b" in line or "\b" in line for line in lines)


def test_every_exit_code_is_in_the_help() -> None:
    documented = {int(code) for code in re.findall(r"^ *(\d+)   ? ?\w", invoke("--help").output, re.MULTILINE)}
    assert documented == {int(code) for code in ExitCode}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does_and_what_each_option_is_for(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: edge-agent {command}")
    assert all(getattr(parameter, "help", "") for parameter in main.commands[command].params if parameter.param_type_name == "option")
    assert len((main.commands[command].help or "").split()) >= 4


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["--fly"],
        ["run", "--seconds", "0"],
        ["run", "--seconds", "soon"],
        ["run", "now"],
        ["watch", "--port", "0"],
        ["watch", "--port", "70000"],
        ["schema", "none"],
        ["completion", "cmd"],
        ["completion"],
        ["demo", "--broker", "host:"],
        ["demo", "--broker", "host:x"],
        ["demo", "--broker", "host:0"],
        ["demo", "--broker", ":1883"],
        ["demo", "--broker", "host:²"],
        ["demo", "--broker", ""],
    ],
)
def test_a_wrong_command_line_exits_with_2_and_one_clear_word(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.output
    assert isinstance(result.exception, SystemExit)


def test_no_command_shows_the_help() -> None:
    assert "First look" in invoke().output


@pytest.mark.parametrize(("text", "found"), [("broker", ("broker", 1883)), ("broker:8884", ("broker", 8884)), ("::1", ("::1", 1883))])
def test_host_and_port(text: str, found: tuple[str, int]) -> None:
    assert host_port(text) == found


# ------------------------------------------------------------------------------------------------------- small commands


def test_version_and_its_parts() -> None:
    assert invoke("--version").output == f"edge-agent {__version__}\n"
    found = json.loads(invoke("version", "--json").output)
    assert found["edge-agent"] == __version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"numpy", "pydantic", "paho-mqtt"} <= found.keys()
    assert f"edge-agent {__version__}" in invoke("version").output.splitlines()


@pytest.mark.parametrize("name", sorted(schemas()))
def test_a_schema_by_name_and_all_without(name: str) -> None:
    assert json.loads(invoke("schema", name).output) == schemas()[name]
    assert json.loads(invoke("schema").output).items() >= schemas().items()


def test_an_unknown_schema_names_those_that_exist() -> None:
    assert all(name in invoke("schema", "none").output for name in schemas())


def test_the_example_is_printed_as_generated() -> None:
    assert invoke("example").output == example.generate()


def test_devices_as_json_and_as_text() -> None:
    found = json.loads(invoke("devices", "--json").output)
    assert found.keys() == {"cameras", "decoders"}
    assert all({"path", "name", "captures", "source", "formats", "controls"} <= device.keys() for device in found["cameras"])
    assert invoke("devices").exit_code == 0
    if not found["cameras"]:
        assert "no V4L2 camera found" in invoke("devices").output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_command(shell: str) -> None:
    if shell == "bash":
        needs("bash", "bash")
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert "_EDGE_AGENT_COMPLETE" in result.output
    assert "edge-agent" in result.output


def test_completion_completes(edge_agent: CommandLine) -> None:
    asked = {"_EDGE_AGENT_COMPLETE": "bash_complete", "COMP_WORDS": "edge-agent ch", "COMP_CWORD": "1"}
    code = "import sys; sys.argv[0] = 'edge-agent'; from edge_agent.cli import main; main(prog_name='edge-agent')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=edge_agent.environment(asked), capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stdout == "plain,check\n"


# ------------------------------------------------------------------------------------------------------------- check


def test_check_says_which_file_is_valid_and_touches_nothing_else(edge_agent: CommandLine) -> None:
    (edge_agent.folder / "agent.toml").write_text(CAMERA)
    done = edge_agent.run("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{edge_agent.folder}/agent.toml: valid, 1 camera(s)\n"
    assert [path.name for path in edge_agent.folder.iterdir()] == ["agent.toml"]


def test_check_takes_the_file_that_is_named_then_the_variables(edge_agent: CommandLine) -> None:
    (edge_agent.folder / "named.toml").write_text(CAMERA)
    (edge_agent.folder / "variable.toml").write_text(CAMERA)
    environ = {"EDGE_AGENT_CONFIG": str(edge_agent.folder / "variable.toml")}
    assert "variable.toml: valid" in edge_agent.run("check", env=environ).stdout
    assert "named.toml: valid" in edge_agent.run("check", "-c", "named.toml", env=environ).stdout


def test_a_probe_that_hangs_answers_an_interrupt_at_once(edge_agent: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections and says nothing
        source = f"rtsp://127.0.0.1:{server.getsockname()[1]}/x"
        (edge_agent.folder / "agent.toml").write_text(CAMERA.replace("synthetic", source))
        with terminated(edge_agent.start("check", "--probe")) as process:
            server.settimeout(30)
            connection, _ = server.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                assert process.wait(2) == -signal.SIGINT


@pytest.mark.tflite
def test_a_probe_that_fails_exits_with_69_and_a_wrong_class_with_78(edge_agent: CommandLine) -> None:
    broker = f'[mqtt]\nhost = "127.0.0.1"\nport = {free_port()}\n'
    (edge_agent.folder / "agent.toml").write_text(CAMERA + broker)
    done = edge_agent.run("check", "--probe")
    assert done.returncode == 69
    assert [line.split(":")[0] for line in done.stdout.splitlines()[1:]] == ["ok     model", "ok     camera front", "failed broker"]
    (edge_agent.folder / "agent.toml").write_text(CAMERA + broker + '[model]\nclasses = ["Persn"]\n')
    done = edge_agent.run("check", "--probe")
    assert done.returncode == 78
    assert "did you mean 'Person'?" in done.stdout


def test_a_configuration_is_checked_without_loading_what_only_running_needs(edge_agent: CommandLine) -> None:
    """Start-up of `check` and of `--help` stays quick: the libraries are imported by who opens something."""
    (edge_agent.folder / "agent.toml").write_text(CAMERA)
    code = (
        "import sys\n"
        "heavy = {'cv2', 'numpy', 'av', 'onnxruntime', 'ai_edge_litert', 'tflite_runtime', 'pydantic', 'paho'}\n"
        "def loaded(): return sorted(heavy & set(sys.modules))\n"
        "import edge_agent; print(loaded())\n"
        "import edge_agent.cli; print(loaded())\n"
        "try: edge_agent.cli.main(['check'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(loaded())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=edge_agent.folder,
        env=edge_agent.environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.splitlines() == ["[]", "[]", f"{edge_agent.folder}/agent.toml: valid, 1 camera(s)", "['numpy', 'paho', 'pydantic']"]


# ------------------------------------------------------------------------------------------------------------- watch


def test_watch_without_a_broker_is_one_line_and_69(edge_agent: CommandLine) -> None:
    port = free_port()
    done = edge_agent.run("watch", "--host", "127.0.0.1", "--port", str(port))
    assert (done.returncode, done.stdout) == (69, "")
    refused = "Connection refused (nothing listens there: is the broker running, and the port right?)"
    assert done.stderr == f"error: mqtt://127.0.0.1:{port}: {refused}\n"


def test_watch_takes_broker_and_password_of_the_configuration_and_a_wrong_one_is_78(edge_agent: CommandLine) -> None:
    port = free_port()
    (edge_agent.folder / "agent.toml").write_text(CAMERA + f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n')
    assert f"127.0.0.1:{port}" in edge_agent.run("watch").stderr
    done = edge_agent.run("watch", "-c", "none.toml")
    assert done.returncode == 78
    assert "none.toml: no such file" in done.stderr
    assert WatchOptions().host == "localhost"


def test_watch_ends_quietly_when_its_reader_has_seen_enough(edge_agent: CommandLine, mosquitto: Mosquitto) -> None:
    """As `edge-agent watch | head -1` does."""
    from paho.mqtt import publish

    def say(text: str) -> None:
        publish.single("edge/dev/status", text, hostname="127.0.0.1", port=mosquitto.port)

    with terminated(edge_agent.start("watch", "--host", "127.0.0.1", "--port", str(mosquitto.port), "--json")) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline().startswith("# listening")
        say("one")
        assert json.loads(process.stdout.readline())["payload"] == "one"
        process.stdout.close()
        say("two")
        say("three")
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("device", ["a#", "a/b", "+", ""])
def test_watch_of_what_is_no_device(device: str) -> None:
    result = invoke("watch", "--host", "127.0.0.1", "--device", device)
    assert result.exit_code == 2
    assert "is no device's name" in result.output


def test_watch_says_when_its_broker_is_lost_and_back(edge_agent: CommandLine, mosquitto: Mosquitto) -> None:
    place = f"127.0.0.1:{mosquitto.port}"
    with terminated(edge_agent.start("watch", "--host", "127.0.0.1", "--port", str(mosquitto.port))) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("# listening")
        mosquitto.stop()
        assert process.stderr.readline() == f"# {place}: connection lost, trying again\n"
        mosquitto.start()
        assert process.stderr.readline() == f"# {place}: connected again\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


# -------------------------------------------------------------------------------------------------------------- demo


@pytest.mark.tflite
def test_demo_on_a_shared_broker_has_an_id_of_its_own_and_takes_a_folder(
    edge_agent: CommandLine, mosquitto: Mosquitto, ffmpeg: Callable[..., None]
) -> None:
    (edge_agent.folder / "pictures").mkdir()
    ffmpeg("-i", CLIP, "-frames:v", "1", edge_agent.folder / "pictures" / "one.jpg")
    command = ["demo", "--broker", f"127.0.0.1:{mosquitto.port}", "--source", "pictures", "--seconds", "20"]
    found = []
    for _ in range(2):
        done = edge_agent.run(*command)
        assert done.returncode == 0, done.stderr
        found += re.findall(r"topics edge/(demo-\w{8})/#", done.stderr)
    assert len(set(found)) == 2


def test_demo_that_is_terminated_while_it_starts_leaves_nothing_behind(edge_agent: CommandLine) -> None:
    temporary = edge_agent.folder / "temporary"
    temporary.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections and says nothing
        command = ["demo", "--broker", f"127.0.0.1:{server.getsockname()[1]}"]
        with terminated(edge_agent.start(*command, env={"TMPDIR": str(temporary)})) as process:
            server.settimeout(30)
            connection, _ = server.accept()
            with connection:
                assert list(temporary.iterdir())
                process.send_signal(signal.SIGTERM)
                assert process.wait(10) == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.tflite
def test_demo_ends_quietly_when_its_reader_has_seen_enough_and_leaves_nothing_behind(edge_agent: CommandLine) -> None:
    """As `edge-agent demo | head -1` does."""
    pytest.importorskip("amqtt", reason="the demo's broker is in the extra demo")
    temporary = edge_agent.folder / "temporary"
    temporary.mkdir()
    with terminated(edge_agent.start("demo", "--seconds", "30", env={"TMPDIR": str(temporary)})) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--source", "none.mp4"], 78, "none.mp4 does not exist"),
        (["--source", "rtmp://user:Sesame@host/x"], 78, "cannot tell what 'rtmp://***@host/x' is"),
    ],
)
def test_demo_of_what_is_not_there(edge_agent: CommandLine, mosquitto: Mosquitto, arguments: list[str], code: int, message: str) -> None:
    temporary = edge_agent.folder / "temporary"
    temporary.mkdir()
    done = edge_agent.run("demo", *arguments, "--broker", f"127.0.0.1:{mosquitto.port}", env={"TMPDIR": str(temporary)})
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "Sesame" not in done.stderr
    assert list(temporary.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- run


@pytest.mark.tflite
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_run_with_closed_streams_runs(edge_agent: CommandLine, closed: str) -> None:
    (edge_agent.folder / "agent.toml").write_text(CAMERA + f'[mqtt]\nhost = "127.0.0.1"\nport = {free_port()}\n')
    command = f'exec "$0" -m edge_agent run --seconds 2 {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        cwd=edge_agent.folder,
        env=edge_agent.environment(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.tflite
def test_run_says_which_file_it_uses_publishes_and_ends_with_its_source(edge_agent: CommandLine, mosquitto: Mosquitto) -> None:
    text = CAMERA + f'frames = 5\n[mqtt]\nhost = "127.0.0.1"\nport = {mosquitto.port}\n[device]\nid = "box"\n'
    (edge_agent.folder / "agent.toml").write_text(text)
    with subscribed(mosquitto.port, "edge/box/#") as heard:
        done = edge_agent.run("run", "--seconds", "30", env={"STATE_DIRECTORY": str(edge_agent.folder / "state")})
        wait_until(lambda: [message.payload for message in heard.on("box/status")][-1:] == [b"offline"], what="the last word")
    assert done.returncode == 0
    assert f"configuration file={edge_agent.folder}/agent.toml searched=agent.toml," in done.stderr
    assert heard.on("front/detections")
    assert (edge_agent.folder / "state" / "sequences.json").exists()
    assert not (edge_agent.folder / ".local").exists()
