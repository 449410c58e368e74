"""Pictures from process to process: the same pixels, in their lazy form, in memory that is used again and not too soon."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from edge_agent.image import BgrImage, Colours, Image, JpegImage, PlanarImage, YuyvImage
from edge_agent.sources._shared import Receiver, Sender

RANDOM = np.random.default_rng(3)
BGR = np.asarray(cv2.GaussianBlur(RANDOM.integers(0, 256, (48, 64, 3), np.uint8), (9, 9), 0), np.uint8)


class OnlyHere(Image):
    """Holds what no other process can have, as a decoder's frame."""

    width, height = 64, 48

    def __init__(self, handle: object = None) -> None:
        self._handle = handle

    def resized(self, width: int, height: int, order: Any) -> Any:
        raise NotImplementedError

    def bgr(self) -> Any:
        return BGR


def jpeg() -> Image:
    return JpegImage(cv2.imencode(".jpg", BGR)[1].tobytes(), 64, 48)


def planar() -> Image:
    padded = RANDOM.integers(0, 256, (48, 80), np.uint8)[:, :64]  # rows with padding, as decoders make them
    chroma = tuple(RANDOM.integers(0, 256, (24, 48), np.uint8)[:, :32] for _ in "uv")
    return PlanarImage(padded, chroma, Colours(full_range=True, hd=True), owner=threading.Lock())


def nv12() -> Image:
    return PlanarImage(BGR[..., 0], (RANDOM.integers(0, 256, (24, 32, 2), np.uint8),))


def yuyv() -> Image:
    return YuyvImage(RANDOM.integers(0, 256, (48, 64, 2), np.uint8))


def passed(sender: Sender, receiver: Receiver, image: Image) -> Image:
    sender.freed(receiver.freed())
    parcel = sender.pack(image)
    if parcel.new_fd is not None:
        receiver.map(parcel.buffer, os.dup(parcel.new_fd), parcel.size)
        os.close(parcel.new_fd)
    return receiver.unpack(parcel.pickled, parcel.buffer, parcel.layout)


def fresh(image: Image) -> Image:
    """The same, as if it had just arrived."""
    return copy.copy(image)


@pytest.mark.parametrize("make", [lambda: BgrImage(BGR), lambda: BgrImage(BGR[::-1, ::2]), jpeg, planar, nv12, yuyv])
def test_a_picture_arrives_as_it_was(make: Callable[[], Image]) -> None:
    image = make()
    image.bgr()  # what was made of it stays at home
    got = passed(Sender(), Receiver(), image)
    assert type(got) is type(image)
    assert (got.width, got.height) == (image.width, image.height)
    for size in ((64, 48), (20, 15)):
        assert np.array_equal(passed(Sender(), Receiver(), image).resized(*size, "RGB"), fresh(image).resized(*size, "RGB"))
    assert np.array_equal(got.bgr(), image.bgr())


def test_a_picture_that_only_its_decoder_can_convert_arrives_converted() -> None:
    for handle in (threading.Lock(), None):  # what cannot be taken apart, and a kind that nobody there knows
        got = passed(Sender(), Receiver(), OnlyHere(handle))
        assert isinstance(got, BgrImage)
        assert np.array_equal(got.bgr(), BGR)


def test_a_picture_stays_while_it_is_held_and_its_memory_is_used_again_after() -> None:
    sender, receiver = Sender(), Receiver()
    held = passed(sender, receiver, BgrImage(np.full((8, 8, 3), 1, np.uint8)))
    part = held.bgr()[2:4]
    for value in range(2, 200):
        got = passed(sender, receiver, BgrImage(np.full((8, 8, 3), value, np.uint8)))
        assert got.bgr().max() == value
        assert held.bgr().max() == 1
    assert len(sender._buffers) <= 3
    del held
    gc.collect()
    passed(sender, receiver, BgrImage(np.full((8, 8, 3), 7, np.uint8)))
    passed(sender, receiver, BgrImage(np.full((8, 8, 3), 7, np.uint8)))
    assert part.max() == 1, "a part of it keeps it"
    del part
    gc.collect()
    assert len(receiver._freed) >= 1


def test_pictures_that_grow_a_little_each_time_do_not_leave_a_buffer_behind_for_each() -> None:
    sender, receiver = Sender(), Receiver()
    for size in range(10_000, 500_000, 4000):
        passed(sender, receiver, JpegImage(np.zeros(size, np.uint8), 64, 48))
        gc.collect(0)
    assert len(sender._buffers) <= 14


def test_what_arrives_cannot_be_written_to_and_cannot_shrink() -> None:
    sender, receiver = Sender(), Receiver()
    got = passed(sender, receiver, BgrImage(BGR))
    with pytest.raises(ValueError, match="read-only"):
        got.bgr()[0, 0, 0] = 1
    parcel = sender.pack(BgrImage(BGR))
    assert parcel.new_fd is not None
    with pytest.raises(PermissionError):
        os.ftruncate(parcel.new_fd, 1)
    os.close(parcel.new_fd)


def test_a_larger_picture_gets_a_larger_buffer() -> None:
    sender, receiver = Sender(), Receiver()
    for edge in (8, 300, 8, 1000):
        got = passed(sender, receiver, BgrImage(np.full((edge, edge, 3), edge % 256, np.uint8)))
        assert got.bgr().shape == (edge, edge, 3)
        assert got.bgr().min() == edge % 256


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.getpid, ()


@pytest.mark.parametrize("evil", [Evil(), np.dtype("u1"), [1], "text"])
def test_nothing_but_pictures_is_taken(evil: object) -> None:
    receiver = Receiver()
    sender = Sender()
    passed(sender, receiver, BgrImage(BGR))
    with pytest.raises(pickle.UnpicklingError, match="no picture"):
        receiver.unpack(pickle.dumps(evil), 0, [])


@pytest.mark.parametrize("layout", [[[0, [10**9], "|u1"]], [[0, [48, 64, 3], "nonsense"]], [[10**9, [1], "|u1"]]])
def test_a_layout_that_does_not_fit_is_refused(layout: list[Any]) -> None:
    sender, receiver = Sender(), Receiver()
    passed(sender, receiver, BgrImage(BGR))
    with pytest.raises((ValueError, TypeError)):
        receiver.unpack(b"", 0, layout)
