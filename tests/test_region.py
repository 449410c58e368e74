"""Regions of interest: parts of pictures of every kind, and what is found in them told in the whole picture's pixels."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge_agent.camera_sources import build_source
from edge_agent.capture import Capture
from edge_agent.detections import Detections, Masks, Segmentation
from edge_agent.events import Message, ModelInfo
from edge_agent.image import BgrImage, Image, JpegImage, Pixels, PlanarImage
from edge_agent.models import _loading as model_loading
from edge_agent.models import _thresholds
from edge_agent.models.base import Prediction, Timings
from edge_agent.pipeline import Crew, Pipeline, PipelineContext
from edge_agent.region import Part, part_of, seen_in
from edge_agent.scheduler import Scheduler
from edge_agent.sources._ffmpeg_images import image_of
from edge_agent.sources._gst_images import PackedImage, ScaledImage
from tests.conftest import CLIP, make_config
from tests.test_image import jpeg, mean_error, planar, scene, yuyv

KINDS: dict[str, Callable[[Pixels], Image]] = {
    "bgr": BgrImage,
    "I420": lambda p: planar(p, interleaved=False),
    "NV12": lambda p: planar(p, interleaved=True),
    "yuyv": yuyv,
    "jpeg": lambda p: JpegImage(jpeg(p), p.shape[1], p.shape[0]),
    "packed": lambda p: PackedImage(np.ascontiguousarray(p[:, :, ::-1]), "RGB"),
    "scaled": lambda p: ScaledImage(BgrImage(p), p.shape[1], p.shape[0]),
    "422": lambda p: image_of(VideoFrame.from_ndarray(np.ascontiguousarray(p), format="bgr24").reformat(format="yuv422p")),
    "10 bits": lambda p: image_of(VideoFrame.from_ndarray(np.ascontiguousarray(p), format="bgr24").reformat(format="yuv420p10le")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [(64, 32, 320, 240), (2, 6, 638, 354), (0, 0, 640, 360), (202, 118, 34, 50), (320, 180, 320, 180)])
@pytest.mark.parametrize("size", [(300, 300), (160, 90), (31, 17)])
def test_a_part_looks_like_one_cut_out_by_hand(kind: str, part: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    image: Image = KINDS[kind](scene(640, 360))
    left, top, width, height = part
    cut = image.bgr()[top : top + height, left : left + width]
    again: Image = KINDS[kind](scene(640, 360))  # nothing decoded in full yet
    cropped = again.cropped(left, top, width, height)
    assert (cropped.width, cropped.height) == (width, height)
    found, expected = cropped.resized(*size, "RGB"), BgrImage(np.ascontiguousarray(cut)).resized(*size, "RGB")
    assert found.shape == expected.shape == (size[1], size[0], 3)
    assert float(np.abs(found.astype(int) - expected.astype(int)).mean()) < 3.5
    assert mean_error(np.ascontiguousarray(cropped.bgr()), np.ascontiguousarray(cut)) < 2


def test_a_part_of_a_jpeg_lies_where_it_should_to_a_fraction_of_a_reduced_pixel() -> None:
    ramp = np.repeat((np.arange(1280) / 1280 * 255)[None], 720, 0)
    picture = np.dstack([ramp] * 3).astype(np.uint8)
    image = JpegImage(jpeg(picture), 1280, 720)
    for left in (2, 102, 510, 634):
        found = image.cropped(left, 6, 640, 700).resized(80, 80, "BGR")
        expected = (left + (np.arange(80) + 0.5) * 8) / 1280 * 255 - 0.6
        assert np.abs(found[40, 2:-2, 0] - expected[2:-2]).max() < 1.5


@pytest.mark.parametrize("kind", ["bgr", "I420", "NV12", "yuyv"])
def test_a_part_of_planes_shares_their_memory(kind: str) -> None:
    image: Image = KINDS[kind](scene(640, 360))
    part = image.cropped(64, 32, 320, 240)
    name = {"bgr": "_pixels", "yuyv": "_data"}.get(kind, "_y")
    assert np.shares_memory(getattr(part, name), getattr(image, name))


@pytest.mark.parametrize("kind", KINDS)
def test_luma_is_the_picture_s_brightness_at_a_small_size(kind: str) -> None:
    image: Image = KINDS[kind](scene(1280, 720))
    small = image.luma(160, 90)
    assert small.dtype == np.uint8
    assert small.shape == (90, 160)
    grey = cv2.resize(cv2.cvtColor(scene(1280, 720), cv2.COLOR_BGR2GRAY), (160, 90), interpolation=cv2.INTER_AREA).astype(float)
    assert np.corrcoef(small.ravel(), grey.ravel())[0, 1] > 0.995


SIDE = st.floats(0, 1)


@given(st.tuples(SIDE, SIDE, SIDE, SIDE), st.integers(2, 4000), st.integers(2, 4000))
@settings(max_examples=300, deadline=None)
def test_a_region_s_pixels_are_even_inside_the_picture_and_hold_what_was_asked_for(
    sides: tuple[float, float, float, float], width: int, height: int
) -> None:
    x0, x1 = sorted(sides[::2])
    y0, y1 = sorted(sides[1::2])
    assume(x1 - x0 >= 0.02)
    assume(y1 - y0 >= 0.02)
    part = part_of((x0, y0, x1, y1), width, height)
    assert part.left % 2 == part.top % 2 == 0
    assert 0 <= part.left < part.left + part.width <= width
    assert 0 <= part.top < part.top + part.height <= height
    assert part.left <= x0 * width + 0.01
    assert part.left + part.width >= x1 * width - 0.01
    assert part.width <= (x1 - x0) * width + 4


def test_places_of_every_task_are_moved_and_masks_lie_in_the_whole_picture() -> None:
    image = BgrImage(np.zeros((100, 200, 3), np.uint8))
    box = np.array([[1, 2, 5, 8]], np.float32)
    square = np.ones((6, 4), np.bool_)
    found = Detections(
        box,
        np.ones(1, np.float32),
        np.zeros(1, np.int32),
        ("a",),
        np.array([[[3, 4, 0.5]]], np.float32),
        Masks(80, 60, [(1, 2, square)]),
    )
    classes = np.zeros((6, 8), np.int32)
    classes[:3, :4] = 1
    seen = seen_in(Prediction(found, Timings(0, 0, 0), None, Segmentation(classes, 80, 60)), Part(40, 20, 80, 60), image)
    assert seen.detections.xyxy.tolist() == [[41, 22, 45, 28]]
    assert seen.detections.keypoints is not None
    assert seen.detections.keypoints.tolist() == [[[43, 24, 0.5]]]
    mask = seen.detections.mask
    assert mask is not None
    assert mask.shape == (1, 100, 200)
    assert mask[0, 22:28, 41:45].all()
    assert mask.sum() == 24
    assert seen.segmentation is not None
    counts = seen.segmentation.rle(1)
    assert sum(counts) == 200 * 100
    flat = np.repeat(np.arange(len(counts)) % 2, counts).reshape(200, 100).T
    assert flat[20:50, 40:80].all()
    assert flat.sum() == 30 * 40


def served(region: list[float] | None, folder: Path) -> list[dict[str, object]]:
    """The events of the built-in clip and model, by the real line."""
    camera = {"id": "c", "source": str(CLIP)} | ({"roi": region} if region else {})
    config = make_config({"device": {"state_dir": str(folder)}, "cameras": [camera]})
    loaded = model_loading.load(config)
    model = loaded.lanes[0]
    thresholds = _thresholds.thresholds_for(config.cameras[0].settings, config.settings.model, model.labels, 0)
    wake = threading.Condition()
    capture = Capture(config.cameras[0], build_source(config, config.cameras[0]), wake)
    messages: list[Message] = []
    context = PipelineContext("d", "s", messages.append, lambda _: range(10_000), lambda: True)
    crew = Crew(Scheduler([capture], wake), [model], {"c": thresholds}, ModelInfo("m", "h", "int8", "r"))
    pipeline = Pipeline(context, [crew])
    pipeline.start()
    capture.start()
    assert pipeline.finished.wait(60)
    capture.stop()
    pipeline.stop(5)
    return [json.loads(message.payload) for message in messages]


def test_the_real_model_on_a_region_sees_what_it_sees_on_a_crop_made_by_hand_in_the_frame_s_own_pixels(tmp_path: Path) -> None:
    region = [0.3, 0.1, 0.9, 1.0]
    events = served(region, tmp_path)
    assert len(events) == 150
    assert {(event["width"], event["height"]) for event in events} == {(1280, 720)}
    left, top, width, height = 384, 72, 768, 648
    config = make_config({"device": {"state_dir": str(tmp_path)}, "cameras": [{"id": "c", "source": str(CLIP)}]})
    model = model_loading.load(config).lanes[0]
    thresholds = _thresholds.thresholds_for(config.cameras[0].settings, config.settings.model, model.labels, 0)
    boxes = 0
    with av.open(str(CLIP)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % 3:
                continue
            planes = frame.to_ndarray(format="yuv420p")
            u, v = planes[720:].reshape(2, 360, 640)
            rows, columns = slice(top // 2, (top + height) // 2), slice(left // 2, (left + width) // 2)
            chroma = (u[rows, columns].copy(), v[rows, columns].copy())
            cut = PlanarImage(planes[top : top + height, left : left + width].copy(), chroma, vars(image_of(frame))["_colours"])
            expected = model(cut, thresholds).detections
            found = events[index]["detections"]
            assert isinstance(found, list)
            assert len(found) == len(expected)
            for item in found:
                boxes += 1
                distances = np.abs(expected.xyxy + np.array([left, top] * 2) - np.array(item["xyxy"])).max(axis=1)
                assert distances.min() < 0.11, "the same place, but for a tenth's rounding"
                assert item["xyxyn"][0] == pytest.approx(item["xyxy"][0] / 1280, abs=1e-3)
    assert boxes >= 5
