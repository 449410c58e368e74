"""Which packets of a live H.264 or H.265 stream need not be decoded, because no picture of theirs is going to be served.

Two things can be left out without changing any other picture (docs/decisions/0006-skipping-packets.md), and most is saved
where the picture that is served is one that has to be decoded anyway, which is worth a short wait:

- a picture that no other refers to: ``nal_ref_idc`` 0 (H.264, ITU-T H.264 7.4.1), or a sub-layer non-reference picture of
  the highest temporal sub-layer (H.265, ITU-T H.265 7.4.2.2);
- all that is left of a group, where the next IDR picture comes before anybody wants a picture. That one is foreseen, and
  may be foreseen wrongly: what was held back is then decoded after all.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_LOOK_AT = 4096
"""Bytes of a packet that are searched for its first slice: parameter sets and SEI come before, and are small."""
HOLD_S = 3.0
"""An IDR picture that is further away than this is not waited for."""
PASS_AFTER_S = 0.5
"""Somebody watches whether pictures come: one is decoded now and then, even if nobody is going to serve it."""
ALMOST = 0.9
"""Of an interval between pictures: how unevenly they may come before it matters. It then costs decoding, not a picture."""
LONGEST_BEHIND_S = 4.0
"""For how long a key frame is waited for where decoding has fallen behind; then what comes is decoded, right or wrong."""
MAX_HELD = 120
"""Packets held back at most."""


class PacketKind(NamedTuple):
    """What depends on a packet's picture, and what it depends on."""

    restart: bool = False
    """An IDR picture (or H.265's BLA): nothing after it depends on anything before it."""
    spare: bool = False
    """Nothing depends on it."""


ORDINARY = PacketKind()


class PacketKinds:
    """Tells the kind of each packet of one stream from its NAL units, in Annex B as RTSP streams have them."""

    def __init__(self, codec: str, headers: bytes | None = None) -> None:
        self._codec = codec
        self._highest: int | None = None
        """H.265: the highest temporal sub-layer, from 0; unknown until a parameter set tells."""
        if headers:
            self.of(headers)

    @property
    def are_told(self) -> bool:
        """Whether this codec's packets say what they are."""
        return self._codec in {"h264", "hevc"}

    def of(self, data: bytes) -> PacketKind:
        """The kind of a packet that begins with ``data``; an ordinary one where that cannot be told."""
        if not self.are_told:
            return ORDINARY
        with_parameters = False
        position = data.find(b"\0\0\1")
        while 0 <= position < len(data) - 5:
            begin = position + 3
            kind = self._h264(data[begin]) if self._codec == "h264" else self._h265(data[begin : begin + 4])
            if kind is not None:
                # A parameter set in the same packet is needed by others, whatever the picture is.
                return PacketKind(kind.restart, kind.spare and not with_parameters)
            with_parameters |= self._is_parameter_set(data[begin])
            position = data.find(b"\0\0\1", begin)
        return ORDINARY

    def _is_parameter_set(self, header: int) -> bool:
        return header & 0x1F in {7, 8} if self._codec == "h264" else header >> 1 & 0x3F in {32, 33, 34}

    @staticmethod
    def _h264(header: int) -> PacketKind | None:
        unit = header & 0x1F
        return PacketKind(unit == 5, not header & 0x60) if 1 <= unit <= 5 else None

    def _h265(self, begin: bytes) -> PacketKind | None:
        unit, layer = begin[0] >> 1 & 0x3F, (begin[1] & 7) - 1
        if unit in {32, 33}:
            declared = (begin[3] if unit == 32 else begin[2]) >> 1 & 7
            self._highest = declared if self._highest is None else max(self._highest, declared)
        if unit >= 32:
            return None
        return PacketKind(16 <= unit <= 20, unit <= 14 and unit % 2 == 0 and layer == self._highest)


