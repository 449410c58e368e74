"""``model bench``: what is measured, what is recommended, and what it says of a user's mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.benching import Row, recommended
from tests.conftest import ASSETS, CLIP, MODEL

ONNX = ASSETS / "ship" / "models" / "ped_int8.onnx"


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent", "model", "bench", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def row(file: str, threads: int, ms: float) -> Row:
    return Row(file, "int8", threads, 10, {"total": [ms, ms, ms]})


@pytest.mark.tflite
def test_json_has_every_stage_and_number_of_threads(assets: Path) -> None:
    done = run(MODEL, "--against", ONNX, "--seconds", "0.5", "--source", CLIP, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {(Path(r["file"]).name, r["precision"]) for r in found["rows"]} == {(MODEL.name, "int8"), (ONNX.name, "int8")}
    for one in found["rows"]:
        assert one["runs"] >= 5
        assert set(one["ms"]) == {"preprocess", "infer", "postprocess", "total"}
        assert all(0 <= p50 <= p95 <= p99 for p50, p95, p99 in one["ms"].values())
    assert found["recommended"]["path"] in {str(MODEL), str(ONNX)}
    assert found["model_mb"] > 0


@pytest.mark.tflite
def test_the_table_ends_with_lines_for_the_configuration() -> None:
    done = run(MODEL, "--seconds", "0.3", "--decoders", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().splitlines()[-3:-1] == ["[model]", f'path = "{MODEL}"']
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("args", "told"), [((CLIP,), ".mp4"), ((MODEL, "--source", "/no/such.mp4"), "/no/such.mp4")])
def test_what_cannot_be_measured_is_told(args: tuple[str | Path, ...], told: str) -> None:
    done = run(*args, "--seconds", "0.2")
    assert done.returncode != 0
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("rows", "cores", "expected"),
    [
        ((row("a", 1, 10), row("a", 2, 5)), 2, ("a", 1)),  # the second core is the decoders'
        ((row("a", 1, 10), row("a", 2, 5), row("a", 3, 4.9)), 4, ("a", 2)),
        ((row("a", 1, 10), row("a", 2, 9), row("b", 1, 6), row("b", 2, 7)), 4, ("b", 1)),
    ],
)
def test_a_core_is_left_to_the_decoders(rows: tuple[Row, ...], cores: int, expected: tuple[str, int]) -> None:
    found = recommended(rows, cores)
    assert (found["path"], found["threads"]) == expected
