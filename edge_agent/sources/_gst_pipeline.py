"""One GStreamer pipeline with bounds: nothing here waits for longer than it was told to, whatever a driver does.

Changing a pipeline's state calls into drivers, which may never come back. A thread of its own does that; one that does
not come back is left behind with its pipeline, and :attr:`Pipeline.stuck` says so.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from edge_agent.errors import ConfigError, SourceError, SourceErrorCode
from edge_agent.redaction import redact
from edge_agent.sources._gst_errors import Fault, fault, missing_element, missing_plugin

SINK = "edge_agent"
"""Name of the appsink that is read, where a pipeline has several."""
STREAMS = "edge_agent_streams"
"""Name of the element whose pads are a file's or camera's streams, still encoded; absent where the text decodes itself."""
DECODER = "edge_agent_decoder"
"""Name of the bin that is wired to one of those."""
STOP_S = 2.0
_ENTRY = "queue name=entry max-size-buffers=0 max-size-bytes=0 max-size-time=2000000000"

Settings = Mapping[str, Mapping[str, object]]


def parse(gst: Any, text: str) -> Any:
    """A pipeline from its description. Raises ConfigError that says what is wrong with it; opens no device."""
    try:
        pipeline = gst.parse_launch(text)
    except Exception as error:  # GLib.GError, whose module is not imported for this
        message = str(getattr(error, "message", error))
        named = re.fullmatch(r'no element "(.+)"', message)
        raise ConfigError(missing_element(named[1]) if named else f"GStreamer cannot read the pipeline: {redact(message)}") from None
    if not isinstance(pipeline, gst.Bin):
        raise ConfigError("the pipeline is a single element; it should look like: v4l2src device=/dev/video0 ! appsink")
    return pipeline


def find_sink(gst: Any, pipeline: Any) -> Any:
    """The appsink to read. Raises ConfigError where there is none, or no telling which."""
    sinks = []
    iterator = pipeline.iterate_sinks()
    while True:
        result, element = iterator.next()
        if result != gst.IteratorResult.OK:
            break
        factory = element.get_factory()
        if factory is not None and factory.get_name() == "appsink":
            sinks.append(element)
    named = [sink for sink in sinks if sink.get_name() == SINK]
    if len(named or sinks) == 1:
        return (named or sinks)[0]
    if not sinks:
        raise ConfigError('the pipeline has no appsink, where its pictures could be taken; end it in "! appsink"')
    raise ConfigError(f"the pipeline has {len(sinks)} appsinks; call the one to read: appsink name={SINK}")


def has_property(gst: Any, element: str, key: str) -> bool:
    """Whether an element has a property; False where there is no such element."""
    made = gst.ElementFactory.make(element, None)
    return made is not None and made.find_property(key) is not None


class Pipeline:
    """A pipeline that is started once and stopped once. Used by one thread; the callback of ``on_stream`` comes from GStreamer's."""

    def __init__(self, gst: Any, text: str, settings: Settings, name: str) -> None:
        self._gst, self._name = gst, name
        self._pipeline = parse(gst, text)
        for element, properties in settings.items():
            for key, value in properties.items():
                self._pipeline.get_by_name(element).set_property(key, value)
        self._bus = self._pipeline.get_bus()
        self._own_clock()
        self.sink: Any = None
        self._connected: tuple[Any, int] | None = None
        self._worker: threading.Thread | None = None
        self._streams = threading.Event()
        """Some stream has turned up."""
        self._missing = ""
        self._callback_fault: Fault | None = None

    def _own_clock(self) -> None:
        """The system's clock, which is the monotonic one, so that times can be compared with ours."""
        if isinstance(self._pipeline, self._gst.Pipeline):
            self._pipeline.use_clock(self._gst.SystemClock.obtain())

    @property
    def element(self) -> Any:
        """GStreamer's own."""
        return self._pipeline

    @property
    def stuck(self) -> bool:
        """A change of state has not come back."""
        return self._worker is not None and self._worker.is_alive()

    def on_stream(self, callback: Callable[[Any], None]) -> None:
        """Call back with each pad that the element ``STREAMS`` grows. What the callback raises ends up in ``fault``."""

        def added(_element: Any, pad: Any) -> None:
            try:
                callback(pad)
            except Exception as error:  # an exception must not end in GStreamer's thread, where nobody sees it
                # A GLib.Error is what the decoder's description did not parse with; all others are ours.
                code = error.code if isinstance(error, SourceError) else SourceErrorCode.FAILED
                reason, where = str(getattr(error, "message", error)), "" if isinstance(error, SourceError) else f":{DECODER}"
                self._callback_fault = Fault(code, reason, where)
            self._streams.set()

        streams = self._pipeline.get_by_name(STREAMS)
        self._connected = (streams, streams.connect("pad-added", added))

    def add(self, description: str, pad: Any, name: str) -> Any:
        """Wire a bin made from ``description`` to a pad, and start it. Its element. Raises GLib.Error for what does not parse."""
        # Pads are not looked for: of a decodebin's bin, GStreamer would take the one that is linked only later.
        added = self._gst.parse_bin_from_description(f"{_ENTRY} ! {description}", False)
        added.set_name(name)
        added.add_pad(self._gst.GhostPad.new("sink", added.get_by_name("entry").get_static_pad("sink")))
        self._pipeline.add(added)
        added.sync_state_with_parent()
        pad.link(added.get_static_pad("sink"))
        return added

    def start(self, timeout_s: float) -> bool:
        """Begin to play. False if that call has not come back by then; whether it worked, ``fault`` and pictures tell."""
        return self._change(self._gst.State.PLAYING, timeout_s)

    def stop(self, timeout_s: float = STOP_S) -> bool:
        """Let go of everything. False if that has not come back by then; it goes on trying behind our back."""
        if self._connected is not None:  # the callback holds us, and through us the element that holds the callback
            element, number = self._connected
            element.disconnect(number)
            self._connected = None
        self.sink = None
        return self._change(self._gst.State.NULL, timeout_s)

    def _change(self, state: Any, timeout_s: float) -> bool:
        before = self._worker

        def change() -> None:
            if before is not None:
                before.join()
            self._pipeline.set_state(state)

        self._worker = threading.Thread(target=change, name=f"gst-{self._name}", daemon=True)
        self._worker.start()
        self._worker.join(timeout_s)
        return not self._worker.is_alive()

    def pull(self, timeout_s: float) -> Any:
        """The next sample, or None."""
        if self.sink is None:
            self._streams.wait(timeout_s)
            return None
        return self.sink.emit("try-pull-sample", int(timeout_s * 1e9))

    @property
    def ended(self) -> bool:
        """Every sample has been pulled, and there will be no more."""
        return self.sink is not None and bool(self.sink.get_property("eos"))

    def fault(self) -> Fault | None:
        """What went wrong since the last call, if something did."""
        types = self._gst.MessageType
        while (message := self._bus.pop_filtered(types.ERROR | types.ELEMENT)) is not None:
            if message.type == types.ELEMENT:
                structure = message.get_structure()
                if structure is not None and structure.get_name() == "missing-plugin":
                    self._missing = missing_plugin(structure)
                continue
            error, debug = message.parse_error()
            if self._callback_fault is not None:  # and what follows from it
                return self._callback_fault
            if self._missing:
                return Fault(SourceErrorCode.CODEC_UNSUPPORTED, self._missing)
            return fault(error.domain, error.code, error.message, debug or "", message.src.get_path_string() if message.src else "")
        return self._callback_fault
