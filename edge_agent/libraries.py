"""The two libraries that bring machine code of their own and miss parts of the system where it is small: OpenCV and PyAV.

Everybody else imports them plainly, after a source's ``open`` or the agent's start went through here.
"""

from __future__ import annotations

import importlib

from edge_agent.errors import ConfigError

_PACKAGES = {"cv2": "opencv-python-headless", "av": "av"}
_SYSTEM = "apt install libgl1 libglib2.0-0 (or pip install opencv-python-headless)"
_failures: dict[str, str] = {}


def ensure(*names: str) -> None:
    """Import ``cv2`` or ``av``, or say in one line what mends it. Raises ConfigError."""
    for name in names:
        # A second try would fail too, and for a worse reason: OpenCV remembers that it was half imported.
        if name not in _failures:
            try:
                importlib.import_module(name)
                continue
            except ImportError as error:
                _failures[name] = _mend(name, error)
        raise ConfigError(_failures[name])


def ensure_libraries() -> None:
    """All that pictures need. Raises ConfigError."""
    ensure("cv2", "av")


def _mend(name: str, error: ImportError) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    lost = "cannot open shared object file" in reason
    mend = _SYSTEM if lost and name == "cv2" else f"pip install {_PACKAGES[name]}"
    if not lost and not isinstance(error, ModuleNotFoundError):  # it is there, and broken
        mend = f"pip install --force-reinstall {_PACKAGES[name]}"
    return f"the library {name} cannot be loaded: {reason}; {mend}"
