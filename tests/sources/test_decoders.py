"""The probe: boards by their device trees, nodes by the kernel, and which decoder comes first on which. None of it needs a board."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.sources import _gst_decoders
from edge_agent.sources._decoders import Candidate, Decode, _in_pyav, candidates, survey
from edge_agent.sources._gst_decoders import Sizes, appsink, is_decoder, is_hardware, wiring
from edge_agent.sources._platform import Board, DecoderNode, Platform, decoder_nodes, platform
from tests.sources.gst import needs_gstreamer

PI4_NODES = [DecoderNode("/dev/video10", "h264", stateless=False), DecoderNode("/dev/video10", "mjpeg", stateless=False)]
PI4_HEVC = DecoderNode("/dev/video19", "hevc", stateless=True)


def tree(root: Path, compatible: str = "", model: str = "", cpuinfo: str = "", release: str = "") -> Path:
    """The files that tell which board it is."""
    for name, content in {
        "proc/device-tree/compatible": compatible.replace(",,", "\0"),
        "proc/device-tree/model": model + "\0" if model else "",
        "proc/cpuinfo": cpuinfo,
        "etc/nv_tegra_release": release,
    }.items():
        if content:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("compatible", "model", "cpuinfo", "release", "board"),
    [
        ("nvidia,p3768-0000+p3767-0005,,nvidia,p3767-0005,,nvidia,tegra234", "NVIDIA Jetson Orin Nano Developer Kit", "", "", "jetson"),
        ("nvidia,jetson-nano,,nvidia,tegra210", "NVIDIA Jetson Nano Developer Kit", "", "", "jetson"),
        ("", "", "", "# R36 (release), REVISION: 4.3", "jetson"),  # in a container
        ("raspberrypi,3-model-b-plus,,brcm,bcm2837", "Raspberry Pi 3 Model B Plus Rev 1.3", "", "", "pi3"),
        ("raspberrypi,model-zero-2-w,,brcm,bcm2837", "Raspberry Pi Zero 2 W Rev 1.0", "", "", "pi3"),
        ("raspberrypi,4-model-b,,brcm,bcm2711", "Raspberry Pi 4 Model B Rev 1.4", "", "", "pi4"),
        ("raspberrypi,4-compute-module,,brcm,bcm2711", "Raspberry Pi Compute Module 4 Rev 1.0", "", "", "pi4"),
        ("raspberrypi,5-model-b,,brcm,bcm2712", "Raspberry Pi 5 Model B Rev 1.0", "", "", "pi5"),
        ("", "", "processor\t: 0\n\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n", "", "pi4"),  # in a container
        ("", "", "Model\t\t: Raspberry Pi 500 Rev 1.0\n", "", "pi5"),
        ("", "", "Model\t\t: Raspberry Pi Compute Module 5 Rev 1.0\n", "", "pi5"),
        ("", "", "Model\t\t: Raspberry Pi Zero W Rev 1.1\n", "", "pi"),
        ("rockchip,rk3588", "Radxa ROCK 5B", "", "", "generic"),
        ("", "", "model name\t: Intel(R) N100\n", "", "generic"),
        ("", "", "", "", "generic"),
    ],
)
def test_the_board_is_told_by_its_files(tmp_path: Path, compatible: str, model: str, cpuinfo: str, release: str, board: str) -> None:
    found = platform(tree(tmp_path, compatible, model, cpuinfo, release))
    assert found.board == board
    assert found.name


def test_nodes_that_are_none_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "video0").write_text("no device")
    (tmp_path / "video1").symlink_to("/dev/null")
    (tmp_path / "video2").symlink_to(tmp_path / "nothing")
    (tmp_path / "media0").write_text("")
    assert decoder_nodes(tmp_path) == []
    assert decoder_nodes(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("board", "nodes", "codec", "names", "reason"),
    [
        ("pi4", PI4_NODES, "h264", ["h264_v4l2m2m", "h264"], ""),
        ("pi3", PI4_NODES, "h264", ["h264_v4l2m2m", "h264"], ""),
        ("generic", PI4_NODES, "h264", ["h264_v4l2m2m", "h264"], ""),
        ("pi4", [*PI4_NODES, PI4_HEVC], "hevc", ["hevc"], "request API"),
        ("pi5", [PI4_HEVC], "h264", ["h264"], "no decoder for H.264 in hardware"),
        ("pi5", [PI4_HEVC], "hevc", ["hevc"], 'kind = "gstreamer" can'),
        ("jetson", [], "h264", ["h264"], 'kind = "gstreamer" can'),
        ("generic", [], "vp9", ["vp9"], "no decoder for vp9"),
    ],
)
def test_what_ffmpeg_tries(board: Board, nodes: list[DecoderNode], codec: str, names: list[str], reason: str) -> None:
    if names[0].endswith("v4l2m2m") and not _in_pyav(names[0]):
        pytest.skip(f"this PyAV was built without {names[0]}")
    plan = candidates(codec, "auto", Platform(board), nodes)
    assert [candidate.name for candidate in plan.candidates] == names
    assert reason in plan.reason
    assert bool(plan.reason) == (not plan.candidates[0].hardware)
    demanded = candidates(codec, "hardware", Platform(board), nodes)
    assert [candidate.name for candidate in demanded.candidates] == names[:-1]
    assert [candidate.name for candidate in candidates(codec, "software", Platform(board), nodes).candidates] == [codec]


DEBIAN = {"avdec_h264", "avdec_h265", "openh264dec", "jpegdec", "vp8dec", "vp9dec"}
JETSON = DEBIAN | {"nvv4l2decoder", "nvjpegdec", "nvvidconv", "v4l2h264dec"}
PI = DEBIAN | {"v4l2h264dec", "v4l2slh265dec", "v4l2jpegdec"}


@pytest.mark.parametrize(
    ("board", "here", "codec", "decode", "names"),
    [
        ("jetson", JETSON, "h264", "auto", ["nvv4l2decoder", "avdec_h264", "openh264dec"]),
        ("jetson", JETSON, "hevc", "auto", ["nvv4l2decoder", "avdec_h265"]),
        ("jetson", JETSON, "h264", "hardware", ["nvv4l2decoder"]),
        ("jetson", JETSON, "h264", "software", ["avdec_h264", "openh264dec"]),
        ("jetson", JETSON, "mjpeg", "auto", [""]),  # left as it came: what is not served costs nothing
        ("jetson", JETSON, "mjpeg", "hardware", ["nvv4l2decoder", "nvjpegdec"]),
        ("jetson", DEBIAN, "h264", "auto", ["avdec_h264", "openh264dec"]),
        ("pi4", PI, "h264", "auto", ["v4l2h264dec", "avdec_h264", "openh264dec"]),
        ("pi4", PI, "hevc", "auto", ["v4l2slh265dec", "avdec_h265"]),
        ("pi4", PI, "mjpeg", "hardware", ["v4l2jpegdec"]),
        ("pi5", PI, "h264", "auto", ["avdec_h264", "openh264dec"]),  # it has no such block, whatever elements there are
        ("pi5", PI, "h264", "hardware", []),
        ("pi5", PI, "hevc", "auto", ["v4l2slh265dec", "avdec_h265"]),
        ("pi5", PI, "mjpeg", "hardware", []),
        ("generic", DEBIAN | {"vah264dec", "vaapih264dec"}, "h264", "auto", ["vah264dec", "vaapih264dec", "avdec_h264", "openh264dec"]),
        ("generic", DEBIAN, "h264", "hardware", []),
    ],
)
def test_what_gstreamer_tries(board: Board, here: set[str], codec: str, decode: Decode, names: list[str]) -> None:
    plan = _gst_decoders.plan(codec, decode, Platform(board), here.__contains__)
    assert [candidate.name for candidate in plan.candidates] == names
    assert bool(plan.reason) == (not (plan.candidates and plan.candidates[0].hardware))


def hardware(name: str) -> Candidate:
    return Candidate(name, hardware=True, engine="gstreamer")


FULL_HD, MODEL = (1920, 1080), (416, 416)
SINK = "appsink name=s"


@pytest.mark.parametrize(
    ("codec", "name", "sizes", "expected"),
    [
        (
            "h264",
            "nvv4l2decoder",
            Sizes(FULL_HD, MODEL),
            (
                "h264parse ! nvv4l2decoder enable-max-performance=1 ! nvvidconv interpolation-method=5 ! "
                "video/x-raw,format=BGRx,width=416,height=416 ! appsink name=s"
            ),
        ),
        (
            "hevc",
            "nvv4l2decoder",
            Sizes(FULL_HD, None),
            "h265parse ! nvv4l2decoder enable-max-performance=1 ! nvvidconv ! video/x-raw,format=NV12 ! appsink name=s",
        ),
        (
            "mjpeg",
            "nvv4l2decoder",
            Sizes(None, MODEL),
            "jpegparse ! nvv4l2decoder mjpeg=1 enable-max-performance=1 ! nvvidconv ! video/x-raw,format=NV12 ! appsink name=s",
        ),
        ("h264", "v4l2h264dec", Sizes(FULL_HD, MODEL), "h264parse ! v4l2h264dec ! videoconvert ! appsink name=s"),
        ("hevc", "v4l2slh265dec", Sizes(FULL_HD, MODEL), "h265parse ! v4l2slh265dec ! videoconvert ! appsink name=s"),
        (
            "h264",
            "vah264dec",
            Sizes(FULL_HD, (640, 640)),
            "h264parse ! vah264dec ! vapostproc ! video/x-raw,format=NV12,width=640,height=640 ! appsink name=s",
        ),
        ("h264", "vah264dec", Sizes((320, 240), (640, 640)), "h264parse ! vah264dec ! appsink name=s"),
    ],
)
def test_frames_stay_in_device_memory_up_to_the_resize(codec: str, name: str, sizes: Sizes, expected: str) -> None:
    assert wiring(codec, hardware(name), sizes, lambda _element, _key: True, SINK) == expected


def test_properties_that_an_element_does_not_have_are_left_out() -> None:
    text = wiring("h264", hardware("nvv4l2decoder"), Sizes(FULL_HD, MODEL), lambda _element, _key: False, SINK)
    assert text.startswith("h264parse ! nvv4l2decoder ! nvvidconv ! video/x-raw")


@pytest.mark.parametrize(
    ("source", "model", "scaled"),
    [
        (FULL_HD, MODEL, MODEL),
        (FULL_HD, (300, 301), (300, 302)),
        ((640, 360), (640, 640), None),
        ((640, 720), (416, 800), (416, 720)),
        (None, MODEL, None),
        (FULL_HD, None, None),
    ],
)
def test_hardware_makes_pictures_smaller_and_never_larger(
    source: tuple[int, int] | None, model: tuple[int, int] | None, scaled: tuple[int, int] | None
) -> None:
    assert Sizes(source, model).scaled == scaled


# Names and classes as gst-inspect-1.0 prints them: on Debian 12, on a Raspberry Pi 4, in NVIDIA's and GStreamer's documentation.
KLASSES = [
    ("openh264dec", "Decoder/Video", True, False),
    ("avdec_h264", "Codec/Decoder/Video", True, False),
    ("libde265dec", "Codec/Decoder/Video", True, False),
    ("jpegdec", "Codec/Decoder/Image", True, False),
    ("v4l2h264dec", "Codec/Decoder/Video/Hardware", True, True),
    ("v4l2slh265dec", "Codec/Decoder/Video/Hardware", True, True),
    ("vah264dec", "Codec/Decoder/Video/Hardware", True, True),
    ("nvh264dec", "Codec/Decoder/Video/Hardware", True, True),
    ("nvv4l2decoder", "Codec/Decoder/Video", True, True),
    ("vp8dec", "Codec/Decoder/Video", True, False),
    ("vaapidecodebin", "Codec/Decoder/Video", True, True),
    ("decodebin", "Generic/Bin/Decoder", False, False),
    ("uridecodebin", "Generic/Bin/Decoder", False, False),
    ("avdec_aac", "Codec/Decoder/Audio", False, False),
    ("h264parse", "Codec/Parser/Converter/Video", False, False),
    ("videoconvert", "Filter/Converter/Video/Scaler/Colorspace", False, False),
]


@pytest.mark.parametrize(("name", "klass", "decodes", "in_hardware"), KLASSES)
def test_decoders_are_told_by_their_class_and_hardware_by_name_too(name: str, klass: str, decodes: bool, in_hardware: bool) -> None:
    assert is_decoder(klass) is decodes
    assert (is_decoder(klass) and is_hardware(name, klass)) is in_hardware


@needs_gstreamer
def test_the_recorded_classes_are_those_of_this_machine() -> None:
    from edge_agent.libraries import gstreamer

    gst = gstreamer()
    compared = 0
    for name, klass, decodes, _ in KLASSES:
        factory = gst.ElementFactory.find(name)
        if factory is not None:
            compared += 1
            assert is_decoder(factory.get_metadata("klass")) is decodes, f"{name}: {factory.get_metadata('klass')}, recorded as {klass}"
    assert compared > 3


def test_the_newest_of_a_camera_and_all_of_a_file() -> None:
    assert "max-buffers=1 drop=true" in appsink("s", live=True)
    assert "drop=false" in appsink("s", live=False)


def test_a_survey_names_decoders_and_reasons_for_both_engines() -> None:
    found = survey()
    assert {(line.engine, line.codec) for line in found} == {(e, c) for e in ("ffmpeg", "gstreamer") for c in ("H.264", "H.265")}
    for line in found:
        assert line.reason or line.decoders[0].hardware
        assert str(line).startswith(f"{line.codec}: ")