@dataclass
class _Rhythm:
    """How far apart certain packets are (restarts, or those that others depend on), where two of the last three gaps were equal."""

    since: int = 0
    length: int = 0
    """Packets from one to the next; 0 where that cannot be told."""
    began: float | None = None
    interval_s: float = 0.0
    gaps: deque[int] = field(default_factory=lambda: deque(maxlen=3))

    def note(self, now: float, *, one: bool) -> None:
        """A packet came, which is one of them or not."""
        if not one:
            self.since += 1
            return
        length = self.since + 1
        if self.began is not None:
            self.gaps.append(length)
            self.interval_s = (now - self.began) / length
            usual, times = Counter(self.gaps).most_common(1)[0]
            self.length = usual if times > 1 else 0
        self.began, self.since = now, 0

    def next_due(self, now: float) -> float | None:
        """When the next of them is due: monotonic seconds; None if that cannot be told."""
        if self.since >= self.length:
            return None
        return now + (self.length - self.since) * self.interval_s


class PacketSkipper:
    """Holds back what need not be decoded. ``until`` may be called from any thread, the rest from the one that reads."""

    def __init__(self, kinds: PacketKinds) -> None:
        self._kinds = kinds
        self._restarts, self._anchors = _Rhythm(), _Rhythm()
        self._until = self._cheaper_by = 0.0
        self._held: list[Packet[VideoStream]] = []
        self._passed_at = 0.0
        self._left_out = 0
        self._behind_since: float | None = None

    def until(self, at: float, cheaper_by: float = 0.0) -> None:
        """No picture that arrives before ``at`` (monotonic seconds) is going to be served.

        Nor one that another, which has to be decoded anyway, follows by ``cheaper_by``.
        """
        self._until, self._cheaper_by = at, cheaper_by

    def left_out(self) -> int:
        """Packets that were dropped for good since the last call."""
        count, self._left_out = self._left_out, 0
        return count

    def fall_back(self, now: float) -> bool:
        """Leave out what comes until the next picture that depends on nothing before: decoding does not keep up. False: it does already."""
        if self._behind_since is not None:
            return False
        self._behind_since = now
        self.lost()
        return True

    def lost(self) -> None:
        """Nothing more comes: what is held back has been left out for good."""
        self._left_out += len(self._held)
        self._held.clear()

    def take(self, packet: Packet[VideoStream], now: float) -> list[Packet[VideoStream]]:
        """What to decode now that ``packet`` has come, in order."""
        kind = self._kinds.of(bytes(memoryview(packet)[:_LOOK_AT]))
        self._restarts.note(now, one=kind.restart)
        self._anchors.note(now, one=not kind.spare)
        if kind.restart:
            self.lost()
        if self._behind_since is not None:
            restarts = kind.restart if self._kinds.are_told else packet.is_keyframe
            if not restarts and now - self._behind_since < LONGEST_BEHIND_S:
                self._left_out += 1
                return []
            self._behind_since = None
        quiet_s = now - self._passed_at
        if quiet_s < HOLD_S + PASS_AFTER_S and len(self._held) < MAX_HELD:
            if kind.spare and (self._may_hold(now) or self._comes_by(self._anchors, now)):
                self._left_out += 1
                return []
            if not kind.spare and (self._held or self._outlived(kind, now, quiet_s)) and self._may_hold(now):
                self._held.append(packet)
                return []
        needed = [*self._held, packet]
        self._held.clear()
        self._passed_at = now
        return needed

    def _comes_by(self, rhythm: _Rhythm, now: float) -> bool:
        """Whether one is worth waiting for. Not where a picture that is wanted has come already: then the freshest is."""
        if self._passed_at >= self._until:
            return False
        due = rhythm.next_due(now)
        return due is not None and rhythm.length > 1 and due <= self._cheaper_by

    def _may_hold(self, now: float) -> bool:
        return now < self._until or self._comes_by(self._restarts, now)

    def _outlived(self, kind: PacketKind, now: float, quiet_s: float) -> bool:
        """Whether a restart comes before anybody wants what this packet leads to."""
        due = self._restarts.next_due(now)
        # The first packet that somebody may want comes within one interval of that time: it may be the restart itself.
        by = self._until + self._restarts.interval_s * ALMOST
        if due is None or due > now + HOLD_S or (due > by and not self._comes_by(self._restarts, now)):
            return False
        return not (kind.restart and quiet_s >= PASS_AFTER_S)
