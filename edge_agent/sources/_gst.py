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
from edge_agent.sources._decoders import Candidate, Decode, Plan
from edge_agent.sources._gst_decoders import CODECS, Sizes, appsink, live_decoders, plan, wiring
from edge_agent.sources._gst_errors import Fault, network_fault
from edge_agent.sources._gst_images import CAPS, Layout, Layouts, SampleImage, ScaledImage
from edge_agent.sources._gst_pipeline import DECODER, SINK, STREAMS, Pipeline, find_sink, has_property
from edge_agent.sources._platform import platform
from edge_agent.sources.base import FrameUnreadable, Reading, Source, StreamInfo

_SLICE_S = 0.1
"""How soon a pipeline's error is seen that sends no picture."""
_LONGEST_DELAY_S = 2.0
"""A picture's own time is believed if it is not older than that when it gets here."""
_SILENCES = 2
"""A hardware decoder that lets an open time out so often in a row is taken for broken."""
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


class GstSource(Source):
    """A pipeline as a source."""

    def __init__(self, launch: Launch, camera: str) -> None:
        self.live = launch.live
        self._launch, self._camera = launch, camera
        self._pipeline: Pipeline | None = None
        self._stuck: Pipeline | None = None
        self._layouts: Layouts | None = None
        self._pending: Any = None
        self._images: weakref.WeakSet[SampleImage] = weakref.WeakSet()
        self._failed: dict[str, str] = {}
        self._silences: dict[str, int] = {}
        self._plan = Plan(())
        self._wired: Candidate | None = None
        self._wired_pad: Any = None
        self._source_size: tuple[int, int] | None = None

    def open(self) -> StreamInfo:
        self.close()
        gst = gstreamer()
        if self._stuck is not None and self._stuck.stuck:
            raise SourceUnavailable(f"{self._launch.shown}: a call into its driver has not come back", SourceErrorCode.WEDGED)
        self._stuck = None
        video = importlib.import_module("gi.repository.GstVideo")
        while True:
            self._layouts = Layouts(gst, video)
            fault = self._start(gst)
            if fault is None:
                break
            wired = self._wired
            self.close()
            if wired is None or not self._gives_up(wired, fault):
                raise self._error("cannot be opened", fault)
        return self._describe(gst)

    def _start(self, gst: Any) -> Fault | None:
        """Play until the first picture; what kept it from coming, if it did not."""
        launch = self._launch
        self._wired, self._wired_pad, self._source_size = None, None, launch.source_size
        self._plan = Plan((), "the pipeline says so")
        self._pipeline = pipeline = Pipeline(gst, launch.describe(gst), launch.settings, self._camera)
        if pipeline.element.get_by_name(STREAMS) is None:
            self._adopt(find_sink(gst, pipeline.element))
        else:
            pipeline.on_stream(lambda pad: self._stream(gst, pad))
            self._only_pictures(pipeline)
        deadline = time.monotonic() + launch.open_timeout_s
        if not pipeline.start(launch.open_timeout_s):
            return Fault(SourceErrorCode.WEDGED, f"starting it has not come back within {launch.open_timeout_s:g} s")
        while self._pending is None:
            self._pending = pipeline.pull(_SLICE_S)
            if self._pending is None and (fault := pipeline.fault()) is not None:
                return fault
            if self._pending is None and pipeline.ended:
                return Fault(SourceErrorCode.INVALID_DATA, "it ended without a picture")
            if self._pending is None and time.monotonic() > deadline:
                return self._silence()
        return None

    def _silence(self) -> Fault:
        wired = self._wired
        if wired is not None and wired.hardware:
            self._silences[wired.name] = self._silences.get(wired.name, 0) + 1
        return Fault(SourceErrorCode.TIMEOUT, f"no picture within {self._launch.open_timeout_s:g} s")

    def _adopt(self, sink: Any) -> None:
        """Set what must be so on an appsink that somebody else described."""
        assert self._pipeline is not None
        for key, value in {
            "max-buffers": 1 if self.live else 4, "drop": self.live, "sync": False, "emit-signals": False, "enable-last-sample": False,
        }.items():  # fmt: skip
            sink.set_property(key, value)
        caps = sink.get_property("caps")
        if caps is None or caps.is_any():
            sink.set_property("caps", importlib.import_module("gi.repository.Gst").Caps.from_string(CAPS))
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
            pipeline.add("fakesink sync=false async=false", pad, "")
            return
        (_, width), (_, height) = structure.get_int("width"), structure.get_int("height")
        sizes = Sizes((width, height) if width and height else None, self._launch.model_size())
        codec = CODECS.get(name, "")
        self._plan = plan(codec, self._launch.decode, platform(), lambda element: gst.ElementFactory.find(element) is not None)
        sink = appsink(SINK, live=self.live)
        if name == "video/x-raw":
            self._plan, description = Plan(()), f"queue ! videoconvert ! {sink}"
        elif not codec:
            self._wired, description = Candidate("decodebin", hardware=False, engine="gstreamer"), f"decodebin ! videoconvert ! {sink}"
        else:
            self._wired = candidate = self._choose(name)
            description = wiring(codec, candidate, sizes, lambda element, key: has_property(gst, element, key), sink)
            self._source_size = sizes.source if candidate.hardware and sizes.scaled else None
        added = pipeline.add(description, pad, DECODER)
        self._wired_pad = added.get_static_pad("sink")
        pipeline.sink = added.get_by_name(SINK)

    def _choose(self, form: str) -> Candidate:
        for candidate in self._plan.candidates:
            if candidate.name not in self._failed:
                return candidate
        tried = [f"{name}: {reason}" for name, reason in self._failed.items()]
        reasons = "; ".join([*([self._plan.reason] if self._plan.reason else []), *tried])
        refused = 'decode = "hardware": ' if self._launch.decode == "hardware" else ""
        raise SourceUnavailable(f"{refused}no decoder for {form}{': ' + reasons if reasons else ''}", SourceErrorCode.CODEC_UNSUPPORTED)

    def _gives_up(self, wired: Candidate, fault: Fault) -> bool:
        """Whether another decoder is worth a try after this one failed so; remembered for as long as this source lives."""
        theirs = f":{DECODER}/" in fault.element or f":{DECODER}" in fault.element.rsplit("/", 1)[-1]
        silent = self._silences.get(wired.name, 0) >= _SILENCES
        if not theirs and not silent:
            return False
        self._failed[wired.name] = fault.reason
        return any(candidate.name not in self._failed for candidate in self._plan.candidates)

    def _describe(self, gst: Any) -> StreamInfo:
        layout = self._layout(self._pending)
        if self._wired is not None:
            self._silences.pop(self._wired.name, None)
        shown, hardware, reason = self._decoder(gst, layout)
        if self._launch.decode == "hardware" and not hardware and reason:
            self.close()
            text = f'{self._launch.shown}: decode = "hardware", but what decodes is {shown}'
            raise SourceUnavailable(text, SourceErrorCode.CODEC_UNSUPPORTED)
        known, numerator, denominator = self._pending.get_caps().get_structure(0).get_fraction("framerate")
        fps = round(numerator / denominator, 3) if known and numerator and denominator else None
        mode = f"{layout.format} {layout.width}x{layout.height}" + (f" at {fps:g}/s" if fps else "")
        width, height = self._source_size or (layout.width, layout.height)
        return StreamInfo(width, height, fps, shown, hardware, reason, mode)

    def _decoder(self, gst: Any, layout: Layout) -> tuple[str, bool, str]:
        """What decodes, as found in the pipeline that plays; whether that is hardware; and if not, why. No reason: nothing decodes."""
        assert self._pipeline is not None
        live = live_decoders(gst, self._pipeline.element)
        hardware = bool(live) and all(decoder.hardware for decoder in live)
        if hardware or not (live or layout.format == "JPEG"):
            return ", ".join(decoder.shown() for decoder in live) or f"none ({layout.format})", hardware, ""
        reasons = [f"{name}: {why}" for name, why in self._failed.items()]
        reasons += [self._plan.reason] if self._plan.reason else []
        shown = ", ".join(decoder.shown() for decoder in live) or "jpeg (libjpeg-turbo, software)"
        return shown, False, "; ".join(reasons) or "no other was tried"

    def read(self) -> Reading:
        sample, self._pending = self._pending, None
        if sample is None:
            sample = self._next()
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
                raise EndOfStream(f"{self._launch.shown} ended")
            if time.monotonic() > deadline:
                raise self._error("was lost", Fault(SourceErrorCode.TIMEOUT, f"nothing came for {self._launch.read_timeout_s:g} s"))
        return sample

    def _layout(self, sample: Any) -> Layout:
        assert self._layouts is not None
        try:
            return self._layouts.of(sample)
        except ValueError as error:
            self.close()
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
        if code is SourceErrorCode.CODEC_UNSUPPORTED and "negotiated" in reason:
            reason += '; put "videoconvert" (on a Jetson "nvvidconv ! video/x-raw,format=BGRx") before the appsink'
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
