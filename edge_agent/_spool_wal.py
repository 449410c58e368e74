"""Whether SQLite's log lost a finished transaction: it ignores all that follows a damaged frame, and says nothing.

Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER, _FRAME = 32, 24
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
"""The byte order of the words that are summed."""


@dataclass(frozen=True)
class WalView:
    """A log as it was before SQLite opened it."""

    data: bytes

    @classmethod
    def of(cls, database: Path) -> WalView:
        """Empty where there is none, or it cannot be read."""
        try:
            return cls(database.with_name(database.name + "-wal").read_bytes())
        except OSError:
            return cls(b"")

    def lost_commits(self, valid: int) -> int:
        """Finished transactions beyond the first ``valid`` frames, which are those that SQLite believes."""
        if len(self.data) < _HEADER:
            return 0
        page, salts = self._page_size, self._salts
        if page is None:
            return 1
        step, lost = _FRAME + page, 0
        for start in range(_HEADER + max(0, valid) * step, len(self.data) - _FRAME + 1, step):
            frame = self.data[start : start + _FRAME]
            # one of the two salts is enough: both differ in what is left from before the log began anew
            if (frame[8:12] == salts[:4] or frame[12:16] == salts[4:]) and frame[4:8] != bytes(4):
                lost += 1
        return lost

    @property
    def _page_size(self) -> int | None:
        found = int(struct.unpack(">I", self.data[8:12])[0])
        return found if 512 <= found <= 65536 and found & (found - 1) == 0 else None

    @property
    def _salts(self) -> bytes:
        """The header's where its own checksum is right, else the first frame's."""
        order = _MAGIC.get(struct.unpack(">I", self.data[:4])[0])
        if order is not None:
            first = second = 0
            words = struct.unpack(f"{order}6I", self.data[:24])
            for one, two in zip(words[::2], words[1::2], strict=True):
                first = (first + one + second) & 0xFFFFFFFF
                second = (second + two + first) & 0xFFFFFFFF
            if struct.pack(">II", first, second) == self.data[24:32]:
                return self.data[16:24]
        return self.data[_HEADER + 8 : _HEADER + 16]
