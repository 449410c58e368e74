"""A picture that two threads may read at a time: whoever infers it, and whoever makes a snapshot of it."""

from __future__ import annotations

import threading

from edge_agent.image import Image, Order, Pixels


class SharedImage(Image):
    """Another picture, one reader at a time. Reading it holds the other up for as long, a few milliseconds."""

    def __init__(self, image: Image, lock: threading.Lock | None = None) -> None:
        self._image, self._reading = image, lock or threading.Lock()
        self.width, self.height, self.decode_ms = image.width, image.height, image.decode_ms

    def resized(self, width: int, height: int, order: Order) -> Pixels:
        with self._reading:
            try:
                return self._image.resized(width, height, order)
            finally:
                self.decode_ms = self._image.decode_ms

    def bgr(self) -> Pixels:
        with self._reading:
            try:
                return self._image.bgr()
            finally:
                self.decode_ms = self._image.decode_ms

    def luma(self, width: int, height: int) -> Pixels:
        with self._reading:
            try:
                return self._image.luma(width, height)
            finally:
                self.decode_ms = self._image.decode_ms

    def cropped(self, left: int, top: int, width: int, height: int) -> Image:
        return SharedImage(self._image.cropped(left, top, width, height), self._reading)
