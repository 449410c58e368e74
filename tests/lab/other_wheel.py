"""Makes another version of a wheel of edge-agent, good or broken, without building it: other_wheel.py WHEEL VERSION HOW FOLDER.

HOW: good; crash (run ends with an error at once); mute (starts, and is never ready); blind (cameras are never opened);
import (cannot be imported); strict (refuses every configuration).
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

APP = "edge_agent/app.py"
CHANGES = {
    "good": {},
    "crash": {APP: ("        ensure_libraries()\n", '        raise EdgeAgentError("this release is broken on purpose")\n')},
    "mute": {APP: ('        self._notifier.ready("started")\n', "")},
    "blind": {APP: ("            capture.start()\n", "            pass\n")},
    "import": {"edge_agent/cli.py": ("import click\n", "import click, no_such_module\n")},
    "strict": {"edge_agent/preflight.py": ("def accepted(draft: Draft)", "def accepted(draft: Draft, no: int = 1 // 0)")},
}  # fmt: skip


def make(wheel: Path, version: str, how: str, folder: Path) -> Path:
    """The wheel's path."""
    old = wheel.name.split("-")[1]
    target = folder / wheel.name.replace(f"-{old}-", f"-{version}-")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as result:
        for item in source.infolist():
            name, data = item.filename.replace(f"edge_agent-{old}.dist-info", f"edge_agent-{version}.dist-info"), source.read(item)
            if name in CHANGES[how]:
                before, after = (text.encode() for text in CHANGES[how][name])
                assert before in data, name
                data = data.replace(before, after)
            if name == "edge_agent/__init__.py":
                data = re.sub(rb'__version__ = "[^"]*"', f'__version__ = "{version}"'.encode(), data)
            if name.endswith(".dist-info/METADATA"):
                data = re.sub(rb"(?m)^Version: .*", f"Version: {version}".encode(), data)
            if name.endswith(".dist-info/RECORD"):
                data = re.sub(rb"(?m),sha256=[^,]*,\d*$", b",,", data).replace(
                    f"edge_agent-{old}.dist".encode(), f"edge_agent-{version}.dist".encode()
                )
            result.writestr(name, data)
    return target


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])))
