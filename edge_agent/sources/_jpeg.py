"""The size of a JPEG from its headers, without decoding it."""

from __future__ import annotations

JPEG_DECODER = "jpeg (libjpeg-turbo, software)"
"""What ``StreamInfo.decoder`` says where OpenCV decodes."""
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def jpeg_size(data: bytes | memoryview) -> tuple[int, int]:
    """Width and height, from the frame header (ITU-T T.81, B.2.2). Raises ValueError where there is none."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("it does not begin like a JPEG")
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker in _STANDALONE:
            position += 2
            continue
        if marker in _FRAME and position + 9 <= len(data):
            width, height = (
                int.from_bytes(data[position + 7 : position + 9], "big"),
                int.from_bytes(data[position + 5 : position + 7], "big"),
            )
            if width and height:
                return width, height
            break
        position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    raise ValueError("it is a JPEG without a size")
