"""Which format, size and rate is taken: the size first, then the rate, then what it costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sources import _v4l2 as kernel
from edge_agent.sources import _v4l2_modes as modes
from edge_agent.sources._v4l2_modes import FAST_BUS_BUDGET, SLOW_BUS_BUDGET, Mode, NotOffered, Offer, Wanted, choose

# As Logitech's C920 tells them, shortened.
C920 = [
    Offer("YUYV", 640, 480, (30, 24, 20, 15, 10, 7.5, 5)),
    Offer("YUYV", 320, 240, (30, 15, 5)),
    Offer("YUYV", 1280, 720, (10, 7.5, 5)),
    Offer("YUYV", 1920, 1080, (5,)),
    Offer("H264", 1920, 1080, (30, 15)),
    Offer("MJPG", 640, 480, (30, 15, 5)),
    Offer("MJPG", 320, 240, (30, 15, 5)),
    Offer("MJPG", 1280, 720, (30, 15, 5)),
    Offer("MJPG", 1920, 1080, (30, 15, 5)),
]


def wanted(width: int = 1280, height: int = 720, fps: float = 30, *exact: str, **others: object) -> Wanted:
    return Wanted(width, height, fps, exact=frozenset(exact), **others)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ask", "mode"),
    [
        (wanted(), "MJPG 1280x720 at 30/s"),  # YUYV has the size, and not the rate
        (wanted(640, 480), "MJPG 640x480 at 30/s"),  # 18 MB/s: too much of a USB 2 bus
        (wanted(640, 480, 15), "YUYV 640x480 at 15/s"),  # 9 MB/s: nothing to decode
        (wanted(320, 240), "YUYV 320x240 at 30/s"),
        (wanted(640, 480, budget=FAST_BUS_BUDGET), "YUYV 640x480 at 30/s"),
        (wanted(1280, 720, 10, "fps"), "YUYV 1280x720 at 10/s"),  # MJPG does not have it; 18 MB/s or not
        (wanted(1920, 1080, format="YUYV"), "YUYV 1920x1080 at 5/s"),
        (wanted(1000, 700), "MJPG 1280x720 at 30/s"),  # wishes give way
        (wanted(640, 480, 24.1, "fps"), "YUYV 640x480 at 24/s"),
        (wanted(640, 720, 30, "width"), "MJPG 640x480 at 30/s"),  # only the width was written
        (wanted(1920, 1080, format="H264"), "H264 1920x1080 at 30/s"),
    ],
)
def test_a_usual_webcam(ask: Wanted, mode: str) -> None:
    assert str(choose(C920, ask)) == mode


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (wanted(1366, 768, 30, "width", "height"), "does not offer 1366x768; the nearest is 1280x720"),
        (wanted(4096, 720, 30, "width"), "does not offer width 4096; the nearest is 1920x1080"),
        (wanted(640, 480, 60, "fps"), "does not offer 60/s; the nearest is MJPG 640x480 at 30/s"),
        (wanted(1280, 720, 30, "width", "height", "fps", format="YUYV"), "1280x720 at 30/s in YUYV; the nearest is YUYV 1280x720 at 10/s"),
        (wanted(1280, 720, 1, "fps", format="MJPG"), r"nearest is MJPG 1280x720 at 5/s \(max_fps = 1 serves fewer"),
        (wanted(format="NV12"), "does not offer format NV12; it offers YUYV, H264, MJPG"),
    ],
)
def test_what_is_not_offered_names_the_nearest(ask: Wanted, text: str) -> None:
    with pytest.raises(NotOffered, match=text):
        choose(C920, ask)


def test_a_camera_of_nothing_that_we_read() -> None:
    with pytest.raises(NotOffered, match=r"not read here \(HEVC, RGGB\)"):
        choose([Offer("HEVC", 1920, 1080, (30,)), Offer("RGGB", 640, 480)], wanted())
    with pytest.raises(NotOffered, match=r"\(nothing\)"):
        choose([], wanted())


def test_h264_is_taken_where_jpeg_does_not_have_the_size_and_rate() -> None:
    """It costs a decode for nearly every picture, so MJPG goes first; raw pixels that fill the bus go last."""
    offered = [Offer("YUYV", 1920, 1080, (5,)), Offer("MJPG", 1920, 1080, (15,)), Offer("H264", 1920, 1080, (30, 15, 5))]
    assert str(choose(offered, wanted(1920, 1080, 30))) == "H264 1920x1080 at 30/s"
    assert str(choose(offered, wanted(1920, 1080, 15))) == "MJPG 1920x1080 at 15/s"
    assert str(choose(offered, wanted(1920, 1080, 5))) == "H264 1920x1080 at 5/s"
    assert str(choose(offered, wanted(1920, 1080, 5, budget=FAST_BUS_BUDGET))) == "YUYV 1920x1080 at 5/s"


def test_ntsc_is_thirty() -> None:
    assert choose([Offer("YUYV", 640, 480, (29.97,))], wanted(640, 480, 30, "fps")).fps == 29.97


def test_a_camera_that_does_not_tell_its_rates_is_believed_to_have_any() -> None:
    assert choose([Offer("MJPG", 640, 480)], wanted(640, 480, 17, "fps")) == Mode("MJPG", 640, 480, None)


def test_the_order_of_cost() -> None:
    everything = [Offer(fourcc, 640, 480, (15,)) for fourcc in reversed(modes.FORMATS)]
    order = []
    while everything:
        best = choose(everything, wanted(640, 480, 15))
        order.append(best.fourcc)
        everything = [offer for offer in everything if offer.fourcc != best.fourcc]
    assert order == ["NV12", "NM12", "YU12", "YUYV", "UYVY", "GREY", "MJPG", "JPEG", "H264", "BGR3"]  # BGR3: 13.8 MB/s


offer_lists = st.lists(
    st.builds(
        Offer,
        st.sampled_from([*modes.FORMATS, "HEVC", "RGGB"]),
        st.sampled_from([160, 320, 640, 1280, 1920]),
        st.sampled_from([120, 240, 480, 720, 1080]),
        st.lists(st.sampled_from([5.0, 10.0, 15.0, 29.97, 30.0, 60.0]), max_size=4).map(tuple),
    ),
    max_size=12,
)
asks = st.builds(
    Wanted,
    st.integers(1, 4000),
    st.integers(1, 3000),
    st.sampled_from([1.0, 5.0, 10.0, 30.0, 59.94]),
    st.sampled_from(["auto", "MJPG", "NV12", "YUYV"]),
    st.sets(st.sampled_from(["width", "height", "fps"])).map(frozenset),
    st.sampled_from([SLOW_BUS_BUDGET, FAST_BUS_BUDGET]),
)


@given(offered=offer_lists, ask=asks)
def test_what_is_taken_is_offered_and_is_what_was_written(offered: list[Offer], ask: Wanted) -> None:
    try:
        mode = choose(offered, ask)
    except NotOffered:
        return
    assert any(
        (o.fourcc, o.width, o.height) == (mode.fourcc, mode.width, mode.height) and (mode.fps in o.rates or not o.rates) for o in offered
    )
    assert ask.format in {"auto", mode.fourcc}
    assert "width" not in ask.exact or mode.width == ask.width
    assert "height" not in ask.exact or mode.height == ask.height
    assert "fps" not in ask.exact or mode.fps is None or abs(mode.fps / ask.fps - 1) <= modes.RATE_TOLERANCE


@given(offered=offer_lists, ask=asks, data=st.data())
def test_the_order_of_the_drivers_list_does_not_matter(offered: list[Offer], ask: Wanted, data: st.DataObject) -> None:
    def outcome(offers: list[Offer]) -> object:
        try:
            return choose(offers, ask)
        except NotOffered:
            return None

    assert outcome(offered) == outcome(data.draw(st.permutations(offered)))


@given(offered=offer_lists, ask=asks)
def test_the_error_names_something_that_can_then_be_had(offered: list[Offer], ask: Wanted) -> None:
    readable = [offer for offer in offered if offer.fourcc in modes.FORMATS]
    assert bool(readable) == _works(offered, Wanted(ask.width, ask.height, ask.fps))


def _works(offered: list[Offer], ask: Wanted) -> bool:
    try:
        choose(offered, ask)
    except NotOffered:
        return False
    return True


class Stepwise:
    """A sensor with any size in steps, and any rate in a range, as many CSI receivers tell it; no recording of one was at hand."""

    def call(self, request: int, buffer: bytearray) -> None:
        import struct

        index = struct.unpack_from("I", buffer)[0]
        if index:
            raise OSError(22, "no more")
        match request & 0xFF:
            case 0x02:
                struct.pack_into("I", buffer, 44, kernel.fourcc_code("NV12"))
            case 0x4A:
                struct.pack_into("7I", buffer, 8, 3, 32, 3280, 16, 32, 2464, 8)
            case 0x4B:
                struct.pack_into("7I", buffer, 16, 3, 1, 90, 1, 1, 1, 1)  # from a 90th of a second to one


def test_sizes_and_rates_in_ranges() -> None:
    offered = list(modes.offers(Stepwise(), kernel.CAPTURE, wanted(1290, 720)))
    assert offered[0] == Offer("NV12", 1296, 720, (90.0, 30, 1.0))
    assert offered[1:] == [Offer("NV12", 3280, 2464, (90.0, 30, 1.0)), Offer("NV12", 32, 32, (90.0, 30, 1.0))]
    assert str(choose(offered, wanted(1290, 720))) == "NV12 1296x720 at 30/s"
    assert next(modes.offers(Stepwise(), kernel.CAPTURE)).rates == (90.0, 1.0)
