"""``edge-agent doctor``: what is wrong is found, on copies of boards' files and on a real agent, and says what mends it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_agent import doctor, doctor_machine, doctor_service
from edge_agent.doctor_finding import Finding
from tests.conftest import ONE_CAMERA, REPOSITORY, CommandLine, Mosquitto, free_port, terminated

MACHINES = REPOSITORY / "tests" / "data" / "machines"


def found(edge_agent: CommandLine, *arguments: str) -> dict[str, list[tuple[str, str, str]]]:
    """Level, text and mend, by what."""
    done = edge_agent.run("doctor", "--json", *arguments)
    assert not done.stderr, done.stderr
    result: dict[str, list[tuple[str, str, str]]] = {}
    for line in done.stdout.splitlines():
        told = json.loads(line)
        result.setdefault(told["what"], []).append((told["level"], told["text"], told["mend"]))
    levels = [each[0] for some in result.values() for each in some]
    assert done.returncode == (1 if "wrong" in levels else 0)
    return result


def service_findings(path: Path) -> list[Finding]:
    """Of the parts that look at a configuration, in this process, which has the libraries loaded."""
    looks = [each for each in doctor.examinations(path) if each.part == "service"]
    return [finding for _, finding in doctor.examine(looks)]


def test_a_machine_without_a_configuration_is_told_how_to_make_one(edge_agent: CommandLine) -> None:
    if Path("/etc/edge-agent/agent.toml").exists():
        pytest.skip("edge-agent is installed on this machine")
    result = found(edge_agent)
    assert result["configuration"][0][0] == "wrong"
    assert "edge-agent example" in result["configuration"][0][2]
    assert result["edge-agent"][0][0] == "ok"
    assert result["ONNX Runtime"][0][0] == "ok"


def test_each_error_of_the_configuration_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("[mqtt]\nprot = 1\n[[cameras]]\nid = 'a b'\nsource = 'synthetic'\n")
    levels = [finding.level for finding in service_findings(path) if finding.what == "configuration"]
    assert levels == ["wrong", "wrong"]


def test_a_running_agent_is_asked(mosquitto: Mosquitto, edge_agent: CommandLine) -> None:
    (edge_agent.folder / "agent.toml").write_text(ONE_CAMERA.format(port=mosquitto.port))
    with terminated(edge_agent.start("run", "-c", "agent.toml")):
        assert edge_agent.run("status", "-c", "agent.toml", "--wait", "30", "--up", "2").returncode == 0
        result = found(edge_agent, "-c", "agent.toml")
        assert result["agent"][0][:2] == ("ok", result["agent"][0][1])
        assert result["broker"][0][0] == "ok"
        assert result["configuration"][0][0] == "ok"


def test_a_broker_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(ONE_CAMERA.format(port=free_port()))
    by_name = {finding.what: finding for finding in service_findings(path)}
    assert by_name["broker"].level == "wrong"
    assert "--with-broker" in by_name["broker"].mend
    assert by_name["agent"].level == "note"


def test_a_password_that_everybody_can_read_is_said(tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", tmp_path / "agent.toml"
    secret.write_text("hunter2\n")
    path.write_text(ONE_CAMERA.format(port=1).replace("[mqtt]", '[mqtt]\nusername = "u"\npassword_file = "secret"'))
    for mode, expected in ((0o644, True), (0o640, False)):
        secret.chmod(mode)
        findings = service_findings(path)
        assert any(finding.what == "secrets" for finding in findings) is expected
        assert "hunter2" not in str(findings)


@pytest.mark.parametrize(("source", "said"), [("rtsp://cam/1", False), ("rtsp://me:hunter2@cam/1", True)])
def test_a_password_in_an_address_is_one_of_agent_toml(source: str, said: bool, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f'[[cameras]]\nid = "a"\nsource = "{source}"\n')
    path.chmod(0o644)
    findings = list(doctor_service.secrets(doctor_service.Configured.read(path)))
    assert [finding.what for finding in findings] == (["secrets"] if said else [])
    path.chmod(0o640)
    assert list(doctor_service.secrets(doctor_service.Configured.read(path))) == []


def test_only_what_could_be_better(edge_agent: CommandLine) -> None:
    done = edge_agent.run("doctor", "-q")
    assert not [line for line in done.stdout.splitlines() if line.startswith(("ok", "note"))]
    assert done.stderr.startswith(f"{done.stdout.count('wrong ')} wrong, ")


@pytest.mark.parametrize("name", ["pi4", "pi5", "orin_nano", "laptop", "container"])
def test_every_board_can_be_looked_at(name: str) -> None:
    root = MACHINES / name
    for look in (doctor_machine.board, doctor_machine.memory, doctor_machine.heat_and_power, doctor_service.unit):
        for finding in look(root):
            assert finding.text, finding


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.what: finding.level for finding in findings}


def test_a_weak_supply_and_a_hot_chip_are_said(tmp_path: Path) -> None:
    root = tmp_path / "pi"
    shutil.copytree(MACHINES / "pi4", root, symlinks=True)
    (bits,) = list(root.rglob("get_throttled"))
    bits.write_text("50005\n")
    assert levels(list(doctor_machine.heat_and_power(root)))["power"] == "wrong"
    bits.write_text("0\n")
    assert "power" not in levels(list(doctor_machine.heat_and_power(root)))


def test_scarce_memory_and_a_kernel_without_limits_are_said(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000000 kB\nMemAvailable: 102400 kB\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpuset cpu io pids\n")
    assert levels(list(doctor_machine.memory(tmp_path))) == {"memory": "wrong", "memory limits": "note"}
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 1024000 kB\n")
    assert levels(list(doctor_machine.memory(tmp_path))) == {"memory": "ok"}


def test_a_look_that_fails_hides_no_other() -> None:
    def broken() -> list[Finding]:
        raise OSError(5, "Input/output error")

    looks = [doctor.Examination("machine", broken), doctor.Examination("machine", lambda: [Finding("ok", "other", "fine")])]
    assert [finding.level for _, finding in doctor.examine(looks)] == ["wrong", "ok"]
