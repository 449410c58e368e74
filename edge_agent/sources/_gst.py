"""What the kinds of source that GStreamer serves have in common: a pipeline that ends in an appsink.

A kind says which pipeline (:class:`Launch`). Where that ends in encoded streams, the decoder is chosen here, by the
probe's order, and what turned out to be live is what gets reported.
"""

from __future__ import annotations

import importlib
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_agent.errors import EndOfStream, SourceBroken, SourceErrorCode, SourceUnavailable
from edge_agent.image import Image
from edge_agent.libraries import gstreamer
from edge_agent.sources._decoders import Decode
from edge_agent.sources._gst_choice import DecoderChoice
from edge_agent.sources._gst_decoders import Sizes, appsink
from edge_agent.sources._gst_errors import Fault, network_fault
from edge_agent.sources._gst_images import CAPS, Layout, Layouts, SampleImage, ScaledImage
from edge_agent.sources._gst_pipeline import DECODER, SINK, STOP_S, STREAMS, Pipeline, find_sink
from edge_agent.sources.base import MARGIN_S, FrameUnreadable, Reading, Source, StreamInfo

_SLICE_S = 0.1
"""How soon a pipeline's error is seen that sends no picture."""
_LONGEST_DELAY_S = 2.0
"""A picture's own time is believed if it is not older than that when it gets here."""
_SLOWEST_FPS = 20.0
"""What the slowest board decodes in a second, when a file is gone over again."""
_NETWORK = {SourceErrorCode.FAILED, SourceErrorCode.TLS, SourceErrorCode.UNREACHABLE}


@dataclass(frozen=True)
class Launch:
    """Which pipeline to run."""

    describe: Callable[[Any], str]
    """Its description, given GStreamer; asked at each open."""
    shown: str
    """What it reads, as it may be logged."""
    live: bool
    open_timeout_s: float
    read_timeout_s: float
    decode: Decode = "auto"
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Properties by the names of elements: what a user wrote goes here, where nothing has to be quoted."""
    url: str = ""
    """The server, to find out why it cannot be reached."""
    model_size: Callable[[], tuple[int, int] | None] = lambda: None
    source_size: tuple[int, int] | None = None
    """Width and height of the camera's pictures, where the pipeline itself makes them smaller."""
    exclusive: bool = False
    """It holds a device."""
    explain: Callable[[Fault], SourceUnavailable | None] = lambda _: None
    """Asked what a fault in opening means: devices can be asked more than GStreamer tells. None: nothing better is known."""


