"""Which file the configuration means by its model, and whether it begins like one."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

from edge_agent import plugins
from edge_agent.config import AgentConfig
from edge_agent.errors import ConfigError

BUILTIN_FILE = "oid_int8_pp.tflite"
_MAGIC = {".tflite": (4, b"TFL3"), ".onnx": (0, b"\x08"), ".ort": (4, b"ORTM")}


def model_path(config: AgentConfig) -> Path:
    """The model file that the configuration means."""
    path = config.settings.model.path
    if path == plugins.BUILTIN_MODEL:
        return Path(str(resources.files("edge_agent") / "data" / BUILTIN_FILE))
    return config.resolve(path)


def check_file(path: Path) -> None:
    """Raises ConfigError unless ``path`` is a file that begins like a model."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise ConfigError(f"model.path: {path} does not exist") from None
    except IsADirectoryError:
        raise ConfigError(f"model.path: {path} is a folder, not a model file") from None
    except OSError as error:
        raise ConfigError(f"model.path: {path} cannot be read: {error.strerror}") from None
    offset, magic = _MAGIC.get(path.suffix.lower(), (0, b""))
    if head[offset : offset + len(magic)] != magic:
        what = "is empty" if not head else "does not begin like one"
        raise ConfigError(f"model.path: {path} is no {path.suffix[1:]} model: it {what}")


def sha256(path: Path) -> str:
    """Of the file's bytes, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
