"""The agent.toml that an installation begins with: short, with the cameras that are plugged in, and ready to run."""

from __future__ import annotations

import json
from collections.abc import Iterator

from edge_agent import devices

_HEAD = """\
# agent.toml: the configuration of edge-agent, as it was installed. "edge-agent example" prints every key there is.
# After a change:   edge-agent check --probe    then   systemctl reload edge-agent

[model]
# Your own detector, .onnx or .tflite: family, shape and labels are read from it. Without this line: a small built-in one.
#path = "/var/lib/edge-agent/model.onnx"

[mqtt]
host = "{host}"
"""
_NO_CAMERA = """\
# No camera was found when this was written. This one is a test pattern: put yours in its place.
[[cameras]]
id = "test"
source = "synthetic"    # "/dev/v4l/by-id/...", "rtsp://...": "edge-agent devices" lists what is plugged in
max_fps = 2
"""


def generate(host: str = "localhost", username: str | None = None, cameras: list[devices.Listed] | None = None) -> str:
    """The text. ``cameras`` are those of this machine by default; one that cannot be opened now is written as a comment."""
    text = _HEAD.format(host=host)
    text += '#username = "edge"\n#password_file = "mqtt_password"\n' if username is None else _named(username)
    found = [each for each in (devices.cameras() if cameras is None else cameras) if each.device.captures]
    return text + "\n" + ("\n".join(_tables(found)) if any(each.chosen for each in found) else _NO_CAMERA)


def _named(username: str) -> str:
    return f"username = {json.dumps(username)}\n# The password comes from the credential mqtt_password: see docs/service.md.\n"


def _tables(found: list[devices.Listed]) -> Iterator[str]:
    taken: set[str] = set()
    for each in found:
        mark = "" if each.chosen else "#"
        yield "# " + " ".join(f"{each.device.name}: {each.chosen or each.problem}".split())
        name, source = devices.camera_id(each, taken), json.dumps(each.source, ensure_ascii=False)
        yield f"{mark}[[cameras]]\n{mark}id = {json.dumps(name)}\n{mark}source = {source}\n"
