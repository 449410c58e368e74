"""The units in ``systemd/``, as systemd itself judges them: no mistake, and how much they leave open."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, needs

UNITS = REPOSITORY / "systemd"
UNIT = UNITS / "edge-agent.service"
DROP_INS = sorted((UNITS / "drop-ins").glob("*.conf"))
MOST = 2.0
"""What "systemd-analyze security" may say, on the platform where it is worst."""


def analyze(*arguments: str | Path) -> str:
    program = needs("systemd-analyze", "systemd")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def installed(folder: Path, *drop_ins: Path, unit: Path = UNIT) -> Path:
    """The unit as it lies on a machine, with a program that is there."""
    target = folder / "edge-agent.service"
    target.write_text(re.sub(r"(?m)^ExecStart=.*", "ExecStart=/bin/true", unit.read_text()))
    (folder / "edge-agent.service.d").mkdir()
    for drop_in in drop_ins:
        (folder / "edge-agent.service.d" / drop_in.name).write_text(drop_in.read_text())
    return target


def exposure(unit: Path) -> float:
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", analyze("security", "--offline=true", "--no-pager", unit))
    assert found
    return float(found[1])


@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda path: path.name if path else "none")
def test_systemd_finds_no_mistake(drop_in: Path | None, tmp_path: Path) -> None:
    assert analyze("verify", "--man=no", installed(tmp_path, *([drop_in] if drop_in else []))) == ""


def test_systemd_finds_no_mistake_in_the_users_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert analyze("verify", "--user", "--man=no", installed(tmp_path, unit=UNITS / "user" / UNIT.name)) == ""


def test_a_mistake_would_be_found(tmp_path: Path) -> None:
    unit = installed(tmp_path)
    unit.write_text(unit.read_text().replace("ProtectHome=", "ProtectHomes="))
    assert "ProtectHomes" in analyze("verify", "--man=no", unit)


def test_little_is_left_open_on_every_platform(tmp_path: Path) -> None:
    assert exposure(installed(tmp_path, *DROP_INS)) <= MOST


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.name)
def test_each_drop_in_says_what_it_costs(drop_in: Path, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    cost = exposure(installed(tmp_path / "with", drop_in)) - exposure(installed(tmp_path / "without"))
    said = re.search(r'Costs ([\d.]+) points of "systemd-analyze security"', drop_in.read_text())
    assert round(cost, 1) == (float(said[1]) if said else 0.0)


def test_configuration_errors_stop_it_and_nothing_else_does() -> None:
    text = UNIT.read_text()
    assert "RestartPreventExitStatus=78" in text
    assert "StartLimitIntervalSec=0" in text
    assert "Restart=on-failure" in text
