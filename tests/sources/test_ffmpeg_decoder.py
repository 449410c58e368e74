"""Hardware first, proven by a picture, else software: with real decoders, some of them in the role of hardware."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from av.video.frame import VideoFrame

from edge_agent.errors import EndOfStream, SourceErrorCode, SourceUnavailable
from edge_agent.sources._decoders import Candidate, Plan
from edge_agent.sources._ffmpeg_decoder import PROOF_PACKETS, Decoder, Packets
from tests.conftest import CLIP

SOFTWARE = Candidate("h264", hardware=False)


def fingerprints(frames: list[VideoFrame]) -> list[str]:
    return [hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest() for frame in frames]


@contextmanager
def tried(*candidates: Candidate, path: Path = CLIP, reason: str = "", at_most: int = 10_000) -> Iterator[tuple[Decoder, Any]]:
    """A decoder for a file, with the packets that are left."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        left = iter(list(container.demux(stream))[:at_most])

        def take() -> Any:
            packet = next(left, None)
            if packet is None:
                raise EndOfStream
            return packet

        yield Decoder(stream, Plan(candidates, reason), Packets(take, 10), "front"), left


def played(*candidates: Candidate, **keys: Any) -> tuple[Decoder, list[str]]:
    with tried(*candidates, **keys) as (decoder, left):
        frames = list(decoder.frames)
        for packet in left:
            frames += decoder.decode(packet)
        return decoder, fingerprints(frames)


@pytest.fixture(scope="module")
def expected() -> list[str]:
    _, frames = played(SOFTWARE)
    assert len(frames) == 150
    return frames


def test_software_needs_no_proof() -> None:
    with tried(SOFTWARE, reason="no hardware here") as (decoder, left):
        assert decoder.frames == []
        assert next(left).is_keyframe
        assert (decoder.shown, decoder.candidate.hardware, decoder.reason) == ("h264 (FFmpeg, software)", False, "no hardware here")


def test_hardware_that_works_is_live_from_the_first_picture(expected: list[str]) -> None:
    decoder, frames = played(Candidate("h264", hardware=True), SOFTWARE)
    assert decoder.candidate.hardware
    assert decoder.reason == ""
    assert frames == expected


@pytest.mark.parametrize("absent", ["h264_v4l2m2m", "h264_no_such_decoder"])
def test_hardware_that_cannot_be_opened_is_told(expected: list[str], absent: str) -> None:
    decoder, frames = played(Candidate(absent, hardware=True), SOFTWARE)
    assert not decoder.candidate.hardware
    assert decoder.reason.startswith(f"{absent} was tried: ")
    assert frames == expected


@pytest.mark.parametrize("wrong", ["mpeg4", "vp8"])
def test_hardware_that_opens_and_decodes_nothing_costs_no_frame(expected: list[str], wrong: str) -> None:
    decoder, frames = played(Candidate(wrong, hardware=True), SOFTWARE)
    assert not decoder.candidate.hardware
    assert wrong in decoder.reason
    assert frames == expected


def test_a_short_file_that_the_hardware_says_nothing_about() -> None:
    decoder, frames = played(Candidate("mjpeg", hardware=True), SOFTWARE, at_most=5)
    assert not decoder.candidate.hardware
    assert len(frames) <= 5 < PROOF_PACKETS


def test_only_hardware_is_refused_where_it_does_not_work() -> None:
    for candidates in ([Candidate("h264_v4l2m2m", hardware=True)], []):
        with pytest.raises(SourceUnavailable) as caught, tried(*candidates, reason="this board has none"):
            pass
        assert caught.value.code is SourceErrorCode.CODEC_UNSUPPORTED
        assert "hardware" in str(caught.value)
        assert ("this board has none" in str(caught.value)) == (not candidates)
