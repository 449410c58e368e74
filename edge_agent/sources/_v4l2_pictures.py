"""From a V4L2 buffer to a lazy picture: views of the bytes as planes, no conversion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_agent.image import BgrImage, Colours, Image, JpegImage, PlanarImage, YuyvImage
from edge_agent.sources._jpeg import jpeg_size
from edge_agent.sources._v4l2 import PictureFormat
from edge_agent.sources._v4l2_modes import COMPRESSED
from edge_agent.sources.base import FrameUnreadable

Plane = NDArray[np.uint8]
_COLORSPACE_709, _COLORSPACE_JPEG = {3, 12}, 7
_ENCODINGS_HD = {2, 4, 6, 7, 8}
_NO_COLOUR = np.full((2, 2, 2), 128, np.uint8)
_BYTES = {"YUYV": 2, "UYVY": 2, "BGR3": 3}
"""Of one pixel of a line; 1 where luma has a plane of its own."""


def colours(given: PictureFormat) -> Colours:
    """What the driver says of its Y'CbCr, with the defaults of videodev2.h (V4L2_MAP_YCBCR_ENC_DEFAULT, ..._QUANTIZATION_...)."""
    hd = given.encoding in _ENCODINGS_HD or (given.encoding == 0 and given.colorspace in _COLORSPACE_709)
    full = given.quantization == 1 or (given.quantization == 0 and (given.colorspace == _COLORSPACE_JPEG or given.fourcc == "GREY"))
    return Colours(full_range=full, hd=hd)


def picture(given: PictureFormat, planes: Sequence[Plane]) -> Image:
    """One buffer's picture; shares its memory. Raises FrameUnreadable for data that is not whole."""
    width, height = given.width, given.height
    data = planes[0]
    if given.fourcc in COMPRESSED:
        try:  # its own size: there are cameras whose JPEGs are some lines higher than what was negotiated
            return JpegImage(data, *jpeg_size(data.data))
        except ValueError as error:
            raise FrameUnreadable(f"{data.size} bytes that are no JPEG: {error}") from None
    bytes_a_line = width * _BYTES.get(given.fourcc, 1)
    line = max(given.planes[0][0], bytes_a_line)
    rows = _rows(data, line, height, bytes_a_line)
    if given.fourcc == "YUYV":
        return YuyvImage(rows.reshape(height, width, 2), colours(given))
    if given.fourcc == "UYVY":
        quads = rows.reshape(height, width // 2, 4)
        return PlanarImage(rows.reshape(height, width, 2)[:, :, 1], (quads[:, :, 0], quads[:, :, 2]), colours(given))
    if given.fourcc == "BGR3":
        return BgrImage(np.ascontiguousarray(rows).reshape(height, width, 3))
    return PlanarImage(rows, _chroma(given, planes, line), colours(given))


def _chroma(given: PictureFormat, planes: Sequence[Plane], line: int) -> tuple[Plane, ...]:
    """Half as high and half as wide, in both directions rounded up."""
    width, height = (given.width + 1) // 2, (given.height + 1) // 2
    if given.fourcc == "GREY":
        return (_NO_COLOUR,)
    if given.fourcc == "NM12":
        pairs, line = planes[1], max(given.planes[1][0], 2 * width)
    else:
        pairs = planes[0][line * given.height :]
    if given.fourcc != "YU12":
        return (_rows(pairs, line, height, 2 * width).reshape(height, width, 2),)
    half = line // 2
    return _rows(pairs, half, height, width), _rows(pairs[half * height :], half, height, width)


def _rows(data: Plane, line: int, height: int, wanted: int) -> Plane:
    """[height, wanted] bytes of lines that are ``line`` bytes apart."""
    needed = line * (height - 1) + wanted
    if data.size < needed:
        raise FrameUnreadable(f"{data.size} bytes where {needed} were due")
    if data.size >= line * height:
        return data[: line * height].reshape(height, line)[:, :wanted]
    return np.lib.stride_tricks.as_strided(data, (height, wanted), (line, 1), writeable=False)
