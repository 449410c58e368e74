"""A model loaded in a process of its own, so that one that crashes its runtime takes only that process with it.

``python -m edge_agent.models._trial`` reads a request from stdin and answers on stdout, both JSON. It costs a start of the
interpreter and of the runtime's library, so the line does not go this way: ``check``, ``model inspect`` and the start after
a crash do.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from edge_agent import config_file, plugins
from edge_agent.config import AgentConfig
from edge_agent.errors import ConfigError, EdgeAgentError, ModelBroken, ModelError, Problem
from edge_agent.models import _model_file

log = logging.getLogger(__name__)

LONGEST_S = 300.0
"""Some execution providers compile for minutes."""


class NotInTime(ConfigError):
    """The model was not loaded in the time that it was given."""


def attempt(config: AgentConfig, *, infer: bool, only_file: bool = False, timeout_s: float = LONGEST_S) -> dict[str, Any]:
    """Load the model of a configuration elsewhere, and, with ``infer``, run it once on a grey picture.

    ``only_file``: whether the file can be used, told without an accelerator, unless providers are asked for by name. What needs a
    delegate is not loaded then, and nothing is returned: its device may be the running agent's, and takes one user at a time.

    Returns its description (:func:`edge_agent.models._describe.describe`). Raises what loading raises, and ConfigError for a
    model that crashes the process, or is not loaded within ``timeout_s``.
    """
    model = config.settings.model.model_dump(mode="json", exclude_defaults=True)
    kept = {"id", "classes", "enabled"}
    cameras = [
        {**camera.settings.model_dump(mode="json", include=kept, exclude_none=True), "source": "synthetic"} for camera in config.cameras
    ]
    if not any(camera.settings.enabled for camera in config.cameras):  # which is wrong, and not what is asked here
        cameras.append({"id": "_", "source": "synthetic"})
    request = {"model": model, "cameras": cameras, "path": None if config.path is None else str(config.path.absolute()), "infer": infer}
    request["strict"] = infer or only_file
    if only_file and "delegate" in model:
        log.warning("the model needs its delegate and so was not loaded; edge-agent check --probe loads it")
        return {}
    if only_file and config.runtime == "onnx":
        model.setdefault("providers", ["CPUExecutionProvider"])
    command = [sys.executable, "-m", "edge_agent.models._trial"]
    path = _model_file.model_path(config)
    try:
        done = subprocess.run(  # noqa: S603 - ourselves
            command, input=json.dumps(request), capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise NotInTime(f"model.path: {path} was not loaded within {timeout_s:.0f} s") from None
    return _answer(done, path)


def _answer(done: subprocess.CompletedProcess[str], path: Path) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise ConfigError(f"model.path: {path} {_end_of(done)}") from None
    if "problems" in answer:
        raise ConfigError(*(Problem(**problem) for problem in answer["problems"]))
    if "error" in answer:
        raise (ModelBroken if answer["broken"] else ModelError)(answer["error"])
    return answer


def _end_of(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode == -signal.SIGKILL:
        return "needs more memory than there is: the process that loaded it was killed"
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"crashes the library that runs it ({name}); the file is damaged, or the library has a fault"
    last = done.stderr.strip().splitlines()[-1:] or [""]
    return f"ends the process that loads it (exit code {done.returncode}) {last[0][:200]}".rstrip()


def main() -> None:
    """The child's side."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the lines of the answer
    request = json.load(sys.stdin)
    from edge_agent.models._describe import describe

    try:
        path = None if request["path"] is None else Path(request["path"])
        tables = {"model": request["model"], "cameras": request["cameras"]}
        config = config_file.build(tables, plugins.PluginKinds(), path=path, environ={})
        answer = describe(config, infer=request["infer"], strict=request["strict"])
    except ConfigError as error:
        answer = {"problems": [{"message": problem.message, "key": problem.key} for problem in error.problems]}
    except EdgeAgentError as error:
        answer = {"error": str(error), "broken": isinstance(error, ModelBroken)}
    out.write(json.dumps(answer))
    out.flush()
    os._exit(0)  # some libraries crash when they are taken down


if __name__ == "__main__":
    main()
