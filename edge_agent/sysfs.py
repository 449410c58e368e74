"""Small files of /sys and /proc, read so that whatever is in them harms nobody. ``root`` is another folder in tests."""

from __future__ import annotations

import errno
import math
import re
from pathlib import Path

_OFF = {errno.EAGAIN, errno.ENODATA, errno.ENODEV, errno.ENXIO, errno.EOPNOTSUPP}
"""How the kernel says that a sensor is switched off: no fault, and no value."""


class Tree:
    """The machine's files below ``root``. What is there and makes no sense is counted in ``refused``; nothing raises.

    For one thread: the count is not guarded.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.refused = 0
        """Files that could not be read, or held no value that can be true, since the start."""

    def folders(self, pattern: str) -> list[Path]:
        """What matches, such as ``sys/class/thermal/thermal_zone*``, in the order of the numbers in the names."""
        try:
            return sorted(self.root.glob(pattern), key=_natural)
        except OSError:
            self.refused += 1
            return []

    def text(self, path: Path, *, expected: bool = False, most_bytes: int = 4096) -> str | None:
        """The file's text without blanks at the ends; None where there is none. ``expected``: it is a fault if it is absent."""
        try:
            with path.open("rb") as file:
                content = file.read(most_bytes).decode("utf-8", "replace").strip(" \t\r\n\0")
        except (FileNotFoundError, NotADirectoryError):
            self.refused += expected
            return None
        except OSError as error:
            self.refused += error.errno not in _OFF
            return None
        if not content:
            self.refused += 1
            return None
        return content

    def number(self, path: Path, low: float, high: float, *, scale: float = 1.0, base: int = 10, expected: bool = False) -> float | None:
        """The whole number in the file times ``scale``; None where there is none, or it is outside ``low`` to ``high``."""
        text = self.text(path, expected=expected)
        if text is None:
            return None
        try:
            value = int(text, base) * scale
        except (ValueError, OverflowError):
            value = math.nan
        if low <= value <= high:
            return value
        self.refused += 1
        return None


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", str(path))]
