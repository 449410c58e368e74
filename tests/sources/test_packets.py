"""What may be left undecoded: the pictures that are wanted must come out to the bit as if nothing had been left out."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import av
import pytest
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from edge_agent.config_camera import MotionSettings
from edge_agent.sources._packets import HOLD_S, LONGEST_BEHIND_S, MAX_HELD, PASS_AFTER_S, PacketKind, PacketKinds, PacketSkipper
from tests.conftest import CLIP

FPS = 15
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-x264-params")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params")
CODINGS = {
    "no_b": (*X264, "keyint=30:min-keyint=30:scenecut=0:bframes=0"),
    "short_groups": (*X264, "keyint=6:min-keyint=6:scenecut=0:bframes=0"),
    "only_key_frames": (*X264, "keyint=1:bframes=0"),
    "b": (*X264, "keyint=30:min-keyint=30:scenecut=0:bframes=2:b-adapt=0:b-pyramid=none"),
    "b_pyramid": (*X264, "keyint=30:min-keyint=30:scenecut=0:bframes=3:b-adapt=0:b-pyramid=normal"),
    "open_groups": (*X264, "keyint=12:min-keyint=12:scenecut=0:bframes=2:open-gop=1"),
    "slices": (*X264, "keyint=12:min-keyint=12:scenecut=0:bframes=2:slices=4"),
    "h265": (*X265, "keyint=12:min-keyint=12:bframes=2:b-adapt=0:b-pyramid=0:no-open-gop=1:log-level=none"),
    "h265_open_groups": (*X265, "keyint=12:min-keyint=12:bframes=3:open-gop=1:log-level=none"),
    "h265_layers": (*X265, "keyint=24:min-keyint=24:bframes=3:no-open-gop=1:temporal-layers=1:log-level=none"),
}


class Clip(NamedTuple):
    """An Annex B stream with timestamps, and each of its pictures as decoded whole."""

    packets: list[Packet[VideoStream]]
    pictures: dict[int | None, str]
    codec: str
    headers: bytes | None


def decoded(clip: Clip, packets: Iterable[Packet[VideoStream]]) -> tuple[dict[int | None, str], int]:
    """Fingerprints of the pictures that come of the packets, by timestamp, and how many came."""
    context = av.CodecContext.create(clip.codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = clip.headers
    context.thread_count = 1
    frames: list[VideoFrame] = []
    for packet in packets:
        frames += context.decode(packet)
    frames += context.decode(None)
    return {frame.pts: fingerprint(frame) for frame in frames}, len(frames)


def fingerprint(frame: VideoFrame) -> str:
    return hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest()


@pytest.fixture(scope="session")
def coded(tmp_path_factory: pytest.TempPathFactory, ffmpeg: Callable[..., None]) -> Callable[[str], Clip]:
    folder = tmp_path_factory.mktemp("packets")

    def make(name: str) -> Clip:
        path = folder / f"{name}.ts"
        if not path.exists():
            ffmpeg("-i", CLIP, "-t", "8", "-vf", "scale=160:90", *CODINGS[name], path)
        return _clip(path)

    return make


def _clip(path: Path) -> Clip:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        clip = Clip([], {}, stream.codec_context.name, stream.codec_context.extradata)
        clip.packets.extend(packet for packet in container.demux(stream) if packet.size)
    pictures, _ = decoded(clip, clip.packets)
    return clip._replace(pictures=pictures)


class Played(NamedTuple):
    """What a skipper let through, and what must be among it."""

    passed: list[Packet[VideoStream]]
    wanted: set[int | None]
    left_out: int


def play(clip: Clip, service: Callable[[], float], lateness: Callable[[], float] = lambda: 0.0) -> Played:
    """The clip as a camera, and a model that takes the newest picture and is busy for ``service`` intervals each time."""
    skipper = PacketSkipper(PacketKinds(clip.codec, clip.headers))
    played = Played([], set(), 0)
    until = 100.0
    left_out = 0
    for number, packet in enumerate(clip.packets):
        now = 100 + (number + lateness()) / FPS
        played.passed.extend(skipper.take(packet, now))
        left_out += skipper.left_out()
        if now >= until:
            played.wanted.add(packet.pts)
            until = now + service() / FPS
            skipper.until(until)
    return played._replace(left_out=left_out)


@pytest.mark.parametrize("name", list(CODINGS))
@pytest.mark.parametrize("busy", [2.0, 5.9, 40.0, None])
def test_wanted_pictures_come_to_the_bit_as_without_skipping(coded: Callable[[str], Clip], name: str, busy: float | None) -> None:
    clip, chance = coded(name), random.Random(1)
    service = (lambda: busy) if busy else (lambda: chance.uniform(0, 25))
    played = play(clip, service, lambda: chance.uniform(0, 0.6))
    pictures, _ = decoded(clip, played.passed)
    assert played.wanted <= pictures.keys()
    assert {pts: clip.pictures[pts] for pts in pictures} == pictures
    assert len(played.passed) + played.left_out >= len(clip.packets) - MAX_HELD
    assert [p.pts for p in played.passed] == [p.pts for p in clip.packets if p in played.passed], "in order, none twice"


@pytest.mark.parametrize(
    ("name", "busy", "at_most"),
    [
        ("only_key_frames", 5.9, 1.05),
        ("short_groups", 5.9, 1.05),
        ("b", 2.9, 2.05),
        ("b", 5.9, 3.1),
        ("b_pyramid", 3.9, 3.1),
        ("h265", 2.9, 2.05),
        ("h265_layers", 3.9, 3.1),
        ("no_b", 5.9, 6.1),
    ],
)
def test_how_many_are_decoded_for_each_that_is_wanted(coded: Callable[[str], Clip], name: str, busy: float, at_most: float) -> None:
    clip = coded(name)
    played = play(clip, lambda: busy)
    settled = {packet.pts for packet in clip.packets[24:]}
    passed = sum(packet.pts in settled for packet in played.passed)
    assert passed / len(played.wanted & settled) <= at_most


@pytest.mark.parametrize(("name", "busy", "at_most"), [("b", 2.9, 1.3), ("b", 5.9, 2.3), ("short_groups", 5.8, 1.3), ("h265", 2.9, 1.75)])
def test_a_picture_that_is_decoded_anyway_is_waited_for_where_it_comes_soon(
    coded: Callable[[str], Clip], name: str, busy: float, at_most: float
) -> None:
    """The model takes what comes first of those that are let through, and is then busy; a fifth of an interval may be waited."""
    clip = coded(name)
    skipper = PacketSkipper(PacketKinds(clip.codec, clip.headers))
    until, cheaper_by, passed, taken = 100.0, 100.0, 0, []
    for number, packet in enumerate(clip.packets):
        now = 100 + number / FPS
        through = skipper.take(packet, now)
        passed += len(through) if number >= 30 else 0
        if through and now >= until:
            taken.append(number)
            until = now + busy / FPS
            cheaper_by = until + (0.2 + (len(taken) < 10) * 3) / FPS  # at first it may wait for longer, to fall into step
            skipper.until(until - 1 / FPS, cheaper_by)
    taken = [number for number in taken if number >= 30]
    assert passed / len(taken) <= at_most
    assert (taken[-1] - taken[0]) / (len(taken) - 1) <= busy * 1.05, "and hardly a frame is served less for it"


@pytest.mark.parametrize(("name", "fps", "share"), [("no_b", 30, 0.35), ("no_b", 15, 0.62), ("h265", 12, 0.35), ("short_groups", 15, 0.2)])
def test_while_nothing_moves_a_look_waits_for_a_key_frame_less_than_a_second_away(
    coded: Callable[[str], Clip], name: str, fps: int, share: float
) -> None:
    """As the motion gate asks: five looks a second, or one within 0.9 s. Groups of one and two seconds, and shorter ones."""
    clip = coded(name)
    skipper = PacketSkipper(PacketKinds(clip.codec, clip.headers))
    look_s, within_s = 1 / MotionSettings().looks_per_s, MotionSettings().look_within_s
    due, passed, looks = 0.0, 0, [0.0]
    for count, packet in enumerate(clip.packets):
        now = 100 + count / fps
        needed = skipper.take(packet, now)
        passed += len(needed) if count >= 60 else 0  # the rhythm is known by then
        if needed and now >= due:
            looks.append(now)
            due = now + look_s
            skipper.until(due - 1 / fps, now + within_s)
    assert passed / (len(clip.packets) - 60) <= share
    assert max(b - a for a, b in itertools.pairwise(looks[1:])) < 1


@pytest.mark.parametrize("name", list(CODINGS))
def test_nothing_is_left_out_where_nobody_says_so(coded: Callable[[str], Clip], name: str) -> None:
    clip = coded(name)
    played = play(clip, lambda: 0.0)
    assert played.passed == clip.packets
    assert played.left_out == 0


def test_every_packet_is_passed_or_counted_once(coded: Callable[[str], Clip]) -> None:
    clip = coded("short_groups")
    played = play(clip, lambda: 9.5)
    held = len(clip.packets) - len(played.passed) - played.left_out
    assert 0 <= held <= 6, "at the end of the stream some may be held back"
    assert played.left_out > len(clip.packets) / 2


def test_what_is_held_back_when_the_stream_is_lost_is_counted(coded: Callable[[str], Clip]) -> None:
    clip = coded("short_groups")
    skipper = PacketSkipper(PacketKinds(clip.codec, clip.headers))
    passed = 0
    for number, packet in enumerate(clip.packets[:22]):
        if number == 19:
            skipper.until(25 / FPS)
        passed += len(skipper.take(packet, number / FPS))
    assert (passed, skipper.left_out()) == (19, 0)
    skipper.lost()
    assert (skipper.left_out(), skipper.left_out()) == (3, 0)


def test_a_picture_comes_now_and_then_even_if_nobody_wants_one(coded: Callable[[str], Clip]) -> None:
    for name in CODINGS:
        clip = coded(name)
        skipper = PacketSkipper(PacketKinds(clip.codec, clip.headers))
        skipper.until(1e9)
        passed_at = [number / FPS for number, packet in enumerate(clip.packets) if skipper.take(packet, number / FPS)]
        gaps = [after - before for before, after in itertools.pairwise(passed_at)]
        assert max(gaps) <= PASS_AFTER_S + HOLD_S + 2 / FPS


def test_a_restart_that_does_not_come_costs_no_picture(coded: Callable[[str], Clip]) -> None:
    clip = coded("short_groups")
    skipper = PacketSkipper(PacketKinds(clip.codec, clip.headers))
    passed = []
    longer = [packet for number, packet in enumerate(clip.packets[:60]) if not (number >= 30 and number % 6 == 0)]
    for number, packet in enumerate(longer):  # after five groups of six, no key frame: as if the camera had changed its mind
        if number == 29:
            skipper.until((number + 8) / FPS)
        passed += skipper.take(packet, number / FPS)
    assert passed == longer, "what was held back was decoded after all"


@pytest.mark.parametrize(
    ("codec", "data", "kind"),
    [
        ("h264", "00000001 65 88840000", PacketKind(restart=True)),
        ("h264", "00000001 0910 00000001 67640016acb4 00000001 68ef0fcb 000001 6588 8400 0000", PacketKind(restart=True)),
        ("h264", "00000001 41 9a00 000000", PacketKind()),
        ("h264", "00000001 01 9a00 000000", PacketKind(spare=True)),
        ("h264", "00000001 68ef0fcb0000 00000001 01 9a00 000000", PacketKind()),
        ("h264", "00000001 06 0500 0000", PacketKind()),
        ("h264", "", PacketKind()),
        ("h264", "000001", PacketKind()),
        ("hevc", "00000001 4001 0c01 ffff 00000001 2601 af00 0000", PacketKind(restart=True)),
        ("hevc", "00000001 4001 0c01 ffff 00000001 2a01 af00 0000", PacketKind()),
        ("hevc", "00000001 0001 af00 0000 0000", PacketKind()),
        ("mpeg4", "00000001 b6 00000000", PacketKind()),
    ],
)
def test_kinds_of_packets(codec: str, data: str, kind: PacketKind) -> None:
    assert PacketKinds(codec).of(bytes.fromhex(data)) == kind


def test_a_sub_layer_non_reference_picture_is_spare_in_the_highest_layer_only() -> None:
    kinds = PacketKinds("hevc", bytes.fromhex("00000001 4001 0c05 ffff 0000"))  # sub-layers 0 to 2
    assert not kinds.of(bytes.fromhex("00000001 0001 af00 0000")).spare
    assert not kinds.of(bytes.fromhex("00000001 0002 af00 0000")).spare
    assert kinds.of(bytes.fromhex("00000001 0003 af00 0000")).spare
    assert not kinds.of(bytes.fromhex("00000001 0203 af00 0000")).spare


def test_no_bytes_make_the_parser_fail() -> None:
    chance = random.Random(1)
    for codec in ("h264", "hevc"):
        kinds = PacketKinds(codec)
        for length in range(200):
            data = bytes(chance.choice([0, 0, 1, chance.randrange(256)]) for _ in range(length))
            assert isinstance(kinds.of(data), PacketKind)


@pytest.mark.parametrize("name", ["no_b", "short_groups", "h265"])
def test_who_has_fallen_behind_goes_on_at_the_next_key_frame_to_the_bit(coded: Callable[[str], Clip], name: str) -> None:
    clip = coded(name)
    skipper = PacketSkipper(PacketKinds(clip.codec, clip.headers))
    passed: list[Packet[VideoStream]] = []
    for number, packet in enumerate(clip.packets):
        now = 100 + number / FPS
        passed += skipper.take(packet, now)
        if number == 40:
            assert skipper.fall_back(now)
            assert not skipper.fall_back(now), "it does already"
    after = clip.packets.index(passed[41])
    assert clip.packets[after].is_keyframe
    assert skipper.left_out() == after - 41 == len(clip.packets) - len(passed)
    pictures, _ = decoded(clip, passed[41:])
    assert pictures
    assert {pts: clip.pictures[pts] for pts in pictures} == pictures


def test_where_no_key_frame_comes_what_comes_is_decoded_after_a_while(coded: Callable[[str], Clip]) -> None:
    clip = coded("no_b")
    skipper = PacketSkipper(PacketKinds(clip.codec, clip.headers))
    ordinary = [packet for packet in clip.packets if not packet.is_keyframe]
    skipper.fall_back(100.0)
    passed = [len(skipper.take(packet, 100 + number / FPS)) for number, packet in enumerate(ordinary)]
    assert passed.index(1) == pytest.approx(LONGEST_BEHIND_S * FPS, abs=1)
