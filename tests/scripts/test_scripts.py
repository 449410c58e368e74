"""What the set-up scripts promise without a network: they stop with the packages' names, or are quiet and out of the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TOOLS = ["bash", "cat", "dirname", "env", "grep", "mkdir", "readlink", "sha256sum"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Only what the scripts read, under a path that holds spaces."""
    root = tmp_path / "my check out"
    root.mkdir()
    shutil.copytree(REPOSITORY / "scripts", root / "scripts")
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    return root


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH without Python, apt-get or sudo."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, tool
        (folder / tool).symlink_to(found)
    return str(folder)


def run(command: Path, path: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_AGENT_")} | {"PATH": path} | variables
    return subprocess.run(
        [str(command), *arguments], env=environ, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("script", ["demo", "check"])
def test_what_cannot_be_installed_is_named_and_nothing_is_changed(script: str, checkout: Path, bare_path: str) -> None:
    before = sorted(checkout.rglob("*"))
    done = run(checkout / "scripts" / script, bare_path)
    assert done.returncode == 69
    assert done.stdout == ""
    command = next(line for line in done.stderr.splitlines() if "apt-get install" in line)
    assert "python3-venv" in command
    assert sorted(checkout.rglob("*")) == before


def warm(checkout: Path) -> None:
    """An environment as a finished run leaves it, whose edge-agent only repeats its arguments."""
    bin_folder = checkout / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").symlink_to(sys.executable)
    (bin_folder / "edge-agent").write_text('#!/bin/sh\npwd\nprintf "<%s>" "$@"\n')
    (bin_folder / "edge-agent").chmod(0o755)
    subprocess.run(["bash", "-c", 'source "$1" && finish_venv "$venv" demo', "-", str(checkout / "scripts" / "_setup.sh")], check=True)


def test_a_warm_start_says_nothing_and_runs_the_demo_where_it_was_called(checkout: Path, bare_path: str, tmp_path: Path) -> None:
    warm(checkout)
    link = tmp_path / "a link"
    link.symlink_to(checkout / "scripts" / "demo")
    done = run(link, bare_path, "--source", "my clip.mp4")
    assert (done.returncode, done.stdout, done.stderr) == (0, "/\n<demo><--source><my clip.mp4>", "")


def test_a_changed_pyproject_is_not_taken_for_warm(checkout: Path, bare_path: str) -> None:
    warm(checkout)
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert run(checkout / "scripts" / "demo", bare_path).returncode == 69


def test_a_moved_checkout_is_not_taken_for_warm(checkout: Path, bare_path: str) -> None:
    warm(checkout)
    moved = checkout.rename(checkout.with_name("moved"))
    assert run(moved / "scripts" / "demo", bare_path).returncode == 69


def test_an_interpreter_that_does_not_exist_is_an_error_of_its_own(checkout: Path, bare_path: str) -> None:
    done = run(checkout / "scripts" / "demo", bare_path, EDGE_AGENT_PYTHON="python2.7")
    assert done.returncode == 69
    assert "EDGE_AGENT_PYTHON=python2.7" in done.stderr
    assert "apt-get" not in done.stderr
