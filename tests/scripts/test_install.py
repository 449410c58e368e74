"""scripts/install and scripts/uninstall without systemd: for one user, with a wheel that installs in a moment.

What needs a machine with systemd is in tests/lab/appliance.sh; docs/appliance.md has its results.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

INSTALL, UNINSTALL = REPOSITORY / "scripts" / "install", REPOSITORY / "scripts" / "uninstall"
PROGRAM = """
import sys
def main():
    command = sys.argv[1]
    if command == "example":
        print('made by {version}')
    if command == "check" and "{version}".startswith("9"):
        sys.exit("error: agent.toml:1: refused by {version}")
    if command == "status":
        sys.exit(69)
"""


def wheel(folder: Path, version: str, note: str = "", needs: str = "") -> Path:
    """As much of an edge-agent as the scripts see without systemd, with an OpenCV that loads."""
    target = folder / f"edge_agent-{version}-py3-none-any.whl"
    info = f"edge_agent-{version}.dist-info"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("edge_agent.py", PROGRAM.format(version=version) + note)
        archive.writestr("cv2.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: edge-agent\nVersion: {version}\n{needs}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/entry_points.txt", "[console_scripts]\nedge-agent = edge_agent:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return target


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "a home"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # virtual environments are large


def run(script: Path, home: Path, *arguments: object, code: int = 0, **variables: str) -> str:
    """What it said; it must end with ``code``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_AGENT_", "XDG_", "PIP_"))}
    done = subprocess.run(
        [script, *map(str, arguments)], env={**kept, "HOME": str(home), **variables}, cwd=home, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def in_use(home: Path) -> str:
    return str((home / ".local/share/edge-agent/current").readlink())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--frobnicate"], 2, "--frobnicate is no option"),
        (["--user", "--with-broker"], 2, "does not go with --user"),
        (["--user", "--no-start", "--wheel", "nowhere.whl"], 78, "there is no file"),
        (["--user", "--no-start", "--offline", "nowhere"], 78, "there is no folder"),
        (["--user", "--no-start", "--offline", "."], 78, "holds no edge_agent-"),
        (["--user"], 69, "systemd does not run here"),
    ],
)
def test_what_is_asked_wrongly_is_said_and_changes_nothing(arguments: list[str], code: int, said: str, home: Path) -> None:
    if arguments == ["--user"] and Path("/run/systemd/system").exists():
        pytest.skip("systemd runs here")
    assert said in run(INSTALL, home, *arguments, code=code, XDG_RUNTIME_DIR=str(home / "none"))
    assert files(home) == []


def test_an_unsupported_machine_and_a_foreign_folder_are_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "uname").write_text("#!/bin/sh\necho riscv64\n")
    (tmp_path / "uname").chmod(0o755)
    said = run(INSTALL, home, "--user", "--no-start", code=69, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert "riscv64 is not supported" in said
    (home / ".local/share/edge-agent").mkdir(parents=True)
    (home / ".local/share/edge-agent/mine").write_text("")
    before = files(home)
    assert "not of this installation" in run(INSTALL, home, "--user", "--no-start", code=78)
    assert "left alone" in run(UNINSTALL, home, "--user", "--purge", code=78)
    assert files(home) == before


@pytest.mark.timeout(400)  # five virtual environments: 15 s, on a busy machine minutes
def test_install_upgrade_and_uninstall(home: Path, tmp_path: Path) -> None:
    def install(file: Path, code: int = 0) -> str:
        return run(INSTALL, home, "--user", "--no-start", "--offline", tmp_path, "--wheel", file, code=code)

    prefix, toml, unit = (
        home / ".local/share/edge-agent",
        home / ".config/edge-agent/agent.toml",
        home / ".config/systemd/user/edge-agent.service",
    )
    first = wheel(tmp_path, "1.0")
    assert "edge-agent 1.0 is installed" in install(first)
    assert in_use(home) == "releases/1.0"
    assert toml.read_text() == "made by 1.0\n"
    assert toml.stat().st_mode & 0o007 == 0
    assert unit.read_text() == (REPOSITORY / "systemd/user/edge-agent.service").read_text()
    assert (home / ".local/bin/edge-agent").resolve().is_file()

    toml.write_text("mine\n")
    made = (prefix / "releases/1.0/pyvenv.cfg").stat().st_mtime_ns
    install(first)
    assert toml.read_text() == "mine\n"
    assert (prefix / "releases/1.0/pyvenv.cfg").stat().st_mtime_ns == made, "the same wheel is not installed again"

    again = wheel(tmp_path, "1.0", note="# another\n")
    install(again)
    assert in_use(home).startswith("releases/1.0-")
    install(wheel(tmp_path, "2.0"))
    assert in_use(home) == "releases/2.0"
    assert len(list((prefix / "releases").iterdir())) == 2, "the one before is kept"
    assert not (prefix / ".activating").exists()

    # Cut off after the switch, before it was known to do well: the next run goes back first.
    (prefix / ".activating").write_text((prefix / "previous").readlink().name + "\n")
    said = install(wheel(tmp_path, "3.0"))
    assert "interrupted" in said
    assert (prefix / "previous").readlink().name.startswith("1.0-"), "2.0 was never known to do well"

    (home / "other").write_text("not ours")
    said = run(UNINSTALL, home, "--user")
    assert "kept: " in said
    assert toml.read_text() == "mine\n"
    assert not prefix.exists()
    assert not unit.exists()
    run(UNINSTALL, home, "--user", "--purge")
    assert [name for name in files(home) if "edge" in name] == []
    assert (home / "other").exists()


def test_a_wheel_that_cannot_be_installed_leaves_nothing(home: Path, tmp_path: Path) -> None:
    wheel(tmp_path, "4.0", needs="Requires-Dist: no-such\n")
    said = run(INSTALL, home, "--user", "--no-start", "--offline", tmp_path, code=78)
    assert "no-such" in said
    assert "not in " in said
    assert files(home) == [] or not any("edge" in name for name in files(home))
