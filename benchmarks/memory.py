"""Where the agent's memory goes: what each library costs before a frame is read, and what is left for the line.

    python benchmarks/memory.py [--model FILE.onnx] [--json]

One process imports, in this order, what the agent imports, loads the model as the agent does (its lanes, its threads) and infers;
after each step its resident memory is read: all of it, and the part that is not pages of files (which processes share). Then
``edge-agent run`` with the built-in clip, enlarged to 1080p and played in real time, for ten seconds: its peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

STEPS = ("numpy", "cv2", "av", "onnxruntime", "edge_agent.app")
RUN_S = 10.0


def resident_mb(status: Path = Path("/proc/self/status")) -> dict[str, float]:
    """VmRSS, RssAnon and VmHWM in MB (10^6 bytes)."""
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return {name: round(int(fields[name].split()[0]) * 1024 / 1e6, 1) for name in ("VmRSS", "RssAnon", "VmHWM")}


def steps(model: str) -> Iterator[tuple[str, dict[str, float]]]:
    """In this process."""
    yield "Python", resident_mb()
    for name in STEPS:
        __import__(name)
        yield f"import {name}", resident_mb()
    from edge_agent import config_file, plugins
    from edge_agent.image import BgrImage
    from edge_agent.models import _loading
    from edge_agent.models.base import Thresholds

    tables = {"model": {"path": model}, "cameras": [{"id": "c", "source": "synthetic"}]}
    loaded = _loading.load(config_file.build(tables, plugins.PluginKinds(), environ={}))
    yield "the model, loaded", resident_mb()
    import numpy as np

    picture = BgrImage(np.zeros((1080, 1920, 3), np.uint8))
    for lane in loaded.lanes:
        for _ in range(5):
            lane(picture, Thresholds(0.4, 0.5, 100))
    yield "the model, at work", resident_mb()


def whole(model: str) -> dict[str, float]:
    """The daemon's own peak, by the kernel, shortly before it ends."""
    from _clips import encoded

    with tempfile.TemporaryDirectory() as folder:
        clip = encoded(Path(folder) / "clip.mp4", (1920, 1080), 30, gop=30)
        text = f'[device]\nid = "m"\nstate_dir = "state"\n[model]\npath = "{model}"\n[log]\nlevel = "error"\n'
        text += f'[[cameras]]\nid = "c"\nsource = "{clip}"\nrealtime = true\nloop = true\nmode = "freshest"\n'
        (Path(folder) / "agent.toml").write_text(text)
        command = [sys.executable, "-m", "edge_agent", "run", "-c", "agent.toml", "--seconds", str(RUN_S + 5)]
        with subprocess.Popen(command, cwd=folder) as agent:
            time.sleep(RUN_S)
            found = resident_mb(Path(f"/proc/{agent.pid}/status"))
            agent.terminate()
    return found


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = arguments.model if arguments.model == "builtin" else str(Path(arguments.model).resolve())
    if arguments.steps:
        print(json.dumps(list(steps(model))))
        return
    command = [sys.executable, __file__, "--steps", "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [*json.loads(done.stdout.splitlines()[-1]), ("edge-agent run, 1080p30", whole(model))]
    if arguments.json:
        print(json.dumps(dict(rows), indent=2))
        return
    print("| after | resident, MB | of it not files | more |\n|---|---|---|---|")
    before = 0.0
    for name, found in rows:
        print(f"| {name} | {found['VmRSS']:.0f} | {found['RssAnon']:.0f} | {found['VmRSS'] - before:+.0f} |")
        before = found["VmRSS"]


if __name__ == "__main__":
    main()
