"""Pictures into tensors, and boxes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import ModelError
from edge_agent.image import BgrImage, Pixels
from edge_agent.models._preprocess import InputFormat, Placement, Preprocessor, input_layout
from edge_agent.runtimes.base import Quantization, TensorSpec

FLOAT, UINT8, INT8 = np.dtype(np.float32), np.dtype(np.uint8), np.dtype(np.int8)


def noise(width: int, height: int) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(["none", "top_left", "centre"]), st.floats(0, 1), st.floats(0, 1))
def test_a_point_goes_to_the_input_and_back(width: int, height: int, letterbox: str, x: float, y: float) -> None:
    image = BgrImage(np.broadcast_to(np.uint8(0), (height, width, 3)))
    place = Placement.of(image, (416, 320), letterbox)  # type: ignore[arg-type]
    assert 0 <= place.left <= place.left + place.width <= 416
    assert 0 <= place.top <= place.top + place.height <= 320
    inside = [place.left + x * place.width, place.top + y * place.height]
    back = place.to_source(np.array([inside * 2], np.float32), image)[0]
    assert back[0] == pytest.approx(x * width, abs=1e-3 * width + 1e-3)
    assert back[1] == pytest.approx(y * height, abs=1e-3 * height + 1e-3)


def test_boxes_are_clipped_to_the_picture() -> None:
    image = BgrImage(noise(200, 100))
    place = Placement.of(image, (100, 100), "centre")
    assert place.to_source(np.array([[-50, -50, 500, 500]], np.float32), image)[0].tolist() == [0, 0, 200, 100]


@pytest.mark.parametrize(("order", "channels"), [("RGB", [2, 1, 0]), ("BGR", [0, 1, 2])])
def test_a_float_nchw_input_is_scaled_ordered_and_padded(order: str, channels: list[int]) -> None:
    pixels = noise(64, 32)
    spec = TensorSpec("x", (1, 3, 64, 64), FLOAT)
    tensor, place = Preprocessor(spec, InputFormat(order, "centre", scale=1 / 255))(BgrImage(pixels))  # type: ignore[arg-type]
    assert (place.left, place.top, place.width, place.height) == (0, 16, 64, 32)
    assert tensor.dtype == np.float32
    found = tensor.astype(np.float32)
    np.testing.assert_allclose(found[0, :, 16:48], pixels[:, :, channels].transpose(2, 0, 1) / 255, atol=1e-6)
    np.testing.assert_allclose(found[0, :, :16], 114 / 255, atol=1e-6)
    np.testing.assert_allclose(found[0, :, 48:], 114 / 255, atol=1e-6)


def test_a_float_nhwc_input_gets_its_offset() -> None:
    pixels = noise(8, 8)
    form = InputFormat("RGB", "none", scale=1 / 127.5, offset=-1)
    tensor, _ = Preprocessor(TensorSpec("x", (1, 8, 8, 3), FLOAT), form)(BgrImage(pixels))
    np.testing.assert_allclose(tensor[0].astype(np.float32), pixels[:, :, ::-1] / 127.5 - 1, atol=1e-6)


MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8])
def test_each_channel_has_a_mean_and_deviation_of_its_own(dtype: type[np.generic], layout: str) -> None:
    pixels = noise(16, 8)
    quantization = Quantization(0.02, 3) if np.dtype(dtype).itemsize == 1 else None
    shape = (1, 8, 16, 3) if layout == "NHWC" else (1, 3, 8, 16)
    spec = TensorSpec("x", shape, np.dtype(dtype), quantization)
    tensor, _ = Preprocessor(spec, InputFormat.normalised("RGB", "none", MEAN, DEVIATION))(BgrImage(pixels))
    real = (pixels[:, :, ::-1].astype(np.float64) - MEAN) / DEVIATION
    if quantization is not None:
        limits = np.iinfo(spec.dtype.name)
        real = np.clip(np.round(real / quantization.scale) + quantization.zero_point, limits.min, limits.max)
    found = tensor[0].astype(np.float64) if layout == "NHWC" else tensor[0].astype(np.float64).transpose(1, 2, 0)
    assert tensor.dtype == dtype
    np.testing.assert_allclose(found, real, atol={np.float32: 1e-5, np.float16: 5e-3}.get(dtype, 0))


def test_padding_is_clean_after_a_source_of_another_shape() -> None:
    preprocess = Preprocessor(TensorSpec("x", (1, 3, 64, 64), FLOAT), InputFormat("RGB", "top_left"))
    preprocess(BgrImage(noise(32, 64)))
    tensor, _ = preprocess(BgrImage(noise(64, 32)))
    assert (tensor[0, :, 32:] == 114).all()


@pytest.mark.parametrize(
    ("dtype", "quantization", "form"),
    [
        (UINT8, Quantization(1 / 255, 0), InputFormat("RGB", "none", scale=1 / 255)),
        (INT8, Quantization(1 / 255, -128), InputFormat("RGB", "none", scale=1 / 255)),
        (INT8, Quantization(0.02, 3), InputFormat("RGB", "none", scale=1 / 127.5, offset=-1)),
        (UINT8, None, InputFormat("RGB", "none")),
    ],
)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_8_bit_inputs_use_the_tensors_own_parameters(
    dtype: np.dtype[np.generic], quantization: Quantization | None, form: InputFormat, layout: str
) -> None:
    pixels = noise(16, 8)
    shape = (1, 8, 16, 3) if layout == "NHWC" else (1, 3, 8, 16)
    tensor, _ = Preprocessor(TensorSpec("x", shape, dtype, quantization), form)(BgrImage(pixels))
    real = pixels[:, :, ::-1].astype(np.float64) * form.scale + form.offset
    stored = real if quantization is None else np.round(real / quantization.scale) + quantization.zero_point
    expected = np.clip(stored, np.iinfo(dtype.name).min, np.iinfo(dtype.name).max)
    assert tensor.dtype == dtype
    found = tensor[0] if layout == "NHWC" else tensor[0].transpose(1, 2, 0)
    assert np.abs(found.astype(np.int32) - expected).max() == 0


def test_inputs_that_are_no_picture_are_refused_with_what_to_do() -> None:
    assert input_layout(TensorSpec("x", (-1, 3, 32, 64), FLOAT)) == ("NCHW", (64, 32))
    with pytest.raises(ModelError, match="fixed input size"):
        input_layout(TensorSpec("x", (1, 3, -1, -1), FLOAT))
    with pytest.raises(ModelError, match=r"\[1, 10\]"):
        input_layout(TensorSpec("x", (1, 10), FLOAT))