class GstSource(Source):
    """A pipeline as a source."""

    def __init__(self, launch: Launch, camera: str) -> None:
        self.live, self.unpaced, self.exclusive = launch.live, not launch.live, launch.exclusive
        self._launch, self._camera = launch, camera
        self._pipeline: Pipeline | None = None
        self._stuck: Pipeline | None = None
        self._layouts: Layouts | None = None
        self._pending: Any = None
        self._images: weakref.WeakSet[SampleImage] = weakref.WeakSet()
        self._choice = DecoderChoice(launch.decode)
        self._wired_pad: Any = None
        self._source_size: tuple[int, int] | None = None
        self._failed_at: int | None = None

    @property
    def patience_s(self) -> float:  # type: ignore[override] # grows with what is to be gone over again
        """Seconds: see ``Source``."""
        launch = self._launch
        return max(launch.open_timeout_s, launch.read_timeout_s) + STOP_S + MARGIN_S + self.position / _SLOWEST_FPS

    def open(self) -> StreamInfo:
        self.close()
        gst = gstreamer()
        if self._stuck is not None and self._stuck.stuck:
            raise SourceUnavailable(f"{self._launch.shown}: a call into its driver has not come back", SourceErrorCode.WEDGED)
        self._stuck = None
        deadline = time.monotonic() + self._launch.open_timeout_s
        while (fault := self._start(gst, deadline)) is not None:
            self.close()
            if time.monotonic() > deadline or not self._choice.gives_up(fault):
                fault = self._choice.blamed(fault)
                raise self._launch.explain(fault) or self._error("cannot be opened", fault)
        try:
            info = self._describe(gst)
            self._skip()
        except BaseException:
            self.close()
            raise
        return info

    def _start(self, gst: Any, deadline: float) -> Fault | None:
        """Play until the first picture; what kept it from coming, if it did not."""
        launch = self._launch
        self._choice.begin()
        self._source_size = launch.source_size
        self._layouts = Layouts(gst, importlib.import_module("gi.repository.GstVideo"))
        self._pipeline = pipeline = Pipeline(gst, launch.describe(gst), launch.settings, self._camera)
        if pipeline.element.get_by_name(STREAMS) is None:
            self._adopt(gst, find_sink(gst, pipeline.element))
        else:
            pipeline.on_stream(lambda pad: self._stream(gst, pad))
            self._only_pictures(pipeline)
        if not pipeline.start(max(0.0, deadline - time.monotonic())):
            return Fault(SourceErrorCode.WEDGED, f"starting it has not come back within {launch.open_timeout_s:g} s")
        while (sample := pipeline.pull(_SLICE_S)) is None:
            if (fault := pipeline.fault()) is not None:
                return fault
            if pipeline.ended:
                return Fault(SourceErrorCode.INVALID_DATA, "it ended without a picture")
            if time.monotonic() > deadline:
                self._choice.was_silent()
                return Fault(SourceErrorCode.TIMEOUT, f"no picture within {launch.open_timeout_s:g} s")
        self._pending = sample
        self._choice.works()
        return None

    def _skip(self) -> None:
        """Of a file that is opened again: what was read before."""
        for _ in range(self.position):
            if self._pending is None:
                self._next()
            self._pending = None

    def _adopt(self, gst: Any, sink: Any) -> None:
        """Set what must be so on an appsink that somebody else described."""
        assert self._pipeline is not None
        for key, value in {
            "max-buffers": 1 if self.live else 4, "drop": self.live, "sync": False, "emit-signals": False, "enable-last-sample": False,
        }.items():  # fmt: skip
            sink.set_property(key, value)
        caps = sink.get_property("caps")
        if caps is None or caps.is_any():
            sink.set_property("caps", gst.Caps.from_string(CAPS))
        self._pipeline.sink = sink

    @staticmethod
    def _only_pictures(pipeline: Pipeline) -> None:
        """Not to ask a camera for its sound, which may come first in its list."""
        origin = pipeline.element.get_by_name("origin")
        if origin is not None and origin.get_factory().get_name() == "rtspsrc":
            origin.connect("select-stream", lambda _element, _number, caps: caps.get_structure(0).get_string("media") in {None, "video"})

    def _stream(self, gst: Any, pad: Any) -> None:
        """One stream, still encoded, in GStreamer's thread: wire a decoder to the first that holds pictures."""
        pipeline = self._pipeline
        assert pipeline is not None
        structure = (pad.get_current_caps() or pad.query_caps(None)).get_structure(0)
        name = structure.get_name()
        if pipeline.sink is not None or not name.startswith(("video/", "image/")):
            pipeline.add("fakesink sync=false async=false", pad, f"unread_{pad.get_name()}")
            return
        (_, width), (_, height) = structure.get_int("width"), structure.get_int("height")
        sizes = Sizes((width, height) if width and height else None, self._launch.model_size())
        description = self._choice.wire(gst, name, sizes, appsink(SINK, live=self.live))
        if self._choice.resizes:
            self._source_size = sizes.source
        added = pipeline.add(description, pad, DECODER)
        self._wired_pad = added.get_static_pad("sink")
        pipeline.sink = added.get_by_name(SINK)

    def _describe(self, gst: Any) -> StreamInfo:
        assert self._pipeline is not None
        layout = self._layout(self._pending)
        try:
            shown, hardware, reason = self._choice.found(gst, self._pipeline.element, layout.format)
        except SourceUnavailable as error:
            raise SourceUnavailable(f"{self._launch.shown}: {error}", error.code) from None
        known, numerator, denominator = self._pending.get_caps().get_structure(0).get_fraction("framerate")
        fps = round(numerator / denominator, 3) if known and numerator and denominator else None
        mode = f"{layout.format} {layout.width}x{layout.height}" + (f" at {fps:g}/s" if fps else "")
        width, height = self._source_size or (layout.width, layout.height)
        return StreamInfo(width, height, fps, shown, hardware, reason, mode)

    def read(self) -> Reading:
        sample, self._pending = self._pending, None
        if sample is None:
            sample = self._next()
        if not self.live:
            self.position += 1
        now = time.monotonic()
        layout = self._layout(sample)
        buffer = sample.get_buffer()
        assert self._layouts is not None
        if buffer.has_flags(importlib.import_module("gi.repository.Gst").BufferFlags.CORRUPTED) or buffer.get_size() < layout.size:
            raise FrameUnreadable(f"{self._launch.shown} sent a damaged picture")
        fetch = self._layouts.fetch
        taken = SampleImage(layout, lambda: fetch(sample))
        self._images.add(taken)
        image: Image = taken
        if (size := self._full_size()) is not None and size != (layout.width, layout.height):
            image = ScaledImage(taken, *size)
        none = 2**64 - 1
        pts_s = None if buffer.pts == none else buffer.pts / 1e9
        return Reading(image, self._arrival(sample, buffer, now) if self.live else now, pts_s)

    def _full_size(self) -> tuple[int, int] | None:
        """The size of the camera's pictures, where hardware makes them smaller; a camera may change it at any time."""
        if self._source_size is not None and self._wired_pad is not None and (caps := self._wired_pad.get_current_caps()) is not None:
            structure = caps.get_structure(0)
            (_, width), (_, height) = structure.get_int("width"), structure.get_int("height")
            self._source_size = (width, height) if width and height else self._source_size
        return self._source_size

    def _next(self) -> Any:
        pipeline = self._pipeline
        if pipeline is None:
            raise SourceUnavailable(f"{self._launch.shown} is not open")
        deadline = time.monotonic() + self._launch.read_timeout_s
        while (sample := pipeline.pull(_SLICE_S)) is None:
            if (fault := pipeline.fault()) is not None:
                raise self._error("was lost", fault)
            if pipeline.ended:
                self.position = 0
                raise EndOfStream(f"{self._launch.shown} ended")
            if time.monotonic() > deadline:
                raise self._error("was lost", Fault(SourceErrorCode.TIMEOUT, f"nothing came for {self._launch.read_timeout_s:g} s"))
        return sample

    def _layout(self, sample: Any) -> Layout:
        assert self._layouts is not None
        try:
            return self._layouts.of(sample)
        except ValueError as error:
            raise self._error("cannot be read", Fault(SourceErrorCode.CODEC_UNSUPPORTED, f"it sends {error}")) from None

    def _arrival(self, sample: Any, buffer: Any, now: float) -> float:
        """When the picture was taken or came in, by the pipeline's clock, which is ours; now, where that is out of all reason."""
        assert self._pipeline is not None
        gst = importlib.import_module("gi.repository.Gst")
        running = sample.get_segment().to_running_time(gst.Format.TIME, buffer.pts)
        at = (self._pipeline.element.get_base_time() + running) / 1e9
        return float(at) if now - _LONGEST_DELAY_S < at <= now else now

    def _error(self, what: str, fault: Fault) -> SourceUnavailable | SourceBroken:
        code, reason = fault.code, fault.reason
        if self._launch.url and code in _NETWORK:
            code, reason = network_fault(self._launch.url) or (code, reason)
        if code is SourceErrorCode.CODEC_UNSUPPORTED and "not-negotiated" in reason:
            mend = 'put "videoconvert" (on a Jetson "nvvidconv ! video/x-raw,format=BGRx") before the appsink'
            reason += f'; the formats on both sides of some "!" do not fit: {mend}'
        broken = not self.live and code in {SourceErrorCode.INVALID_DATA, SourceErrorCode.CODEC_UNSUPPORTED}
        return (SourceBroken if broken else SourceUnavailable)(f"{self._launch.shown} {what}: {reason}", code)

    def close(self) -> None:
        pipeline, self._pipeline, self._pending, self._wired_pad = self._pipeline, None, None, None
        for image in list(self._images):
            try:
                image.detach()
            except ValueError:  # it cannot be read; whoever asks for it is told so
                continue
        self._images.clear()
        if pipeline is not None and not pipeline.stop():
            self._stuck = pipeline
